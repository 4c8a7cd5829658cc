# SPDX-License-Identifier: BSD-2-Clause
"""The benchmark of strays measures what it says; how fast that is, is no test's business."""

import os
from pathlib import Path
from typing import Any

import pytest

from bench import machine, report, result_file, stray, xdp
from bench.result_file import Result
from tests.kernel.test_bench import leftovers

WHATS = [stray.SYN, stray.SEGMENT, stray.HASH]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return xdp.run(3, xdp.QUICK)  # a run that ends otherwise, or finds nothing, is an error


def test_strays_are_measured_beside_a_look_up_in_the_kernels_hash(
    rows: list[dict[str, Any]],
) -> None:
    compared = [row for row in rows if "peer" in row]
    names = [(row["order"], row["what"]) for row in compared]
    assert names == [(order, what) for order in stray.ORDERS for what in WHATS]
    for row in compared:
        assert (row["peer"], row["entries"]) == ("LRU_HASH", xdp.QUICK.sessions)
        assert len(row["samples"]) == len(row["theirs_samples"]) == xdp.QUICK.rounds
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["raw"] > 0
        assert row["theirs_raw"] > 0
    assert [row["what"] for row in compared if "target" in row] == [stray.SYN, stray.SEGMENT]
    assert len(result_file.identities(rows)) == len(rows)


def test_the_report_has_a_plot_of_them(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    described = machine.describe()
    result_file.write(tmp_path / "xdp.json", Result("xdp", described, "made up", 3, rows))
    page = report.write(tmp_path, tmp_path / "docs").read_text()
    assert "benchmarks/xdp_stray.svg" in page
    assert stray.SEGMENT in (tmp_path / "docs" / "benchmarks" / "xdp_stray.svg").read_text()


def test_runs_that_do_not_end_as_a_strays_are_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stray, "OWNERS", range(1, 2))  # the host itself: nothing is a stray
    with pytest.raises(RuntimeError, match="segment of a stray: 0 of 1000 runs ended as they"):
        xdp.run(3, xdp.QUICK)
    assert leftovers(os.getpid()) == []
