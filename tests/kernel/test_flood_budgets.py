# SPDX-License-Identifier: BSD-2-Clause
"""The limits against storms: the two budgets of floods and the ring of packet events."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden import patched
from tests.golden_tunnel import tunnelled
from tests.kernel.conftest import connect as connect_link
from tests.kernel.dataplane_fixture import (
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.live_connection import segment
from tests.model import parse

Pair = tuple[Any, Any]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The host's namespace and the client's."""
    with own_namespaces() as make:
        yield make_pair(make, connect_link)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


ETHERNET_BYTES = 14
STORM = 200
BURST = 5  # floods at once; at one a second the budget is empty after them


def test_a_storm_of_new_misses_leaves_the_budget_of_seen_ones_alone(
    pair: Pair, family: int
) -> None:
    limits = {"flood_rate_pps": 1, "flood_new_rate_pps": 1, "flood_burst_s": float(BURST)}
    storm = [segment(family, 20000 + number, "A", 1, 1) for number in range(STORM)]
    with host_under_test(pair[0], **limits) as limited:
        limited.set_flood()
        (first,) = limited.run_all(storm[:1])
        assert first.ending == "miss_flooded"
        endings = [verdict.ending for verdict in limited.run_all(storm[1:])]
        assert endings[-1] == "miss_over_budget_new"
        assert endings.count("miss_flooded") < 2 * BURST
        again = [verdict.ending for verdict in limited.run_all(storm[-1:] * STORM)]
        assert again[:BURST] == ["miss_flooded"] * BURST
        assert again[-1] == "miss_over_budget_seen"


def test_a_misdirected_packet_counts_against_the_budget_of_seen_ones(
    pair: Pair, family: int
) -> None:
    limits = {"flood_rate_pps": 1, "flood_burst_s": float(BURST)}
    segments = (segment(family, 20000 + number, "A", 1, 1) for number in range(STORM))
    frames = [tunnelled(frame[ETHERNET_BYTES:]) for frame in segments]
    with host_under_test(pair[0], **limits) as limited:
        limited.set_flood()
        endings = [verdict.ending for verdict in limited.run_all(frames)]
    assert endings[0] == "misdirected_flooded"
    assert endings[-1] == "misdirected_dropped"


def test_a_full_ring_of_packet_events_is_counted(pair: Pair, family: int) -> None:
    room = (1 << 20) // 48  # a record is 40 bytes behind a header of 8
    frame = segment(family, 0, "A", 1, 1)
    at = parse(frame).l4
    ports = (struct.pack("!H", 1024 + number) for number in range(room + 50))
    with host_under_test(pair[0]) as host:
        host.run_unchecked([patched(frame, at, port) for port in ports])
        assert host.namespace.run(host.plane.statistics)["packet_events_lost"] >= 50
