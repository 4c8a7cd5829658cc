# SPDX-License-Identifier: BSD-2-Clause
"""The loop of an agent that is frozen or killed: the XDP program takes over, and hands back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest

from pyxdp_gossip.popbox import Box
from tests.box.pop import AGENTS, Pop, nothing_misdelivered
from tests.box.traffic import Connection, session_of, wait_for

MakeBox = Callable[..., Box]

OWNER, OTHER = 1, 2
STALE_S = 2.5  # more than the loop's own limit of two seconds


@pytest.fixture
def pop(make_box: MakeBox) -> Pop:
    """Two hosts with agents on the AF_XDP plane."""
    made = Pop(make_box(hosts=2), AGENTS)
    assert made.box.agent_stats(OTHER)["mode"] == "copy"
    return made


def connect_to(pop: Pop, host: int) -> Connection:
    """A connection that one host owns, whose packets then go to the other one."""
    pop.box.set_next_hops([host])
    connection = Connection(pop.box).connect()
    assert connection.ask() == host
    pop.wait_owner(session_of(connection.port), host)
    pop.box.set_next_hops([OTHER])
    return connection


def ask_until(connection: Connection, what: str, done: Callable[[], bool]) -> None:
    """Keeps packets coming until something has happened; the owner answers each time."""

    def asked() -> bool:
        assert connection.ask() == OWNER
        return done()

    wait_for(what, asked)


def test_a_frozen_loop_is_taken_over_from_and_handed_back_to(pop: Pop) -> None:
    box = pop.box
    with nothing_misdelivered(box), closing(connect_to(pop, OWNER)) as connection:
        ask_until(connection, "strays by the loop", lambda: pop.count(OTHER, "handed_over") > 0)
        assert pop.count(OTHER, "loop_behind") == 0
        box.freeze_agent(OTHER)
        begin = time.monotonic()
        ask_until(
            connection,
            "the program's own strays",
            lambda: pop.count(OTHER, "loop_behind") > 0 and time.monotonic() - begin > STALE_S,
        )
        waiting = pop.count(OTHER, "handed_over")
        box.thaw_agent(OTHER)
        ask_until(
            connection,
            "strays by the loop again",
            lambda: pop.count(OTHER, "handed_over") > waiting,
        )
        wait_for("what lay in the ring is dropped", lambda: pop.count(OTHER, "loop_stale") > 0)
        assert pop.count(OTHER, "loop_lost", "tx_refused") == 0


def test_a_killed_loop_costs_no_connection_and_is_counted(pop: Pop) -> None:
    box = pop.box
    with nothing_misdelivered(box), closing(connect_to(pop, OWNER)) as connection:
        ask_until(connection, "strays by the loop", lambda: pop.count(OTHER, "handed_over") > 0)
        box.freeze_agent(OTHER)  # so that something surely lies in its ring
        ask_until(
            connection, "the program's own strays", lambda: pop.count(OTHER, "loop_behind") > 0
        )
        box.kill_agent(OTHER)
        before = pop.count(OTHER, "stray_forwarded")
        ask_until(
            connection,
            "strays without an agent",
            lambda: pop.count(OTHER, "stray_forwarded") > before,
        )
        box.start_agent(OTHER)
        pop.reopen(OTHER)
        handed = pop.count(OTHER, "handed_over")
        ask_until(
            connection, "strays by the new loop", lambda: pop.count(OTHER, "handed_over") > handed
        )
        assert pop.count(OTHER, "loop_lost") > 0, "the next loop counts what this one left"
