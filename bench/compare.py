# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench compare A.json B.json`: is B slower than A, or is it noise? (pure but for
what it prints)

Each row's repeats are compared by the test of Mann and Whitney: the interval is Hodges and
Lehmann's, of the ratio by which B's figures differ from A's. It supposes nothing about the
figures' distribution, and one odd repeat does not move it. What the machine itself did between
the two runs no repeat can show: a row is compared by its ratio to a peer that took turns with it,
or else is not judged if the yardstick between its repeats says that the machine changed likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import comb
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.result_file import (
    Identity,
    Result,
    ResultError,
    Row,
    block_medians,
    identities,
    is_number,
    label,
    names,
    telling,
)

ERROR_RATE: Final = 0.01
"""Of a row that did not change, the chance to be called faster or slower. A file has some forty."""
LEAST_PERCENT: Final = 2.0
"""Where code and data lie in memory makes so much from one run to the next."""
RANGE_ROUNDS: Final = 5  # two sets of so many that do not touch: once in 126 by chance
BUSY_SHARE: Final = 0.5  # of the processors, by the load: more and the figures mean little
CHANGES: Final = ("load_at_start", "source")  # keys of a machine that may differ

TIMES: Final = ("ns", "us", "µs", "ms", "s")
COSTS: Final = ("bytes", "%", "deaths", "missing", "datagrams")
RATES: Final = ("/s", "mpps", "per second")  # how a rate's unit ends


class Verdict(Enum):
    """What can be said of a row."""

    FASTER = "faster"
    SLOWER = "slower"
    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "different, and nobody knows which is better"
    SAME = "no difference that can be told"
    UNJUDGED = "not judged"


REGRESSIONS: Final = (Verdict.SLOWER, Verdict.WORSE)


@dataclass(frozen=True, slots=True)
class Interval:
    """The ratio of B to A, and between what it lies."""

    ratio: float
    low: float
    high: float


UNCHANGED: Final = Interval(1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared of a row.

    Attributes:
        samples: empty: there is only the range from `low` to `high`, or not even that.
    """

    value: float
    samples: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One row of both files."""

    row: Row
    old: Figure | None
    new: Figure | None
    what: str
    interval: Interval | None
    verdict: Verdict
    why: str = ""


# ---- the test ----


def arrangements(first: int, second: int) -> list[int]:
    """Of all orders of two sets of samples, in how many just 0, 1, 2, ... pairs are reversed.

    Source: the coefficients of the Gaussian binomial; Mann and Whitney 1947, section 2.
    """
    counts = [1] + [0] * (first * second)
    for step in range(1, second + 1):
        for at in range(len(counts) - 1, first + step - 1, -1):
            counts[at] -= counts[at - first - step]
        for at in range(step, len(counts)):
            counts[at] += counts[at - step]
    return counts


def outermost(first: int, second: int) -> int:
    """How many of the smallest, and of the largest, ratios of pairs lie outside the interval's
    ends, these included; 0: so few samples cannot tell anything."""
    allowed = ERROR_RATE / 2 * comb(first + second, second)
    total = 0
    for at, count in enumerate(arrangements(first, second)):
        total += count
        if total > allowed:
            return at
    return 0


def interval_of(old: Sequence[float], new: Sequence[float]) -> Interval | None:
    """Of positive samples; None: they are too few."""
    old, new = block_medians(old), block_medians(new)
    cut = outermost(len(old), len(new)) if old and new else 0
    if not cut:
        return None
    ratios = sorted(b / a for a in old for b in new)
    return Interval(_middle(ratios), ratios[cut - 1], ratios[-cut])


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def interval_of_ranges(old: Figure, new: Figure) -> Interval | None:
    """Of rows that kept no samples: as far apart, and as close, as the ranges allow."""
    edges = (old.low, old.high, new.low, new.high)
    positive = [edge for edge in edges if edge is not None and edge > 0]
    if len(positive) < len(edges) or old.value <= 0:
        return None
    old_low, old_high, new_low, new_high = positive
    return Interval(new.value / old.value, new_low / old_high, new_high / old_low)


# ---- rows ----


def figure_of(row: Row) -> Figure | None:
    """The ratio to the peer that was measured in the same rounds, if there is one: what the
    machine did to both cancels. Else the row's own figure; None: it was not measured."""
    mine, theirs = row.get("samples", []), row.get("theirs_samples", [])
    if mine and len(mine) == len(theirs) and all(other > 0 for other in theirs):
        pairs = tuple(a / b for a, b in zip(mine, theirs, strict=True))
        return Figure(_middle(sorted(pairs)), pairs)
    if is_number(row.get("ratio_min")) and is_number(row.get("ratio_max")):
        return _with_range(row, row.get("ratio"), row["ratio_min"], row["ratio_max"])
    return _with_range(row, row.get("value", row.get("ours")), row.get("min"), row.get("max"))


def _with_range(row: Row, value: Any, low: Any, high: Any) -> Figure | None:
    if not is_number(value):
        return None
    samples = tuple(row.get("samples", []))
    is_range = is_number(low) and is_number(high) and low <= value <= high
    rounds = row.get("rounds")
    if not is_range or (is_number(rounds) and rounds < RANGE_ROUNDS):
        return Figure(value, samples)
    return Figure(value, samples, low, high)


def is_ratio(row: Row) -> bool:
    """Whether `figure_of` is a ratio to a peer."""
    return bool(row.get("theirs_samples")) or is_number(row.get("ratio_min"))


def better(unit: str) -> int:
    """1: more is better; -1: less is; 0: nobody knows. A ratio of ours to theirs likewise."""
    lowered = unit.lower()
    if lowered.endswith(RATES):
        return 1
    return -1 if is_time(unit) or any(word in lowered for word in COSTS) else 0


def is_time(unit: str) -> bool:
    """Whether a figure is a time, for one thing or for all."""
    words = unit.lower().split()
    return bool(words) and words[0] in TIMES


def drift_of(old: Row, new: Row) -> Interval:
    """How the machine's own speed changed between two rows, as a ratio of figures of their unit;
    1 where nobody measured it, and where a figure is none of speed."""
    unit = str(new.get("unit", ""))
    yards = old.get("yardstick", []), new.get("yardstick", [])
    if (
        is_ratio(new)
        or not (is_time(unit) or better(unit) > 0)
        or min((*yards[0], *yards[1], 1)) <= 0
    ):
        return UNCHANGED
    drift = interval_of(*yards) or UNCHANGED
    if is_time(unit):
        return drift
    return Interval(1 / drift.ratio, 1 / drift.high, 1 / drift.low)


def is_told(interval: Interval, least_percent: float) -> bool:
    """Whether there is a difference, and one that counts."""
    is_apart = interval.low > 1 or interval.high < 1
    return is_apart and abs(interval.ratio - 1) * 100 >= least_percent


def explains(drift: Interval, interval: Interval, least_percent: float) -> bool:
    """Whether the machine itself changed in the direction in which a row did. By how much says
    little: a busy neighbour slows each piece of work by another factor."""
    return is_told(drift, least_percent) and (drift.ratio > 1) == (interval.ratio > 1)


def judge(interval: Interval, unit: str, least_percent: float) -> Verdict:
    """What the interval says."""
    if not is_told(interval, least_percent):
        return Verdict.SAME
    direction = better(unit) * (1 if interval.ratio > 1 else -1)
    if not direction:
        return Verdict.DIFFERENT
    if is_time(unit) or better(unit) > 0:
        return Verdict.FASTER if direction > 0 else Verdict.SLOWER
    return Verdict.BETTER if direction > 0 else Verdict.WORSE


def compare_row(old_row: Row, new_row: Row, what: str, least_percent: float) -> Compared:
    """One row of A and the same of B."""
    old, new = figure_of(old_row), figure_of(new_row)

    def unjudged(why: str) -> Compared:
        return Compared(new_row, old, new, what, None, Verdict.UNJUDGED, why)

    if old is None or new is None:
        both = old is None and new is None
        return unjudged(f"not measured in {'both' if both else 'A' if old is None else 'B'}")
    if is_ratio(old_row) != is_ratio(new_row):
        return unjudged("a peer was measured in one of them alone")
    if old.samples and new.samples:
        if min(*old.samples, *new.samples) <= 0:
            return unjudged("a sample is 0 or less: it has no ratio")
        interval, why = interval_of(old.samples, new.samples), "too few repeats to tell"
    else:
        interval, why = interval_of_ranges(old, new), "no repeats in the file"
    if interval is None:
        return unjudged(why)
    verdict = judge(interval, str(new_row.get("unit", "")), least_percent)
    reasons = []
    drift = drift_of(old_row, new_row)
    if verdict is not Verdict.SAME and explains(drift, interval, least_percent):
        verdict = Verdict.UNJUDGED
        reasons.append(f"the machine itself changed by {_percent(drift.ratio)}: measure again")
    if not all(row.get("is_steady", True) for row in (old_row, new_row)):
        reasons.append("not steady")
    return Compared(new_row, old, new, what, interval, verdict, "; ".join(reasons))


def compare(
    old: Result, new: Result, least_percent: float = LEAST_PERCENT
) -> tuple[list[Compared], list[str]]:
    """All rows that both have, and a line for each that one of them lacks.

    Raises:
        ResultError: they are of different benchmarks, or have no row in common.
    """
    if old.name != new.name:
        raise ResultError(f"A is of the benchmark {old.name}, B of {new.name}")
    ours, theirs = identities(old.rows), identities(new.rows)
    shared = [identity for identity in ours if identity in theirs]
    if not shared:
        raise ResultError("A and B have no row in common: nothing to compare")
    keys = telling([*old.rows, *new.rows])
    compared = [
        compare_row(ours[one], theirs[one], _words(one, ours[one], keys), least_percent)
        for one in shared
    ]
    lines = [
        f"only in {where}: {_words(one, rows[one], keys)}"
        for where, rows, others in (("A", ours, theirs), ("B", theirs, ours))
        for one in rows
        if one not in others
    ]
    return compared, lines


def _words(identity: Identity, row: Row, keys: Sequence[str]) -> str:
    """A row's name; the whole identity if its telling keys say nothing."""
    named = label(row, keys) or label(row, (key for key in names(row) if key != "unit"))
    number = dict(identity).get("number")
    return f"{named} ({number})" if number else named


# ---- machines ----


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for each thing in which the machines differ, and for a busy one."""
    lines = []
    for key in dict.fromkeys((*old, *new)):
        if key not in CHANGES and old.get(key) != new.get(key):
            lines.append(f"the machines differ: {key}: {old.get(key)} in A, {new.get(key)} in B")
    for name, machine in (("A", old), ("B", new)):
        load, cores = machine.get("load_at_start"), machine.get("cores")
        if is_number(load) and is_number(cores) and load > cores * BUSY_SHARE:
            lines.append(f"{name} was measured on a busy machine: load {load} on {cores} cores")
    return lines


# ---- output ----


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def show(console: Console, compared: Sequence[Compared]) -> None:
    """A line for each row."""
    table = Table(title="B beside A")
    for title in ("row", "A", "B", "unit"):
        table.add_column(title, justify="left" if title == "row" else "right")
    for title in ("change", "interval", "verdict"):
        table.add_column(title)
    for one in compared:
        unit = str(one.row.get("unit", ""))
        if is_ratio(one.row):
            unit = f"of {one.row.get('peer', 'the peer')}, by {unit}"
        interval = one.interval
        cells = (
            one.what,
            *("" if figure is None else f"{figure.value:g}" for figure in (one.old, one.new)),
            unit,
            _percent(interval.ratio) if interval else "",
            f"{_percent(interval.low)} .. {_percent(interval.high)}" if interval else "",
            one.verdict.value,
        )
        table.add_row(*map(Text, cells))  # what a file says is no markup
    console.print(table)


def run(console: Console, old: Result, new: Result, least_percent: float = LEAST_PERCENT) -> bool:
    """Prints the comparison; whether something got worse.

    Raises:
        ResultError: as `compare`.
    """
    compared, missing = compare(old, new, least_percent)
    show(console, compared)
    reasons = [f"{one.what}: {one.verdict.value}: {one.why}" for one in compared if one.why]
    for line in (*reasons, *missing, *differences(old.machine, new.machine)):
        console.print(line, markup=False, soft_wrap=True)
    found = [one.verdict for one in compared]
    counts = [f"{found.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in found]
    console.print(f"{'; '.join(counts)}.", soft_wrap=True)
    return any(verdict in REGRESSIONS for verdict in found)
