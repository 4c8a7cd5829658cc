# SPDX-License-Identifier: BSD-2-Clause
"""Wrong and missing table entries cost a hop or a flood, never a connection, and heal."""

import time
from collections.abc import Iterator

import pytest

from pyxdp_gossip.popbox import Box
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.traffic import Connection, RawClient, hide_raw_ports, lost, session_of, wait_for

GOSSIP = "udp dport 7946"  # for a rule of nftables
STALE_SEGMENTS = 4
STALE_PAUSE_S = 0.15


@pytest.fixture(scope="module")
def pop() -> Iterator[Pop]:
    with Box(hosts=3) as box:
        hide_raw_ports(box)
        made = Pop(box, AGENTS)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture
def connection(pop: Pop, family: int) -> Iterator[Connection]:
    """A connection that host 1 owns and every table knows."""
    pop.box.set_next_hops([1])
    made = Connection(pop.box, family).connect()
    assert made.ask() == 1
    pop.wait_owner(session_of(made.port, family), 1)
    yield made
    made.close()


def test_an_entry_that_names_a_wrong_host_costs_a_hop_and_heals(
    pop: Pop, connection: Connection, family: int
) -> None:
    box = pop.box
    session = session_of(connection.port, family)
    misdirected = pop.count(3, "misdirected_flooded")
    brought = pop.count(1, "delivered_flood")
    told = box.agent_stats(3)["gossip"]["not_mine_sent"]
    pop.lie(2, session, 3)
    assert pop.owners(session) == {1, 3}
    with nothing_misdelivered(box):
        box.set_next_hops([2])
        assert connection.ask() == 1
        assert pop.count(3, "misdirected_flooded") > misdirected
        assert pop.count(1, "delivered_flood") > brought
        pop.ask_until_healed(connection, session, 1)
        wait_for(
            "host 3 has told host 2",
            lambda: box.agent_stats(3)["gossip"]["not_mine_sent"] > told,
        )
        misdirected = pop.count(3, "misdirected_flooded")
        forwarded = pop.count(2, "stray_forwarded")
        assert connection.ask() == 1
        assert pop.count(2, "stray_forwarded") > forwarded
        assert pop.count(3, "misdirected_flooded") == misdirected


def test_the_owners_own_stale_entry_does_not_steal_its_session(
    pop: Pop, connection: Connection, family: int
) -> None:
    box = pop.box
    session = session_of(connection.port, family)
    kept = pop.count(1, "passed_stale_entry")
    pop.lie(1, session, 2)
    with nothing_misdelivered(box):
        assert connection.ask() == 1
        assert pop.count(1, "passed_stale_entry") > kept
        pop.ask_until_healed(connection, session, 1)


def test_a_session_that_all_tables_give_to_a_wrong_host_is_claimed_again(
    pop: Pop, connection: Connection, family: int
) -> None:
    box = pop.box
    session = session_of(connection.port, family)
    for host in box.host_ids:
        pop.lie(host, session, 2)
    assert pop.owners(session) == {2}
    brought = pop.count(1, "delivered_flood")
    with nothing_misdelivered(box):
        box.set_next_hops([3])
        assert connection.ask() == 1
        assert pop.count(1, "delivered_flood") > brought
        pop.ask_until_healed(connection, session, 1)


def test_a_session_that_no_table_knows_is_flooded_and_claimed(
    pop: Pop, connection: Connection, family: int
) -> None:
    box = pop.box
    session = session_of(connection.port, family)
    for host in box.host_ids:
        pop.forget(host, session)
    assert pop.owners(session) == {None}
    flooded = pop.count(2, "miss_flooded")
    with nothing_misdelivered(box):
        box.set_next_hops([2])
        assert connection.ask() == 1
        assert pop.count(2, "miss_flooded") > flooded
        pop.ask_until_healed(connection, session, 1)


def test_segments_of_another_connection_take_no_session_from_its_owner(
    pop: Pop, family: int
) -> None:
    box = pop.box
    port = 20000 + family
    session = session_of(port, family)
    box.set_next_hops([1])
    with nothing_misdelivered(box), RawClient(box, port, family) as client:
        client.connect()
        assert client.ask() == 1
        pop.wait_owner(session, 1)
        box.set_next_hops([2])
        told = pop.count(2, "stray_forwarded", "miss_flooded")
        for _ in range(STALE_SEGMENTS):  # long enough apart for a question and its answers
            client.send_stale_ack()
            time.sleep(STALE_PAUSE_S)
        assert pop.count(2, "stray_forwarded", "miss_flooded") >= told + STALE_SEGMENTS
        assert pop.count(2, "passed_unowned") == 0
        assert client.ask() == 1


def test_sessions_whose_gossip_was_lost_are_flooded_and_known_later(pop: Pop) -> None:
    box = pop.box
    box.set_next_hops([1, 3, 2])
    flooded = pop.count(2, "miss_flooded")
    with nothing_misdelivered(box), lost(box, box.host_namespace(2), "input", GOSSIP):
        crowd = Crowd(box, connections=60, seed=3)
        crowd.wait_ready()
        box.set_next_hops([2, 1, 3])
        crowd.wait_report()
        crowd.wait_report()
        change_hops(box, 2, 5, crowd)
        assert pop.count(2, "miss_flooded") > flooded
    with nothing_misdelivered(box), crowd:
        forwarded = pop.count(2, "stray_forwarded")
        box.set_next_hops([2])
        wait_for(
            "host 2 sends strays to their owners again",
            lambda: pop.count(2, "stray_forwarded") > forwarded,
        )
        change_hops(box, 2, 6, crowd)
        assert_nothing_broke(crowd.finish())


def test_sessions_of_which_half_of_the_gossip_is_lost_are_known_from_repairs(pop: Pop) -> None:
    box = pop.box
    half = f"{GOSSIP} numgen random mod 2 == 0"
    late = box.agent_stats(2)["gossip"]["batches_late"]
    with nothing_misdelivered(box), lost(box, box.host_namespace(2), "input", half):
        box.set_next_hops([1, 3, 2])
        with Crowd(box, connections=60, seed=3) as crowd:
            crowd.wait_ready()
            forwarded = pop.count(2, "stray_forwarded")
            change_hops(box, 2, 5, crowd)
            assert pop.count(2, "stray_forwarded") > forwarded
            assert_nothing_broke(crowd.finish())
    assert box.agent_stats(2)["gossip"]["batches_late"] > late


def test_an_agent_that_lags_believes_no_closed_session(pop: Pop, family: int) -> None:
    box = pop.box
    port = 20010 + family
    session = session_of(port, family)
    with nothing_misdelivered(box), lost(box, box.host_namespace(1), "input", GOSSIP):
        box.set_next_hops([2])
        with RawClient(box, port, family) as older:
            older.connect()
            assert older.ask() == 2
            wait_for("host 2 owns it", lambda: pop.maps(2).entry(session) is not None)
            box.freeze_agent(2)
            older.send("FA")
            older.expect_fin()
            seq = older.seq + 100000
        with RawClient(box, port, family) as newer:
            newer.seq = seq & 0xFFFFFFFF
            box.set_next_hops([1])
            newer.connect()
            assert newer.ask() == 1
            box.set_next_hops([2])
            try:
                assert newer.ask() == 1
            finally:
                box.thaw_agent(2)
