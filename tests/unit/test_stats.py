# SPDX-License-Identifier: BSD-2-Clause
"""Snapshots of the counters: sums over CPUs, differences, and the list of csrc/stats.h."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip.stats import COUNTERS, ENDINGS, NAMES, SENTENCES, Statistics
from tests.counters_stub import STUB, stub

HEADER = Path(__file__).parents[2] / "csrc" / "stats.h"
U64 = st.integers(0, 2**64 - 1)
ROWS = st.integers(1, 4).flatmap(
    lambda cpus: st.lists(
        st.lists(U64, min_size=cpus, max_size=cpus), min_size=len(NAMES), max_size=len(NAMES)
    )
)


def numbered(cpus: int) -> list[list[int]]:
    """A different value for each counter and CPU."""
    return [[100 * index + cpu for cpu in range(cpus)] for index in range(len(NAMES))]


def test_the_names_are_those_of_the_header_in_its_order() -> None:
    rows = re.findall(r"^\tX\((\w+), (?:(PASS|DROP|TX), )?\"(.+)\"\)", HEADER.read_text(), re.M)
    assert [(name, action.lower(), sentence) for name, action, sentence in rows] == list(COUNTERS)
    assert len(set(NAMES)) == len(NAMES)


def test_an_ending_has_an_action_and_a_side_counter_none() -> None:
    assert set(ENDINGS.values()) == {"pass", "drop", "tx"}
    assert set(NAMES) - set(ENDINGS) == {
        "socket_events_lost", "packet_events_lost", "socket_events", "handed_over",
        "loop_behind", "flood_copies", "flood_copies_lost", "fragments_sent", "fragments_lost",
        "tx_refused",
    }  # fmt: skip


@given(ROWS)
def test_a_snapshot_adds_up_what_each_cpu_counted(rows: list[list[int]]) -> None:
    snapshot = Statistics.from_per_cpu(rows)
    assert dict(snapshot.counters) == {name: sum(rows[i]) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("cpus", [0, 1, 3])
def test_any_number_of_cpus_will_do(cpus: int) -> None:
    snapshot = Statistics.from_per_cpu(numbered(cpus))
    assert snapshot[NAMES[2]] == sum(numbered(cpus)[2])


@pytest.mark.parametrize("count", [0, len(NAMES) - 1, len(NAMES) + 1])
def test_another_number_of_counters_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="counters, expected"):
        Statistics.from_per_cpu([[0]] * count)


def test_frames_are_the_endings_and_no_side_counter() -> None:
    ones = Statistics(dict.fromkeys(NAMES, 1))
    assert ones.frames == len(ENDINGS)
    assert Statistics({name: int(name not in ENDINGS) for name in NAMES}).frames == 0
    for name in ENDINGS:
        assert Statistics({other: int(other == name) for other in NAMES}).frames == 1


@given(ROWS)
def test_since_is_what_was_counted_between(rows: list[list[int]]) -> None:
    earlier = Statistics.from_per_cpu(numbered(2))
    grown = zip(NAMES, rows, strict=True)
    later = Statistics({name: earlier[name] + sum(row) for name, row in grown})
    risen = later.since(earlier)
    assert dict(risen.counters) == dict(Statistics.from_per_cpu(rows).counters)
    assert later.frames == earlier.frames + risen.frames


def test_since_itself_is_nothing() -> None:
    snapshot = Statistics.from_per_cpu(numbered(2))
    assert set(snapshot.since(snapshot).counters.values()) == {0}


def test_a_snapshot_does_not_change_and_knows_its_names_only() -> None:
    snapshot = Statistics.from_per_cpu(numbered(1))
    with pytest.raises(KeyError):
        snapshot["no_such_counter"]
    with pytest.raises(FrozenInstanceError):
        snapshot.counters = {}  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        snapshot.stray_forwarded = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del snapshot._counts
    assert not hasattr(snapshot, "__dict__")


def test_each_counter_is_an_attribute_with_its_sentence() -> None:
    snapshot = Statistics.from_per_cpu(numbered(3))
    for name in NAMES:
        assert getattr(snapshot, name) == snapshot[name]
        assert (inspect.getdoc(getattr(Statistics, name)) or "").startswith(SENTENCES[name])


def test_the_attributes_of_the_stub_are_those_of_the_header() -> None:
    assert STUB.read_text() == stub(), "run `make stubs`"


def test_a_snapshot_is_a_mapping_in_the_order_of_the_header() -> None:
    snapshot = Statistics.from_per_cpu(numbered(2))
    assert list(snapshot) == list(NAMES)
    assert dict(snapshot) == snapshot.as_dict() == json.loads(json.dumps(snapshot.as_dict()))
    snapshot.as_dict()["stray_forwarded"] = -1
    assert snapshot == Statistics(snapshot) == pickle.loads(pickle.dumps(snapshot))
    assert hash(snapshot) == hash(Statistics(snapshot))
    assert snapshot != snapshot.since(snapshot)
    assert repr(Statistics.from_per_cpu([[int(i == 1)] for i in range(len(NAMES))])) == (
        f"Statistics({NAMES[1]}=1)"
    )


@pytest.mark.parametrize("names", [NAMES[1:], (*NAMES, "no_such_counter")])
def test_missing_and_unknown_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="missing or unknown counters"):
        Statistics(dict.fromkeys(names, 0))
