# SPDX-License-Identifier: BSD-2-Clause
"""What each section of an opened datagram does; a table of small functions."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyxdp_gossip.gossip.anti_entropy import Comparer, DigestService
from pyxdp_gossip.gossip.clock import HybridClock
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import OutgoingEvent, UnknownService
from pyxdp_gossip.gossip.greeting import Greeter
from pyxdp_gossip.gossip.join import Join
from pyxdp_gossip.gossip.member import Member, Signal
from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import (
    Accusation,
    Answer,
    AskSums,
    Batch,
    Gone,
    Heartbeat,
    Hello,
    Leaving,
    Members,
    Message,
    Nack,
    NotMine,
    PullBuckets,
    Records,
    Services,
    Shard,
    ShardEnd,
    Sums,
    Unknown,
    Welcome,
    WhoHas,
)
from pyxdp_gossip.gossip.newcomers import Newcomers
from pyxdp_gossip.gossip.outbox import Reach
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S, OncePerInterval
from pyxdp_gossip.gossip.records import EVENT, POSITION_MASK, ApplyResult, OwnershipLog
from pyxdp_gossip.gossip.repair import Nacker, Repairer
from pyxdp_gossip.gossip.sequence import Arrival
from pyxdp_gossip.gossip.shard_service import ShardService
from pyxdp_gossip.gossip.strays import StrayNotices
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.gossip.who_has import Answerer, Asker
from pyxdp_gossip.gossip.wire import Header
from pyxdp_gossip.session import Address

SHARD_CLOCK = 0  # a snapshot never wins over a dated claim of another owner
HOSTS_WARNED_MAX = 256  # as many as there are members


@dataclass(slots=True)
class Delivery:
    """One datagram on its way through the table. `dated` holds for the records behind it."""

    member: Member
    header: Header
    reach: Reach
    now: int
    dated: tuple[int, int] | None = None  # clock and log position of the records that follow
    has_shard: bool = False


@dataclass(slots=True)
class Receiver:
    """Takes datagrams of other hosts; its fields are the parts that they change."""

    local_host: int
    log: OwnershipLog
    clock: HybridClock
    own_log: OwnLog
    roster: Roster
    newcomers: Newcomers
    join: Join
    greeter: Greeter
    shards: ShardService
    nacker: Nacker
    repairer: Repairer
    comparer: Comparer
    digests: DigestService
    dictionary: Dictionary
    asker: Asker
    answerer: Answerer
    strays: StrayNotices
    tally: Tally
    emit: Callable[[OutgoingEvent], None]
    refute: Callable[[int], None]
    _warned: OncePerInterval = field(
        default_factory=lambda: OncePerInterval(NS_PER_S, HOSTS_WARNED_MAX)
    )

    def receive(self, header: Header, messages: list[Message], reach: Reach, now: int) -> None:
        """Take in an authentic datagram of another host."""
        member = self._sender(header, messages, reach, now)
        if member is None:
            return
        delivery = Delivery(member, header, reach, now)
        for message in messages:
            handle = _HANDLERS.get(type(message))
            if handle is not None:
                handle(self, delivery, message)
        if delivery.has_shard:
            self.join.check(member)
        if member.keeps_closed:
            self._stop_keeping(member)

    def _sender(
        self, header: Header, messages: list[Message], reach: Reach, now: int
    ) -> Member | None:
        """The member whose incarnation this is, or becomes; None to ignore the datagram."""
        member = self.roster.get(header.sender)
        if member is not None:
            if (header.incarnation, header.salt) == (member.incarnation, member.salt):
                if reach != member.reach and not comes_from(member.address, messages, reach):
                    self.tally.add("wrong_source")
                    return None
                return member if self.roster.hear(member, reach, now) else None
            # One known by hearsay may have any start that is not older than the one told of.
            if header.incarnation < member.incarnation or (
                header.incarnation == member.incarnation and member.salt is not None
            ):
                self.tally.add("old_incarnation")
                return None
        member, wanted = self.newcomers.hear(header, messages, reach, now)
        if member is None:
            self._answer_newcomer(header, messages, reach, now)
        elif wanted is not None:
            self.shards.start(member.host, reach, wanted, now)
        return member

    def _answer_newcomer(
        self, header: Header, messages: list[Message], reach: Reach, now: int
    ) -> None:
        """Whoever proves that this host runs must be answered before it is known."""
        if self.newcomers.refuses(header.sender):
            return
        for message in messages:
            if isinstance(message, Hello) and comes_from(None, messages, reach):
                self.greeter.welcome(message, header, reach, now)

    def _stop_keeping(self, member: Member) -> None:
        """What a member closed is kept only while an older OPEN may still come."""
        if not member.batches.missing and not self.join.pulls(member):
            member.keeps_closed = False
            self.log.drop_closed(member.host)

    # ---- membership ----

    def _on_heartbeat(self, delivery: Delivery, beat: Heartbeat) -> None:
        member, now = delivery.member, delivery.now
        self._missed(member, self.roster.beat(member, beat, now), now)
        self.comparer.heard(member, beat, now)

    def _missed(self, member: Member, batches: int, now: int) -> None:
        if batches:
            self.tally.add("batches_missed", batches)
            member.keeps_closed = True
            self.nacker.noticed(member, now)

    def _on_hello(self, delivery: Delivery, hello: Hello) -> None:
        answered = self.greeter.welcome(hello, delivery.header, delivery.reach, delivery.now)
        if answered and hello.pull:
            host = delivery.member.host
            self.shards.start(host, delivery.reach, hello.request, delivery.now)

    def _on_welcome(self, delivery: Delivery, welcome: Welcome) -> None:
        if self.join.answers(welcome):
            self.join.welcomed(welcome)

    def _on_members(self, delivery: Delivery, members: Members) -> None:
        for entry in members.entries:
            if entry.host != self.local_host:
                self.roster.hearsay(entry, delivery.now)

    def _on_leaving(self, delivery: Delivery, _leaving: Leaving) -> None:
        self.roster.signal(delivery.member, Signal.LEFT, delivery.now)

    def _on_accusation(self, delivery: Delivery, accusation: Accusation) -> None:
        self.tally.add("accusations_received")
        if accusation.host == self.local_host:
            self.refute(delivery.now)
        else:
            self.roster.accused(delivery.member, accusation, delivery.now)

    def _on_services(self, delivery: Delivery, services: Services) -> None:
        member = delivery.member
        if services.generation != member.generation:
            member.generation = services.generation
            member.services = {}
        known = self.dictionary.merge(member.services, services.entries)
        if known == member.services and known:
            return  # told again, in case it was lost
        translation = self.dictionary.translate(known)
        changed = translation != member.translation
        member.services, member.translation = known, translation
        member.knows_all = self.dictionary.has_all(known)
        if changed and member.misses_services:
            member.misses_services = False
            self.join.pull(member, delivery.now)

    # ---- records ----

    def _on_batch(self, delivery: Delivery, batch: Batch) -> None:
        member = delivery.member
        arrival, missed = member.batches.arrive(batch.number)
        if missed:
            self._missed(member, missed, delivery.now)
        if arrival is Arrival.REPEATED:
            self.tally.add("batches_repeated")
            return
        self.tally.add("batches_received")
        if arrival is Arrival.LATE:
            self.tally.add("batches_late")
            self.nacker.repaired(member)
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
        self.join.end(delivery.member, end, delivery.now)

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
                keep_closed=member.keeps_closed,
            )
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
            self.tally.add("malformed_records")
            return
        self.tally.add("records_applied", result.applied)
        if result.stale or result.lost or result.refused or result.unknown_service:
            self._on_odd_records(delivery, result)

    def _on_odd_records(self, delivery: Delivery, result: ApplyResult) -> None:
        """Some did not change the table as they say."""
        member = delivery.member
        for name in ("stale", "lost", "refused", "unknown_service"):
            self.tally.add(f"records_{name}", getattr(result, name))
        if result.unknown_service:
            member.misses_services = True
            if self._warned.passes(member.host, delivery.now):
                self.emit(UnknownService(member.host, result.unknown_service))
        if result.rivals:
            self.tally.add("rival_claims", len(result.rivals) // EVENT.size)
            self.own_log.absorb(result.rivals, delivery.now)

    # ---- repair ----

    def _on_nack(self, delivery: Delivery, nack: Nack) -> None:
        self.repairer.asked(nack, delivery.reach, delivery.now)

    def _on_gone(self, delivery: Delivery, gone: Gone) -> None:
        lost = delivery.member.batches.give_up(gone.lowest)
        self.tally.add("batches_given_up", lost)

    def _on_ask_sums(self, _delivery: Delivery, _asked: AskSums) -> None:
        self.digests.asked()

    def _on_sums(self, delivery: Delivery, sums: Sums) -> None:
        self.comparer.compare(delivery.member, sums, delivery.now)

    def _on_pull_buckets(self, delivery: Delivery, pull: PullBuckets) -> None:
        member = delivery.member
        self.shards.start_buckets(member.host, delivery.reach, pull, delivery.now)

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


def comes_from(known: Address | None, messages: list[Message], reach: Reach) -> bool:
    """Whether the source is what the sender says in this datagram, or said before.

    The source is not sealed: without this, whoever plays a datagram from another place could
    draw what it asks for there.
    """
    beats = (message.address for message in messages if isinstance(message, Heartbeat))
    said = next(beats, known)
    return said is not None and str(said) == reach[0]


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
    Nack: Receiver._on_nack,
    Gone: Receiver._on_gone,
    AskSums: Receiver._on_ask_sums,
    Sums: Receiver._on_sums,
    PullBuckets: Receiver._on_pull_buckets,
    Accusation: Receiver._on_accusation,
    Unknown: Receiver._on_unknown,
}
"""A DUPLICATE is for a host with the sender's own id only, which the core reads itself."""
