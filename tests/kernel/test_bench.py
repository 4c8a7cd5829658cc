# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks run and write what the report reads; how fast they are is no test's business."""

import json
import random
import subprocess
import sys
from pathlib import Path

from bench import lookup


def test_a_look_up_row_says_what_was_measured() -> None:
    rows = lookup.measure(4, 1000, random.Random(1))
    assert [row["hit_percent"] for row in rows] == [100, 50, 0]
    for row in rows:
        assert row["entries"] == 1000
        assert row["memory"] == "anonymous"
        assert 0 < row["min"] <= row["value"] <= row["max"]


def test_the_xdp_benchmark_writes_its_rows_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "xdp.json"
    argv = [sys.executable, "-m", "bench", "xdp", "--json", str(path), "--seed", "3"]
    subprocess.run(argv, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    result = json.loads(path.read_text())
    assert (result["bench"], result["seed"]) == ("xdp", 3)
    assert {row["what"] for row in result["rows"]} >= {"no service", "own session"}
    names = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
    assert "xgbench" not in names
