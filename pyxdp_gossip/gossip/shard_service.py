# SPDX-License-Identifier: BSD-2-Clause
"""Sends this host's shard to whoever asks, a few datagrams a tick."""

from __future__ import annotations

from dataclasses import dataclass

from pyxdp_gossip.config import Timing
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.messages import Shard, ShardEnd
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.rates import NS_PER_MS
from pyxdp_gossip.gossip.records import OwnershipLog
from pyxdp_gossip.gossip.wire import SHARD_BUDGET, DatagramType

FAMILIES = (4, 6)


@dataclass(slots=True)
class Stream:
    """A shard on its way to one host."""

    reach: tuple[str, int]
    request: int
    family_index: int = 0
    cursor: int = 0
    number: int = 0


class ShardService:
    """At most one stream for each member: a newer request replaces an older one."""

    def __init__(self, log: OwnershipLog, outbox: Outbox, timing: Timing, tally: Tally) -> None:
        self._log = log
        self._outbox = outbox
        self._tally = tally
        self._tick = timing.shard_tick_ms * NS_PER_MS
        self._burst = timing.shard_burst
        self._streams: dict[int, Stream] = {}
        self._tick_at = 0

    def start(self, host: int, reach: tuple[str, int], request: int, now: int) -> None:
        """Send the whole shard to a member."""
        if not self._streams:
            self._tick_at = max(self._tick_at, now)
        self._streams[host] = Stream(reach, request)

    def next_timer(self) -> int | None:
        """When the next burst is due, in ns."""
        return self._tick_at if self._streams else None

    def handle_timer(self, position: int, now: int) -> None:
        """Send a burst, the members in turn.

        Args:
            position: number of the last batch sent: what the shard is as of.
        """
        if not self._streams or now < self._tick_at:
            return
        self._tick_at = now + self._tick
        for _ in range(self._burst):
            if not self._streams:
                return
            host, stream = next(iter(self._streams.items()))
            del self._streams[host]
            if self._send_one(stream, position):
                self._streams[host] = stream  # behind the others

    def _send_one(self, stream: Stream, position: int) -> bool:
        """Queue one datagram; False after the last one."""
        while stream.family_index < len(FAMILIES):
            family = FAMILIES[stream.family_index]
            records, cursor = self._log.shard(family, stream.cursor, SHARD_BUDGET)
            stream.cursor = cursor or 0
            if cursor is None:
                stream.family_index += 1
            if records:
                shard = Shard(stream.request, stream.number, position)
                stream.number += 1
                self._outbox.put(stream.reach, DatagramType.SNAPSHOT, shard, records=records)
                return True
            if cursor is not None:
                return True  # a stretch of the table without own sessions: go on next time
        end = ShardEnd(stream.request, stream.number)
        self._outbox.put(stream.reach, DatagramType.SNAPSHOT, end)
        self._tally.add("shards_sent")
        return False
