# SPDX-License-Identifier: BSD-2-Clause
"""Ten restarts of each of four agents under load: no connection breaks, no stray is lost by us."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from pyxdp_gossip.popbox import Box
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, nothing_misdelivered
from tests.box.traffic import wait_for

MakeBox = Callable[..., Box]

HOSTS = 4
RESTARTS = 10
CONNECTIONS = 100
# Two of three restarts are upgrades or crashes, as they are in life; a host that leaves is
# withdrawn first, since its programs are off until it is back.
KINDS = ("upgrade", "crash", "crash", "leave")
LOST = ("loop_lost", "loop_stale", "tx_refused")
BURST = 64  # what a loop may have in hand when it is killed


def restart(pop: Pop, host: int, kind: str) -> None:
    """Ends an agent in one of the ways, and starts it again; asserts that nothing was lost."""
    box = pop.box
    others = [number for number in box.host_ids if number != host]
    before = pop.count(host, *LOST)
    if kind == "leave":
        box.set_next_hops(others)
        assert box.stop_agent(host) == 0
        before = 0  # its counters went with it
    elif kind == "upgrade":
        assert box.agent(host).stop(signal.SIGHUP) == 0
    else:
        box.kill_agent(host)
    box.start_agent(host)
    pop.reopen(host)
    box.set_next_hops([*others, host])
    lost = pop.count(host, *LOST) - before
    assert lost <= (BURST if kind == "crash" else 0), f"{kind} of host {host}: {lost} frames lost"


@pytest.mark.timeout(600)
def test_ten_restarts_of_each_host_break_nothing(make_box: MakeBox) -> None:
    box = make_box(hosts=HOSTS)
    pop = Pop(box, AGENTS)
    try:
        with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=1) as crowd:
            crowd.wait_ready()
            for number in range(RESTARTS):
                kind = KINDS[number % len(KINDS)]
                for host in box.host_ids:
                    restart(pop, host, kind)
                    crowd.wait_report()
                    assert crowd.broken_so_far() == 0, f"{kind} of host {host}, round {number}"
            wait_for(
                "every loop has strays again",
                lambda: all(pop.maps(h).counters()["handed_over"] for h in box.host_ids),
            )
            assert_nothing_broke(crowd.finish())
    finally:
        pop.close()
