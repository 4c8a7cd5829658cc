# SPDX-License-Identifier: BSD-2-Clause
"""The data path of a host, loops and all, on a driver with zero-copy: bytes, counters and rings."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from pyxdp_gossip.stats import ENDINGS, Statistics
from tests.golden_world import OWN_MAC
from tests.kernel.xsk_link import until
from tests.vm.guest.host_link import Ends, Link, first, linked
from tests.vm.rows import golden_rows

MODES = ("zero-copy", "copy", "skb")
ETHERNET_BYTES = 14
MANY = 3000  # the rings have 2048 places: they wrap
BURST = 50


@pytest.fixture(scope="module", params=MODES)
def link(host_link: Ends, request: pytest.FixtureRequest) -> Iterator[Link]:
    """One link for all tests, with the loop in one of the modes that the driver has."""
    with linked(host_link, request.param) as made:
        made.find_out_whether_the_program_sends()
        assert made.program_sends or request.param == "zero-copy"
        yield made


def producer(ring: int) -> int:
    """How many entries a ring has had; of libxdp's struct for either kind."""
    at = ctypes.c_void_p.from_address(ring + 16).value  # four u32, then the pointers
    assert at
    return ctypes.c_uint32.from_address(at).value


def ended(link: Link, before: Statistics) -> int:
    """How many frames met their end since."""
    risen = link.host.plane.statistics().since(before)
    return sum(risen[name] for name in ENDINGS)


@pytest.mark.core
def test_strays_are_encapsulated_in_place_and_counters_equal_the_rings(link: Link) -> None:
    link.host.set_agent(True)
    row = first("stray_forwarded")
    before = link.host.plane.statistics()
    [socket] = link.sockets
    at = socket.addresses
    rings = [producer(ring) for ring in (at.rx, at.tx)]
    for start in range(0, MANY, BURST):
        behind = link.host.plane.statistics().loop_behind
        link.far.send(*[row.frame] * BURST)
        until(lambda sent=start + BURST: ended(link, before) == sent)
        # in a slow guest the loop may be behind: then the program forwards by itself
        lost = 0 if link.program_sends else link.host.plane.statistics().loop_behind - behind
        for number in range(BURST - lost):
            assert link.far.receive_tunnelled(OWN_MAC) == row.output, f"{start + number}"
    risen = link.host.plane.statistics().since(before)
    assert risen["handed_over"] + risen["loop_behind"] == risen["stray_forwarded"] == MANY
    assert ended(link, before) == MANY
    looped = risen["handed_over"]
    assert looped > 0
    assert [producer(ring) for ring in (at.rx, at.tx)] == [one + looped for one in rings]
    counted = socket.statistics()
    assert (counted.rx_dropped, counted.rx_invalid_descs, counted.tx_invalid_descs) == (0, 0, 0)


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_the_golden_packets_have_the_same_bytes_in_each_mode(link: Link, alive: bool) -> None:
    link.host.set_agent(alive)
    for row in golden_rows():
        if row.agent_alive == alive and len(row.frame) >= ETHERNET_BYTES:
            link.check(row)
