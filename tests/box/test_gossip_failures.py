# SPDX-License-Identifier: BSD-2-Clause
"""Partitions, killed and stopped agents among eight hosts: the tables come to equal the sockets."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.table_truth import LIMIT_S, POLL_S, wait_truth
from tests.box.traffic import lost

MakeBox = Callable[..., Box]
Fetch = Callable[[Box, int, int], list[int]]

HOSTS = 8
SIDES = ((1, 2, 3, 4), (5, 6, 7, 8))
CONNECTIONS = 120
SHORT = 80
FEW = 24  # three for each host
GOSSIP_PORT = 7946
STOPPED_S = 5.0
SMALL = {"table": {"sessions_v4": 4096, "sessions_v6": 4096}}


@contextmanager
def gossip_parted(box: Box) -> Iterator[None]:
    """Hosts of one side hear no gossip of the other's; all else goes through."""
    with ExitStack() as stack:
        for side, others in (SIDES, SIDES[::-1]):
            addresses = ", ".join(names.host_address(host).ipv4 for host in others)
            rule = f"ip saddr {{ {addresses} }} udp dport {GOSSIP_PORT}"
            for host in side:
                stack.enter_context(lost(box, box.host_namespace(host), "input", rule))
        yield


def wait_states(box: Box, teller: int, hosts: tuple[int, ...], state: str) -> None:
    """Until an agent says the same of all these hosts."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        said = box.agent_stats(teller)["members"]
        if all(said.get(str(host)) == state for host in hosts):
            return
        assert time.monotonic() < deadline, f"host {teller}: {said}, not {state}"
        time.sleep(POLL_S)


@pytest.fixture
def pop(make_box: MakeBox) -> Iterator[Pop]:
    """Eight hosts with an agent each."""
    made = Pop(make_box(hosts=HOSTS), AGENTS, SMALL)
    yield made
    made.close()


def test_a_partition_of_the_gossip_heals(pop: Pop, fetch: Fetch) -> None:
    box = pop.box
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=1) as crowd:
        with gossip_parted(box):
            # Their programs answer probes: nobody is dead, and strays still go to everybody.
            wait_states(box, 1, SIDES[1], "silent")
            wait_states(box, 8, SIDES[0], "silent")
            crowd.wait_ready()
            change_hops(box, 3, 1, crowd)
            assert len(fetch(box, 4, SHORT)) == SHORT
        wait_states(box, 1, SIDES[1], "alive")
        wait_states(box, 8, SIDES[0], "alive")
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, 3, 2, crowd)
        assert_nothing_broke(crowd.finish())
    assert wait_truth(box) == 0


def test_each_agent_is_killed_and_started_again(pop: Pop, fetch: Fetch) -> None:
    box = pop.box
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=2) as crowd:
        crowd.wait_ready()
        for host in box.host_ids:
            box.kill_agent(host)
            assert len(fetch(box, 4, FEW)) == FEW  # some open and close there, untold
            box.start_agent(host, SMALL)
            crowd.wait_report()
            assert crowd.broken_so_far() == 0, f"host {host}"
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, 3, 3, crowd)
        assert_nothing_broke(crowd.finish())
    assert wait_truth(box) == 0


def test_an_agent_that_was_stopped_catches_up(pop: Pop, fetch: Fetch) -> None:
    box = pop.box
    stopped = box.host_ids[1]
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=3) as crowd:
        crowd.wait_ready()
        box.freeze_agent(stopped)
        end = time.monotonic() + STOPPED_S
        wait_states(box, 1, (stopped,), "silent")
        while time.monotonic() < end:
            assert len(fetch(box, 4, SHORT)) == SHORT
            crowd.wait_report()
        change_hops(box, 2, 4, crowd)
        box.thaw_agent(stopped)
        wait_states(box, 1, (stopped,), "alive")
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, 3, 5, crowd)
        assert_nothing_broke(crowd.finish())
    assert wait_truth(box) == 0
