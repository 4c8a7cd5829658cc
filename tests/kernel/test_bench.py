# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks run and write what the report reads; how fast they are is no test's business."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import (
    formats,
    forward,
    gossip,
    gossip_figures,
    instructions,
    lookup,
    machine,
    overhead,
    report,
    sharing,
)
from bench.world import NETNS_ROOT, PIN_ROOT, RUN_ROOT, names_in
from pyxdp_gossip import kernel_mounts
from pyxdp_gossip.encapsulation import ENCAPSULATIONS

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


@pytest.mark.parametrize("family", [4, 6])
def test_a_look_up_row_says_what_was_measured(family: int) -> None:
    rows = lookup.measure(family, 1000, 1, rounds=2)  # each answer is checked as it is given
    kinds = [(row["what"], row["hit_percent"]) for row in rows]
    whole = [("forward", 100)] if family == 4 else []
    assert kinds == [("look up", 100), *whole, ("look up", 50), ("look up", 0)]
    for row in rows:
        assert (row["entries"], row["pages"], len(row["samples"])) == (1000, "huge", 2)
        assert 0 < row["min"] <= row["value"] <= row["max"]
        assert row["bytes_when_full"] == pytest.approx(20 if family == 4 else 40, rel=0.01)
        if row["ratio"] is None:
            assert row["note"] == lookup.NO_PEER
        else:
            assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]


def test_a_strays_instructions_are_counted() -> None:
    row = instructions.measure("forward", 64, 1000)  # each frame is checked to be a stray
    if row["value"] is None:
        assert row["note"] == instructions.NO_VALGRIND
        return
    assert 0 < row["mispredicted"] < row["branches"]
    assert row["branches"] + row["loads"] + row["stores"] < row["value"]
    assert row["lines_missed_l3"] < row["lines_missed_l1"]  # all of it fits the outer cache


def test_readers_that_share_a_table_are_compared_with_one_alone() -> None:
    rows = sharing.measure(1000, 1, 2)  # each answer is checked as it is given
    assert [row["what"] for row in rows] == [
        "beside writer", "beside reader", "small pages", "map",
    ]  # fmt: skip
    assert 0 < rows[0]["updates_a_s"] < 1.2 * 1_000_000
    for row in rows:
        assert (row["entries"], row["unit"], len(row["theirs_samples"])) == (1000, "ns per key", 2)
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]


def test_the_xdp_benchmark_writes_its_rows_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "xdp.json"
    quickly = "from bench import __main__, xdp; xdp.FULL = xdp.QUICK; __main__.main()"
    argv = [sys.executable, "-c", quickly, "xdp", "--json", str(path), "--seed", "3"]
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
    expected = {(1, *pair) for pair in forward.COMPARISONS}
    expected |= {(2, *pair) for pair in forward.TWO_QUEUE_COMPARISONS}
    assert {(row["queues"], row["forwarder"], row["peer"]) for row in rows} == expected
    for row in rows:
        assert_compared(row)
        assert row["plane"] in ("xdp", "xsk")
        assert row["frame_len"] == 60
        assert row["entries"] == forward.QUICK.sessions
        if row["ratio"]:
            assert row["paced_returned"] > 0
            assert row["lost_inside"] == 0
    assert rows[0]["ratio"] is not None, "the XDP plane can always be measured"
    assert leftovers(os.getpid()) == []


def test_each_tunnel_format_gives_back_what_was_sent() -> None:
    rows = formats.run(3, forward.QUICK, ["xdp"])
    assert len(rows) == 5
    for row in rows:
        assert_compared(row)
        assert row["ratio"] is not None
        assert row["lost_inside"] == 0


def test_the_overhead_is_measured_with_an_agent_that_knows_the_sessions() -> None:
    rows = overhead.run(3, overhead.QUICK)
    expected = {(load.what, *pair) for load in overhead.LOADS for pair in overhead.COMPARISONS}
    assert {(row["what"], row["variant"], row["peer"]) for row in rows} == expected
    assert {row["encapsulation"] for row in rows} == set(ENCAPSULATIONS)
    heading = report.table(rows)[0]
    assert heading.startswith("| what | variant | encapsulation | peer |"), heading
    for row in rows:
        assert_compared(row)
        if row["what"] == "requests" and row["ratio"]:
            assert row["own_percent"] > 90
    assert leftovers(os.getpid()) == []


GOSSIP_ROWS = {
    "apply": ["10 M/s"],
    "encode": ["10 M/s", "10 M/s"],
    "end_to_end": ["5 M/s"],
    "wire_bytes": ["<= 9.5"],
    "latency": [*["p99 <= 3 ms"] * 3, "median <= 0.5 ms"],
    "loss": ["p99.9 <= 25 ms, nothing missing", "nothing missing after it ends"],
    "death": ["median <= 500 ms, p99 <= 800 ms", "0"],
    "join": ["<= 0.4 s", "<= 100 MB", "", "", ""],
    "idle": ["<= 3 % at 100 hosts"],
    "conntrackd": [
        *["faster than conntrackd"] * 2,
        *["less than conntrackd"] * 6,
        *["faster than conntrackd"] * 2,
    ],
}
"""What is measured of the gossip, and the targets of its rows."""


@pytest.mark.parametrize("part", gossip.PARTS)
def test_each_part_of_the_gossip_benchmark_has_its_rows(part: str) -> None:
    rows = gossip.run(3, gossip_figures.QUICK, gossip.Options([part]))
    assert [row["what"] for row in rows] == [part] * len(rows)
    assert [row["target"] for row in rows] == GOSSIP_ROWS[part]
    assert all(row["unit"] and row["value"] >= 0 for row in rows)
    assert next(row for row in rows if "case" not in row) is rows[0]
    for row in rows:
        if part in ("latency", "loss"):
            assert row["missing"] == 0
            assert row["p50"] <= row["p99"] <= row["p999"] <= row["max"]
            assert row["poll_p50"] > 0, "how exact it is"
    if part in ("end_to_end", "join"):
        assert rows[0].get("lost", 0) == 0
        assert rows[0]["value"] > 0
    if part == "wire_bytes":
        assert 8 < rows[0]["value"] < 10, "eight bytes of each session, and the headers' share"


def test_percentiles_are_samples_and_none_of_nothing() -> None:
    assert gossip_figures.percentiles([3.0, 1.0, 2.0]) == {
        "p50": 2.0, "p99": 3.0, "p999": 3.0, "max": 3.0,
    }  # fmt: skip
    thousand = [float(number) for number in range(1, 1001)]
    assert gossip_figures.percentiles(thousand) == {
        "p50": 500.0, "p99": 990.0, "p999": 999.0, "max": 1000.0,
    }  # fmt: skip
    assert set(gossip_figures.percentiles([]).values()) == {None}


def test_a_part_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="no part 'speed'; the parts are apply, encode"):
        gossip.run(3, gossip_figures.QUICK, gossip.Options(["speed"]))


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
