# SPDX-License-Identifier: BSD-2-Clause
"""The POP: an event heap in virtual time, hosts, clients, and the invariants that hold always."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from random import Random

from pyxdp_gossip.gossip.core import GossipCore
from pyxdp_gossip.gossip.events import (
    AskKernel,
    KernelAnswer,
    Leave,
    MemberChanged,
    MemberState,
    Misdirected,
    Misses,
    OutgoingEvent,
    ProbeAnswered,
    ProbeWanted,
    SocketEvents,
    Synced,
)
from pyxdp_gossip.gossip.records import HOST_UNOWNED, EventKind, unpack_records
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import KernelView
from pyxdp_gossip.sim.datapath import Datapath, told
from pyxdp_gossip.sim.host import STATEMENTS, Host, client_of, host_at, name_of, record
from pyxdp_gossip.sim.network import MS, Network
from pyxdp_gossip.sim.shared_envelope import Reader
from pyxdp_gossip.timing import Timing

GOSSIP_PORT = 7946
TURN = MS  # an agent under load turns once a flush interval; what came meanwhile comes along
BOUNDS_EACH = 64  # turns between two looks at an agent's memory
REUSE_AFTER = 1500 * MS  # a client's port after a miss: longer than question and mark "unowned"
REUSE_SOON = 3 * MS  # and where nobody can have asked for it: OPEN and CLOSE are still on their way
RECORDED_MAX = 2000
VIOLATIONS_MAX = 20
WATCHED = 0.25  # of the OPENs: how long they take to all tables
QUESTIONS_MAX = 64
AGAIN = 200 * MS  # a client's retransmission
LATE = 3  # times as patient is an agent that was not run twice lately: LocalHealth
SETTLE_STEP = 100 * MS
IN_DOUBT = 0.01  # of the questions to a kernel


@dataclass
class Pop:
    """All state of one simulation; `random` is its only source of chance."""

    random: Random
    keys: Sequence[Key]
    timing: Timing = field(default_factory=Timing)
    now: int = 0
    hosts: dict[int, Host] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)  # client → the host with its socket
    free_at: dict[int, int] = field(default_factory=dict)  # client → when its port may be used
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    recorded: list[bytes] = field(default_factory=list)
    told_of: frozenset[int] | None = None  # hosts that each is told of; None: there is multicast

    def __post_init__(self) -> None:
        self.network = Network(self.random)
        self.datapath = Datapath(self.hosts, self.network, self._tell, lambda: self.now)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._starts = 0
        self._reader = Reader()
        self.convergence: list[int] = []
        self._missed_at: dict[int, int] = {}  # client → when an agent was last told of a miss
        self.reached: int | None = None  # by the last packet

    # ---- time ----

    def at(self, time: int, action: Callable[[], None]) -> None:
        """Do something at a moment."""
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, action))

    def run_until(self, end: int) -> None:
        """Let time pass; stops early when something is violated."""
        while self._heap and self._heap[0][0] <= end and len(self.violations) < VIOLATIONS_MAX:
            self.now, _, action = heapq.heappop(self._heap)
            self.counts["steps"] += 1
            action()
        self.now = max(self.now, end)

    def violated(self, what: str) -> None:
        """An invariant does not hold."""
        self.violations.append(f"{self.now / MS:.3f} ms: {what}")

    # ---- agents ----

    def start_agent(self, host: Host) -> None:
        """A new start, on whatever the one before left."""
        self._starts += 1
        host.up = True
        host.reach = set(self.told_of or ())
        host.start(self._starts, self.keys, self.timing, self._reader, self.violated, self.now)
        self._wake(host, self.now)

    def _wake(self, host: Host, time: int) -> None:
        if host.turn_at is None or host.turn_at > time:
            host.turn_at = time
            self.at(time, partial(self._turn, host, time))

    def _turn(self, host: Host, time: int) -> None:
        if host.turn_at != time:
            return  # it turned earlier
        host.turn_at = None
        if not host.runs:
            return
        host.beat_at = self.now
        core = host.core
        assert core is not None
        self._read(host, core)
        if host.timer_at <= self.now:
            core.handle_timer(self.now)
        self._take(host, core)
        host.turns += 1
        if host.turns % BOUNDS_EACH == 0:
            self._check_bounds(host)
        timer = core.next_timer()
        if timer is not None:
            host.timer_at = timer
            self._wake(host, max(timer, self.now + TURN // 4))

    def _read(self, host: Host, core: GossipCore) -> None:
        if host.ring:
            data = b"".join(row.pack() for row in host.ring)
            host.ring.clear()
            core.handle_event(SocketEvents(data), self.now)
        inbox, host.inbox = host.inbox, []
        self.counts["deliveries"] += len(inbox)
        for data, source in inbox:
            core.receive_datagram(data, (name_of(source), GOSSIP_PORT), self.now)

    def _take(self, host: Host, core: GossipCore) -> None:
        """All that a core has to say, and what comes of it."""
        while True:
            while (event := core.next_event()) is not None:
                self._on_event(host, core, event)
            datagrams = core.datagrams_to_send(self.now)
            for destination, data in datagrams:
                self._send(host, destination, data)
            if not datagrams:
                return

    def _on_event(self, host: Host, core: GossipCore, event: OutgoingEvent) -> None:
        if isinstance(event, MemberChanged):
            self._follow(host, event)
        elif isinstance(event, ProbeWanted):
            self._probe(host, event)
        elif isinstance(event, Synced):
            self.counts["partial" if event.partial else "synced"] += 1
        elif isinstance(event, AskKernel):
            self.counts["asked"] += event.asker == host.id
            rows = unpack_records(event.questions, QUESTIONS_MAX)
            views = [self._view(host, client_of(row)) for row in rows]
            core.handle_event(KernelAnswer(event.asker, event.number, views), self.now)

    def _follow(self, host: Host, event: MemberChanged) -> None:
        """As the agent does where there is no multicast."""
        if event.state is not MemberState.LEFT:
            host.reach.add(event.host)
        elif event.host not in (self.told_of or ()):
            host.reach.discard(event.host)

    def _view(self, host: Host, client: int) -> KernelView:
        """What its kernel says of a client's session; now and then it cannot be asked."""
        if self.random.random() < IN_DOUBT:
            return KernelView.IN_DOUBT
        if client in host.sockets:
            return KernelView.FULL
        return KernelView.HALF if client in host.half_open else KernelView.ABSENT

    def _probe(self, host: Host, wanted: ProbeWanted) -> None:
        target = self.hosts.get(wanted.host)
        there = self.network.arrivals(host.id, wanted.host, self.now)
        if target is None or not target.up or not there:
            return
        back = self.network.arrivals(wanted.host, host.id, there[0])
        for time in back:
            self.at(time, partial(self._probe_answered, host, wanted))

    def _probe_answered(self, host: Host, wanted: ProbeWanted) -> None:
        if host.runs and host.core is not None:
            host.core.handle_event(ProbeAnswered(wanted.host, wanted.nonce), self.now)
            self._wake(host, self.now + TURN)

    def _send(self, source: Host, destination: tuple[str, int] | None, data: bytes) -> None:
        receivers = self._receivers(source, destination)
        copies = 1 if self.told_of is None else len(receivers)
        self.counts["datagrams"] += copies
        self.counts["bytes"] += len(data) * copies
        if len(self.recorded) < RECORDED_MAX:
            self.recorded.append(data)
        arrivals, now, number = self.network.arrivals, self.now, source.id
        for host in receivers:
            if host is not source and host.up and host.core is not None:
                for time in arrivals(number, host.id, now):
                    self.at(time, partial(self.deliver, host, data, number))

    def _receivers(self, source: Host, destination: tuple[str, int] | None) -> Collection[Host]:
        """The group, or whom the source knows; or the host with this address."""
        if destination is not None:
            host = self.hosts.get(host_at(destination[0]))
            return () if host is None else (host,)
        if self.told_of is None:
            return self.hosts.values()
        known = sorted(source.reach - {source.id})
        return [self.hosts[host] for host in known if host in self.hosts]

    def deliver(self, host: Host, data: bytes, source: int) -> None:
        """A datagram reaches a host's socket."""
        if self.network.holds(host.id, data, source) or host.core is None or not host.up:
            return
        if len(host.inbox) < 4 * STATEMENTS:  # the socket's buffer
            host.inbox.append((data, source))
        if host.runs:
            self._wake(host, self.now + TURN)

    def unclog(self, host: Host) -> None:
        """All that the host's buffer kept comes at once."""
        for data, source in self.network.clogged.pop(host.id, []):
            self.deliver(host, data, source)

    def thaw(self, host: Host) -> None:
        """SIGCONT."""
        if host.frozen:
            host.frozen = False
            self._wake(host, self.now)

    def leave(self, host: Host) -> None:
        """The agent says goodbye; its proxy ended its sessions before."""
        if host.runs and host.core is not None:
            host.core.handle_event(Leave(), self.now)
            self._take(host, host.core)
        host.kill_agent()
        host.gone = True

    def core_counts(self) -> dict[str, int]:
        """What the cores of all starts counted, by the names of `GossipCounters`."""
        total: Counter[str] = Counter()
        for host in self.hosts.values():
            total.update(host.counted)
            if host.core is not None:
                total.update(asdict(host.core.counters))
        return dict(total)

    # ---- kernel and clients ----

    def _tell(self, host: Host, kind: EventKind, client: int, sender: int) -> None:
        """The XDP program tells the agent; a record for one that is not run waits, or is lost."""
        self.counts[kind.name.lower()] += 1
        if kind is EventKind.MISS:
            self._missed_at[client] = self.now
        if host.core is None or host.frozen:
            return
        if kind is EventKind.CLAIM:
            host.ring.append(record(kind, client))
        elif kind is EventKind.MISS:
            host.core.handle_event(Misses(told(kind, client, 0)), self.now)
        else:
            host.core.handle_event(Misdirected(told(kind, client, sender)), self.now)
        self._wake(host, self.now + TURN)

    def socket_event(self, host: Host, kind: EventKind, client: int) -> None:
        """The sockops program's event; an agent that was killed finds sockets by itself later."""
        if host.core is not None:
            host.ring.append(record(kind, client))
            if not host.frozen:
                self._wake(host, self.now)

    def open(self, client: int, host: Host) -> None:
        """A client's SYN arrives at a host, and the handshake is over at once."""
        self.begin(client, host)
        if client in self.live:
            self._establish(client)

    def begin(self, client: int, host: Host) -> None:
        """A client's SYN arrives at a host, whose socket is half open from now on."""
        outcome = self.datapath.arrive(host, client, syn=True)
        if outcome.host is not None:
            self.hosts[outcome.host].half_open.add(client)
            self.live[client] = outcome.host

    def acknowledge(self, client: int, host: Host) -> None:
        """The handshake's last packet arrives at a host, perhaps not the one of the SYN."""
        owner = self.live.get(client)
        if owner is None or client not in self.hosts[owner].half_open:
            return
        self.reached = None
        if host.up:
            self.packet(client, host)
        if self.reached == owner:
            self._establish(client)
            self.watch_open(client)
        else:  # the client sends it again
            self.at(self.now + AGAIN, partial(self.acknowledge, client, self.hosts[owner]))

    def _establish(self, client: int) -> None:
        owner = self.hosts[self.live[client]]
        owner.half_open.discard(client)
        owner.sockets.add(client)
        self.counts["opens"] += 1
        self.socket_event(owner, EventKind.OPEN, client)

    def close(self, client: int, *, linger: bool) -> None:
        """The session ends where its socket is."""
        owner = self.hosts[self.live.pop(client)]
        was_open = client in owner.sockets
        owner.sockets.discard(client)
        owner.half_open.discard(client)
        self.free_at[client] = self._free_at(client)
        if not was_open:
            return  # there was no OPEN
        self.counts["closes"] += 1
        self.socket_event(owner, EventKind.CLOSE_LINGER if linger else EventKind.CLOSE, client)

    def _free_at(self, client: int) -> int:
        """When the client may use its port again, if its session ended now."""
        missed = self._missed_at.get(client)
        soon = self.now + REUSE_SOON
        return soon if missed is None else max(soon, missed + REUSE_AFTER)

    def end_sessions(self, host: Host) -> None:
        """All sessions of a host end without a word: it crashed."""
        for client in [one for one, owner in self.live.items() if owner == host.id]:
            del self.live[client]
            self.free_at[client] = self._free_at(client)
        host.sockets.clear()
        host.half_open.clear()

    def packet(self, client: int, host: Host) -> None:
        """A packet of a session, live or not, arrives at a host; the promise is checked."""
        owner = self.live.get(client)
        outcome = self.datapath.arrive(host, client, syn=False)
        self.reached = outcome.host
        self.counts[f"packets_{outcome.way}"] += 1
        self.counts["packets_refused"] += outcome.refused
        if owner is None:
            self.free_at[client] = self._free_at(client)
        elif outcome.host is not None and outcome.host != owner:
            self.counts["misdelivered"] += 1
            self.violated(
                f"client {client} of host {owner} was answered by host {outcome.host} "
                f"({outcome.way}), where the router sent it to host {host.id}"
            )
        elif outcome.host is None and not outcome.lost:
            self.violated(f"client {client} of host {owner} was not found from host {host.id}")

    # ---- what must hold ----

    def _check_bounds(self, host: Host) -> None:
        core, log = host.core, host.log
        assert core is not None
        assert log is not None
        if log.statements > STATEMENTS or len(core._outbox) > 16_384:
            self.violated(f"host {host.id} keeps more than it may")
        if any(len(member.batches.missing) > 4096 for member in core._roster):
            self.violated(f"host {host.id} waits for more batches than anybody keeps")

    def settle(self) -> None:
        """Wait on while tables differ, but no longer than an agent that was late itself, and thus
        patient with others, takes to see a death."""
        limit = self.now + LATE * self.timing.death_ms * MS
        while self.now < limit and not self.violations and self.differences():
            self.counts["settled_late"] = 1
            self.run_until(self.now + SETTLE_STEP)

    def check_tables(self) -> None:
        """After a quiet time every table says what the kernels say."""
        for difference in self.differences():
            self.violated(difference)

    def differences(self) -> list[str]:
        """Where a running host's table does not say what the kernels say."""
        found = []
        clients = sorted(set(self.live) | set(self.free_at))
        for host in self.hosts.values():
            for client in clients if host.runs else ():
                entry = host.entry(client)
                shown = None if entry is None or entry[1] or entry[0] == HOST_UNOWNED else entry[0]
                if shown != self.live.get(client):
                    found.append(
                        f"host {host.id} has client {client} at {shown}, "
                        f"its socket is at {self.live.get(client)}"
                    )
        return found

    def check_packets(self) -> None:
        """After a quiet time every host brings every session's packets to their owner, by its
        table: nothing is refused, flooded or lost."""
        before = self.counts.copy()
        for client, owner in sorted(self.live.items()):
            for host in self.hosts.values():
                if host.runs:
                    self.packet(client, host)
                    if self.reached != owner:
                        self.violated(f"client {client} of host {owner} is lost at host {host.id}")
        if self.counts["packets_flood"] > before["packets_flood"]:
            self.violated("a packet of a session that all tables have was flooded")
        self.counts = before

    def watch_open(self, client: int) -> None:
        """Measure how long an OPEN takes to every running host."""
        opened, owner = self.now, self.live.get(client)

        def look() -> None:
            if self.live.get(client) != owner:
                return
            entries = (host.entry(client) for host in self.hosts.values() if host.runs)
            if all(entry is not None and entry[0] == owner for entry in entries):
                self.convergence.append(self.now - opened)
            elif self.now - opened < 2000 * MS:
                self.at(self.now + MS // 2, look)

        if self.random.random() < WATCHED and owner is not None and self.hosts[owner].runs:
            self.at(self.now + MS // 2, look)
