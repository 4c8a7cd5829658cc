# SPDX-License-Identifier: BSD-2-Clause
"""The gossip core: six verbs that put its parts together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.anti_entropy import Comparer, DigestService
from pyxdp_gossip.gossip.clock import HybridClock
from pyxdp_gossip.gossip.counters import GossipCounters, Tally
from pyxdp_gossip.gossip.events import (
    Drain,
    DuplicateHost,
    IncomingEvent,
    KernelAnswer,
    KeysChanged,
    Leave,
    Misdirected,
    Misses,
    OutgoingEvent,
    PathChanged,
    ProbeAnswered,
    ServicesChanged,
    SocketEvents,
)
from pyxdp_gossip.gossip.greeting import Greeter
from pyxdp_gossip.gossip.join import Join
from pyxdp_gossip.gossip.member import Start
from pyxdp_gossip.gossip.membership import STALLED_AFTER, Roster
from pyxdp_gossip.gossip.messages import (
    Accusation,
    Duplicate,
    Heartbeat,
    Hello,
    HostState,
    Leaving,
    MemberEntry,
    Message,
)
from pyxdp_gossip.gossip.newcomers import Newcomers
from pyxdp_gossip.gossip.outbox import Destination, Outbox, Reach
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.owners import Ownership
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S, OncePerInterval
from pyxdp_gossip.gossip.receiver import Receiver
from pyxdp_gossip.gossip.records import (
    EventKind,
    EventRecord,
    OwnershipLog,
    OwnerStates,
    SessionTable,
)
from pyxdp_gossip.gossip.repair import Nacker, Repairer
from pyxdp_gossip.gossip.sealing import Envelope, UnreadableVersionError
from pyxdp_gossip.gossip.shard_service import ShardService
from pyxdp_gossip.gossip.strays import StrayNotices
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.gossip.versions import Negotiation
from pyxdp_gossip.gossip.who_has import Answerer, Asker
from pyxdp_gossip.gossip.wire import DATAGRAM_MIN, DatagramType, Header, room_of
from pyxdp_gossip.session import Address, Service
from pyxdp_gossip.timing import Timing

LEAVING_REPEATS = 2  # nobody answers a LEAVE; a lost one costs the others half a second of probes


@dataclass(frozen=True, slots=True)
class LocalHost:
    """What this host tells the others of itself. `services` is slot → service."""

    host: int
    address: Address
    tunnel_port: int
    services: Mapping[int, Service]


class GossipCore:
    """One host's part in the gossip; no socket, clock, thread or randomness inside.

    `now` is CLOCK_MONOTONIC in ns everywhere. After each call the caller takes all of
    `datagrams_to_send` and `next_event`, and calls `handle_timer` at `next_timer`. Datagrams that
    wait in the socket go in before the timer, so that nobody is suspected for what was not read.

    Args:
        local: this host.
        envelope: seals and opens; has this start's incarnation and salt.
        log: the record codec over both tables.
        owners: the states of all owners; this host's own is the caller's to activate.
        tables: 4 and 6 → session table.
        timing: a preset of the configuration.
        wall_offset: ns to add to `now` for wall time.
        now: the time of the start.
        adopted: hosts whose entries the tables have of an agent before; `incarnation` 0.
    """

    def __init__(
        self,
        local: LocalHost,
        envelope: Envelope,
        *,
        log: OwnershipLog,
        owners: OwnerStates,
        tables: Mapping[int, SessionTable],
        timing: Timing,
        wall_offset: int,
        now: int,
        adopted: Iterable[MemberEntry] = (),
    ) -> None:
        self._local = local
        self._envelope = envelope
        self._timing = timing
        self._tally = tally = Tally()
        self._events: deque[OutgoingEvent] = deque()
        self._entered_at = now
        self._wall_offset = wall_offset
        self._heartbeat = timing.heartbeat_ms * NS_PER_MS
        self._heartbeat_at = self._services_at = now
        self._draining = self._left = self._stopped = False
        self._warned = OncePerInterval(NS_PER_S, 1)
        self._log = log
        self._outbox = Outbox(envelope, tally)
        clock = HybridClock(wall_offset, timing.clock_drift_ms * NS_PER_MS)
        self._own_log = OwnLog(log, clock, self._outbox, timing, tally)
        self._receiver = self._build(owners, tables, clock, now)
        self._timers = (
            *(self._own_log.next_timer, self._own_log.tail_timer, self._roster.next_timer),
            *(self._join.next_timer, self._shards.next_timer, self._asker.next_timer),
            *(self._nacker.next_timer, self._repairer.next_timer),
            *(self._comparer.next_timer, self._digests.next_timer),
        )
        for entry in adopted:
            self._roster.hearsay(entry, now)

    def _build(
        self,
        owners: OwnerStates,
        tables: Mapping[int, SessionTable],
        clock: HybridClock,
        now: int,
    ) -> Receiver:
        """The parts, each with those that it changes."""
        local, envelope, log, outbox = self._local, self._envelope, self._log, self._outbox
        timing, tally, own_log = self._timing, self._tally, self._own_log
        emit = self._events.append
        self._dictionary = dictionary = Dictionary(local.services)
        log.set_services(dictionary.ids())
        self._shards = ShardService(log, own_log, outbox, timing, tally)
        self._join = join = Join(
            *(log, outbox, timing, tally, emit, self._greet),
            *(Start(local.host, envelope.incarnation, envelope.salt), envelope.salt >> 32, now),
        )
        ownership = Ownership(owners, log)
        ownership.begin(local.host, envelope.salt)
        self._roster = roster = Roster(
            *(local.host, ownership, timing, tally, envelope.secret_of_start(b"probes"), emit),
            *(join.pull, self._accuse),
        )
        join.follow(roster)
        self._negotiation = Negotiation(envelope.versions, roster, tally, emit, join.hindered)
        outbox.version_for = self._negotiation.version_for
        self._asker = Asker(local.host, tables, outbox, timing, tally, emit, envelope.salt)
        self._answerer = Answerer(outbox, timing, tally, emit)
        self._strays = StrayNotices(log, roster, outbox, timing, tally)
        self._greeter = Greeter(roster, dictionary, outbox, timing, tally, self._beat)
        self._nacker = Nacker(outbox, timing, tally)
        self._repairer = Repairer(own_log, outbox, timing, tally)
        self._comparer = Comparer(log, roster, join, outbox, timing, tally)
        self._digests = DigestService(log, local.host, own_log, outbox, timing)
        return Receiver(
            local_host=local.host,
            log=log,
            clock=clock,
            own_log=own_log,
            roster=roster,
            newcomers=Newcomers(
                *(roster, timing, tally, join.challenge, join.answers, self._negotiation.admits)
            ),
            join=join,
            greeter=self._greeter,
            shards=self._shards,
            nacker=self._nacker,
            repairer=self._repairer,
            comparer=self._comparer,
            digests=self._digests,
            dictionary=dictionary,
            asker=self._asker,
            answerer=self._answerer,
            strays=self._strays,
            tally=tally,
            emit=emit,
            refute=self._refute,
        )

    # ---- the six verbs ----

    def receive_datagram(self, data: bytes, address: Sequence[Any], now: int) -> None:
        """Take in a datagram; a bad one is counted and changes nothing.

        Args:
            data: as it came from the socket.
            address: its source: host and port; what follows them is ignored.
        """
        self._enter(now)
        self._tally.add("datagrams_in")
        self._tally.add("bytes_in", len(data))
        reach = (str(address[0]), int(address[1]))
        try:
            header, messages = self._envelope.read(data)
        except PeerError as error:
            self._tally.add(error.reason)
            if isinstance(error, UnreadableVersionError):
                self._negotiation.refused(error.header, reach, now)
            return
        if self._left:
            return
        self._negotiation.heard(header, reach)
        if header.sender == self._local.host:
            self._hear_own_id(header, messages, reach, now)
        else:
            self._receiver.receive(header, messages, reach, now)

    def handle_event(self, event: IncomingEvent, now: int) -> None:
        """Take in what happened on this host.

        Args:
            event: one of gossip/events.py that goes from the caller to the core.

        Raises:
            ValueError: records are no whole number of struct xg_event.
        """
        self._enter(now)
        if not self._left:
            _HANDLERS[type(event)](self, event, now)

    def datagrams_to_send(self, now: int) -> list[tuple[Destination, bytes]]:
        """Datagrams for a destination, or for the group where it is None.

        Never more than one burst; if more wait, `next_timer` says when to come again.
        """
        self._enter(now)
        if not self._left:
            self._own_log.flush_if_due(now)
        return self._outbox.take()

    def next_timer(self) -> int | None:
        """When to call `handle_timer` and `datagrams_to_send` next, in ns; may be past."""
        if self._left:
            return self._entered_at + NS_PER_MS if self._outbox else None
        earliest = min(self._heartbeat_at, self._services_at)
        if self._outbox:
            earliest = min(earliest, self._entered_at + NS_PER_MS)
        for part_timer in self._timers:
            time = part_timer()
            if time is not None and time < earliest:
                earliest = time
        return earliest

    def handle_timer(self, now: int) -> None:
        """Do what is due; early or needless calls do no harm."""
        self._enter(now)
        if self._left:
            return
        self._own_log.flush_if_due(now)
        self._roster.handle_timer(now)
        self._join.handle_timer(now)
        self._beat_if_due(now)
        if now >= self._services_at:
            self._services_at = now + self._timing.services_ms * NS_PER_MS
            self._greeter.tell_services(None)
        self._nacker.handle_timer(self._roster, now)
        self._repairer.handle_timer(now)
        self._comparer.handle_timer(now)
        self._digests.handle_timer(now)
        self._shards.handle_timer(now)
        self._asker.handle_timer(now)

    def _beat_if_due(self, now: int) -> None:
        tail = self._own_log.tail_is_due(now)
        if now >= self._heartbeat_at:
            self._roster.health.beat(now - self._heartbeat_at)
            self._heartbeat_at = self._next_beat(now)
        elif not tail:
            return
        self._outbox.put(None, DatagramType.LOG, self._beat())

    def _next_beat(self, now: int) -> int:
        """The next multiple of the interval by the wall clock: all hosts beat together, so that
        each wakes once for all of them."""
        return now + self._heartbeat - (now + self._wall_offset) % self._heartbeat

    def next_event(self) -> OutgoingEvent | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    @property
    def counters(self) -> GossipCounters:
        """A snapshot."""
        return self._tally.snapshot()

    # ---- what the verbs share ----

    def _enter(self, now: int) -> None:
        """Notice that this agent was not run for a while."""
        if now - self._entered_at > STALLED_AFTER * self._heartbeat:
            self._tally.add("stalls")
            self._roster.listen_again(now)
        self._entered_at = now

    def _beat(self) -> Heartbeat:
        self._own_log.flush(self._entered_at)  # the digest is as of the last batch
        state = HostState.ACTIVE if self._join.said else HostState.JOINING
        if self._draining:
            state = HostState.DRAINING
        local = self._local
        digest, sessions = self._log.digest(local.host)
        return Heartbeat(
            *(state, local.tunnel_port, self._own_log.number, local.address),
            *(digest, sessions, self._envelope.versions),
        )

    def _greet(self, reach: Reach | None, hello: Hello) -> None:
        self._outbox.put(reach, DatagramType.MEMBERSHIP, self._beat(), hello)

    def _accuse(self, accusation: Accusation) -> None:
        self._tally.add("accusations_sent")
        self._outbox.put(None, DatagramType.MEMBERSHIP, accusation)

    def _refute(self, now: int) -> None:
        """Somebody thinks that this host is dead: say at once that it is not."""
        self._tally.add("refutations")
        self._heartbeat_at = min(self._heartbeat_at, now)

    def _hear_own_id(
        self, header: Header, messages: list[Message], reach: tuple[str, int], now: int
    ) -> None:
        """This host's own datagram looped back, or another host with this id."""
        own = (self._envelope.incarnation, self._envelope.salt)
        theirs = (header.incarnation, header.salt)
        if theirs == own:
            self._tally.add("own_datagrams")
            return
        self._tally.add("duplicate_host")
        if theirs > own:
            if self._warned.passes(reach, now):
                self._events.append(DuplicateHost(fatal=False, address=reach))
            duplicate = Duplicate(header.sender, header.incarnation)
            self._outbox.put(reach, DatagramType.MEMBERSHIP, duplicate)
        elif Duplicate(self._local.host, own[0]) in messages and not self._stopped:
            # Heard from an earlier start of this id, about this very one: so it lives.
            self._stopped = True
            self._events.append(DuplicateHost(fatal=True, address=reach))

    # ---- events of the caller ----

    def _on_sockets(self, event: SocketEvents, now: int) -> None:
        self._own_log.absorb(event.records, now)

    def _on_misses(self, event: Misses, now: int) -> None:
        self._asker.add(event.records, now)
        self._asker.handle_timer(now)

    def _on_misdirected(self, event: Misdirected, now: int) -> None:
        self._strays.tell(event.records, now)

    def _on_probe(self, event: ProbeAnswered, now: int) -> None:
        self._roster.probe_answered(event.host, event.nonce, now)

    def _on_kernel(self, event: KernelAnswer, now: int) -> None:
        if event.asker == self._local.host:
            known = self._asker.kernel_said(event.number, event.views)
            self._asker.conclude(event.number, self._roster, self._join.synced, now)
        else:
            known = self._answerer.kernel_said(
                event.asker, event.number, event.views, self._roster, now
            )
        self._claim(known, now)

    def _claim(self, known: list[EventRecord], now: int) -> None:
        claims = (replace(record, kind=EventKind.CLAIM) for record in known)
        self._own_log.absorb(b"".join(claim.pack() for claim in claims), now)

    def _on_services(self, event: ServicesChanged, now: int) -> None:
        self._dictionary.change(event.services)
        self._log.set_services(self._dictionary.ids())
        self._own_log.flush(now)
        self._greeter.tell_services(None)  # before any record that means a new one
        for member in self._roster:
            before = member.translation
            member.translation = self._dictionary.translate(member.services)
            member.knows_all = self._dictionary.has_all(member.services)
            # What was about a service that is new here was left out: get it now.
            if member.talks and member.translation != before:
                self._join.pull(member, now)

    def _on_keys(self, event: KeysChanged, _now: int) -> None:
        self._envelope.change_keys(event.keys)

    def _on_path(self, event: PathChanged, _now: int) -> None:
        self._outbox.room = room_of(max(event.datagram_max, DATAGRAM_MIN))

    def _on_drain(self, _event: Drain, now: int) -> None:
        self._draining = True
        self._heartbeat_at = now

    def _on_leave(self, _event: Leave, now: int) -> None:
        self._own_log.flush(now)
        for _ in range(LEAVING_REPEATS):
            self._outbox.put(None, DatagramType.MEMBERSHIP, Leaving())
        self._left = True


_HANDLERS: dict[type, Callable[[GossipCore, Any, int], None]] = {
    SocketEvents: GossipCore._on_sockets,
    Misses: GossipCore._on_misses,
    Misdirected: GossipCore._on_misdirected,
    ProbeAnswered: GossipCore._on_probe,
    KernelAnswer: GossipCore._on_kernel,
    ServicesChanged: GossipCore._on_services,
    KeysChanged: GossipCore._on_keys,
    PathChanged: GossipCore._on_path,
    Drain: GossipCore._on_drain,
    Leave: GossipCore._on_leave,
}
