# SPDX-License-Identifier: BSD-2-Clause
"""Which batches of one log came, which were jumped over, and which came late."""

from __future__ import annotations

from enum import Enum, auto

WINDOW = 1024  # batches that may be late; beyond it they count as seen


class Arrival(Enum):
    """How a batch came."""

    NEXT = auto()
    LATE = auto()
    REPEATED = auto()


class BatchSequence:
    """The batches of one incarnation. The first thing heard of it sets where counting begins."""

    def __init__(self) -> None:
        self.highest: int | None = None
        self._seen = 0  # bit i: batch highest - i came

    def reach(self, number: int) -> int:
        """The sender says that it sent batches up to `number`; how many are newly missed."""
        if self.highest is None:
            self.highest = number
            return 0
        ahead = number - self.highest
        if ahead <= 0:
            return 0
        kept = self._seen << ahead if ahead < WINDOW else 0
        self._seen = kept & ((1 << WINDOW) - 1)
        self.highest = number
        return ahead

    def arrive(self, number: int) -> tuple[Arrival, int]:
        """A batch came: how, and how many are newly missed before it."""
        if self.highest is None or number > self.highest:
            first = self.highest is None
            missed = self.reach(number) - (not first)
            self._seen |= 1
            return Arrival.NEXT, missed
        behind = self.highest - number
        if behind >= WINDOW or self._seen >> behind & 1:
            return Arrival.REPEATED, 0
        self._seen |= 1 << behind
        return Arrival.LATE, 0
