# SPDX-License-Identifier: BSD-2-Clause
"""An own session that the kernel has just known goes on without a question, within one tick."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.golden_world import CLIENTS, OWN_HOST
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import (
    TCP_SLOTS,
    HostUnderTest,
    Pair,
    host_under_test,
    next_tick,
)
from tests.kernel.live_connection import Connection, connected, numbers
from tests.model import Entry

AHEAD = 1 << 20  # TRUSTED_AHEAD
TRIES = 50  # two test runs take microseconds, a tick milliseconds: the first try nearly always does
_ports = itertools.count(43000)
pair = dataplane_fixture.pair


@pytest.fixture(scope="module")
def host(pair: Pair) -> Iterator[HostUnderTest]:
    """The host's data path."""
    with host_under_test(pair[0]) as under_test:
        under_test.set_flood()
        yield under_test


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def live(pair: Pair, host: HostUnderTest, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """An established connection, of which the table says that it is this host's."""
    family, port = request.param, next(_ports)
    with connected(pair, family, port) as connection:
        host.put(CLIENTS[family], port, TCP_SLOTS[family], Entry(OWN_HOST))
        yield connection
        host.remove(CLIENTS[family], port, TCP_SLOTS[family])


def endings(host: HostUnderTest, *frames: bytes) -> list[str]:
    """Of some frames, right after each other, at the beginning of a tick."""
    next_tick()
    return [verdict.ending for verdict in host.run_all(list(frames))]


def test_what_continues_a_known_segment_is_passed_without_a_question(
    host: HostUnderTest, live: Connection
) -> None:
    end = numbers(live.server).write_seq
    known = live.segment("A")
    ahead = live.segment("PA", ack=end + AHEAD - 1)  # the kernel would refuse it
    assert endings(host, ahead) == ["miss_flooded"]
    found = [endings(host, known, ahead) for _ in range(TRIES)]
    assert ["passed_own", "passed_own"] in found
    assert {first for first, _ in found} == {"passed_own"}


def test_the_next_tick_asks_the_kernel_again(host: HostUnderTest, live: Connection) -> None:
    end = numbers(live.server).write_seq
    assert endings(host, live.segment("A")) == ["passed_own"]
    assert endings(host, live.segment("A", ack=end + 1)) == ["miss_flooded"]


@pytest.mark.parametrize("flags", ["FA", "RA", "FPA"])
def test_what_opens_or_closes_is_asked_for_always(
    host: HostUnderTest, live: Connection, flags: str
) -> None:
    end = numbers(live.server).write_seq
    found = endings(host, live.segment("A"), live.segment(flags, ack=end + 1))
    assert found == ["passed_own", "miss_flooded"]


def test_an_acknowledgement_far_ahead_or_behind_is_asked_for(
    host: HostUnderTest, live: Connection
) -> None:
    end = numbers(live.server).write_seq
    for ack in (end + AHEAD, end - 2**20, end + 2**31):
        found = endings(host, live.segment("A"), live.segment("A", ack=ack))
        assert found == ["passed_own", "miss_flooded"]
