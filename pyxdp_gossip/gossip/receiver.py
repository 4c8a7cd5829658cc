# SPDX-License-Identifier: BSD-2-Clause
"""What each section of an opened datagram does; a table of small functions."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyxdp_gossip.gossip.clock import HybridClock
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import OutgoingEvent, UnknownService
from pyxdp_gossip.gossip.join import Join
from pyxdp_gossip.gossip.membership import Member, Roster, Signal
from pyxdp_gossip.gossip.messages import (
    Answer,
    Batch,
    Heartbeat,
    Hello,
    Leaving,
    MemberEntry,
    Members,
    Message,
    NotMine,
    Records,
    Services,
    Shard,
    ShardEnd,
    Unknown,
    Welcome,
    WhoHas,
)
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S, OncePerInterval
from pyxdp_gossip.gossip.records import EVENT, POSITION_MASK, OwnershipLog
from pyxdp_gossip.gossip.sequence import Arrival
from pyxdp_gossip.gossip.shard_service import ShardService
from pyxdp_gossip.gossip.strays import StrayNotices
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.gossip.who_has import Answerer, Asker
from pyxdp_gossip.gossip.wire import MEMBERS_IN_SECTION, DatagramType, Header

SHARD_CLOCK = 0  # a snapshot never wins over a dated claim of another owner
HOSTS_WARNED_MAX = 256  # as many as there are members


@dataclass(slots=True)
class Delivery:
    """One datagram on its way through the table. `dated` holds for the records behind it."""

    member: Member
    reach: tuple[str, int]
    now: int
    dated: tuple[int, int] | None = None  # clock and log position of the records that follow
    has_shard: bool = False


@dataclass(slots=True)
class Receiver:
    """Takes datagrams of other hosts; its fields are the parts that they change."""

    local_host: int
    incarnation: int
    log: OwnershipLog
    clock: HybridClock
    own_log: OwnLog
    roster: Roster
    join: Join
    shards: ShardService
    dictionary: Dictionary
    asker: Asker
    answerer: Answerer
    strays: StrayNotices
    outbox: Outbox
    tally: Tally
    emit: Callable[[OutgoingEvent], None]
    heartbeat: Callable[[], Heartbeat]
    _warned: OncePerInterval = field(
        default_factory=lambda: OncePerInterval(NS_PER_S, HOSTS_WARNED_MAX)
    )

    def receive(
        self, header: Header, messages: list[Message], reach: tuple[str, int], now: int
    ) -> None:
        """Take in an authentic datagram of another host."""
        member = self._sender(header, messages, reach, now)
        if member is None:
            return
        delivery = Delivery(member, reach, now)
        for message in messages:
            handle = _HANDLERS.get(type(message))
            if handle is not None:
                handle(self, delivery, message)
        if delivery.has_shard:
            self.join.check(member, self.roster)

    def _sender(
        self, header: Header, messages: list[Message], reach: tuple[str, int], now: int
    ) -> Member | None:
        if self.roster.get(header.sender) is not None:
            return self.roster.hear(header.sender, header.incarnation, reach, now)
        beat = next((row for row in messages if isinstance(row, Heartbeat)), None)
        if beat is None:
            self.tally.add("unknown_sender")
            return None
        return self.roster.meet(header.sender, header.incarnation, beat, reach, now)

    # ---- membership ----

    def _on_heartbeat(self, delivery: Delivery, beat: Heartbeat) -> None:
        self.roster.beat(delivery.member, beat, delivery.now)

    def _on_hello(self, delivery: Delivery, hello: Hello) -> None:
        member = delivery.member
        others = [
            MemberEntry(other.host, other.tunnel_port, other.incarnation, other.address)
            for other in self.roster
            if other.state.active and other.host != member.host
        ]
        welcome = Welcome(hello.request, member.host, member.incarnation)
        kind = DatagramType.MEMBERSHIP
        for start in range(0, max(len(others), 1), MEMBERS_IN_SECTION):
            part = tuple(others[start : start + MEMBERS_IN_SECTION])
            known = (Members(part),) if part else ()
            self.outbox.put(delivery.reach, kind, self.heartbeat(), welcome, *known)
        for services in self.dictionary.parts():
            self.outbox.put(delivery.reach, kind, services)
        if hello.pull:
            self.shards.start(member.host, delivery.reach, hello.request, delivery.now)
            self.shards.handle_timer(self.own_log.number, delivery.now)

    def _on_welcome(self, delivery: Delivery, welcome: Welcome) -> None:
        if (welcome.host, welcome.incarnation) == (self.local_host, self.incarnation):
            self.join.welcomed()

    def _on_members(self, delivery: Delivery, members: Members) -> None:
        for entry in members.entries:
            if entry.host != self.local_host:
                self.roster.hearsay(entry, delivery.now)

    def _on_leaving(self, delivery: Delivery, _leaving: Leaving) -> None:
        self.roster.signal(delivery.member, Signal.LEFT, delivery.now)

    def _on_services(self, delivery: Delivery, services: Services) -> None:
        member = delivery.member
        if services.generation != member.generation:
            member.generation = services.generation
            member.services = {}
        known = self.dictionary.merge(member.services, services.entries)
        translation = self.dictionary.translate(known)
        changed = translation != member.translation
        member.services, member.translation = known, translation
        if changed and member.misses_services:
            member.misses_services = False
            self.join.pull(member, delivery.now)

    # ---- records ----

    def _on_batch(self, delivery: Delivery, batch: Batch) -> None:
        member = delivery.member
        arrival, missed = member.batches.arrive(batch.number)
        self.tally.add("batches_missed", missed)
        if arrival is Arrival.REPEATED:
            self.tally.add("batches_repeated")
            return
        self.tally.add("batches_received")
        if arrival is Arrival.LATE:
            self.tally.add("batches_late")
        if member.generation is None:
            self.tally.add("batches_before_services")
            return
        clock = batch.clock
        if not self.clock.observe(clock, delivery.now):
            self.tally.add("clock_refused")
            clock = self.clock.limit(delivery.now)
        delivery.dated = (clock, batch.number)

    def _on_shard(self, delivery: Delivery, shard: Shard) -> None:
        delivery.dated = None
        member = delivery.member
        # Without the services its records mean nothing: not taken, so it is asked for again.
        if member.generation is not None and self.join.take(member, shard, delivery.now):
            delivery.dated = (SHARD_CLOCK, shard.position)
            delivery.has_shard = True

    def _on_shard_end(self, delivery: Delivery, end: ShardEnd) -> None:
        self.join.end(delivery.member, end, self.roster)

    def _on_records(self, delivery: Delivery, records: Records) -> None:
        if delivery.dated is None:
            return
        member = delivery.member
        clock, position = delivery.dated
        try:
            result = self.log.apply(
                *(member.host, records.kind, records.body, member.translation),
                clock=clock,
                position=position & POSITION_MASK,
                now_ms=delivery.now // NS_PER_MS,
            )
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
            self.tally.add("malformed_records")
            return
        for name in ("applied", "stale", "lost", "refused", "unknown_service"):
            self.tally.add(f"records_{name}", getattr(result, name))
        if result.unknown_service:
            member.misses_services = True
            if self._warned.passes(member.host, delivery.now):
                self.emit(UnknownService(member.host, result.unknown_service))
        if result.rivals:
            self.tally.add("rival_claims", len(result.rivals) // EVENT.size)
            self.own_log.absorb(result.rivals, delivery.now)

    # ---- questions ----

    def _on_who_has(self, delivery: Delivery, asked: WhoHas) -> None:
        self.answerer.ask(delivery.member, asked, delivery.reach, delivery.now)

    def _on_answer(self, delivery: Delivery, answer: Answer) -> None:
        self.asker.answered(delivery.member.host, answer)
        self.asker.conclude(answer.number, self.roster, self.join.synced, delivery.now)

    def _on_not_mine(self, delivery: Delivery, told: NotMine) -> None:
        self.strays.believe(delivery.member, told)

    def _on_unknown(self, _delivery: Delivery, _unknown: Unknown) -> None:
        self.tally.add("unknown_section")


_HANDLERS: dict[type, Callable[[Receiver, Delivery, Any], None]] = {
    Heartbeat: Receiver._on_heartbeat,
    Hello: Receiver._on_hello,
    Welcome: Receiver._on_welcome,
    Members: Receiver._on_members,
    Leaving: Receiver._on_leaving,
    Services: Receiver._on_services,
    Batch: Receiver._on_batch,
    Records: Receiver._on_records,
    Shard: Receiver._on_shard,
    ShardEnd: Receiver._on_shard_end,
    WhoHas: Receiver._on_who_has,
    Answer: Receiver._on_answer,
    NotMine: Receiver._on_not_mine,
    Unknown: Receiver._on_unknown,
}
"""A DUPLICATE is for a host with the sender's own id only, which the core reads itself."""
