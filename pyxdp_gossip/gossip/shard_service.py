# SPDX-License-Identifier: BSD-2-Clause
"""Sends this host's shard, or some of its buckets, to whoever asks, a few datagrams a tick."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.membership import MEMBERS_MAX
from pyxdp_gossip.gossip.messages import PullBuckets, Shard, ShardEnd
from pyxdp_gossip.gossip.outbox import Outbox, Reach
from pyxdp_gossip.gossip.own_log import OwnLog
from pyxdp_gossip.gossip.rates import NS_PER_MS, BucketPerName
from pyxdp_gossip.gossip.records import OPEN_KINDS, RECORD_BYTES, OwnershipLog
from pyxdp_gossip.gossip.wire import SECTION, DatagramType, encode_section
from pyxdp_gossip.timing import Timing

FAMILIES = (4, 6)


@dataclass(slots=True)
class Stream:
    """A shard on its way to one host. `ready`: sections that are there already, as of `position`;
    None: they come from the table as they are sent."""

    reach: Reach
    request: int
    position: int = 0
    ready: deque[bytes] | None = None
    family_index: int = 0
    cursor: int = 0
    number: int = 0
    last: bool = False


class ShardService:
    """At most one stream for each member: a newer request replaces an older one."""

    def __init__(
        self, log: OwnershipLog, own_log: OwnLog, outbox: Outbox, timing: Timing, tally: Tally
    ) -> None:
        self._log = log
        self._own_log = own_log
        self._outbox = outbox
        self._tally = tally
        self._tick = timing.shard_tick_ms * NS_PER_MS
        self._burst = timing.shard_burst
        self._streams: dict[int, Stream] = {}
        self._tick_at = 0
        rate = timing.bucket_pulls_per_s
        self._pulls = BucketPerName(rate, 2 * rate, MEMBERS_MAX)

    def start(self, host: int, reach: Reach, request: int, now: int) -> None:
        """Send the whole shard to a member."""
        self._begin(host, Stream(reach, request), now)

    def start_buckets(self, host: int, reach: Reach, pull: PullBuckets, now: int) -> None:
        """Send what is in some buckets of the digest, all of it as of this moment."""
        if len(pull.bitmap) * 8 != self._log.digest_buckets:
            self._tally.add("pulls_refused")  # of another version: its digests are another size
            return
        if not self._pulls.take(host, now):
            self._tally.add("pulls_limited")
            return
        self._own_log.flush(now)  # what is told is as of the last batch
        ready: deque[bytes] = deque()
        for family, rows in zip(FAMILIES, self._log.select(pull.bitmap), strict=True):
            size = RECORD_BYTES[family]
            step = (self._outbox.room.shard - SECTION.size) // size * size
            for start in range(0, len(rows), step):
                ready.append(encode_section(OPEN_KINDS[family], rows[start : start + step]))
        self._begin(host, Stream(reach, pull.request, self._own_log.number, ready), now)

    def _begin(self, host: int, stream: Stream, now: int) -> None:
        if not self._streams:
            self._tick_at = max(self._tick_at, now)
        self._streams[host] = stream

    def next_timer(self) -> int | None:
        """When the next burst is due, in ns."""
        return self._tick_at if self._streams else None

    def handle_timer(self, now: int) -> None:
        """Send a burst, the members in turn."""
        if not self._streams or now < self._tick_at:
            return
        self._tick_at = now + self._tick
        self._own_log.flush(now)  # what is told is as of the last batch
        for _ in range(self._burst):
            if not self._streams:
                return
            host, stream = next(iter(self._streams.items()))
            del self._streams[host]
            if self._send_one(stream):
                self._streams[host] = stream  # behind the others

    def _send_one(self, stream: Stream) -> bool:
        """Queue one datagram; False after the last one."""
        if stream.ready is None:
            records = self._next_records(stream)
            stream.position = self._own_log.number
        else:
            records = stream.ready.popleft() if stream.ready else b""
            stream.last = not records
        if records:
            shard = Shard(stream.request, stream.number, stream.position)
            stream.number += 1
            self._outbox.put(stream.reach, DatagramType.SNAPSHOT, shard, records=records)
        if not stream.last:
            return True
        end = ShardEnd(stream.request, stream.number, stream.position)
        self._outbox.put(stream.reach, DatagramType.SNAPSHOT, end)
        self._tally.add("shards_sent")
        return False

    def _next_records(self, stream: Stream) -> bytes:
        """From the table; may be empty where a stretch of it has no own sessions."""
        family = FAMILIES[stream.family_index]
        records, cursor = self._log.shard(family, stream.cursor, self._outbox.room.shard)
        stream.cursor = cursor or 0
        if cursor is None:
            stream.last = stream.family_index == len(FAMILIES) - 1
            stream.family_index += 1
        return records
