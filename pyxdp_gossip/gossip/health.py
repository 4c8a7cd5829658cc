# SPDX-License-Identifier: BSD-2-Clause
"""How timely this agent itself is run: one that is slow has no right to call others slow."""

from __future__ import annotations

SCORE_MAX = 8  # the same bound as Lifeguard's


class LocalHealth:
    """A score from 0, healthy, to `SCORE_MAX`; every wait for another host is 1 + score as long.

    Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure
    Detection" (2018), section IV A; here the agent's own lateness takes the missed answers' place.

    Args:
        heartbeat: ns between two heartbeats; half of it late is late.
    """

    def __init__(self, heartbeat: int) -> None:
        self._tolerated = heartbeat // 2
        self.score = 0

    def beat(self, late: int) -> None:
        """A heartbeat goes out, `late` ns behind its time."""
        step = 1 if late > self._tolerated else -1
        self.score = min(max(self.score + step, 0), SCORE_MAX)

    def stalled(self) -> None:
        """This agent was not run for several heartbeats."""
        self.score = min(self.score + 1, SCORE_MAX)

    def stretch(self, interval: int) -> int:
        """How long to wait for another host, in ns."""
        return interval * (1 + self.score)
