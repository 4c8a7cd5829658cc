# SPDX-License-Identifier: BSD-2-Clause
"""Comparing what this host knows of a member with the member's own digest, and healing it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.join import Join
from pyxdp_gossip.gossip.member import Member
from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import AskSums, Heartbeat, Sums
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.rates import NS_PER_MS
from pyxdp_gossip.gossip.records import OwnershipLog
from pyxdp_gossip.gossip.wire import DatagramType
from pyxdp_gossip.timing import Timing

DIFFERENT_BEATS = 2  # one heartbeat may differ while a batch is on its way
BACKOFF_STEPS = 6  # the wait between two questions for sums doubles so often
PARTS_WAIT = 20 * NS_PER_MS  # for the further datagrams of one digest
_SUM_BYTES = 8


@dataclass(slots=True)
class Difference:
    """A member whose digest differs from what this host knows of it."""

    beats: int = 0
    ask_at: int = 0
    asks: int = 0
    pull_at: int | None = None  # the sums have come, or enough of them
    bitmap: bytearray = field(default_factory=bytearray)


class Comparer:
    """Finds differences by the heartbeats, asks for sums, and pulls the buckets that differ."""

    def __init__(
        self,
        log: OwnershipLog,
        roster: Roster,
        join: Join,
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
    ) -> None:
        self._log = log
        self._roster = roster
        self._join = join
        self._outbox = outbox
        self._tally = tally
        self._retry = timing.digest_retry_ms * NS_PER_MS
        self._differences: dict[int, Difference] = {}

    def _is_comparable(self, member: Member, position: int) -> bool:
        batches = member.batches
        if batches.highest != position or batches.missing or self._join.pulls(member):
            return False
        return member.generation is not None and member.knows_all

    def heard(self, member: Member, beat: Heartbeat, now: int) -> None:
        """A member's heartbeat: equal digests complete it, different ones are looked into."""
        if member.batches.behind and not member.knows_all and not self._join.pulls(member):
            # What this host cannot translate it cannot compare: all of it again.
            self._ask(self._differences.setdefault(member.host, Difference()), member, now)
            return
        if not self._is_comparable(member, beat.last_batch):
            return
        if self._log.digest(member.host) == (beat.digest, beat.sessions):
            self._differences.pop(member.host, None)
            member.batches.behind = False
            if not member.has_shard:
                self._roster.complete(member)
            return
        difference = self._differences.setdefault(member.host, Difference())
        difference.beats += 1
        if difference.beats >= DIFFERENT_BEATS or member.batches.behind or not member.has_shard:
            self._ask(difference, member, now)

    def _ask(self, difference: Difference, member: Member, now: int) -> None:
        if now < difference.ask_at or difference.pull_at is not None:
            return
        difference.ask_at = now + (self._retry << min(difference.asks, BACKOFF_STEPS))
        difference.asks += 1
        self._tally.add("digests_differ")
        if member.knows_all:
            self._outbox.put(member.reach, DatagramType.MEMBERSHIP, AskSums())
        else:
            member.batches.behind = False
            self._join.pull(member, now)

    def compare(self, member: Member, sums: Sums, now: int) -> None:
        """A part of a member's digest: note the buckets that differ."""
        difference = self._differences.get(member.host)
        if difference is None or not self._is_comparable(member, sums.position):
            return
        ours = self._log.digest_sums(member.host)
        if len(ours) != sums.buckets * _SUM_BYTES:
            return  # of another version: its digests are another size
        if not difference.bitmap:
            difference.bitmap = bytearray((sums.buckets + 7) // 8)
        values = struct.unpack_from(f"={len(sums.sums)}Q", ours, sums.first * _SUM_BYTES)
        for bucket, (our, their) in enumerate(zip(values, sums.sums, strict=True), sums.first):
            if our != their:
                difference.bitmap[bucket >> 3] |= 1 << (bucket & 7)
        is_last = sums.first + len(sums.sums) == sums.buckets
        difference.pull_at = now if is_last else now + PARTS_WAIT

    def next_timer(self) -> int | None:
        """When buckets are to be pulled, in ns."""
        times = (row.pull_at for row in self._differences.values() if row.pull_at is not None)
        return min(times, default=None)

    def handle_timer(self, now: int) -> None:
        """Pull the buckets that differ."""
        for host, difference in list(self._differences.items()):
            member = self._roster.get(host)
            if member is None or not member.state.active:
                del self._differences[host]
            elif difference.pull_at is not None and now >= difference.pull_at:
                difference.pull_at = None
                bitmap, difference.bitmap = bytes(difference.bitmap), bytearray()
                if any(bitmap) and member.talks and not self._join.pulls(member):
                    self._tally.add("buckets_pulled", sum(byte.bit_count() for byte in bitmap))
                    self._join.pull_buckets(member, bitmap, now)


class DigestService:
    """Multicasts this host's sums to whoever asks: one answer for all who ask meanwhile."""

    def __init__(
        self, log: OwnershipLog, host: int, own_log: OwnLog, outbox: Outbox, timing: Timing
    ) -> None:
        self._log = log
        self._host = host
        self._own_log = own_log
        self._outbox = outbox
        self._interval = timing.sums_interval_ms * NS_PER_MS
        self._wanted = False
        self._next_at = 0

    def asked(self) -> None:
        """A member wants to compare."""
        self._wanted = True

    def next_timer(self) -> int | None:
        """When the sums are to be sent, in ns."""
        return self._next_at if self._wanted else None

    def handle_timer(self, now: int) -> None:
        """Send them, behind the last batch and with its number."""
        if not self._wanted or now < self._next_at:
            return
        self._wanted = False
        self._next_at = now + self._interval
        self._own_log.flush(now)
        sums = self._log.digest_sums(self._host)
        values = struct.unpack(f"={len(sums) // _SUM_BYTES}Q", sums)
        step = self._outbox.room.sums
        for first in range(0, len(values), step):
            part = Sums(self._own_log.number, first, len(values), values[first : first + step])
            self._outbox.put(None, DatagramType.SNAPSHOT, part)
