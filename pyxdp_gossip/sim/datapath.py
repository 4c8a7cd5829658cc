# SPDX-License-Identifier: BSD-2-Clause
"""What the hosts' XDP programs do with a packet, by table and kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pyxdp_gossip.gossip.records import HOST_UNOWNED, EventKind
from pyxdp_gossip.sim.host import Host, record
from pyxdp_gossip.sim.network import Network


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a packet ended. `host`: whose stack took it, or None; `lost`: the network, or a host
    that is down, has it; `way`: "local", "unowned", "table" or "flood"."""

    host: int | None
    way: str
    lost: bool = False


@dataclass(slots=True)
class Datapath:
    """Decides for a packet that the router gave to a host; agents are told by `tell`."""

    hosts: Mapping[int, Host]
    network: Network
    tell: Callable[[Host, EventKind, int, int], None]

    def arrive(self, host: Host, client: int, *, syn: bool) -> Outcome:
        """A packet of a client at the host that the router chose."""
        entry = host.entry(client)
        known = client in host.sockets
        owner = None if entry is None else entry[0]
        if owner == HOST_UNOWNED and not syn:
            return Outcome(host.id, "unowned")
        if owner not in (None, host.id, HOST_UNOWNED):
            assert owner is not None
            if not syn and known:
                self.tell(host, EventKind.CLAIM, client, 0)
                return Outcome(host.id, "local")
            return self._forward(host, owner, client, syn=syn)
        if syn or known:
            return Outcome(host.id, "local")
        self.tell(host, EventKind.MISS, client, 0)
        return self._flood(host, client, "flood")

    def _forward(self, source: Host, owner: int, client: int, *, syn: bool) -> Outcome:
        target = self.hosts.get(owner)
        if target is None or not target.up or not self.network.carries(source.id, owner):
            return Outcome(None, "table", lost=True)
        if syn or client in target.sockets:
            return Outcome(owner, "table")
        self.tell(target, EventKind.MISDIRECTED, client, source.id)
        return self._flood(target, client, "table")

    def _flood(self, source: Host, client: int, way: str) -> Outcome:
        lost = False
        for host in self._others(source):
            if not self.network.carries(source.id, host.id):
                lost = lost or client in host.sockets
            elif client in host.sockets:
                self.tell(host, EventKind.CLAIM, client, 0)
                return Outcome(host.id, way)
        return Outcome(None, way, lost=lost)

    def _others(self, source: Host) -> Iterable[Host]:
        return (host for host in self.hosts.values() if host.up and host is not source)


def told(kind: EventKind, client: int, sender: int) -> bytes:
    """What a host's XDP program tells its agent."""
    return record(kind, client, host=sender).pack()
