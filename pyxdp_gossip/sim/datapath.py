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
    """Where a packet ended. `host`: whose stack took it, or None; `lost`: the network has it, or
    a host that is down, or one that does not take the sender for a member; `way`: "local",
    "unowned", "table" or "flood"."""

    host: int | None
    way: str
    lost: bool = False
    refused: bool = False


@dataclass(slots=True)
class Datapath:
    """Decides for a packet that the router gave to a host; agents are told by `tell`.

    The rows of docs/decision-table.md for TCP; the budgets are taken for endless.
    """

    hosts: Mapping[int, Host]
    network: Network
    tell: Callable[[Host, EventKind, int, int], None]
    clock: Callable[[], int]

    def arrive(self, host: Host, client: int, *, syn: bool) -> Outcome:
        """A packet of a client at the host that the router chose."""
        owner = self._owner(host, client)
        if owner == HOST_UNOWNED and not syn:
            return Outcome(host.id, "unowned")
        if owner not in (None, host.id, HOST_UNOWNED):
            assert owner is not None
            if not syn and host.knows(client):
                self._claim(host, client)
                return Outcome(host.id, "local")
            return self._forward(host, owner, client, syn=syn)
        if syn or host.knows(client):
            return Outcome(host.id, "local")
        self.tell(host, EventKind.MISS, client, 0)
        return self._flood(host, client, "flood")

    def _owner(self, host: Host, client: int) -> int | None:
        """By the table, in which a mark counts only while the agent lives that would end it."""
        entry = host.entry(client)
        if entry is None or (entry[0] == HOST_UNOWNED and not host.is_agent_alive(self.clock())):
            return None
        return entry[0]

    def _claim(self, host: Host, client: int) -> None:
        """A socket that only opens or closes is known, but nothing to claim."""
        if client in host.sockets:
            self.tell(host, EventKind.CLAIM, client, 0)

    def _forward(self, source: Host, owner: int, client: int, *, syn: bool) -> Outcome:
        target = self.hosts.get(owner)
        if target is None or not target.up or not self.network.carries(source.id, owner):
            return Outcome(None, "table", lost=True)
        if not target.accepts(source.id):
            return Outcome(None, "table", lost=True, refused=True)
        if syn or target.knows(client):
            return Outcome(owner, "table")
        self.tell(target, EventKind.MISDIRECTED, client, source.id)
        return self._flood(target, client, "table")

    def _flood(self, source: Host, client: int, way: str) -> Outcome:
        lost = refused = False
        for host in self._others(source):
            if not host.knows(client):
                continue
            if not self.network.carries(source.id, host.id):
                lost = True
            elif not host.accepts(source.id):
                lost = refused = True
            else:
                self._claim(host, client)
                return Outcome(host.id, way)
        return Outcome(None, way, lost=lost, refused=refused)

    def _others(self, source: Host) -> Iterable[Host]:
        return (host for host in self.hosts.values() if host.up and host is not source)


def told(kind: EventKind, client: int, sender: int) -> bytes:
    """What a host's XDP program tells its agent."""
    return record(kind, client, host=sender).pack()
