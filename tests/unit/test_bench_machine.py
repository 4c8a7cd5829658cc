# SPDX-License-Identifier: BSD-2-Clause
"""How repeats become a figure, what is told of the machine, and that the micro-benchmarks run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import __main__ as command
from bench import machine, result_file

ROOT = Path(__file__).resolve().parents[2]


def playing(values: Iterable[float]) -> tuple[Callable[[], float], list[float]]:
    """A measurement that gives these values, and what of them was asked for."""
    left, asked = iter(values), []

    def measure() -> float:
        asked.append(next(left))
        return asked[-1]

    return measure, asked


def test_a_steady_figure_is_measured_no_more_than_asked() -> None:
    measure, asked = playing([99.0, *range(100, 200)])
    figure = machine.repeat(measure, 5)
    yards = figure.pop("yardstick")
    assert len(yards) == 5
    assert min(yards) > 0
    assert figure == {
        "value": 102.0,
        "min": 100,
        "max": 104,
        "spread_percent": 2.0,
        "is_steady": True,
        "samples": [100, 101, 102, 103, 104],
    }
    assert len(asked) == 6, "the first is thrown away"


def test_an_unsteady_one_is_repeated_until_it_is() -> None:
    measure, asked = playing([0.0, 5.0, 10.0, 15.0, 10.0, 20.0, *[10.0] * 100])
    figure = machine.repeat(measure, 5)
    assert figure["is_steady"]
    assert 6 < len(asked) < 1 + 5 * machine.MORE
    assert figure["samples"] == asked[1:]
    assert (figure["value"], figure["min"], figure["max"]) == (10, 5, 20)


def test_one_that_never_is_ends_and_says_so() -> None:
    measure, asked = playing(float(number) for number in range(1, 1000))
    figure = machine.repeat(measure, 3)
    assert len(asked) == 1 + 3 * machine.MORE
    assert figure["is_steady"] is False
    assert figure["spread_percent"] > machine.STEADY_PERCENT


def test_a_few_samples_are_never_steady() -> None:
    assert not machine.is_steady([1.0] * (machine.SAMPLES_TO_TELL - 1))
    assert machine.is_steady([1.0] * machine.SAMPLES_TO_TELL)
    assert machine.spread_percent([7.0]) == 0
    assert machine.spread_percent([0.0, 0.0, 0.0]) == 0


def test_the_machine_and_the_build_are_described() -> None:
    told = machine.describe()
    assert json.loads(json.dumps(told)) == told
    assert told["load_at_start"] >= 0
    assert set(told["huge_pages"]) == {"enabled", "shmem_enabled"}
    assert " -O" in told["compiler"], "the flags of the extension that is loaded"
    assert {"cpu", "cpu_flags", "cores", "cpus", "memory_gib", "kernel", "python", "source"} < set(
        told
    )


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (b"\0GNU C11 12.2.0 -O2 -flto\0GCC: (Debian 12) 12.2.0\0", "GNU C11 12.2.0 -O2 -flto"),
        (b"\0GNU C17 13.1 -march=x86-64-v3 -O3\0", "GNU C17 13.1 -march=x86-64-v3 -O3"),
        (b"\0GCC: (Debian 12.2.0-14) 12.2.0\0", "GCC: (Debian 12.2.0-14) 12.2.0"),
        (b"\0Debian clang version 14.0.6\0", "clang version 14.0.6"),
        (b"\x7fELF stripped", "unknown"),
    ],
)  # fmt: skip
def test_the_compiler_is_what_the_object_says(module: bytes, told: str) -> None:
    assert machine.built_by(module) == told


def test_the_file_says_which_command_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [{"what": "it", "value": 1.5, "samples": [1.5], "unit": "ns"}]
    monkeypatch.setitem(command.BENCHMARKS, "xdp", lambda seed: rows)
    path = tmp_path / "new" / "xdp.json"
    ran = CliRunner().invoke(command.main, ["xdp", "--seed", "7", "--json", str(path)])
    assert ran.exit_code == 0
    assert "samples" not in ran.output
    result = result_file.read(path)
    assert (result.name, result.seed, result.rows) == ("xdp", 7, rows)
    assert result.command == "python -m bench xdp --seed 7"
    assert "load_at_start" in result.machine


def test_options_of_the_gossip_are_in_its_command() -> None:
    options = {"seed": 1, "pin": None, "only": "apply,join", "quick": True, "minutes": None}
    made = command.command_of("gossip", options)
    assert made == "python -m bench gossip --seed 1 --only apply,join --quick"


def test_processors_that_are_not_there_are_one_line() -> None:
    for pin in ("x", "0,", "99999", "-1", "9" * 50):
        ran = CliRunner().invoke(command.main, ["xdp", f"--pin={pin}"])
        assert ran.exit_code == 2
        assert "names no CPUs of this machine" in ran.output


def test_blocks_of_many_samples_are_few() -> None:
    many = [float(number) for number in range(1000)]
    few = result_file.block_medians(many, 10)
    assert few == [49.5 + 100 * number for number in range(10)]
    assert result_file.block_medians(few, 10) == few
    assert len(result_file.block_medians(many[:53], 50)) == 50


def test_the_micro_benchmarks_run_and_write_what_the_report_reads(tmp_path: Path) -> None:
    """Once without the clock; a few with it, for the file."""
    pytest_of = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # a worker of pytest-xdist tells its children that they are one, too
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    argv = [*pytest_of, "bench/micro", "--benchmark-disable"]
    done = subprocess.run(argv, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    path = tmp_path / "micro.json"
    argv = [
        *pytest_of, "bench/micro/test_datagrams.py", "-k", "decode", f"--benchmark-json={path}",
        "--benchmark-min-rounds=5", "--benchmark-max-time=0.000001",
    ]  # fmt: skip
    done = subprocess.run(argv, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    result = result_file.read(path)
    assert result.name == "micro"
    assert [(row["what"], row["case"], row["unit"]) for row in result.rows] == [
        ("datagram decoded", "ours", "ns per datagram"),
        ("datagram decoded", "floor: its bytes copied", "ns per datagram"),
    ]
    for row in result.rows:
        assert 0 < row["min"] <= row["value"] <= row["max"]
        assert 5 <= len(row["samples"]) <= result_file.SAMPLES_MOST
        assert len(row["yardstick"]) == 20
