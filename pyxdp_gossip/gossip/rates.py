# SPDX-License-Identifier: BSD-2-Clause
"""Bounds on how often something is done: token buckets, one or one a name; once an interval."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class TokenBucket:
    """`rate_per_s` on average, `burst` at once; full at the start."""

    def __init__(self, rate_per_s: int, burst: int) -> None:
        self._cost = NS_PER_S // rate_per_s
        self._full = self._cost * burst
        self._empty_at: int | None = None  # when the bucket was (or would have been) empty

    def take(self, now: int) -> bool:
        """One token, if there is one."""
        if self.next_at(now) > now:
            return False
        started = now - self._full if self._empty_at is None else self._empty_at
        self._empty_at = max(started, now - self._full) + self._cost
        return True

    def next_at(self, now: int) -> int:
        """When there is a token: now or later, in ns."""
        return now if self._empty_at is None else max(now, self._empty_at + self._cost)


class BucketPerName:
    """A token bucket for each name; of more than `most`, the one not used for longest goes."""

    def __init__(self, rate_per_s: int, burst: int, most: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, name: Hashable, now: int) -> bool:
        """One token of this name's, if there is one."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._rate_per_s, self._burst)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket.take(now)


class OncePerInterval:
    """Lets each name pass once an interval; at most `most` names, beyond them nothing passes."""

    def __init__(self, interval: int, most: int) -> None:
        self._interval = interval
        self._most = most
        self._seen: set[Hashable] = set()
        self._started = 0

    def passes(self, name: Hashable, now: int) -> bool:
        """Whether `name` did not pass yet in this interval; notes that it did."""
        if now - self._started >= self._interval:
            self._seen.clear()
            self._started = now
        if name in self._seen or len(self._seen) >= self._most:
            return False
        self._seen.add(name)
        return True
