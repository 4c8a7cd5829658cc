# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench report`: its page holds what the results hold, and says what is missing."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import plots, report
from bench.__main__ import main
from bench.result_file import Result, ResultError, Row
from tests.unit.bench_results import MACHINE, forward_row, lookup_row, samples, write

PERCENTILES: dict[str, Any] = {"p50": 1.25, "p99": 2.5, "p999": 3.75, "max": 4.5}


def gossip_rows() -> list[Row]:
    """Parts of the gossip, each with keys of its own."""
    return [
        {"what": "apply", "value": 9.5, "unit": "M records/s", "target": "10 M/s", "entries": 10},
        {"what": "latency", "value": 2.5, "unit": "ms", "hosts": 8, "how": "H", **PERCENTILES},
        {"what": "loss", "value": 3.75, "unit": "ms", "percent": 1, "hosts": 8, **PERCENTILES},
        {"what": "death", "value": 0, "unit": "false deaths", "case": "loaded cores"},
        {"what": "join", "value": 0.25, "unit": "s", "hosts": 9},
    ]


def overhead_row() -> Row:
    row = forward_row(samples(2, 1), samples(4, 2))
    return {**row, "what": "requests", "variant": "ours-xdp", "ratio_min": 0.4, "ratio_max": 0.6}


ROWS: dict[str, list[Row]] = {
    "lookup": [
        *(lookup_row(10**size, samples(20, size)) for size in (4, 5, 6)),
        *(lookup_row(10**size, samples(9, size), family=6) for size in (4, 5)),
    ],
    "sharing": [{"what": "map", "entries": 1000, "unit": "ns per key", "value": 23.5}],
    "instructions": [
        {"what": "forward", "frame_bytes": 64, "unit": "instructions per frame", "value": 345.5}
    ],
    "xdp": [
        {"what": "no service", "unit": "ns per packet", "value": 31.5, "min": 31, "max": 33},
        {
            "what": "SYN of a stray",
            "order": "random",
            "unit": "ns per packet",
            "value": 201.5,
            "min": 199,
            "max": 207,
            "peer": "LRU_HASH",
            "theirs": 260.5,
        },
    ],
    "forward": [forward_row(samples(2, 1), samples(4, 2))],
    "formats": [forward_row(samples(3, 1), samples(4, 2))],
    "sweep": [{**overhead_row(), "what": "loop", "variant": "burst 8", "peer": "defaults"}],
    "overhead": [overhead_row()],
    "gossip": gossip_rows(),
    "micro": [
        {"what": "w", "case": case, "value": value, "unit": f"ns per {unit}"}
        for unit in ("key", "frame", "datagram")
        for case, value in (("ours", 5.5), ("floor: copied", 2.5))
    ],
}


def write_all(folder: Path) -> None:
    for name, rows in ROWS.items():
        write(folder / f"{name}.json", name, rows)


def made(tmp_path: Path) -> str:
    """The page of the results in `tmp_path/results`."""
    return report.write(tmp_path / "results", tmp_path / "docs").read_text()


def pictures(page: str) -> list[str]:
    return re.findall(r"!\[\w+]\(benchmarks/(\w+)\.svg\)", page)


def test_each_plot_is_there_with_its_bound_command_and_machine(tmp_path: Path) -> None:
    write_all(tmp_path / "results")
    page = made(tmp_path)
    expected = [plot.name for each in plots.PLOTS.values() for plot in each]
    assert sorted(pictures(page)) == sorted(expected)
    for name in expected:
        svg = (tmp_path / "docs" / "benchmarks" / f"{name}.svg").read_text()
        assert "<svg" in svg
        caption = page.split(f"({report.PICTURES}/{name}.svg)")[1].split("\n\n")[1]
        assert "Bound by: " in caption
        assert re.search(r"Made by `python -m bench \w+ --seed 1` on machine 1\.", caption)
    assert "* processor: a processor" in page
    assert "Not measured" not in page
    assert "A veth." in page, "what the rows say bounds them"


def test_every_figure_of_the_tables_stands_in_the_results(tmp_path: Path) -> None:
    write_all(tmp_path / "results")
    page = made(tmp_path)
    known = {report.word(value) for rows in ROWS.values() for row in rows for value in row.values()}
    known |= {report.word(key) for rows in ROWS.values() for row in rows for key in row}
    cells = [
        cell.strip()
        for line in page.splitlines()
        if line.startswith("| ")
        for cell in line.strip("| ").split(" | ")
    ]
    assert len(cells) > 100
    assert {cell for cell in cells if cell} <= known
    numbers = re.findall(r"(?<![\w.])\d+\.\d+", re.sub(r"(?m)^\|.*$", "", page))
    assert set(numbers) <= {report.word(value) for value in MACHINE.values()}


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "results")
    outputs = []
    for _ in range(2):
        made(tmp_path)
        docs = sorted((tmp_path / "docs").rglob("*.*"))
        outputs.append({path.name: path.read_bytes() for path in docs})
    assert len(outputs[0]) == 1 + sum(map(len, plots.PLOTS.values()))
    assert outputs[0] == outputs[1]
    assert not any(b"dc:date" in content for content in outputs[0].values())


def test_nothing_was_measured_is_said_of_each(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    page = made(tmp_path)
    for section in report.SECTIONS.values():
        assert f"## {section.title}\n\nNot measured: there is no result of" in page
    assert pictures(page) == []


def test_plots_of_an_earlier_run_go(tmp_path: Path) -> None:
    write_all(tmp_path / "results")
    made(tmp_path)
    (tmp_path / "results" / "xdp.json").unlink()
    page = made(tmp_path)
    assert "xdp" not in pictures(page)
    assert not (tmp_path / "docs" / "benchmarks" / "xdp.svg").exists()


def test_an_unknown_benchmark_has_a_plain_table(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"colour": "green|<b>", "weight": 2.5, "samples": [1, 2], "sizes": {"small": 3}},
        {"weight": None, "ripe": False, "note": "one\ntwo"},
    ]
    write(tmp_path / "results" / "bananas.json", "bananas", rows)
    page = made(tmp_path)
    assert "## bananas\n\nMade by `python -m bench bananas --seed 1` on machine 1" in page
    assert "| colour | weight | sizes | ripe |" in page
    assert "| green\\|&lt;b> | 2.5 | small 3 |  |" in page
    assert "|  |  |  | no |" in page
    assert "one two" in page


def test_a_known_benchmark_with_unknown_rows_has_a_plain_table(tmp_path: Path) -> None:
    for name in report.SECTIONS:
        write(tmp_path / "results" / f"{name}.json", name, [{"colour": "green"}, {}])
    page = made(tmp_path)
    assert pictures(page) == []
    assert page.count("| green |") == len(report.SECTIONS)


def test_rows_with_odd_values_end_in_no_traceback(tmp_path: Path) -> None:
    generator = random.Random(1)
    values: list[Any] = [None, True, 0, -1, 2.5, "$x^", "", [], [1.0], {}, {"a": 1}]
    for name, rows in ROWS.items():
        for row in rows:
            for key in generator.sample(sorted(row), 2):
                odd = {**row, key: generator.choice(values)}
                for plot in plots.PLOTS.get(name, ()):
                    if chosen := plots.rows_of(plot, [odd, row]):
                        plots.save(plot, chosen, tmp_path / "odd.svg")
                report.page({name: Result(name, {}, "", None, [odd, row])})


def test_details_are_in_the_table_only_where_rows_differ_in_them() -> None:
    row = forward_row(samples(2, 1), samples(4, 2))
    more = {**row, "queues": 2}
    assert "queues" not in report.table([row, row])[0]
    assert "| queues |" in report.table([row, more])[0]
    assert "samples" not in report.table([row, more])[0]


def test_machines_that_differ_are_told_apart(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(results / "xdp.json", "xdp", ROWS["xdp"], load_at_start=3.25)
    write(results / "lookup.json", "lookup", ROWS["lookup"], kernel="6.1")
    page = made(tmp_path)
    assert "Machine 2:" in page
    assert "bench lookup --seed 1` on machine 1;" in page
    assert "bench xdp --seed 1` on machine 2; seed 1, load at the start 3.25." in page


def test_a_peer_and_a_floor_have_lines_of_their_own() -> None:
    rows = [
        lookup_row(10**size, samples(20, size), peer="rte_hash", theirs=40.0 + size, floor=5.5)
        for size in (5, 4)
    ]
    lines = plots.curves(rows, "value")
    assert set(lines) == {"ours", "rte_hash", "floor"}
    assert [point.at for point in lines["rte_hash"]] == [10**4, 10**5]
    assert [point.value for point in lines["rte_hash"]] == [44.0, 45.0]


def test_other_kinds_of_a_row_have_lines_of_their_own() -> None:
    rows = [
        lookup_row(10**4, samples(20, 1), table=table, hit_percent=percent)
        for table in ("ours", "rte_hash")
        for percent in (0, 100)
    ]
    assert set(plots.curves(rows, "value")) == {
        f"hit_percent {percent}, {table}" for table in ("ours", "rte_hash") for percent in (0, 100)
    }


def test_a_broken_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    write(results / "xdp.json", "xdp", ROWS["xdp"])
    write(results / "xdp2.json", "xdp", ROWS["xdp"])
    with pytest.raises(ResultError, match="another file has the benchmark xdp"):
        made(tmp_path)
    (results / "xdp2.json").write_text("{")
    monkeypatch.setattr(report, "RESULTS", results)
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    ran = CliRunner().invoke(main, ["report"])
    assert (ran.exit_code, len(ran.output.splitlines())) == (2, 1)
    assert "xdp2.json: this is not JSON" in ran.output
    assert not (tmp_path / "docs").exists()


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    """Of this repository: `make report` was run since a result was measured."""
    page = report.write(report.RESULTS, tmp_path).read_text()
    assert (report.DOCS / report.PAGE).read_text() == page, "run `make report`"
    drawn = {path.name for path in (report.DOCS / report.PICTURES).glob("*.svg")}
    assert drawn == {f"{name}.svg" for name in pictures(page)}
