# SPDX-License-Identifier: BSD-2-Clause
"""Idle claims of the application, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip.claims import RELEASED_AT_ONCE, Claims
from pyxdp_gossip.gossip.records import EventKind, EventRecord, unpack_records

IDLE = 300
MANY = 1 << 30


def record(number: int, family: int = 4) -> EventRecord:
    address = number.to_bytes(4).ljust(16, b"\0") if family == 4 else number.to_bytes(16)
    return EventRecord(EventKind.OPEN, family, 7, 1 + number % 65535, 0, 0, 0, address, 5)


def closed(claims: Claims, now: int) -> list[EventRecord]:
    return unpack_records(claims.take_idle(now), MANY)


@pytest.mark.parametrize("family", [4, 6])
def test_a_claim_ends_when_its_time_is_over_and_not_before(family: int) -> None:
    claims = Claims(IDLE, MANY)
    claims.keep(record(1, family), 1000)
    assert closed(claims, 1000 + IDLE - 1) == []
    ended = replace(record(1, family), kind=EventKind.CLOSE, at=1000 + IDLE)
    assert closed(claims, 1000 + IDLE) == [ended]
    assert (closed(claims, 5000), len(claims)) == ([], 0)


def test_who_claims_again_keeps_it() -> None:
    claims = Claims(IDLE, MANY)
    claims.keep(record(1), 0)
    claims.keep(record(2), 100)
    claims.keep(record(1), 200)
    assert [one.client_port for one in closed(claims, 100 + IDLE)] == [3]
    assert [one.client_port for one in closed(claims, 200 + IDLE)] == [2]


def test_what_was_released_does_not_end_again() -> None:
    claims = Claims(IDLE, MANY)
    claims.keep(record(1), 0)
    claims.drop(record(1))
    claims.drop(record(2))
    assert (closed(claims, IDLE), len(claims)) == ([], 0)


def test_without_a_timeout_nothing_ends_and_nothing_is_kept() -> None:
    claims = Claims(0, MANY)
    claims.keep(record(1), 0)
    assert (closed(claims, 1 << 62), len(claims)) == ([], 0)


def test_beyond_its_room_the_oldest_end() -> None:
    claims = Claims(IDLE, 2)
    for number in range(5):
        claims.keep(record(number), number)
    assert [one.client_port for one in closed(claims, 5)] == [1, 2, 3]
    assert len(claims) == 2


def test_a_crowd_that_ends_at_once_takes_several_turns() -> None:
    claims = Claims(IDLE, MANY)
    numbers = range(2 * RELEASED_AT_ONCE + 1)
    for number in numbers:
        claims.keep(record(number), 0)
    turns = [len(closed(claims, IDLE)) for _ in range(4)]
    assert turns == [RELEASED_AT_ONCE, RELEASED_AT_ONCE, 1, 0]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.one_of(
                st.tuples(st.just("keep"), st.integers(0, 9)),
                st.tuples(st.just("drop"), st.integers(0, 9)),
                st.just(("take", 0)),
            ),
        ),
        max_size=60,
    )
)
def test_it_does_what_a_plain_dictionary_of_deadlines_does(
    steps: list[tuple[int, tuple[str, int]]],
) -> None:
    claims, deadlines, now = Claims(IDLE // 10, MANY), {}, 0
    for pause, (what, number) in steps:
        now += pause
        if what == "keep":
            claims.keep(record(number), now)
            deadlines[number] = now + IDLE // 10
        elif what == "drop":
            claims.drop(record(number))
            deadlines.pop(number, None)
        else:
            due = {number for number, deadline in deadlines.items() if deadline <= now}
            assert {one.client_port - 1 for one in closed(claims, now)} == due
            deadlines = {one: at for one, at in deadlines.items() if one not in due}
        assert len(claims) == len(deadlines)
