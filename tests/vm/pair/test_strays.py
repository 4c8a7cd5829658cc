# SPDX-License-Identifier: BSD-2-Clause
"""Strays between two kernels: known by real gossip, sent by zero-copy loops, each accounted for."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.pair.world import QUEUES, Change, Pair, deliver, wait_for

FLOWS = 16  # that a queue gets none of them: once in 2^15
MSS = 256
TIMESTAMPS = 12  # bytes of each segment
MOST_AT_ONCE = 100_000  # bytes of a connection; all together fit the taps' queues
LOSSES = ("rx_dropped", "rx_invalid", "rx_full", "fill_empty", "tx_invalid")


@pytest.mark.parametrize(
    "packets",
    [pytest.param(20_000, marks=pytest.mark.core), pytest.param(200_000)],
)
def test_strays_arrive_and_every_frame_is_accounted_for(pop: Pair, packets: int) -> None:
    with pop.connections(FLOWS, MSS) as made:
        a, b = (Change(host) for host in pop.hosts)
        losses = [socket_losses(pop, number) for number in range(2)]
        dropped = [pop.tap_drops(host) for host in pop.hosts]
        pop.route(pop.a)
        share = packets * (MSS - TIMESTAMPS) // FLOWS
        with ThreadPoolExecutor(FLOWS) as threads:
            list(threads.map(lambda numbered: upload(*numbered, share), enumerate(made)))
        lost = pop.tap_drops(pop.b) - dropped[1]
        wait_for(lambda: a.look().sent() == b.look().tunnelled() + lost, "all to arrive")
    assert a.program["stray_forwarded"] >= packets
    assert a.program["stray_forwarded"] == a.sent(), a.program
    assert b.program["delivered_stray"] == b.tunnelled(), b.program
    # the program sends by itself while a loop is behind, and this driver drops that: counted
    behind = a.program["loop_behind"]
    assert a.program["handed_over"] + behind == a.program["stray_forwarded"]
    assert a.driver.get("tx_xdp_tx_drops", 0) == behind == 0
    for change in (a, b):
        change.check_that_each_frame_ended()
    a.check_the_loops()
    assert [socket_losses(pop, number) for number in range(2)] == losses
    each = [a.driver[f"rx{queue}_xdp_redirects"] for queue in range(QUEUES)]
    assert sum(each) == a.program["handed_over"]
    assert all(each), "the flows are spread over the queues"


def upload(number: int, connection: object, length: int) -> None:
    """In pieces, each confirmed by its digest."""
    source = random.Random(number)
    while length > 0:
        deliver(connection, source.randbytes(min(length, MOST_AT_ONCE)))  # type: ignore[arg-type]
        length -= MOST_AT_ONCE


def socket_losses(pop: Pair, number: int) -> list[dict[str, int]]:
    """What the kernel counts as lost, for each queue's socket; all are in zero-copy."""
    sockets = pop.hosts[number].ask("xdp_sockets")
    assert [one["queue"] for one in sockets] == list(range(QUEUES))
    assert all(one["zero_copy"] for one in sockets)
    return [{name: one[name] for name in LOSSES} for one in sockets]


def test_the_driver_refuses_another_number_of_queues_and_nothing_changes(pop: Pair) -> None:
    with pop.connections(FLOWS) as made:
        a = Change(pop.a)
        pop.route(pop.a)
        for queues in (1, QUEUES):
            if queues != QUEUES:
                with pytest.raises(AssertionError, match="Invalid argument"):
                    pop.a.run(f"ethtool -L xg0 combined {queues}")
            for one in made:
                deliver(one, bytes(5000))
        a.look()
        assert a.program["stray_forwarded"] == a.program["handed_over"] > FLOWS
        assert a.program["loop_behind"] == 0
        a.check_that_each_frame_ended()
