# SPDX-License-Identifier: BSD-2-Clause
"""Checks of `doctor` about the kernel, this process, the files and the mounts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyxdp_gossip import kernel_mounts, netlink
from pyxdp_gossip.diagnosis import Finding, Patient
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.features import Feature
from pyxdp_gossip.xdp_drivers import release

LEAST_KERNEL: Final = (6, 1)
CAP_SYS_ADMIN: Final = 21
CAPABILITIES: Final = {
    12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 38: "CAP_PERFMON", 39: "CAP_BPF",
}  # fmt: skip
# What no host can do without; AF_XDP only with plane = "xsk".
MUST: Final = (
    "xdp", "tcp-lookup", "sockops", "ring-buffer", "mmapable-arrays", "btf", "socket-ends",
)  # fmt: skip
WITHOUT: Final = {
    "native-xdp": "packets take the slower generic XDP",
    "managed-neighbours": "the agent asks for neighbours itself",
}
EARLIEST: Final = 1_735_689_600  # 2025-01-01: this program is younger


def kernel(patient: Patient) -> Iterator[Finding]:
    """Its version."""
    name = patient.features.kernel
    if release(name) < LEAST_KERNEL:
        yield Finding("kernel", "problem", f"Linux {name}", "install Linux 6.1 or newer")
    else:
        yield Finding("kernel", "ok", f"Linux {name}")


def features(patient: Patient) -> Iterator[Finding]:
    """A line for each; a missing one counts by what the configuration asks for."""
    for one in patient.features.all:
        yield _feature(patient, one)
    found = patient.features
    if patient.link is not None:
        text = f'"auto" takes {found.auto or "what could not be told"}: {found.auto_because}'
        yield Finding("mode", "ok", text)


def _feature(patient: Patient, one: Feature) -> Finding:
    if one.state == "unknown":
        return Finding(one.name, "warning" if one.name in MUST else "ok", str(one))
    if one.state == "yes":
        return Finding(one.name, "ok", str(one))
    plane = patient.config.dataplane if patient.config else None
    mode = plane.mode if plane else "auto"
    remedy = f"it needs {one.needs}"
    if one.name in MUST or (one.name == "af-xdp" and plane and plane.plane == "xsk"):
        return Finding(one.name, "problem", "no", remedy)
    if one.name == "native-xdp" and mode in ("native", "copy", "zero-copy"):
        return Finding(one.name, "problem", "no", f'set [dataplane] mode = "auto"; {remedy}')
    if one.name == "af-xdp-zero-copy" and mode == "zero-copy":
        return Finding(one.name, "problem", "no", f'set [dataplane] mode = "auto"; {remedy}')
    if one.name in WITHOUT:
        return Finding(one.name, "warning", f"no: {WITHOUT[one.name]}", remedy)
    return Finding(one.name, "ok", str(one))


def privileges(patient: Patient) -> Iterator[Finding]:
    """Those that the agent needs, of this process."""
    missing = [name for number, name in CAPABILITIES.items() if number not in patient.capabilities]
    if missing:
        yield Finding("privileges", "problem", f"{', '.join(missing)} missing", "run as root")
    else:
        yield Finding("privileges", "ok", "all that the agent needs")


def key_file(patient: Patient) -> Iterator[Finding]:
    """It is there, is read by its owner alone, and holds keys."""
    if patient.config is None:
        return
    if patient.key_problem:
        yield Finding("key file", "problem", patient.key_problem)
        return
    for warning in patient.config.warnings:
        text, _, remedy = warning.partition("; ")
        yield Finding("key file", "warning", text, remedy or "set key_file")
    if not patient.config.warnings:
        yield Finding("key file", "ok", f"{len(patient.config.gossip.keys)} keys")


def cgroup(patient: Patient) -> Iterator[Finding]:
    """The folder that the sockops program is attached to."""
    configured = patient.config.dataplane.cgroup if patient.config else None
    try:
        path = configured or netlink.cgroup2_mount()
    except HostError as error:
        yield Finding("cgroup", "problem", str(error))
        return
    mounts = kernel_mounts.mount_points(kernel_mounts.MOUNTS.read_text())
    if not path.is_dir() or kernel_mounts.type_at(path.resolve(), mounts) != "cgroup2":
        remedy = "set [dataplane] cgroup to one that holds the proxy"
        yield Finding("cgroup", "problem", f"{path} is no cgroup v2 folder", remedy)
    else:
        yield Finding("cgroup", "ok", str(path))


def bpf_file_system(patient: Patient) -> Iterator[Finding]:
    """Where the pins go."""
    if patient.config is None:
        return
    path = Path(patient.config.dataplane.pins)
    mounts = kernel_mounts.mount_points(kernel_mounts.MOUNTS.read_text())
    if kernel_mounts.type_at(path, mounts) == "bpf":
        yield Finding("BPF file system", "ok", f"{path} is on one")
    elif not path.is_relative_to(kernel_mounts.BPFFS):
        remedy = f"set [dataplane] pins to a folder below {kernel_mounts.BPFFS}"
        yield Finding("BPF file system", "problem", f"{path} is not on one", remedy)
    elif CAP_SYS_ADMIN in patient.capabilities:
        yield Finding("BPF file system", "ok", f"the agent mounts one at {kernel_mounts.BPFFS}")
    else:
        remedy = f"mount -t bpf bpf {kernel_mounts.BPFFS}"
        yield Finding("BPF file system", "problem", "none, and CAP_SYS_ADMIN missing", remedy)


def clock(patient: Patient) -> Iterator[Finding]:
    """An agent that starts in the past is not believed at once."""
    now = time.time()
    if now < EARLIEST:
        said = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield Finding("clock", "problem", f"it says {said}", "set it, and run an NTP client")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now)))
