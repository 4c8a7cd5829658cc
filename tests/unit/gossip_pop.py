# SPDX-License-Identifier: BSD-2-Clause
"""A POP of gossip cores in virtual time, with a plain model in place of the native codec."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from pyxdp_gossip.config import Key, Timing
from pyxdp_gossip.gossip.core import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import (
    MemberChanged,
    MemberState,
    OutgoingEvent,
    ProbeWanted,
    SocketEvents,
    Synced,
)
from pyxdp_gossip.gossip.records import EVENT, EventKind, EventRecord
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.translation import slot_of
from pyxdp_gossip.session import Service

MS = 1_000_000
STEP = MS // 2
WALL = 1_700_000_000 * 1_000_000_000
KEYS = (Key(1, bytes(range(32))),)
HTTPS = Service(ip_address("198.51.100.1"), 443, "tcp")
HTTP = Service(ip_address("198.51.100.1"), 80, "tcp")
RECORD = struct.Struct("!H4s2s")  # the model's record of all kinds: index, address, port


@dataclass
class ModelEntry:
    owner: int
    epoch: int
    clock: int
    position: int


class ModelOwners:
    """The native OwnerStates, by its description."""

    def __init__(self) -> None:
        self.active: set[int] = set()
        self.epochs: dict[int, int] = {}
        self.previous: set[int] = set()

    def activate(self, host: int) -> None:
        self.active.add(host)

    def deactivate(self, host: int) -> None:
        self.active.discard(host)

    def void(self, host: int) -> None:
        self.epochs[host] = self.epochs.get(host, 0) + 1
        self.previous.discard(host)

    def new_epoch(self, host: int) -> None:
        self.void(host)
        self.previous.add(host)

    def drop_previous(self, host: int) -> None:
        self.previous.discard(host)

    def counts(self, entry: ModelEntry) -> bool:
        epoch = self.epochs.get(entry.owner, 0)
        fresh = entry.epoch == epoch or (
            entry.owner in self.previous and entry.epoch == epoch - 1
        )
        return fresh and entry.owner in self.active


class ModelTable:
    """The native SessionTable, by its description."""

    def __init__(self, owners: ModelOwners) -> None:
        self.owners = owners
        self.entries: dict[bytes, ModelEntry] = {}
        self.unowned: set[bytes] = set()

    def get(self, key: bytes) -> ModelEntry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and self.owners.counts(entry) else None

    def remove(self, key: bytes) -> None:
        self.entries.pop(key, None)

    def mark_unowned(self, key: bytes, now_ms: int) -> None:
        self.unowned.add(key)


@dataclass
class ModelResult:
    applied: int = 0
    stale: int = 0
    lost: int = 0
    unknown_service: int = 0
    refused: int = 0
    rivals: bytes = b""


class ModelLog:
    """The native OwnershipLog for IPv4, by its description."""

    BATCH = 256

    def __init__(self, table: ModelTable, host: int) -> None:
        self.table = table
        self.host = host
        self.open: dict[bytes, int] = {}

    @property
    def pending(self) -> int:
        return len(self.open)

    def absorb(self, events: bytes, *, clock: int, position: int, now_ms: int) -> int:
        for count, row in enumerate(EVENT.iter_unpack(events)):
            if len(self.open) >= self.BATCH:
                return count
            kind, _family, slot, port, _host, _seq, _ack, address, _at = row
            key = address[:4] + port + slot.to_bytes(2, "little")
            if kind in (EventKind.OPEN, EventKind.CLAIM):
                epoch = self.table.owners.epochs.get(self.host, 0)
                self.table.entries[key] = ModelEntry(self.host, epoch, clock, position)
                self.open[key] = 0x10
            else:
                self.table.entries.pop(key, None)
                if self.open.pop(key, None) is None:
                    self.open[key] = 0x11
        return len(events) // EVENT.size

    def encode(self, budget: int) -> bytes:
        sections = b""
        for kind in (0x10, 0x11):
            room = (budget - len(sections) - 4) // RECORD.size
            keys = [key for key, what in self.open.items() if what == kind][: max(room, 0)]
            for key in keys:
                del self.open[key]
            sections += section(kind, keys)
        return sections

    def shard(self, family: int, cursor: int, budget: int) -> tuple[bytes, int | None]:
        if family == 6:
            return b"", None
        own = [key for key, entry in self.table.entries.items() if entry.owner == self.host]
        room = (budget - 4) // RECORD.size
        following = cursor + room
        part = own[cursor:following]
        return section(0x10, part), following if following < len(own) else None

    def apply(
        self,
        sender: int,
        kind: int,
        body: bytes,
        translation: bytes,
        *,
        clock: int,
        position: int,
        now_ms: int,
    ) -> ModelResult:
        result = ModelResult()
        for index, address, port in RECORD.iter_unpack(body):
            slot = slot_of(translation, index)
            if slot == 0xFFFF:
                result.unknown_service += 1
                continue
            key = address + port + slot.to_bytes(2, "little")
            self._apply_one(sender, kind, key, clock, position, result)
        return result

    def _apply_one(
        self, sender: int, kind: int, key: bytes, clock: int, position: int, result: ModelResult
    ) -> None:
        old = self.table.get(key)
        epoch = self.table.owners.epochs.get(sender, 0)
        if old is not None and old.owner == sender and old.epoch == epoch:
            if old.position > position:
                result.stale += 1
                return
        elif old is not None and old.owner != sender and (
            kind != 0x10 or (old.clock, old.owner) > (clock, sender)
        ):
            result.lost += 1
            return
        if kind == 0x10:
            self.table.entries[key] = ModelEntry(sender, epoch, clock, position)
        else:
            self.table.entries.pop(key, None)
        result.applied += 1


def section(kind: int, keys: list[bytes]) -> bytes:
    body = b"".join(
        RECORD.pack(int.from_bytes(key[6:8], "little"), key[:4], key[4:6]) for key in keys
    )
    return struct.pack("!BBH", kind, 0, len(body)) + body if body else b""


def event(kind: int, client: int, *, slot: int = 0, host: int = 0) -> EventRecord:
    """A record about client number `client` of the documentation network."""
    address = (0xCB007100 + client).to_bytes(4, "big") + bytes(12)
    return EventRecord(kind, 4, slot, 50_000, host, 1, 2, address, 0)


@dataclass
class Host:
    """One host: its core, its model tables, and what its core said."""

    core: GossipCore
    owners: ModelOwners
    table: ModelTable
    address: str
    running: bool = True  # the agent is run
    up: bool = True  # the host answers probes
    events: list[OutgoingEvent] = field(default_factory=list)
    inbox: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)

    def owner(self, client: int, slot: int = 0) -> int | None:
        entry = self.table.get(event(EventKind.OPEN, client, slot=slot).key)
        return None if entry is None else entry.owner

    def states(self, host: int) -> list[MemberState]:
        changes = (row for row in self.events if isinstance(row, MemberChanged))
        return [row.state for row in changes if row.host == host]

    def synced(self) -> list[bool]:
        return [row.partial for row in self.events if isinstance(row, Synced)]


class Pop:
    """Hosts by name, a network that may lose datagrams, and a clock that only `run` moves."""

    def __init__(self) -> None:
        self.now = 0
        self.hosts: dict[str, Host] = {}
        self.loses: Callable[[str, str, bytes], bool] = lambda source, target, data: False
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
        keeps: Host | None = None,
    ) -> Host:
        """A new start of an agent; `keeps` gives it the tables of the one before."""
        name = name or f"10.8.0.{host}"
        self._starts += 1
        owners = keeps.owners if keeps else ModelOwners()
        table = keeps.table if keeps else ModelTable(owners)
        owners.activate(host)
        core = GossipCore(
            LocalHost(host, ip_address(name), 6080, services or {0: HTTPS, 1: HTTP}),
            Envelope(host, WALL + self._starts, self._starts << 32, keys=keys),
            log=ModelLog(table, host),
            owners=owners,
            tables={4: table, 6: table},
            timing=Timing(),
            wall_offset=wall,
            now=self.now,
        )
        self.hosts[name] = Host(core, owners, table, name)
        return self.hosts[name]

    def start_all(self, *ids: int) -> list[Host]:
        hosts = [self.start(host) for host in ids]
        self.run(1500)
        return hosts

    def run(self, ms: int) -> None:
        end = self.now + ms * MS
        while self.now < end:
            self.now += STEP
            for host in self.hosts.values():
                if host.running:
                    self._step(host)

    def _step(self, host: Host) -> None:
        inbox, host.inbox = host.inbox, []
        for data, source in inbox:
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
                host.inbox.append((data, (source.address, 7946)))

    def _take_events(self, host: Host) -> None:
        for happened in iter(host.core.next_event, None):
            host.events.append(happened)
            if isinstance(happened, ProbeWanted):
                self._probe(host, happened)

    def _probe(self, host: Host, wanted: ProbeWanted) -> None:
        from pyxdp_gossip.gossip.events import ProbeAnswered

        target = self.hosts.get(str(wanted.address))
        if target is not None and target.up:
            host.core.handle_event(ProbeAnswered(wanted.host, wanted.nonce), self.now)

    def happens(self, host: Host, *records: EventRecord) -> None:
        data = b"".join(record.pack() for record in records)
        host.core.handle_event(SocketEvents(data), self.now)

    def views(self, client: int) -> Iterator[int | None]:
        return (host.owner(client) for host in self.hosts.values() if host.running)
