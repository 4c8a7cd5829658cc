# SPDX-License-Identifier: BSD-2-Clause
"""The hybrid logical clock that dates OPENs, with a bound on what peers can make of it."""

from __future__ import annotations

CLOCK_MAX = (1 << 64) - 1  # of the wire


class HybridClock:
    """Wall time in nanoseconds, never going back, never behind a peer's that was heard.

    Args:
        wall_offset: ns to add to CLOCK_MONOTONIC for wall time, taken once at start.
        drift_max: ns that a peer may be ahead and still be followed.

    Source: Kulkarni et al., "Logical Physical Clocks" (2014), with the counter in the low bits.
    """

    def __init__(self, wall_offset: int, drift_max: int) -> None:
        self._wall_offset = wall_offset
        self._drift_max = drift_max
        self._last = 0

    def tick(self, now: int) -> int:
        """A date that is later than every earlier one here, and than what was heard."""
        self._last = min(max(self._last + 1, now + self._wall_offset), CLOCK_MAX)
        return self._last

    def limit(self, now: int) -> int:
        """The latest date of a peer that is believed."""
        return min(now + self._wall_offset + self._drift_max, CLOCK_MAX)

    def observe(self, clock: int, now: int) -> bool:
        """Follow a peer's clock; False if it is too far ahead to be followed."""
        if clock > self.limit(now):
            return False
        self._last = max(self._last, clock)
        return True
