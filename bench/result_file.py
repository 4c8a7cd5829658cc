# SPDX-License-Identifier: BSD-2-Clause
"""The JSON of one run: how it is written, read, and which keys of a row name it (pure)."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeGuard

Row = dict[str, Any]

PROSE: Final = ("note", "bound_by", "how")
"""Sentences: shown below a table, each once."""
DETAILS: Final = frozenset(
    (
        *("queues", "frame_len", "theirs_min", "theirs_max", "ratio_min", "ratio_max", "offered"),
        *("paced_mpps", "paced_offered", "paced_entered", "paced_returned", "theirs_lost_inside"),
        *("plane", "own_percent", "cpu_us", "theirs_cpu_us", "cpu_ns", "theirs_cpu_ns"),
        *("samples", "theirs_samples", "yardstick"),
    )
)
"""For the file: neither a terminal nor a page is that wide."""
NUMBERS_THAT_NAME: Final = frozenset(
    (
        *("family", "entries", "hit_percent", "frame_len", "queues", "hosts", "percent"),
        *("few_hosts", "burst", "threads", "readers", "cpus", "key_bytes", "load_percent"),
        *("sessions", "opens_a_s_asked", "asked_a_s"),
    )
)
"""Numbers that say what was measured. Every other number is a figure; every string names."""
NAMES_NOTHING: Final = frozenset((*PROSE, "target"))
SAMPLES_MOST: Final = 50

Identity = tuple[tuple[str, Any], ...]


class ResultError(Exception):
    """A file that holds no result."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one benchmark.

    Attributes:
        machine: of `bench.machine.describe()`; older files have fewer keys.
        command: what made it; empty in older files.
    """

    name: str
    machine: dict[str, Any]
    command: str
    seed: Any
    rows: list[Row]


def as_dict(result: Result) -> dict[str, Any]:
    """As it stands in the file."""
    return {
        "bench": result.name,
        "command": result.command,
        "machine": result.machine,
        "seed": result.seed,
        "rows": result.rows,
    }


def write(path: Path, result: Result) -> None:
    """Writes a result; folders that are not there are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_dict(result), indent=1) + "\n")


def read(path: Path) -> Result:
    """Reads a result.

    Raises:
        ResultError: one line that says what is wrong with the file.
    """
    try:
        told = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: this is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise ResultError(f"{path}: expected an object with bench, machine and rows")
    wanted: tuple[tuple[str, type], ...] = (("bench", str), ("machine", dict), ("rows", list))
    for key, kind in wanted:
        if not isinstance(told.get(key), kind):
            raise ResultError(f"{path}: {key} is missing or no {kind.__name__}")
    rows = told["rows"]
    for number, row in enumerate(rows):
        why = "no object" if not isinstance(row, dict) else _wrong_in(row)
        if why:
            raise ResultError(f"{path}: row {number}: {why}")
    command = told.get("command")
    return Result(
        name=told["bench"],
        machine=told["machine"],
        command=command if isinstance(command, str) else "",
        seed=told.get("seed"),
        rows=rows,
    )


def is_number(value: Any) -> TypeGuard[float]:
    """A figure, that is: no bool, no None, no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _wrong_in(row: Row) -> str | None:
    """What keeps a row from being read, or None."""
    for key in ("value", "ours", "theirs", "ratio", "min", "max"):
        if row.get(key) is not None and not is_number(row[key]):
            return f"{key} is no number"
    for key in ("samples", "theirs_samples", "yardstick"):
        values = row.get(key, [])
        if not isinstance(values, list) or not all(map(is_number, values)):
            return f"{key} is no list of numbers"
    return None


def names(row: Row) -> dict[str, Any]:
    """What of a row says what was measured, in the row's order."""
    return {
        key: value
        for key, value in row.items()
        if (isinstance(value, str) and key not in NAMES_NOTHING and not key.endswith("_target"))
        or (key in NUMBERS_THAT_NAME and is_number(value))
    }


def identities(rows: Iterable[Row]) -> dict[Identity, Row]:
    """Each row by its names; rows that have the same are told apart by their order."""
    found: dict[Identity, Row] = {}
    for row in rows:
        identity: Identity = tuple(sorted(names(row).items()))
        number = 2
        while identity in found:
            identity = (*sorted(names(row).items()), ("number", number))
            number += 1
        found[identity] = row
    return found


def telling(rows: Sequence[Row]) -> list[str]:
    """The names in which rows differ, in their order; the unit is shown beside its figure."""
    told = [names(row) for row in rows]
    keys = dict.fromkeys(key for one in told for key in one if key != "unit")
    return [key for key in keys if len({one.get(key) for one in told}) > 1]


def label(row: Row, keys: Iterable[str]) -> str:
    """A row's name for a human: `hit_percent 50, rte_hash`."""
    words = []
    for key in keys:
        value = row.get(key)
        if value is not None:
            words.append(value if isinstance(value, str) else f"{key} {value}")
    return ", ".join(words)


def block_medians(samples: Sequence[float], most: int = SAMPLES_MOST) -> list[float]:
    """At most so many samples: the medians of consecutive ones, which are less alike than
    neighbours are."""
    if len(samples) <= most:
        return list(samples)
    edges = [len(samples) * number // most for number in range(most + 1)]
    return [statistics.median(samples[begin:end]) for begin, end in itertools.pairwise(edges)]
