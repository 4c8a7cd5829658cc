# SPDX-License-Identifier: BSD-2-Clause
"""This host's log: socket events become numbered batches."""

from __future__ import annotations

from collections import deque

from pyxdp_gossip.gossip.clock import HybridClock
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.messages import Batch
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.rates import NS_PER_MS, OncePerInterval
from pyxdp_gossip.gossip.records import EVENT, POSITION_MASK, EventKind, OwnershipLog, check_records
from pyxdp_gossip.gossip.wire import DatagramType, encode_message
from pyxdp_gossip.timing import Timing

CLAIMS_PER_INTERVAL = 4096  # a storm of claims waits; each claim's packet comes again
KEPT_BATCHES = 4096  # for repair: four seconds of full load
KEPT_BYTES = 4 << 20
TAIL_BEATS = (1, 4)  # so many `tail_ms` after the last batch; then the next heartbeat is near
_CLAIM = bytes([EventKind.CLAIM])
_SESSION = slice(1, 6)  # family, slot and client port in struct xg_event
_ADDRESS = slice(16, 32)


class OwnLog:
    """Absorbs events at once, sends them when the batch is due.

    A batch is due at once after an idle flush interval, else when its oldest event is one flush
    interval old, or when it is full.
    """

    def __init__(
        self, log: OwnershipLog, clock: HybridClock, outbox: Outbox, timing: Timing, tally: Tally
    ) -> None:
        self._log = log
        self._clock = clock
        self._outbox = outbox
        self._tally = tally
        self._interval = timing.flush_interval_ms * NS_PER_MS
        self._claims = OncePerInterval(timing.claim_interval_ms * NS_PER_MS, CLAIMS_PER_INTERVAL)
        self._date = 0  # of the open batch's OPENs
        self._oldest_at = 0
        self._flushed_at: int | None = None
        self.number = 0  # of the last batch sent
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._tail = timing.tail_ms * NS_PER_MS
        self._tail_beats: deque[int] = deque()

    def absorb(self, records: bytes, now: int) -> None:
        """Take in struct xg_event records of the four kinds that are about own sessions.

        Raises:
            ValueError: `records` is no whole number of them.
        """
        check_records(records)
        records = self._without_repeated_claims(records, now)
        while records:
            if not self._log.pending:
                self._date = self._clock.tick(now)
                self._oldest_at = now
            position = (self.number + 1) & POSITION_MASK
            count = self._log.absorb(
                records, clock=self._date, position=position, now_ms=now // NS_PER_MS
            )
            self._tally.add("events_absorbed", count)
            records = records[count * EVENT.size :]
            if not records:
                return
            before = self._log.pending
            self.flush(now)
            if count == 0 and self._log.pending == before:
                self._tally.add("events_refused", len(records) // EVENT.size)
                return

    def _without_repeated_claims(self, records: bytes, now: int) -> bytes:
        """Claims come once a packet; the kinds are looked through as one byte string."""
        kinds = records[:: EVENT.size]
        at = kinds.find(_CLAIM)
        if at < 0:
            return records
        kept: list[bytes] = []
        start = 0
        while at >= 0:
            record = records[at * EVENT.size : (at + 1) * EVENT.size]
            if not self._claims.passes(record[_SESSION] + record[_ADDRESS], now):
                kept.append(records[start : at * EVENT.size])
                start = (at + 1) * EVENT.size
                self._tally.add("claims_repeated")
            at = kinds.find(_CLAIM, at + 1)
        kept.append(records[start:])
        return b"".join(kept)

    def next_timer(self) -> int | None:
        """When the open batch is due, in ns; may lie in the past."""
        if not self._log.pending:
            return None
        if self._flushed_at is None:
            return self._oldest_at
        idle_until = self._flushed_at + self._interval
        return (
            self._oldest_at if self._oldest_at >= idle_until else (self._oldest_at + self._interval)
        )

    def flush_if_due(self, now: int) -> None:
        """Send the open batch if its time has come."""
        due = self.next_timer()
        if due is not None and now >= due:
            self.flush(now)

    def flush(self, now: int) -> None:
        """Send all that is pending, in as many batches as it takes."""
        self._flushed_at = now
        while self._log.pending:
            records = self._log.encode(self._outbox.room.batch)
            if not records:
                return
            self.number += 1
            payload = encode_message(Batch(self.number, self._date)) + records
            self._keep(payload)
            self._outbox.put_payload(None, DatagramType.LOG, payload)
            self._tally.add("batches_sent")
            self._tail_beats = deque(now + self._tail * factor for factor in TAIL_BEATS)

    # ---- repair ----

    def _keep(self, payload: bytes) -> None:
        self._kept.append(payload)
        self._kept_bytes += len(payload)
        while len(self._kept) > KEPT_BATCHES or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())

    @property
    def lowest_kept(self) -> int:
        """Number of the oldest batch that can be sent again; behind the last one if none can."""
        return self.number - len(self._kept) + 1

    def kept(self, number: int) -> bytes | None:
        """A sent batch, as the payload of a datagram; None if it is no longer kept."""
        if not self.lowest_kept <= number <= self.number:
            return None
        return self._kept[number - self.lowest_kept]

    def tail_timer(self) -> int | None:
        """When a heartbeat should show that the last batch was sent, in ns."""
        return self._tail_beats[0] if self._tail_beats else None

    def tail_is_due(self, now: int) -> bool:
        """Whether such a heartbeat is due; once each."""
        due = bool(self._tail_beats) and now >= self._tail_beats[0]
        if due:
            self._tail_beats.popleft()
        return due
