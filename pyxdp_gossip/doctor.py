# SPDX-License-Identifier: BSD-2-Clause
"""Examines a host before an agent starts, or beside one: a table of checks that change nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pyxdp_gossip import doctor_host, doctor_network, netlink
from pyxdp_gossip.config import Config
from pyxdp_gossip.diagnosis import Finding, Patient
from pyxdp_gossip.errors import ConfigError, HostError
from pyxdp_gossip.features import features
from pyxdp_gossip.session import Address

STATUS: Final = Path("/proc/thread-self/status")

CHECKS: Final[tuple[Callable[[Patient], Iterable[Finding]], ...]] = (
    doctor_host.kernel,
    doctor_host.privileges,
    doctor_network.interface,
    doctor_host.features,
    doctor_network.address,
    doctor_network.mtu,
    doctor_network.multicast,
    doctor_network.ports,
    doctor_host.key_file,
    doctor_host.cgroup,
    doctor_host.bpf_file_system,
    doctor_network.sysctls,
    doctor_network.services,
    doctor_network.offloads,
    doctor_network.program,
    doctor_network.agent,
    doctor_host.clock,
)


def examine(patient: Patient) -> list[Finding]:
    """All that the checks say, in their order; one that could not be made says so."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(patient)
        except (HostError, OSError) as error:
            text = f"could not tell: {error}"
            found.append(Finding(check.__name__.replace("_", " "), "warning", text))
    return found


def admit(path: Path | None, interface: str | None) -> Patient:
    """What the checks are about.

    Args:
        path: of a configuration, or None.
        interface: in the place of the configured one, or None.

    Raises:
        ConfigError: the configuration cannot be read, or is wrong in more than its key file.
    """
    config, key_problem = (None, "") if path is None else load(path)
    name = interface or (config.host.interface if config else "")
    link = None
    if name:
        try:
            link = netlink.link(name)
        except HostError as error:
            if "no interface" not in str(error):
                raise
    return Patient(
        config=config,
        key_problem=key_problem,
        path=path,
        interface=name,
        link=link,
        address=underlay_address(config, name) if config and link else None,
        features=features(name if link else None),
        capabilities=effective_capabilities(STATUS.read_text()),
    )


def load(path: Path) -> tuple[Config, str]:
    """The configuration, and what is wrong with its key file.

    Raises:
        ConfigError: something else is wrong.
    """
    try:
        return Config.load(path), ""
    except ConfigError as error:
        problem = error
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if data["gossip"].pop("key_file", None) is not None:
            data["gossip"]["insecure"] = True
            return Config.from_dict(data, label=str(path), folder=path.parent), str(problem)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ConfigError):
        pass  # the first error names what is wrong
    raise problem


def underlay_address(config: Config, interface: str) -> Address | None:
    """The configured one, or the interface's first; None: it has none."""
    others = config.gossip.group or config.gossip.members[0]
    try:
        return config.host.address or netlink.first_address(interface, others.version)
    except HostError:
        return None


def effective_capabilities(status: str) -> frozenset[int]:
    """The numbers of the line CapEff of /proc/PID/status.

    Source: proc_pid_status(5); linux/capability.h.
    """
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()
