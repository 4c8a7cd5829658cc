# SPDX-License-Identifier: BSD-2-Clause
"""Configures, starts and stops the pyxdp-gossip agents of a box, and reads their counters."""

import base64
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

from pyxdp_gossip.popbox import names
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.processes import Process, python_command

GOSSIP_PORT = 7946
GROUP = f"239.192.7.1:{GOSSIP_PORT}"
READY_TIMEOUT_S = 30.0
"""A join takes a second or two; many agents on two cores take their turns."""
STOP_TIMEOUT_S = 15.0
STATS_TIMEOUT_S = 5.0
POLL_S = 0.01

Settings = Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]
"""Configuration to add or replace: table name to keys, or to all tables of a list."""


def write_key_file(path: Path) -> None:
    """One random key, readable by its owner alone."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"1 {base64.b64encode(os.urandom(32)).decode('ascii')}\n")


def default_settings(
    host: int, folder: Path, pins: Path, cgroup: Path, members: Sequence[str] = ()
) -> dict[str, Any]:
    """The tables of one host's configuration, services of both families included.

    Args:
        members: the other hosts' addresses where there is no multicast; empty: the group.
    """
    unicast = {"members": list(members), "port": GOSSIP_PORT}
    return {
        "host": {"id": host, "interface": "eth0"},
        "gossip": {
            **(unicast if members else {"group": GROUP}),
            "key_file": str(folder.parent / "gossip.key"),
            "preset": "loopback",
        },
        "dataplane": {"plane": "xsk", "pins": str(pins), "cgroup": str(cgroup)},
        "table": {"sessions_v4": 65536, "sessions_v6": 65536},
        "control": {"socket": str(folder / "control.sock")},
        "service": [
            {"vip": vip, "port": names.VIP_PORT, "protocol": "tcp"}
            for vip in (names.VIP4, names.VIP6)
        ],
    }


def to_toml(tables: Mapping[str, Any]) -> str:
    """TOML of plain tables and lists of tables. JSON's strings, numbers and booleans are TOML's."""
    lines: list[str] = []
    for name, table in tables.items():
        many = isinstance(table, list)
        for keys in table if many else [table]:
            lines.append(f"[[{name}]]" if many else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


class Agent:
    """One agent; started again after a stop or a kill with the same configuration."""

    def __init__(
        self,
        host: int,
        folder: Path,
        namespace: str,
        cgroup: Path,
        pins: Path,
        members: Sequence[str] = (),
    ) -> None:
        self._host = host
        self._namespace = namespace
        self._cgroup = cgroup
        self._defaults = default_settings(host, folder, pins, cgroup, members)
        self.config = folder / "agent.toml"
        self.ready = folder / "agent.ready"
        self.log = folder / "agent.log"
        self.stats_file = folder / "agent.ready.stats.json"
        self.process: Process | None = None

    def spawn(self, settings: Settings | None = None) -> None:
        """Writes the configuration and starts the process, without waiting."""
        if self.process is not None:
            raise BoxError(f"the agent of host {self._host} runs already")
        tables = dict(self._defaults)
        for name, keys in (settings or {}).items():
            if isinstance(keys, Mapping):
                tables[name] = {**tables.get(name, {}), **keys}
            else:
                tables[name] = list(keys)
        self.config.write_text(to_toml(tables))
        self.ready.unlink(missing_ok=True)
        self.stats_file.unlink(missing_ok=True)
        arguments = ["run", "--config", str(self.config), "--ready-file", str(self.ready)]
        self.process = Process(
            f"agent of host {self._host}",
            python_command("pyxdp_gossip", *arguments),
            self._namespace,
            self._cgroup,
            self.log,
            piped=False,
        )

    def wait_ready(self) -> None:
        self._running().wait_until(self.ready.exists, "synced", READY_TIMEOUT_S)

    def _running(self) -> Process:
        if self.process is None:
            raise BoxError(f"the agent of host {self._host} does not run")
        return self.process

    def signal(self, number: Signals) -> None:
        self._running().send(number)

    def stop(self, number: Signals = Signals.SIGTERM) -> int:
        """SIGTERM, or SIGHUP for an upgrade; returns the exit status."""
        status = self._running().stop(number, STOP_TIMEOUT_S)
        self.process = None
        return status

    def kill(self) -> None:
        self._running().stop(Signals.SIGKILL, STOP_TIMEOUT_S)
        self.process = None

    def forget(self) -> None:
        """Takes the status of a process that was killed with its cgroup."""
        if self.process is not None:
            self.process.reap()
            self.process = None

    def stats(self) -> dict[str, Any]:
        """The counters: asked for while it runs, else those that it left at its clean stop."""
        if self.process is not None:
            self.stats_file.unlink(missing_ok=True)
            self.process.send(Signals.SIGUSR1)
            self.process.wait_until(self.stats_file.exists, "counters", STATS_TIMEOUT_S)
        try:
            answer = json.loads(self.stats_file.read_text())
        except OSError as error:
            raise BoxError(f"host {self._host} left no counters: {error.strerror}") from error
        if not isinstance(answer, dict):
            raise BoxError(f"{self.stats_file} holds no counters")
        return answer


def wait_all_ready(agents: Iterable[Agent]) -> float:
    """Waits for each; returns the seconds that it took."""
    begin = time.monotonic()
    for agent in agents:
        agent.wait_ready()
    return time.monotonic() - begin
