# SPDX-License-Identifier: BSD-2-Clause
"""A POP of gossip cores in virtual time, over the native tables and the native codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.gossip.core import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import (
    MemberChanged,
    MemberState,
    OutgoingEvent,
    ProbeAnswered,
    ProbeWanted,
    SocketEvents,
    Synced,
)
from pyxdp_gossip.gossip.messages import OURS, MemberEntry, Versions
from pyxdp_gossip.gossip.records import EventKind, EventRecord
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Service
from pyxdp_gossip.timing import Timing

MS = 1_000_000
STEP = MS // 2
WALL = 1_700_000_000 * 1_000_000_000
KEYS = (Key(1, bytes(range(32))),)
HTTPS = Service(ip_address("198.51.100.1"), 443, "tcp")
HTTP = Service(ip_address("198.51.100.1"), 80, "tcp")
BUCKETS = 1 << 12  # room for 16,000 sessions


def event(kind: int, client: int, *, slot: int = 0, host: int = 0) -> EventRecord:
    """A record about client number `client` of the documentation network."""
    address = (0xCB007100 + client).to_bytes(4, "big") + bytes(12)
    return EventRecord(kind, 4, slot, 50_000, host, 1, 2, address, 0)


@dataclass
class Host:
    """One host: its core, its tables, and what its core said."""

    core: GossipCore
    owners: OwnerStates
    table: SessionTable
    memory: bytearray  # of the table
    address: str
    running: bool = True  # the agent is run
    up: bool = True  # the host answers probes
    events: list[OutgoingEvent] = field(default_factory=list)
    inbox: list[tuple[int, bytes, tuple[str, int]]] = field(default_factory=list)

    def owner(self, client: int, slot: int = 0) -> int | None:
        entry = self.table.get(event(EventKind.OPEN, client, slot=slot).key)
        return None if entry is None else entry.owner

    def active(self) -> set[int]:
        return {host for host in range(100) if self.owners.is_active(host)}

    def states(self, host: int) -> list[MemberState]:
        changes = (row for row in self.events if isinstance(row, MemberChanged))
        return [row.state for row in changes if row.host == host]

    def synced(self) -> list[bool]:
        return [row.partial for row in self.events if isinstance(row, Synced)]


class Pop:
    """Hosts by name, a network that may lose datagrams, and a clock that only `run` moves."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        self.now = 0
        self.hosts: dict[str, Host] = {}
        self.loses: Callable[[str, str, bytes], bool] = lambda source, target, data: False
        self.delay: Callable[[str, str, bytes], int] = lambda source, target, data: 0
        self.probe_lost: Callable[[str, str], bool] = lambda source, target: False
        self.recorded: list[bytes] = []
        self._starts = 0

    def start(
        self,
        host: int,
        *,
        name: str | None = None,
        services: dict[int, Service] | None = None,
        wall: int = WALL,
        keys: tuple[Key, ...] = KEYS,
        adopted: Host | None = None,
        versions: Versions = OURS,
    ) -> Host:
        """A new start of an agent, with empty tables, or with those of the one before."""
        name = name or f"10.8.0.{host}"
        self._starts += 1
        owners = adopted.owners if adopted else OwnerStates()
        memory = adopted.memory if adopted else bytearray(SessionTable.required_bytes(4, BUCKETS))
        table = SessionTable(4, BUCKETS, owners, memory=memory, adopt=adopted is not None)
        entries = self._go_on(host, owners, table) if adopted else []
        table6 = SessionTable(6, 2, owners)
        owners.activate(host)
        core = GossipCore(
            LocalHost(host, ip_address(name), 6080, services or {0: HTTPS, 1: HTTP}),
            Envelope(host, WALL + self._starts, self._starts << 32, keys=keys, versions=versions),
            log=OwnershipLog(table, table6, host),
            owners=owners,
            tables={4: table, 6: table6},
            timing=self.timing,
            wall_offset=wall,
            now=self.now,
            adopted=entries,
        )
        self.hosts[name] = Host(core, owners, table, memory, name)
        return self.hosts[name]

    def _go_on(self, host: int, owners: OwnerStates, table: SessionTable) -> list[MemberEntry]:
        """What the data path does at an adoption."""
        table.renew(self.now // MS)
        active = [one for one in range(100) if owners.is_active(one)]
        for one in active:
            owners.drop_previous(one)
        owners.void(host)
        return [
            MemberEntry(one, 6080, 0, ip_address(f"10.8.0.{one}")) for one in active if one != host
        ]

    def start_all(self, *ids: int) -> list[Host]:
        hosts = [self.start(host) for host in ids]
        self.run(1500)
        return hosts

    def run(self, ms: int) -> None:
        end = self.now + ms * MS
        while self.now < end:
            self.run_step()

    def run_step(self) -> None:
        """Half a millisecond."""
        self.now += STEP
        for host in self.hosts.values():
            if host.running:
                self._step(host)

    def _step(self, host: Host) -> None:
        due = [row for row in host.inbox if row[0] <= self.now]
        host.inbox = [row for row in host.inbox if row[0] > self.now]
        for _, data, source in sorted(due, key=lambda row: row[0]):
            host.core.receive_datagram(data, source, self.now)
        timer = host.core.next_timer()
        if timer is not None and timer <= self.now:
            host.core.handle_timer(self.now)
        for target, data in host.core.datagrams_to_send(self.now):
            self._carry(host, None if target is None else target[0], data)
        self._take_events(host)

    def _carry(self, source: Host, target: str | None, data: bytes) -> None:
        self.recorded.append(data)
        assert len(data) <= 1400
        for name, host in self.hosts.items():
            reached = name == target or (target is None and host is not source)
            if reached and not self.loses(source.address, name, data):
                due = self.now + self.delay(source.address, name, data) * MS
                host.inbox.append((due, data, (source.address, 7946)))

    def _take_events(self, host: Host) -> None:
        while (happened := host.core.next_event()) is not None:
            host.events.append(happened)
            if isinstance(happened, ProbeWanted):
                self._probe(host, happened)

    def _probe(self, host: Host, wanted: ProbeWanted) -> None:
        target = self.hosts.get(str(wanted.address))
        lost = self.probe_lost(host.address, str(wanted.address))
        if target is not None and target.up and not lost:
            host.core.handle_event(ProbeAnswered(wanted.host, wanted.nonce), self.now)

    def happens(self, host: Host, *records: EventRecord) -> None:
        data = b"".join(record.pack() for record in records)
        host.core.handle_event(SocketEvents(data), self.now)

    def views(self, client: int) -> Iterator[int | None]:
        return (host.owner(client) for host in self.hosts.values() if host.running)
