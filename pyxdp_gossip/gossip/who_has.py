# SPDX-License-Identifier: BSD-2-Clause
"""Asking who has a missed session, and answering such questions from the kernel's view."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import AskKernel, OutgoingEvent
from pyxdp_gossip.gossip.member import Member
from pyxdp_gossip.gossip.membership import MEMBERS_MAX, Roster
from pyxdp_gossip.gossip.messages import Answer, Question, WhoHas
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.rates import NS_PER_MS, BucketPerName, OncePerInterval, TokenBucket
from pyxdp_gossip.gossip.records import (
    EVENT,
    HOST_UNOWNED,
    NO_SLOT,
    EventKind,
    EventRecord,
    SessionTable,
    check_records,
    unpack_records,
)
from pyxdp_gossip.gossip.translation import slot_of
from pyxdp_gossip.gossip.wire import QUESTIONS_IN_SECTION, DatagramType
from pyxdp_gossip.session import KernelView
from pyxdp_gossip.timing import Timing

QUEUE_MAX = 1024  # missed sessions waiting for the budget; their packets come again
ROUNDS_MAX = 64  # WHO-HAS under way; at 200 a second and 300 ms there are at most 60
ANSWERS_MAX = 256  # questions of peers that wait for the kernel
NUMBER_MASK = (1 << 32) - 1


@dataclass(slots=True)
class Round:
    """One WHO-HAS under way, and what each host said."""

    misses: list[EventRecord]
    expires_at: int
    denials: dict[int, Answer] = field(default_factory=dict)
    kernel_not_mine: int | None = None


class Asker:
    """Collects misses, asks, and marks what nobody has."""

    def __init__(
        self,
        host: int,
        tables: Mapping[int, SessionTable],
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
        emit: Callable[[OutgoingEvent], None],
        first_number: int,
    ) -> None:
        self._host = host
        self._tables = tables
        self._outbox = outbox
        self._tally = tally
        self._emit = emit
        self._timeout = timing.who_has_timeout_ms * NS_PER_MS
        self._bucket = TokenBucket(timing.who_has_per_s, timing.who_has_burst)
        self._recent = OncePerInterval(self._timeout, QUEUE_MAX)
        self._queue: deque[EventRecord] = deque()
        self._rounds: dict[int, Round] = {}
        self._number = first_number & NUMBER_MASK  # random: no recorded answer fits
        self._now = 0
        self._unowned_for = timing.unowned_ms * NS_PER_MS
        self._marks: deque[tuple[int, EventRecord]] = deque()  # when each ends, oldest first

    def add(self, records: bytes, now: int) -> None:
        """Take in struct xg_event records of kind MISS; the flood's budget bounds their number."""
        check_records(records)
        self._now = now
        misses = unpack_records(records, QUEUE_MAX)
        self._tally.add("misses_dropped", len(records) // EVENT.size - len(misses))
        for miss in misses:
            if len(self._queue) >= QUEUE_MAX or not self._recent.passes(miss.key, now):
                self._tally.add("misses_dropped")
            else:
                self._queue.append(miss)

    def next_timer(self) -> int | None:
        """When to ask or to drop a round, in ns."""
        times = [rnd.expires_at for rnd in self._rounds.values()]
        if self._queue and len(self._rounds) < ROUNDS_MAX:
            times.append(self._bucket.next_at(self._now))
        if self._marks:
            times.append(self._marks[0][0])
        return min(times, default=None)

    def handle_timer(self, now: int) -> None:
        """Drop what was not answered in time; end marks; ask what the budget allows."""
        self._now = now
        while self._marks and now >= self._marks[0][0]:
            self._unmark(self._marks.popleft()[1])
        for number, rnd in list(self._rounds.items()):
            if now >= rnd.expires_at:
                del self._rounds[number]
        while self._queue and len(self._rounds) < ROUNDS_MAX and self._bucket.take(now):
            self._ask(now)

    def _ask(self, now: int) -> None:
        count = min(len(self._queue), QUESTIONS_IN_SECTION)
        misses = [self._queue.popleft() for _ in range(count)]
        self._number = (self._number + 1) & NUMBER_MASK
        self._rounds[self._number] = Round(misses, now + self._timeout)
        questions = tuple(
            Question(miss.family, miss.slot, miss.client_port, miss.seq, miss.ack, miss.address)
            for miss in misses
        )
        self._outbox.put(None, DatagramType.QUESTION, WhoHas(self._number, questions))
        self._tally.add("misses_asked", count)
        self._emit(AskKernel(self._host, self._number, b"".join(m.pack() for m in misses)))

    def kernel_said(self, number: int, views: Sequence[KernelView]) -> list[EventRecord]:
        """Note this host's own kernel's answer; the misses that a full socket holds."""
        rnd = self._rounds.get(number)
        if rnd is None or len(views) != len(rnd.misses):
            return []
        rnd.kernel_not_mine = _not_mine(enumerate(views))
        return _held(rnd.misses, views)

    def answered(self, host: int, answer: Answer) -> None:
        """Note a member's answer."""
        rnd = self._rounds.get(answer.number)
        if rnd is not None:
            rnd.denials[host] = answer

    def conclude(self, number: int, roster: Roster, synced: bool, now: int) -> None:
        """Mark the sessions that every host denied that may own one. In any doubt: nothing.

        Args:
            roster: the members at this moment; each answer must come from one that sees the same.
            synced: whether this host knows all members' sessions.
        """
        rnd = self._rounds.get(number)
        active = roster.active()
        if rnd is None or rnd.kernel_not_mine is None or not active <= rnd.denials.keys():
            return
        if now >= rnd.expires_at:
            # This agent was not run: what waited in its socket says how things were before.
            return
        del self._rounds[number]
        view = roster.view()
        agreed = synced and roster.has_quorum(now)
        nobody = rnd.kernel_not_mine if agreed else 0
        for host in active:
            nobody &= rnd.denials[host].not_mine if rnd.denials[host].view == view else 0
        for i, miss in enumerate(rnd.misses):
            if nobody >> i & 1:
                self._mark(miss, now)

    def _mark(self, miss: EventRecord, now: int) -> None:
        try:
            marked = self._tables[miss.family].mark_unowned(miss.key, now // NS_PER_MS)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._tally.add("marks_refused")
        else:
            # Else somebody claimed it since the question.
            self._tally.add("sessions_unowned", int(marked))
            if marked:
                self._marks.append((now + self._unowned_for, miss))

    def _unmark(self, miss: EventRecord) -> None:
        """End a mark on time: a new session with these addresses must not be taken for none."""
        table = self._tables[miss.family]
        entry = table.get(miss.key)
        if entry is not None and entry.owner == HOST_UNOWNED:
            table.remove(miss.key)


@dataclass(slots=True)
class Waiting:
    """A peer's questions that the kernel was asked; `places[i]` is record i's question."""

    reach: tuple[str, int]
    records: list[EventRecord]
    places: list[int]
    expires_at: int


class Answerer:
    """Puts peers' questions to this kernel, and sends what it says."""

    def __init__(
        self,
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
        emit: Callable[[OutgoingEvent], None],
    ) -> None:
        self._outbox = outbox
        self._tally = tally
        self._emit = emit
        self._timeout = timing.who_has_timeout_ms * NS_PER_MS
        self._waiting: dict[tuple[int, int], Waiting] = {}
        rate, burst = timing.who_has_per_s, timing.questions_burst
        self._taken = BucketPerName(rate, burst, MEMBERS_MAX)

    def ask(self, member: Member, asked: WhoHas, reach: tuple[str, int], now: int) -> None:
        """Put a peer's questions to the kernel; those of unknown services stay unanswered."""
        self._tally.add("questions_received", len(asked.questions))
        for name, waiting in list(self._waiting.items()):
            if now >= waiting.expires_at:
                del self._waiting[name]
        if not self._taken.take(member.host, now):
            self._tally.add("questions_dropped", len(asked.questions))
            return
        records: list[EventRecord] = []
        places: list[int] = []
        for place, question in enumerate(asked.questions):
            slot = slot_of(member.translation, question.index)
            if slot != NO_SLOT:
                records.append(_miss(question, slot, now))
                places.append(place)
        self._tally.add("questions_dropped", len(asked.questions) - len(records))
        if len(self._waiting) >= ANSWERS_MAX:
            self._tally.add("questions_dropped", len(records))
        elif records:
            name = (member.host, asked.number)
            self._waiting[name] = Waiting(reach, records, places, now + self._timeout)
            self._emit(AskKernel(*name, b"".join(record.pack() for record in records)))

    def kernel_said(
        self, asker: int, number: int, views: Sequence[KernelView], roster: Roster, now: int
    ) -> list[EventRecord]:
        """Tell the peer what this kernel does not know; the records that a full socket holds.

        A host that could not mark a session itself denies none: the asker may have been started
        a moment ago, and not know who died or left.
        """
        waiting = self._waiting.pop((asker, number), None)
        if waiting is None or len(views) != len(waiting.records):
            return []
        denied = _not_mine(zip(waiting.places, views, strict=True))
        not_mine = denied if roster.has_quorum(now) else 0
        self._outbox.put(
            waiting.reach, DatagramType.QUESTION, Answer(number, not_mine, roster.view())
        )
        return _held(waiting.records, views)


def _not_mine(views: Iterable[tuple[int, KernelView]]) -> int:
    """The bits of the questions of which this kernel has no socket at all."""
    return sum(1 << place for place, view in views if view is KernelView.ABSENT)


def _held(records: list[EventRecord], views: Sequence[KernelView]) -> list[EventRecord]:
    return [record for record, view in zip(records, views, strict=True) if view is KernelView.FULL]


def _miss(question: Question, slot: int, now: int) -> EventRecord:
    return EventRecord(
        *(EventKind.MISS, question.family, slot, question.client_port, 0),
        *(question.seq, question.ack, question.address, now),
    )
