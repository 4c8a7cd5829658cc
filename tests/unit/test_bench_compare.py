# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench compare`: a regression, an improvement, noise, and files that are no results."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench import compare
from bench.__main__ import main
from bench.compare import Verdict
from tests.unit.bench_results import forward_row, lookup_row, samples, write

Rows = list[dict[str, Any]]


def run(tmp_path: Path, old: Rows, new: Rows, bench: str = "lookup", *options: str) -> Result:
    """The command, on two files."""
    files = [write(tmp_path / f"{name}.json", bench, rows) for name, rows in
             (("a", old), ("b", new))]  # fmt: skip
    return CliRunner().invoke(main, ["compare", *map(str, files), *options])


def last_line(result: Result) -> str:
    return result.output.splitlines()[-1]


def test_what_takes_longer_is_slower_and_the_status_says_so(tmp_path: Path) -> None:
    old = [lookup_row(1000, samples(20, 1)), lookup_row(10_000, samples(30, 2))]
    new = [lookup_row(1000, samples(23, 3)), lookup_row(10_000, samples(30, 4))]
    result = run(tmp_path, old, new)
    assert result.exit_code == 1
    assert last_line(result) == "1 slower; 1 no difference that can be told."
    line = next(line for line in result.output.splitlines() if "entries 1000 " in line)
    change, low, high = map(float, re.findall(r"([+-][\d.]+) %", line))
    assert low < change < high
    assert low > 10
    assert high < 20
    assert "slower" in line


def test_what_takes_less_is_faster_and_no_failure(tmp_path: Path) -> None:
    result = run(tmp_path, [lookup_row(9, samples(20, 1))], [lookup_row(9, samples(15, 2))])
    assert result.exit_code == 0
    assert last_line(result) == "1 faster."


def test_a_rate_is_the_other_way_round(tmp_path: Path) -> None:
    old, new = [lookup_row(9, samples(20, 1))], [lookup_row(9, samples(15, 2))]
    for row in (*old, *new):
        row["unit"] = "M records/s"
    assert last_line(run(tmp_path, old, new)) == "1 slower."


def test_noise_is_no_difference(tmp_path: Path) -> None:
    """Of a thousand pairs of runs of one figure with wide spread, as many as are allowed."""
    judged = []
    for seed in range(1000):
        old, new = samples(20, 2 * seed, 0.2), samples(20, 2 * seed + 1, 0.2)
        interval = compare.interval_of(old, new)
        assert interval is not None
        judged.append(compare.judge(interval, "ns per key", 0))
    wrong = sum(verdict is not Verdict.SAME for verdict in judged)
    assert wrong <= 1000 * compare.ERROR_RATE * 2


def test_a_real_difference_in_noise_is_found() -> None:
    found = 0
    for seed in range(100):
        old, new = samples(20, 2 * seed, 0.02, 20), samples(21, 2 * seed + 1, 0.02, 20)
        interval = compare.interval_of(old, new)
        assert interval is not None
        found += compare.judge(interval, "ns", compare.LEAST_PERCENT) is Verdict.SLOWER
    assert found >= 95


def test_one_odd_repeat_changes_nothing(tmp_path: Path) -> None:
    new = [*samples(20, 2), 900.0]
    result = run(tmp_path, [lookup_row(9, samples(20, 1))], [lookup_row(9, new)])
    assert result.exit_code == 0
    assert last_line(result) == "1 no difference that can be told."


def test_less_than_the_least_is_no_difference(tmp_path: Path) -> None:
    old = [lookup_row(9, samples(100, 1, 0.0001))]
    new = [lookup_row(9, samples(101, 2, 0.0001))]
    assert run(tmp_path, old, new).exit_code == 0
    assert run(tmp_path, old, new, "lookup", "--least", "0.5").exit_code == 1


def test_a_peer_that_was_slowed_as_well_excuses(tmp_path: Path) -> None:
    """The machine was half as fast in B: ours and theirs are, and the ratio is the same."""
    ours, theirs = samples(2, 1), samples(4, 2)
    old = [forward_row(ours, theirs)]
    new = [forward_row([one / 2 for one in ours], [one / 2 for one in theirs])]
    assert run(tmp_path, old, new, "forward").exit_code == 0
    worse = [forward_row([one / 2 for one in ours], theirs)]
    result = run(tmp_path, old, worse, "forward")
    assert result.exit_code == 1
    assert "of xdp-macswap, by Mpps" in result.output


@pytest.mark.parametrize(("unit", "factor"), [("ns per key", 1.2), ("M records/s", 1 / 1.2)])
def test_what_the_machine_did_itself_is_not_judged(
    tmp_path: Path, unit: str, factor: float
) -> None:
    """The yardstick between the repeats took a fifth longer in B, as the figure did."""

    def row(values: list[float], yards: list[float]) -> Rows:
        return [{**lookup_row(9, values), "unit": unit, "yardstick": yards}]

    old = row(samples(20, 1), samples(150, 2))
    slowed = row(samples(20 * factor, 3), samples(180, 4))
    result = run(tmp_path, old, slowed)
    assert (result.exit_code, last_line(result)) == (0, "1 not judged.")
    changed = "+2" if factor > 1 else "-1"
    assert f"the machine itself changed by {changed}" in result.output
    for slower in (
        row(samples(20 * factor, 3), samples(150, 5)),  # and it was not
        row(samples(20 * factor, 3), samples(120, 5)),  # and it was faster
        row(samples(20 * factor, 3), []),  # and nobody knows
    ):
        assert last_line(run(tmp_path, old, slower)) == "1 slower."


def test_bytes_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    old, new = (
        [{**lookup_row(9, [value] * 5), "unit": "bytes", "yardstick": samples(yard, 1)}]
        for value, yard in ((20.0, 150), (22.0, 180))
    )
    assert last_line(run(tmp_path, old, new)) == "1 worse."


def test_more_bytes_are_worse(tmp_path: Path) -> None:
    old, new = ([lookup_row(9, [value] * 5)] for value in (20.0, 21.0))
    for row in (*old, *new):
        row["unit"] = "bytes per session"
    result = run(tmp_path, old, new)
    assert (result.exit_code, last_line(result)) == (1, "1 worse.")


def test_an_unknown_unit_is_different_and_no_regression(tmp_path: Path) -> None:
    old, new = ([lookup_row(9, [value] * 5)] for value in (20.0, 25.0))
    for row in (*old, *new):
        row["unit"] = "bananas"
    result = run(tmp_path, old, new)
    assert (result.exit_code, last_line(result)) == (
        0, "1 different, and nobody knows which is better."
    )  # fmt: skip


def test_rows_that_one_file_lacks_are_named(tmp_path: Path) -> None:
    old = [lookup_row(9, samples(20, 1)), lookup_row(99, samples(20, 1))]
    new = [lookup_row(9, samples(20, 2)), lookup_row(9, samples(20, 2), memory="BPF array")]
    result = run(tmp_path, old, new)
    assert result.exit_code == 0
    assert "only in A: entries 99, anonymous" in result.output
    assert "only in B: entries 9, BPF array" in result.output


def test_what_cannot_be_judged_says_why(tmp_path: Path) -> None:
    good = samples(20, 1)
    for values, why in (([20.0, 21.0], "too few repeats"), ([0.0] * 7, "0 or less")):
        result = run(tmp_path, [lookup_row(9, good)], [lookup_row(9, values)])
        assert (result.exit_code, last_line(result)) == (0, "1 not judged.")
        assert why in " ".join(result.output.split())
    missing = {**lookup_row(9, good), "value": None, "samples": []}
    result = run(tmp_path, [lookup_row(9, good)], [missing])
    assert "not measured in B" in result.output


def test_without_samples_ranges_that_do_not_touch_tell(tmp_path: Path) -> None:
    rows = [lookup_row(9, samples(value, 1)) for value in (20, 20.1, 30)]
    for row in rows:
        del row["samples"]
    assert run(tmp_path, rows[:1], rows[1:2]).exit_code == 0
    assert last_line(run(tmp_path, rows[:1], rows[2:])) == "1 slower."
    once = {**rows[2], "rounds": 1}
    assert last_line(run(tmp_path, rows[:1], [once])) == "1 not judged."


def test_other_machines_and_busy_ones_are_named(tmp_path: Path) -> None:
    rows = [lookup_row(9, samples(20, 1))]
    files = [
        write(tmp_path / "a.json", "lookup", rows),
        write(tmp_path / "b.json", "lookup", rows, kernel="6.1", load_at_start=7.5),
    ]
    output = CliRunner().invoke(main, ["compare", *map(str, files)]).output
    assert "the machines differ: kernel: 6.12 in A, 6.1 in B" in output
    assert "B was measured on a busy machine: load 7.5 on 8 cores" in output
    assert "load_at_start" not in output


BROKEN = {
    "": "this is not JSON",
    '{"bench": "lookup"': "this is not JSON",
    "\0\1": "this is not JSON",
    "[" * 100_000: "this is not JSON",
    "[]": "expected an object",
    '{"bench": 7, "machine": {}, "rows": []}': "bench is missing or no str",
    '{"bench": "lookup", "machine": {}}': "rows is missing or no list",
    '{"bench": "lookup", "machine": {}, "rows": [7]}': "row 0: no object",
    '{"bench": "lookup", "machine": {}, "rows": [{"value": "x"}]}': "row 0: value is no number",
    '{"bench": "lookup", "machine": {}, "rows": [{"value": NaN}]}': "row 0: value is no number",
    '{"bench": "lookup", "machine": {}, "rows": [{"samples": [1, null]}]}': "row 0: samples",
    '{"bench": "xdp", "machine": {}, "rows": []}': "A is of the benchmark lookup, B of xdp",
    '{"bench": "lookup", "machine": {}, "rows": [{}]}': "no row in common",
}


@pytest.mark.parametrize(("text", "why"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    good = write(tmp_path / "a.json", "lookup", [lookup_row(9, samples(20, 1))])
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    result = CliRunner().invoke(main, ["compare", str(good), str(bad)])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert len(result.output.splitlines()) == 1
    assert why in result.output


def test_a_file_that_is_not_there_or_no_text_is_one_line(tmp_path: Path) -> None:
    good = write(tmp_path / "a.json", "lookup", [lookup_row(9, samples(20, 1))])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xff")
    for name, why in (("none.json", "No such file"), ("bytes.json", "not JSON")):
        result = CliRunner().invoke(main, ["compare", str(good), str(tmp_path / name)])
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
        assert why in result.output


def test_what_a_row_is_called_is_no_markup(tmp_path: Path) -> None:
    rows = [lookup_row(9, samples(20, 1), case="[/red]"), lookup_row(9, samples(20, 1))]
    result = run(tmp_path, rows, rows)
    assert result.exit_code == 0
    assert "[/red]" in result.output


def test_odd_rows_of_any_kind_end_in_no_traceback(tmp_path: Path) -> None:
    """Any key with any value that JSON has."""
    generator = random.Random(1)
    values: list[Any] = [None, True, 0, -1, 2.5, "text", "", [], [1.0], {}, {"a": 1}]
    keys = [*lookup_row(1, [1.0] * 5), "theirs_samples", "ratio_min", "ratio_max", "rounds", "peer",
            "yardstick"]  # fmt: skip
    for _ in range(300):
        rows = [lookup_row(9, samples(20, 1)) for _ in range(2)]
        for row in rows:
            row[generator.choice(keys)] = generator.choice(values)
        result = run(tmp_path, rows[:1], rows[1:])
        assert isinstance(result.exception, SystemExit | None), json.dumps(rows)


def test_arrangements_are_those_of_all_orders() -> None:
    for first, second in itertools.product(range(1, 5), repeat=2):
        counts = [0] * (first * second + 1)
        for places in itertools.combinations(range(first + second), second):
            others = [at for at in range(first + second) if at not in places]
            counts[sum(one > two for one in others for two in places)] += 1
        assert compare.arrangements(first, second) == counts


def test_so_few_samples_tell_nothing() -> None:
    assert [compare.outermost(count, count) for count in (1, 2, 3, 4)] == [0] * 4
    assert compare.outermost(5, 5) == 1
    # Critical values of the tables for 0.01, two-sided: U <= 4 of 7 and 7, <= 16 of 10 and 10.
    assert compare.outermost(7, 7) == 5
    assert compare.outermost(10, 10) == 17
