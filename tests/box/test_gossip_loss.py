# SPDX-License-Identifier: BSD-2-Clause
"""Gossip that is lost among eight hosts: afterwards every table equals all kernels' sockets."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pyxdp_gossip.popbox import Box
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.table_truth import differences, wait_truth
from tests.box.traffic import Connection, lost, session_of

MakeBox = Callable[..., Box]
Fetch = Callable[[Box, int, int], list[int]]

HOSTS = 8
CONNECTIONS = 120
SHORT = {4: 120, 6: 40}  # connections that open and close while gossip is lost
GOSSIP_PORT = 7946
SMALL = {"table": {"sessions_v4": 4096, "sessions_v6": 4096}}
CHANGES = 4
CERTAIN_LOSS = 10  # percent: every host missed something


@contextmanager
def gossip_lost(box: Box, percent: int) -> Iterator[None]:
    """Each host loses such a share of the gossip datagrams that come to it."""
    rule = f'iifname "eth0" udp dport {GOSSIP_PORT} numgen random mod 100 < {percent}'
    with ExitStack() as stack:
        for host in box.host_ids if percent else ():
            stack.enter_context(lost(box, box.host_namespace(host), "input", rule))
        yield


@pytest.fixture
def pop(make_box: MakeBox) -> Iterator[Pop]:
    """Eight hosts with an agent each."""
    made = Pop(make_box(hosts=HOSTS), AGENTS, SMALL)
    yield made
    made.close()


@pytest.mark.parametrize("percent", [0, 1, 10, 30])
def test_tables_equal_the_sockets_after_gossip_was_lost(
    pop: Pop, fetch: Fetch, percent: int
) -> None:
    box = pop.box
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=percent + 1) as crowd:
        with gossip_lost(box, percent):
            crowd.wait_ready()
            for family, count in SHORT.items():
                assert len(fetch(box, family, count)) == count
            change_hops(box, CHANGES, percent + 1, crowd)
            for family, count in SHORT.items():
                assert len(fetch(box, family, count)) == count
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, CHANGES, percent + 2, crowd)
        assert_nothing_broke(crowd.finish())
    assert wait_truth(box) == 0
    missed = [box.agent_stats(host)["gossip"]["batches_missed"] for host in box.host_ids]
    assert percent < CERTAIN_LOSS or all(missed), "nothing was lost: the test shows nothing"


def test_the_comparison_sees_what_is_missing_wrong_and_extra(make_box: MakeBox) -> None:
    box = make_box(hosts=2)
    pop = Pop(box, AGENTS, SMALL)
    try:
        box.set_next_hops([1])
        connections = [Connection(box, family).connect() for family in (4, 4, 6)]
        assert [connection.ask() for connection in connections] == [1, 1, 1]
        assert wait_truth(box) == len(connections)
        for host in box.host_ids:
            box.kill_agent(host)  # nobody mends what follows
        pop.forget(2, session_of(connections[0].port))
        pop.lie(2, session_of(connections[1].port), 2)
        pop.lie(2, session_of(1, family=6), 1)
        assert differences(box) == ["host 2: 1 of 3 missing, 1 wrong, 1 extra"]
        for connection in connections:
            connection.close()
    finally:
        pop.close()
