# SPDX-License-Identifier: BSD-2-Clause
"""Loads the programs on the router's ports and reads what they saw the hosts answer."""

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from pyxdp_gossip.netlink import ensure_bpffs
from pyxdp_gossip.popbox import names
from pyxdp_gossip.popbox.commands import run
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.network import batch

OBJECT = Path(__file__).resolve().parent.parent / "bpf" / "observer.bpf.o"


@dataclass(frozen=True, slots=True)
class Observed:
    """What the hosts answered since the box was set up; numbers of packets."""

    packets: int
    """TCP packets with a service as source."""
    syn_acks: int
    resets: int
    misdelivered: int
    """Packets of a live session, SYN apart, from a host that does not own it."""
    orphans_answered: int
    """Packets of a session whose owner was killed, from another host: it says so to the client."""
    flows_full: int
    """Connections that could not be watched."""

    def __sub__(self, earlier: "Observed") -> "Observed":
        return Observed(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )


class Observer:
    """The programs of one box, pinned in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> None:
        """Loads the programs and pins them and their maps."""
        if not OBJECT.exists():
            raise BoxError(f"{OBJECT} is not built; run: make setup")
        ensure_bpffs(self._folder)
        argv = ["bpftool", "prog", "loadall", str(OBJECT), str(self._folder)]
        run("loading the observer", [*argv, "pinmaps", str(self._folder)])

    def watch(self, services: Iterable[tuple[str, int]]) -> None:
        """Adds services, (VIP, TCP port) each, to those whose answers are counted."""
        for vip, port in services:
            address = ipaddress.ip_address(vip)
            key = address.packed.ljust(16, b"\0") + port.to_bytes(2, "big")
            key += address.version.to_bytes(2, "little")
            self._add("services", key)

    def host_died(self, mac: str) -> None:
        """From now on the sessions of the host with this MAC are no live ones."""
        self._add("dead", bytes.fromhex(mac.replace(":", ""))[::-1] + bytes(2))

    def _add(self, map_name: str, key: bytes) -> None:
        argv = ["bpftool", "map", "update", "pinned", str(self._folder / map_name), "key"]
        hexes = [f"{byte:#04x}" for byte in key]
        run(f"telling the observer of {map_name}", [*argv, *hexes, "value", "1", "0", "0", "0"])

    def attach_script(self, hosts: int, clients: int) -> str:
        """Shell text for the router's namespace: one program on each port."""
        links = batch(
            f"link set dev {names.host_port(host)} xdpdrv pinned {self._folder}/observe"
            for host in range(1, hosts + 1)
        )
        filters = (
            f"tc qdisc add dev {port} clsact\n"
            f"tc filter add dev {port} ingress bpf direct-action pinned {self._folder}/clear_hash\n"
            for port in (names.client_port(client) for client in range(1, clients + 1))
        )
        return links + "".join(filters)

    def read(self) -> Observed:
        """The counters, summed over the CPUs."""
        pin = str(self._folder / "counters")
        text = run("reading the observer", ["bpftool", "-j", "map", "dump", "pinned", pin])
        per_cpu = [entry["value"] for entry in json.loads(text)[0]["formatted"]["values"]]
        return Observed(
            **{f.name: sum(values[f.name] for values in per_cpu) for f in fields(Observed)}
        )
