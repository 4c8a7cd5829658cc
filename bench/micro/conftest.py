# SPDX-License-Identifier: BSD-2-Clause
"""What pytest-benchmark measured, in the format of the other benchmarks' results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import machine, result_file
from bench.result_file import Result, Row

COMMAND: Final = "pytest bench/micro --benchmark-json=bench/results/micro.json"
SEED: Final = 1
YARDS: Final = 10  # before a benchmark and after it
NS_A_SECOND: Final = 1e9
DESCRIBED: Final = pytest.StashKey[dict[str, Any]]()

Timed = Callable[..., None]


@pytest.fixture
def timed(benchmark: BenchmarkFixture) -> Timed:
    """`timed(group, call, items, unit)`: measures a call that does `items` of one thing.

    `case` tells ours from the floor. What `before` returns are the call's arguments, made anew for
    each call, outside the measurement.
    """

    def run(
        group: str,
        call: Callable[..., Any],
        items: int,
        unit: str,
        *,
        case: str = "ours",
        before: Callable[[], tuple[Any, ...]] | None = None,
        rounds: int = 1000,
    ) -> None:
        benchmark.group = group
        yards = [machine.yardstick() for _ in range(YARDS)]
        benchmark.extra_info.update(items=items, unit=unit, case=case, yardstick=yards)
        if before is None:
            benchmark(call)
        else:
            benchmark.pedantic(  # type: ignore[no-untyped-call]
                call, setup=lambda: (before(), {}), rounds=rounds
            )
        yards += [machine.yardstick() for _ in range(YARDS)]

    return run


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before anything makes the machine busy."""
    session.config.stash[DESCRIBED] = machine.describe()


def row(measured: dict[str, Any]) -> Row:
    """One benchmark of pytest-benchmark's file, as a row."""
    told = measured["extra_info"]
    scale = NS_A_SECOND / told["items"]
    samples = result_file.block_medians([one * scale for one in measured["stats"]["data"]])
    return {
        "what": measured["group"],
        "case": told["case"],
        "unit": f"ns per {told['unit']}",
        **machine.summary(samples),
        "yardstick": machine.rounded(told["yardstick"]),
        "rounds": measured["stats"]["rounds"],
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """The whole file: its own would name the machine and hold each round."""
    rows = sorted(map(row, output_json["benchmarks"]), key=lambda row: str(row["what"]))
    result = Result("micro", config.stash[DESCRIBED], COMMAND, SEED, rows)
    output_json.clear()
    output_json.update(result_file.as_dict(result))
