# SPDX-License-Identifier: BSD-2-Clause
"""The names and sentences of the data-path counters, and snapshots of them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Final, NoReturn

from pyxdp_gossip import _native

COUNTERS: Final[tuple[tuple[str, str, str], ...]] = _native.counter_list()
"""(name, action, sentence) in the order of csrc/stats.h; the action of a side counter is ""."""

NAMES: Final = tuple(name for name, _, _ in COUNTERS)
SENTENCES: Final[Mapping[str, str]] = {name: sentence for name, _, sentence in COUNTERS}
"""Name of each counter to the sentence that says what it counts."""
ENDINGS: Final[Mapping[str, str]] = {name: action for name, action, _ in COUNTERS if action}
"""Name of each ending to its XDP action: "pass", "drop" or "tx"."""

_INDEX: Final = {name: index for index, name in enumerate(NAMES)}
_ENDING_INDEXES: Final = tuple(_INDEX[name] for name in ENDINGS)

if TYPE_CHECKING:
    from pyxdp_gossip._counters import CounterAttributes
else:
    CounterAttributes = object  # the attributes are made at the end of this file


class Statistics(Mapping[str, int], CounterAttributes):
    """One snapshot of the data path's counters: a frozen mapping of name to count.

    Each counter is an attribute as well (`stats.stray_forwarded`), with its sentence of
    csrc/stats.h as docstring. Counts are frames or events since the programs were loaded, summed
    over the CPUs; each frame is in exactly one ending. The kernel goes on counting while a
    snapshot is read, so two counters may differ by what happened meanwhile; sums over one
    snapshot (`frames`) always agree with its counters.

    Args:
        counters: every counter's name to its count, and no other name.

    Raises:
        ValueError: a name is missing or unknown.
    """

    __slots__ = ("_counts",)
    _counts: tuple[int, ...]

    def __init__(self, counters: Mapping[str, int]) -> None:
        if wrong := set(NAMES) ^ set(counters):
            raise ValueError(f"missing or unknown counters: {', '.join(sorted(wrong))}")
        object.__setattr__(self, "_counts", tuple(counters[name] for name in NAMES))

    @classmethod
    def from_per_cpu(cls, values: Sequence[Iterable[int]]) -> Statistics:
        """Adds up per-CPU values.

        Args:
            values: `values[counter]` are the counts of all CPUs, counters in the order of NAMES.

        Raises:
            ValueError: another number of counters.
        """
        if len(values) != len(NAMES):
            raise ValueError(f"{len(values)} counters, expected {len(NAMES)}")
        return cls._of(tuple(map(sum, values)))

    @classmethod
    def _of(cls, counts: tuple[int, ...]) -> Statistics:
        snapshot = object.__new__(cls)
        object.__setattr__(snapshot, "_counts", counts)
        return snapshot

    def __getitem__(self, name: str) -> int:
        return self._counts[_INDEX[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)

    def __eq__(self, other: object) -> bool:
        return self._counts == other._counts if isinstance(other, Statistics) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._counts)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={count}" for name, count in self.items() if count)
        return f"Statistics({shown})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name!r}: a snapshot does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name!r}: a snapshot does not change")

    def __reduce__(self) -> tuple[type[Statistics], tuple[dict[str, int]]]:
        return Statistics, (self.as_dict(),)

    @property
    def counters(self) -> Mapping[str, int]:
        """Name to count: the snapshot itself."""
        return self

    @property
    def frames(self) -> int:
        """Frames seen: each ended in exactly one ending."""
        return sum(map(self._counts.__getitem__, _ENDING_INDEXES))

    def as_dict(self) -> dict[str, int]:
        """Name to count, in the order of csrc/stats.h: a new dictionary, such as for JSON."""
        return dict(zip(NAMES, self._counts, strict=True))

    def since(self, earlier: Statistics) -> Statistics:
        """What was counted between an earlier snapshot and this one, for rates.

        Args:
            earlier: of the same programs; after a restart of the host's programs the difference
                is negative.
        """
        return self._of(tuple(map(int.__sub__, self._counts, earlier._counts)))


ACTIONS: Final[Mapping[str, str]] = {
    "pass": "The frame is passed to the stack.",
    "drop": "The frame is dropped.",
    "tx": "The frame is sent.",
    "": "Ends no frame.",
}


def attribute_docstring(action: str, sentence: str) -> str:
    """What the docstring of a counter's attribute says."""
    return f"{sentence} {ACTIONS[action]}"


def _attribute(index: int, action: str, sentence: str) -> property:
    return property(
        lambda snapshot: snapshot._counts[index], doc=attribute_docstring(action, sentence)
    )


for _name, _action, _sentence in COUNTERS:
    setattr(Statistics, _name, _attribute(_INDEX[_name], _action, _sentence))
