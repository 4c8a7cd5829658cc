# SPDX-License-Identifier: BSD-2-Clause
"""How much the gossip benchmark measures, and how its samples become rows (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

Row = dict[str, Any]

SHOWN: Final = (
    "what",
    "case",
    "value",
    "unit",
    "target",
    "peer",
    "theirs",
    "ratio",
    "p50",
    "p99",
    "p999",
    "max",
)
"""Keys of rows that are for a terminal; the file has all."""
SHARES: Final = (("p50", 0.50), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; times in seconds.

    Attributes:
        repeats: of what runs in one process.
        tables: sessions in the tables that records are applied to.
        stream_records: opens and closes that one core is given in full datagrams.
        opens: of one run of the latency, at `opens_per_s`.
        singles: events of an idle host.
        deaths: hosts that are killed, one after the other.
        loaded_s, stopped_s: of the hunt for false deaths; how long one agent is stopped meanwhile.
        joined: sessions that a POP has when another host joins it.
        live_s: how long sessions are opened around the join.
        idle_hosts: sizes of the POP at rest.
        tracked: states that conntrackd, and we, carry to another host at once.
    """

    hosts: int = 8
    repeats: int = 7
    tables: tuple[int, ...] = (1_000_000, 10_000_000)
    stream_records: int = 8_000_000
    wire_records: int = 166_000
    opens: int = 50_000
    opens_per_s: int = 10_000
    singles: int = 300
    deaths: int = 24
    loaded_s: float = 60.0
    stopped_s: float = 30.0
    joined: int = 1_000_000
    live_s: float = 20.0
    idle_hosts: tuple[int, int] = (4, 20)
    idle_s: float = 10.0
    tracked: int = 100_000


QUICK: Final = Effort(
    hosts=3,
    repeats=1,
    tables=(10_000,),
    stream_records=33_200,
    wire_records=1_660,
    opens=400,
    opens_per_s=1_000,
    singles=10,
    deaths=1,
    loaded_s=2.0,
    stopped_s=1.0,
    joined=6_000,
    live_s=4.0,
    idle_hosts=(2, 3),
    idle_s=0.5,
    tracked=2_000,
)


def at_share(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(samples: Sequence[float], digits: int = 3) -> Row:
    """p50, p99, p999 and max of samples; None each if there are none."""
    ordered = sorted(samples)
    return {
        name: round(at_share(ordered, share), digits) if ordered else None for name, share in SHARES
    }


def row(what: str, value: float | None, unit: str, target: str, **more: Any) -> Row:
    """A row of the result; `case` tells apart the rows of one `what`, the first has none."""
    figure = value if value is None or isinstance(value, int) else round(value, 3)
    return {"what": what, "value": figure, "unit": unit, "target": target, **more}
