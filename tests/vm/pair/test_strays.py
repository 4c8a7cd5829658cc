# SPDX-License-Identifier: BSD-2-Clause
"""Strays between two kernels: known by real gossip, sent by zero-copy loops, each accounted for."""

from __future__ import annotations

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.pair.world import QUEUES, Change, Pair, deliver, wait_for

FLOWS = 16  # that a queue gets none of them: once in 2^15
MSS = 256
TIMESTAMPS = 12  # bytes of each segment
MOST_AT_ONCE = 100_000  # bytes of a connection; all together fit the taps' queues
LOSSES = ("rx_dropped", "rx_invalid", "rx_full", "tx_invalid")


@pytest.mark.parametrize(
    "packets",
    [pytest.param(20_000, marks=pytest.mark.core), pytest.param(200_000)],
)
def test_strays_arrive_and_every_frame_is_accounted_for(pop: Pair, packets: int) -> None:
    with pop.connections(FLOWS, MSS) as made:
        a, b = (Change(host) for host in pop.hosts)
        losses = [socket_losses(pop, number) for number in range(2)]
        before = pop.tap_drops(pop.b)
        pop.route(pop.a)
        share = packets * (MSS - TIMESTAMPS) // FLOWS
        with ThreadPoolExecutor(FLOWS) as threads:
            list(threads.map(lambda numbered: upload(*numbered, share), enumerate(made)))
        lost = pop.tap_drops(pop.b) - before

        def arrived() -> bool:
            return a.look().sent() - dropped_by_driver(a) == b.look().tunnelled() + lost

        wait_for(arrived, "all to arrive")
    assert b.tunnelled() >= packets
    assert b.tunnelled() == b.program["delivered_stray"] + b.program["delivered_flood"], b.program
    # The program sends by itself while a loop is behind, and this driver drops and counts that. So
    # all that arrived was sent by a loop. TCP repeats what was dropped.
    for change in (a, b):
        change.check_that_each_frame_ended()
        assert dropped_by_driver(change) == change.driver["rx_xdp_tx"]
    a.check_the_loops()
    assert [socket_losses(pop, number) for number in range(2)] == losses
    each = [a.driver[f"rx{queue}_xdp_redirects"] for queue in range(QUEUES)]
    assert sum(each) == a.program["handed_over"]
    assert all(each), "the flows are spread over the queues"


def dropped_by_driver(change: Change) -> int:
    """What the XDP program sent by itself, and the driver dropped."""
    return change.driver["tx_xdp_tx_drops"]


def upload(number: int, connection: socket.socket, length: int) -> None:
    """In pieces, each confirmed by its digest."""
    source = random.Random(number)
    while length > 0:
        deliver(connection, source.randbytes(min(length, MOST_AT_ONCE)))
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
        with pytest.raises(AssertionError, match="Invalid argument"):
            pop.a.run("ethtool -L xg0 combined 1")
        for one in made:
            deliver(one, bytes(5000))
        assert a.look().program["stray_forwarded"] > FLOWS
        a.check_that_each_frame_ended()
        assert socket_losses(pop, 0)
