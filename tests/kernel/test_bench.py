# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks run and write what the report reads; how fast they are is no test's business."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import forward, lookup, machine, overhead
from bench.world import NETNS_ROOT, PIN_ROOT, RUN_ROOT, names_in
from pyxdp_gossip import kernel_mounts

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0  # a machine under load; nothing here is measured


def leftovers(pid: int) -> list[str]:
    """What a benchmark of this process id has left."""
    places = (NETNS_ROOT, PIN_ROOT, RUN_ROOT, kernel_mounts.cgroup2_mount())
    return [
        f"{place}/{name}"
        for place in places
        for name in names_in(place)
        if name.split("-")[0] == f"xgbench{pid}"
    ]


def assert_compared(row: dict[str, Any]) -> None:
    """A comparison holds figures, or says why there are none."""
    for key in ("peer", "unit", "rounds", "bound_by"):
        assert row[key], key
    if row.get("note"):
        assert row["ratio"] is None
        return
    assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"], rel=0.01)
    assert 0 < row["min"] <= row["ours"] <= row["max"]
    assert 0 < row["theirs_min"] <= row["theirs"] <= row["theirs_max"]


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
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=ROOT)
    assert process.wait(PATIENCE_S) == 0
    result = json.loads(path.read_text())
    assert (result["bench"], result["seed"]) == ("xdp", 3)
    assert {row["what"] for row in result["rows"]} >= {"no service", "own session"}
    assert leftovers(process.pid) == []


def test_turns_are_even_and_go_back_and_forth() -> None:
    order = machine.turns(["a", "b", "c"], 4)
    assert order == [*"abc", *"cba", *"bca", *"acb"]


def test_forwarders_give_back_what_was_sent_and_ours_loses_nothing() -> None:
    rows = forward.run(3, forward.QUICK)
    assert {(row["forwarder"], row["peer"]) for row in rows} == set(forward.COMPARISONS)
    for row in rows:
        assert_compared(row)
        assert row["plane"] in ("xdp", "xsk")
        assert (row["queues"], row["frame_len"]) == (1, 60)
        assert row["entries"] == forward.QUICK.sessions
        if row["ratio"]:
            assert row["paced_returned"] > 0
            assert row["lost_inside"] == 0
    assert rows[0]["ratio"] is not None, "the XDP plane can always be measured"
    assert leftovers(os.getpid()) == []


def test_the_overhead_is_measured_with_an_agent_that_knows_the_sessions() -> None:
    rows = overhead.run(3, overhead.QUICK)
    expected = {(load.what, *pair) for load in overhead.LOADS for pair in overhead.COMPARISONS}
    assert {(row["what"], row["variant"], row["peer"]) for row in rows} == expected
    for row in rows:
        assert_compared(row)
        if row["what"] == "requests" and row["ratio"]:
            assert row["own_percent"] > 90
    assert leftovers(os.getpid()) == []


def test_an_interrupted_run_takes_everything_down_and_a_killed_one_is_cleared_later() -> None:
    argv = [sys.executable, "-m", "bench", "forward"]
    for how in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        while len(leftovers(process.pid)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(how)
        process.wait(PATIENCE_S)
        assert bool(leftovers(process.pid)) == (how == signal.SIGKILL)
    with forward.World("send"):
        assert leftovers(process.pid) == []
