# SPDX-License-Identifier: BSD-2-Clause
"""A host for one real agent process: a namespace, a cgroup and a configuration of its own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyxdp_gossip import kernel_mounts
from pyxdp_gossip.popbox.agents import to_toml
from tests.kernel.conftest import Namespace, command

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICE = "xg0"
PATIENCE_S = 60.0  # a machine under load; nothing here is measured
POLL_S = 0.02
Changes = Mapping[str, Mapping[str, Any]]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(POLL_S)


def complaints(stderr: str) -> list[str]:
    """The lines of standard error that are no log lines."""
    return [line for line in stderr.splitlines() if not line.startswith("timestamp=")]


class AgentHost:
    """Where an agent can run, and what is looked at afterwards. Made by `agent_host`."""

    def __init__(self, namespace: Namespace, folder: Path, number: int) -> None:
        self.namespace = namespace
        self.folder = folder
        self.address = f"10.8.0.{10 + number}"
        self.cgroup = kernel_mounts.cgroup2_mount() / namespace.name
        self.pins = kernel_mounts.BPFFS / namespace.name / f"host-{number}"
        self.config = folder / "pop.toml"
        self.ready = folder / "ready"
        self.stats = folder / "ready.stats.json"
        self.plane = "xsk"  # what a test has configured, if it did
        self.processes: list[subprocess.Popen[str]] = []
        self.tables: dict[str, Any] = {
            "host": {"id": number, "interface": DEVICE},
            "gossip": {"group": "239.192.7.1:7946", "key_file": "gossip.key"},
            "service": [{"vip": "198.51.100.1", "port": 80, "protocol": "tcp"}],
            "dataplane": {"pins": str(self.pins), "cgroup": str(self.cgroup)},
            "table": {"sessions_v4": 4096, "sessions_v6": 4096},
            "control": {"socket": str(folder / "control.sock")},
        }

    def make(self, key: bytes) -> None:
        """Everything but the interface."""
        self.cgroup.mkdir()
        self.folder.mkdir()
        key_file = self.folder / "gossip.key"
        key_file.write_text(f"1 {base64.b64encode(key).decode()}\n")
        key_file.chmod(0o600)
        self.configure({})

    def connect(self, far: Namespace, far_device: str = DEVICE) -> None:
        """The interface, its other end at `far`."""
        self.namespace.ip(f"link add {DEVICE} type veth peer name {far_device} netns {far.name}")
        self.namespace.ip(f"link set {DEVICE} up")
        far.ip(f"link set {far_device} up")
        self.namespace.ip(f"addr add {self.address}/24 dev {DEVICE}")

    def configure(self, changes: Changes) -> None:
        """Writes the configuration, keys added or replaced; None takes one away."""
        tables = dict(self.tables)
        for name, keys in changes.items():
            many = isinstance(tables.get(name), list)
            before = tables[name][0] if many else tables.get(name, {})
            after = {key: value for key, value in {**before, **keys}.items() if value is not None}
            tables[name] = [after] if many else after
        self.config.write_text(to_toml(tables))

    def start(
        self, *, through: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts the agent, through other programs if need be."""
        prefix = ["nsenter", f"--net=/run/netns/{self.namespace.name}", *through]
        arguments = ["run", "--config", str(self.config), "--ready-file", str(self.ready)]
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "pyxdp_gossip", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def start_synced(self, **how: Any) -> subprocess.Popen[str]:
        """Starts the agent and waits for the ready file."""
        process = self.start(**how)
        wait_for(lambda: self.is_ready(process), "the ready file")
        return process

    def is_ready(self, process: subprocess.Popen[str]) -> bool:
        """Whether this process, and no earlier one, has written the ready file."""
        assert process.poll() is None, process.communicate()[1]
        return self.ready.exists() and self.ready.read_text() == f"{process.pid}\n"

    def refusal(self, **how: Any) -> str:
        """The one line of an agent that must not start: status 2."""
        return self.complaint(self.start(**how))

    def complaint(self, process: subprocess.Popen[str]) -> str:
        """The one line of an agent that ends by itself: status 2."""
        stderr = process.communicate(timeout=PATIENCE_S)[1]
        said = complaints(stderr)
        assert (process.returncode, len(said)) == (2, 1), stderr
        assert said[0].startswith("pyxdp-gossip: ")
        return said[0].removeprefix("pyxdp-gossip: ")

    def stop(self, process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> None:
        """Sends a signal that must be taken as "leave": status 0, not a word."""
        process.send_signal(how)
        stderr = process.communicate(timeout=PATIENCE_S)[1]
        assert (process.returncode, complaints(stderr)) == (0, []), stderr

    def counters(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What SIGUSR1 makes the agent write."""
        self.stats.unlink(missing_ok=True)
        process.send_signal(signal.SIGUSR1)
        wait_for(self.stats.exists, "the counters")
        found: dict[str, Any] = json.loads(self.stats.read_text())
        return found

    def xdp_program(self, device: str = DEVICE) -> int | None:
        """The id of the XDP program at the interface, or None."""
        (link,) = json.loads(self.namespace.ip(f"-j -d link show dev {device}"))
        return link["xdp"]["prog"]["id"] if "xdp" in link else None

    def xdp_link(self) -> int:
        """The id of the link that holds the XDP program."""
        shown = command("bpftool", "-j", "link", "show", "pinned", str(self.pins / "xdp"))
        return int(json.loads(shown)["id"])

    def sockops_program(self) -> int:
        """The id of the sockops program of the host's cgroup."""
        (program,) = json.loads(command("bpftool", "-j", "cgroup", "show", str(self.cgroup)))
        return int(program["id"])

    def attached(self) -> list[str]:
        """What is at work on this host, agent or not; empty: nothing is left."""
        found = []
        devices = [link["ifname"] for link in json.loads(self.namespace.ip("-j link show"))]
        for device in devices:
            if self.xdp_program(device) is not None:
                found.append(f"XDP program on {device}")
            if "clsact" in self.namespace.exec(f"tc qdisc show dev {device}"):
                found.append(f"filter on {device}")
        if "autojoin" in self.namespace.ip("addr show"):
            found.append("flood group")
        if self.pins.exists():
            found.append("pins")
        if command("bpftool", "cgroup", "show", str(self.cgroup)).strip():
            found.append("sockops program")
        return found

    def remove(self) -> None:
        """Ends what runs and takes everything away; what is attached goes with its pins."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
        shutil.rmtree(self.pins, ignore_errors=True)
        if self.pins.parent.exists():
            self.pins.parent.rmdir()
        self.cgroup.rmdir()


@contextmanager
def agent_host(
    namespace: Namespace, folder: Path, number: int = 1, key: bytes = bytes(range(32))
) -> Iterator[AgentHost]:
    """A host without an interface yet; everything is gone afterwards."""
    host = AgentHost(namespace, folder / f"host-{number}", number)
    host.make(key)
    try:
        yield host
    finally:
        host.remove()
