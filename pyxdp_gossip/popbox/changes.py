# SPDX-License-Identifier: BSD-2-Clause
"""Draws the harsh changes of an ECMP set from a seed (pure)."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.routes import Kind

NEXT_HOPS_MIN = 2
"""With one next hop there is nothing left to spread, and the next change cannot re-order."""
HARSH_KINDS: tuple[Kind, ...] = ("plain", "group")
"""A resilient group moves few sessions; these two move most of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """The next hops from now on, in order; `what` is add, remove or reorder."""

    what: str
    hosts: tuple[int, ...]
    kind: Kind


def reorder(hosts: Sequence[int], source: random.Random) -> tuple[int, ...]:
    """The same hosts, each at another place: the rotation moves every share of the hash."""
    shift = source.randrange(1, len(hosts))
    return (*hosts[shift:], *hosts[:shift])


class ChangeSource:
    """Draws one change after another; never fewer than NEXT_HOPS_MIN next hops.

    Args:
        hosts: ids of all hosts; all are next hops at first.
        seed: the same seed gives the same changes.

    Raises:
        BoxError: fewer than NEXT_HOPS_MIN hosts.
    """

    def __init__(self, hosts: Sequence[int], seed: int) -> None:
        self._alive = list(hosts)
        self._current: tuple[int, ...] = tuple(hosts)
        self._random = random.Random(f"changes/{seed}")
        self._require(self._alive)

    @staticmethod
    def _require(hosts: Collection[int]) -> None:
        if len(hosts) < NEXT_HOPS_MIN:
            raise BoxError(f"{len(hosts)} live hosts: ECMP changes need {NEXT_HOPS_MIN} or more")

    def draw(self) -> Change:
        """The next change: remove or add at random where possible, else re-order."""
        current = list(self._current)
        absent = [host for host in self._alive if host not in current]
        possible = ["reorder"]
        possible += ["remove", "remove"] if len(current) > NEXT_HOPS_MIN else []
        possible += ["add", "add"] if absent else []
        what = self._random.choice(possible)
        if what == "remove":
            current.remove(self._random.choice(current))
        elif what == "add":
            current.insert(self._random.randrange(len(current)), self._random.choice(absent))
        else:
            current = list(reorder(current, self._random))
        return self._take(what, current)

    def draw_victim(self) -> int:
        """A host that is a next hop now."""
        self._require(self._alive[1:])
        return self._random.choice(self._current)

    def withdraw(self, host: int) -> Change:
        """The change that follows the death of a host: it goes, and never comes back."""
        self._alive.remove(host)
        self._require(self._alive)
        left = [other for other in self._current if other != host]
        spare = [other for other in self._alive if other not in left]
        while len(left) < NEXT_HOPS_MIN:
            left.append(spare.pop(0))
        return self._take("withdraw", left)

    def _take(self, what: str, hosts: Sequence[int]) -> Change:
        self._current = tuple(hosts)
        return Change(what, self._current, self._random.choice(HARSH_KINDS))
