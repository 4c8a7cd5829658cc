# SPDX-License-Identifier: BSD-2-Clause
"""Which batches of one log came, which are missing, and which came late."""

from __future__ import annotations

from enum import Enum, auto

MISSING_MAX = 4096  # as many as a sender keeps for repair


class Arrival(Enum):
    """How a batch came."""

    NEXT = auto()
    LATE = auto()
    REPEATED = auto()


class BatchSequence:
    """The batches of one incarnation. The first thing heard of it sets where counting begins.

    `behind`: some that are missing will not be repaired; only the digest tells what they said.
    """

    def __init__(self) -> None:
        self.highest: int | None = None
        self.missing: set[int] = set()
        self.behind = False

    def reach(self, number: int) -> int:
        """The sender says that it sent batches up to `number`; how many are newly missed."""
        if self.highest is None:
            self.highest = number
            return 0
        ahead = number - self.highest
        if ahead <= 0:
            return 0
        self._miss(self.highest + 1, number)
        self.highest = number
        return ahead

    def arrive(self, number: int) -> tuple[Arrival, int]:
        """A batch came: how, and how many are newly missed before it."""
        if self.highest is None:
            self.highest = number
            return Arrival.NEXT, 0
        ahead = number - self.highest
        if ahead > 0:
            if ahead > 1:
                self._miss(self.highest + 1, number - 1)
            self.highest = number
            return Arrival.NEXT, ahead - 1
        if number in self.missing:
            self.missing.remove(number)
            return Arrival.LATE, 0
        return Arrival.REPEATED, 0

    def _miss(self, first: int, last: int) -> None:
        self.missing.update(range(max(first, last - MISSING_MAX + 1), last + 1))
        if last - first >= MISSING_MAX:
            self.behind = True
        if len(self.missing) > MISSING_MAX:
            self.give_up(sorted(self.missing)[-MISSING_MAX])

    def give_up(self, below: int) -> int:
        """Wait no longer for batches below a number; how many these are."""
        lost = {number for number in self.missing if number < below}
        self.missing -= lost
        self.behind = self.behind or bool(lost)
        return len(lost)
