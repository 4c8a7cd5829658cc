# SPDX-License-Identifier: BSD-2-Clause
"""Repair of lost batches: asking for them, and sending them again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.member import Member
from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import Gone, Nack
from pyxdp_gossip.gossip.outbox import Outbox, Reach
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.rates import NS_PER_MS
from pyxdp_gossip.gossip.wire import BATCHES_IN_RANGE, RANGES_IN_SECTION, DatagramType
from pyxdp_gossip.timing import Timing

BATCHES_A_NACK = 256  # a third of a megabyte of answers; the rest is asked for once these came
BACKOFF_STEPS = 3  # the wait between two NACKs doubles so often
WANTED_MAX = 4096  # batches to send again: as many as are kept
MULTICAST_FROM = 3  # hosts that miss a batch: one multicast is cheaper than so many unicasts


@dataclass(slots=True)
class Ask:
    """What is missing of one member's log will be asked for at `at`."""

    at: int
    tries: int = 0


class Nacker:
    """Asks members for missing batches, again and again, until they came or are given up."""

    def __init__(self, outbox: Outbox, timing: Timing, tally: Tally) -> None:
        self._outbox = outbox
        self._tally = tally
        self._delay = timing.nack_delay_ms * NS_PER_MS
        self._retry = timing.nack_retry_ms * NS_PER_MS
        self._tries = timing.nack_tries
        self._asks: dict[int, Ask] = {}

    def noticed(self, member: Member, now: int) -> None:
        """Batches of a member are missing; they may only have been overtaken."""
        if member.host not in self._asks:
            self._asks[member.host] = Ask(now + self._delay)

    def repaired(self, member: Member) -> None:
        """A missing batch came: the member hears, and what it sends arrives."""
        ask = self._asks.get(member.host)
        if ask is not None:
            ask.tries = 0
            if not member.batches.missing:
                del self._asks[member.host]

    def next_timer(self) -> int | None:
        """When to ask next, in ns."""
        return min((ask.at for ask in self._asks.values()), default=None)

    def handle_timer(self, roster: Roster, now: int) -> None:
        """Ask whoever is due."""
        for host, ask in list(self._asks.items()):
            if now < ask.at:
                continue
            member = roster.get(host)
            if member is None or not member.batches.missing or not member.state.active:
                del self._asks[host]
            elif ask.tries == self._tries:
                lost = member.batches.give_up(max(member.batches.missing) + 1)
                self._tally.add("batches_given_up", lost)
                del self._asks[host]
            else:
                self._ask(member, ask, now)

    def _ask(self, member: Member, ask: Ask, now: int) -> None:
        ask.at = now + (self._retry << min(ask.tries, BACKOFF_STEPS))
        if member.reach is None or not member.talks:
            return  # a silent agent answers nothing; what it sent is asked for once it is back
        ask.tries += 1
        ranges = ranges_of(member.batches.missing)
        self._outbox.put(member.reach, DatagramType.LOG, Nack(ranges))
        self._tally.add("batches_asked", sum(count for _, count in ranges))


def ranges_of(numbers: set[int]) -> tuple[tuple[int, int], ...]:
    """The lowest of some numbers as (first, count), as many as one NACK asks for."""
    ranges: list[tuple[int, int]] = []
    for number in islice(sorted(numbers), BATCHES_A_NACK):
        if ranges and number == sum(ranges[-1]):
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        elif len(ranges) == RANGES_IN_SECTION:
            break
        else:
            ranges.append((number, 1))
    return tuple(ranges)


class Repairer:
    """Sends batches again to whoever misses them, paced."""

    def __init__(self, own_log: OwnLog, outbox: Outbox, timing: Timing, tally: Tally) -> None:
        self._own_log = own_log
        self._outbox = outbox
        self._tally = tally
        self._tick = timing.repair_tick_ms * NS_PER_MS
        self._burst = timing.repair_burst
        self._wanted: dict[int, set[Reach]] = {}
        self._due = 0

    def asked(self, nack: Nack, reach: Reach, now: int) -> None:
        """Note what a member misses; others may miss it, too, so it waits for a tick."""
        if not self._wanted:
            self._due = now + self._tick
        budget = BATCHES_IN_RANGE
        lowest = self._own_log.lowest_kept
        gone = False
        for first, count in nack.ranges:
            gone = gone or first < lowest
            end = min(first + count, self._own_log.number + 1, max(first, lowest) + budget)
            budget -= max(0, end - max(first, lowest))
            for number in range(max(first, lowest), end):
                self._want(number, reach)
        if gone:
            self._outbox.put(reach, DatagramType.LOG, Gone(lowest))

    def _want(self, number: int, reach: Reach) -> None:
        if number in self._wanted or len(self._wanted) < WANTED_MAX:
            self._wanted.setdefault(number, set()).add(reach)
        else:
            self._tally.add("repairs_dropped")

    def next_timer(self) -> int | None:
        """When the next burst is due, in ns."""
        return self._due if self._wanted else None

    def handle_timer(self, now: int) -> None:
        """Send a burst: by unicast, or by multicast what many miss."""
        if not self._wanted or now < self._due:
            return
        self._due = now + self._tick
        room = self._burst
        while self._wanted and room > 0:
            number = next(iter(self._wanted))
            reaches = self._wanted.pop(number)
            payload = self._own_log.kept(number)
            if payload is None:  # it went meanwhile; whoever asks again is told
                continue
            group = len(reaches) >= MULTICAST_FROM
            for reach in [None] if group else sorted(reaches):
                self._outbox.put_payload(reach, DatagramType.LOG, payload)
                room -= 1
            self._tally.add("repairs_multicast" if group else "repairs_unicast")
