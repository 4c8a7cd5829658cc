# SPDX-License-Identifier: BSD-2-Clause
"""The simulated network: delay, loss, duplication, reordering, blocks and clogged hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

US = 1_000
MS = 1_000_000
DELAY = (50 * US, 300 * US)  # of one hop between two hosts of a rack, their wake-up included
_SPREAD = DELAY[1] - DELAY[0]
REORDERED = 5 * MS  # the most by which a reordered datagram is late
BUFFER = 400  # datagrams that a clogged host's socket keeps; a twentieth of the real one


@dataclass
class Network:
    """What happens to a datagram between two hosts.

    Rates are probabilities for each receiver. `blocked` has (from, to) pairs; `clogged` hosts
    get nothing until they are unclogged, then all that their buffer kept at once.
    """

    random: Random
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    blocked: set[tuple[int, int]] = field(default_factory=set)
    clogged: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)

    def carries(self, source: int, target: int) -> bool:
        """Whether anything goes this way."""
        return (source, target) not in self.blocked

    def arrivals(self, source: int, target: int, now: int) -> list[int]:
        """When a datagram arrives: not at all, once or twice."""
        random = self.random
        if (source, target) in self.blocked or (self.loss and random.random() < self.loss):
            return []
        if not self.duplication and not self.reordering:
            return [now + DELAY[0] + int(random.random() * _SPREAD)]
        count = 2 if self.duplication and random.random() < self.duplication else 1
        times = []
        for _ in range(count):
            delay = DELAY[0] + int(random.random() * _SPREAD)
            if self.reordering and random.random() < self.reordering:
                delay += int(random.random() * REORDERED)
            times.append(now + delay)
        return times

    def holds(self, target: int, data: bytes, source: int) -> bool:
        """Whether a clogged host's buffer took the datagram, or dropped it."""
        held = self.clogged.get(target)
        if held is not None and len(held) < BUFFER:
            held.append((data, source))
        return held is not None

    def heal(self) -> None:
        """No more faults; what clogged hosts hold is the caller's to deliver."""
        self.loss = self.duplication = self.reordering = 0.0
        self.blocked.clear()
