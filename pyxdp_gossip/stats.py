# SPDX-License-Identifier: BSD-2-Clause
"""The names and sentences of the data-path counters, and snapshots of them (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyxdp_gossip import _native

COUNTERS: Final[tuple[tuple[str, str, str], ...]] = _native.counter_list()
"""(name, action, sentence) in the order of csrc/stats.h; the action of a side counter is ""."""

NAMES: Final = tuple(name for name, _, _ in COUNTERS)
ENDINGS: Final[Mapping[str, str]] = {name: action for name, action, _ in COUNTERS if action}
"""Name of each ending to its XDP action: "pass", "drop" or "tx"."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """One snapshot of the data path's counters.

    Attributes:
        counters: name to count since the programs were loaded; the sentences are in COUNTERS.
    """

    counters: Mapping[str, int]

    @classmethod
    def from_per_cpu(cls, values: Sequence[Sequence[int]]) -> Statistics:
        """Adds up per-CPU values: `values[counter][cpu]`, in the order of NAMES."""
        return cls({name: sum(row) for name, row in zip(NAMES, values, strict=True)})

    def __getitem__(self, name: str) -> int:
        return self.counters[name]

    @property
    def frames(self) -> int:
        """Frames seen: each ended in exactly one ending."""
        return sum(self.counters[name] for name in ENDINGS)

    def since(self, earlier: Statistics) -> Statistics:
        """The difference to an earlier snapshot."""
        return Statistics({name: self[name] - earlier[name] for name in NAMES})
