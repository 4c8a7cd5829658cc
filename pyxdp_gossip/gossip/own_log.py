# SPDX-License-Identifier: BSD-2-Clause
"""This host's log: socket events become numbered batches."""

from __future__ import annotations

from pyxdp_gossip.config import Timing
from pyxdp_gossip.gossip.clock import HybridClock
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.messages import Batch
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.rates import NS_PER_MS, OncePerInterval
from pyxdp_gossip.gossip.records import EVENT, POSITION_MASK, EventKind, OwnershipLog, check_records
from pyxdp_gossip.gossip.wire import BATCH_BUDGET, DatagramType

CLAIMS_PER_INTERVAL = 4096  # a storm of claims waits; each claim's packet comes again
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
            records = self._log.encode(BATCH_BUDGET)
            if not records:
                return
            self.number += 1
            batch = Batch(self.number, self._date)
            self._outbox.put(None, DatagramType.LOG, batch, records=records)
            self._tally.add("batches_sent")
