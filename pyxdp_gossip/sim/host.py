# SPDX-License-Identifier: BSD-2-Clause
"""One simulated host: its agent's core, its tables, and the sockets of its kernel."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from ipaddress import IPv4Address

from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.gossip.core import GossipCore, LocalHost
from pyxdp_gossip.gossip.messages import MemberEntry
from pyxdp_gossip.gossip.records import EventKind, EventRecord, session_key
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Service
from pyxdp_gossip.sim.shared_envelope import Reader, SharedEnvelope
from pyxdp_gossip.sim.watch import WatchedLog
from pyxdp_gossip.timing import Timing

MS = 1_000_000
BUCKETS = 1 << 8  # 1024 sessions: more than the clients have
DIGEST_BUCKETS = 64
STATEMENTS = 1024
LINGER = 1  # XG_META_LINGER
HEARTBEAT_LIMIT = 1000 * MS  # HEARTBEAT_LIMIT_NS of csrc/bpf/redirect.bpf.c
WALL = 1_700_000_000 * 1_000_000_000
SERVICES = {0: Service(IPv4Address("198.51.100.1"), 443, "tcp")}
PORT = 40_000


def client_address(client: int) -> bytes:
    """(16,) bytes: an address of the documentation network and its neighbours."""
    return (0xCB007100 + client).to_bytes(4, "big") + bytes(12)


@cache
def key_of(client: int) -> bytes:
    """The session of a client, as the table's key."""
    return session_key(4, 0, PORT, client_address(client))


def record(kind: int, client: int, *, host: int = 0) -> EventRecord:
    """struct xg_event about a client's session."""
    return EventRecord(kind, 4, 0, PORT, host, 1, 2, client_address(client), 0)


def client_of(event: EventRecord) -> int:
    """The client that a record is about."""
    return int.from_bytes(event.address[:4], "big") - 0xCB007100


def address_of(host: int) -> IPv4Address:
    """A host's underlay address."""
    return IPv4Address(0x0A080000 + host)


@cache
def name_of(host: int) -> str:
    """The same in words."""
    return str(address_of(host))


@cache
def host_at(name: str) -> int:
    """Whose address this is."""
    return int(IPv4Address(name)) - int(address_of(0))


@dataclass
class Host:
    """A host. `core` None: its agent does not run; `frozen`: it is not run; `up` False: crashed."""

    id: int
    owners: OwnerStates = field(default_factory=OwnerStates)
    core: GossipCore | None = None
    log: OwnershipLog | None = None
    frozen: bool = False
    up: bool = True
    draining: bool = False
    gone: bool = False  # it left, or crashed for good
    reach: set[int] = field(default_factory=set)  # whom its agent knows, where all are unicast
    sockets: set[int] = field(default_factory=set)  # clients with an established session here
    half_open: set[int] = field(default_factory=set)  # clients whose handshake is under way here
    beat_at: int = 0  # when its agent last told the XDP program that it lives
    ring: deque[EventRecord] = field(default_factory=deque)  # kernel events not read yet
    inbox: list[tuple[bytes, int]] = field(default_factory=list)
    turn_at: int | None = None
    timer_at: int = 0
    turns: int = 0
    wall_skew: int = 0
    counted: Counter[str] = field(default_factory=Counter)  # by the cores that ended

    def __post_init__(self) -> None:
        self.memory = bytearray(SessionTable.required_bytes(4, BUCKETS))
        self.table = SessionTable(4, BUCKETS, self.owners, memory=self.memory)

    @property
    def runs(self) -> bool:
        """Whether its agent does anything."""
        return self.up and self.core is not None and not self.frozen

    def knows(self, client: int) -> bool:
        """Whether its kernel has a socket of the client, whatever its agent does."""
        return client in self.sockets or client in self.half_open

    def is_agent_alive(self, now: int) -> bool:
        """Whether its XDP program takes the agent for alive."""
        return now - self.beat_at < HEARTBEAT_LIMIT

    def accepts(self, source: int) -> bool:
        """Whether its XDP program takes tunnel packets of a host."""
        return self.owners.is_active(source)

    def entry(self, client: int) -> tuple[int, bool] | None:
        """Owner of a client's session by the table, and whether it lingers."""
        found = self.table.get(key_of(client))
        return None if found is None else (found.owner, bool(found.flags & LINGER))

    def start(
        self,
        number: int,
        keys: Sequence[Key],
        timing: Timing,
        reader: Reader,
        violated: Callable[[str], None],
        now: int,
    ) -> None:
        """Start an agent: the tables are adopted, and every socket of the kernel is claimed.

        Args:
            number: of this start in the simulation; its incarnation and salt.
        """
        self.table = SessionTable(4, BUCKETS, self.owners, memory=self.memory, adopt=True)
        self.table.renew(now // MS)
        active = [host for host in range(1, 2000) if self.owners.is_active(host)]
        for host in active:
            self.owners.drop_previous(host)
        self.owners.void(self.id)
        table6 = SessionTable(6, 2, self.owners)
        self.log = OwnershipLog(
            self.table, table6, self.id, digest_buckets=DIGEST_BUCKETS, statements=STATEMENTS
        )
        envelope = SharedEnvelope(
            *(self.id, WALL + number, number << 32 | 0xABCD, keys, reader),
            lambda header: violated(f"a datagram of host {header.sender} was accepted twice"),
        )
        self.core = GossipCore(
            LocalHost(self.id, address_of(self.id), 6080, SERVICES),
            envelope,
            log=WatchedLog(self.log, self.table, self.id, violated),
            owners=self.owners,
            tables={4: self.table, 6: table6},
            timing=timing,
            wall_offset=WALL + self.wall_skew,
            now=now,
            adopted=[
                MemberEntry(host, 6080, 0, address_of(host)) for host in active if host != self.id
            ],
        )
        self.frozen = False
        self.timer_at = now
        self.inbox.clear()
        self.ring = deque(record(EventKind.OPEN, client) for client in sorted(self.sockets))

    def kill_agent(self) -> None:
        """`kill -9`: sockets, table and XDP program stay."""
        if self.core is not None:
            self.counted.update(asdict(self.core.counters))
        self.core = None
        self.ring.clear()
        self.inbox.clear()

    def crash(self) -> None:
        """Power off: nothing of it is left."""
        self.kill_agent()
        self.up = False
        self.sockets.clear()
        self.half_open.clear()
        self.owners = OwnerStates()
        self.memory = bytearray(SessionTable.required_bytes(4, BUCKETS))
        self.table = SessionTable(4, BUCKETS, self.owners, memory=self.memory)
