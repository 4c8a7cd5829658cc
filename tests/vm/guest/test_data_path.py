# SPDX-License-Identifier: BSD-2-Clause
"""The data path of a host, loops and all, on a driver with zero-copy: bytes, counters and rings."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyxdp_gossip.stats import ENDINGS
from pyxdp_gossip.xsk import XskSocket
from tests.golden_world import OWN_MAC
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import DEVICE, OUTSIDE, HostUnderTest, host_under_test
from tests.kernel.wire import WAIT_S, Wire, wire
from tests.vm.guest.conftest import KernelLog
from tests.vm.rows import Row, golden_rows

MODES = ("zero-copy", "copy", "skb")
MTU = 1700  # the largest golden packet has outer headers of its own
ETHERNET_BYTES = 14
MANY = 3000  # the rings have 2048 places: they wrap
STARTS = 100

Ends = tuple[Namespace, Namespace]


class Link:
    """A host's data path at one end of a link, and a wire at the other."""

    def __init__(self, host: HostUnderTest, far: Wire) -> None:
        self.host = host
        self.far = far

    def check(self, row: Row) -> dict[str, int]:
        """One frame over the link ends as it must, and comes back with the right bytes."""
        before = self.host.plane.statistics()
        self.far.send(row.frame)
        limit = time.monotonic() + WAIT_S
        while True:
            risen = {name: n for name, n in self.host.plane.statistics().since(before).items() if n}
            endings = {name: count for name, count in risen.items() if name in ENDINGS}
            if endings:
                break
            assert time.monotonic() < limit, f"{row.description}: it ended nowhere: {risen}"
        assert endings == {row.ending: 1}, f"{row.description}: {risen}"
        if ENDINGS[row.ending] == "tx":
            assert self.far.receive_tunnelled(OWN_MAC) == row.output, row.description
        return risen

    @property
    def sockets(self) -> list[XskSocket]:
        """Of the loops."""
        plane = self.host.plane._plane
        assert plane
        return [queue.socket for queue in plane._queues]


@contextmanager
def linked(ends: Ends, mode: str) -> Iterator[Link]:
    inside, outside = ends
    for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
        namespace.ip(f"link set {device} mtu {MTU}")
    # no frame of the kernel's own may end in a counter meanwhile
    outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
    with (
        host_under_test(inside, plane="xsk", mode=mode) as host,
        wire(outside, OUTSIDE) as far,
    ):
        inside.run(host.plane.attach_packets)
        assert host.plane.forwarding == mode
        host.set_flood()
        yield Link(host, far)


@pytest.fixture(scope="module", params=MODES)
def link(host_link: Ends, request: pytest.FixtureRequest) -> Iterator[Link]:
    with linked(host_link, request.param) as made:
        yield made


def producer(ring: int) -> int:
    """How many entries a ring has had; of libxdp's struct for either kind."""
    at = ctypes.c_void_p.from_address(ring + 16).value  # four u32, then the pointers
    assert at
    return ctypes.c_uint32.from_address(at).value


def stray() -> Row:
    return next(row for row in golden_rows() if row.ending == "stray_forwarded")


@pytest.mark.core
def test_strays_are_encapsulated_in_place_and_counters_equal_the_rings(link: Link) -> None:
    link.host.set_agent(True)
    row = stray()
    before = link.host.plane.statistics()
    [socket] = link.sockets
    at = socket.addresses
    rings = [producer(ring) for ring in (at.rx, at.tx, at.completion)]
    for first in range(0, MANY, 50):
        link.far.send(*[row.frame] * 50)
        for number in range(50):
            assert link.far.receive_tunnelled(OWN_MAC) == row.output, f"{first + number}"
    risen = link.host.plane.statistics().since(before)
    assert (risen["stray_forwarded"], risen["handed_over"]) == (MANY, MANY)
    assert sum(risen[name] for name in ENDINGS) == MANY
    assert producer(at.rx) - rings[0] == MANY
    assert producer(at.tx) - rings[1] == MANY
    counted = socket.statistics()
    assert (counted.rx_dropped, counted.rx_invalid_descs, counted.tx_invalid_descs) == (0, 0, 0)


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_the_golden_packets_have_the_same_bytes_in_each_mode(link: Link, alive: bool) -> None:
    link.host.set_agent(alive)
    for row in golden_rows():
        if row.agent_alive == alive and len(row.frame) >= ETHERNET_BYTES:
            link.check(row)


def test_the_plane_comes_and_goes_a_hundred_times_in_silence(
    host_link: Ends, kernel_log: KernelLog
) -> None:
    with linked(host_link, "zero-copy") as link:
        plane = link.host.plane
        for _ in range(STARTS):
            link.far.send(*[stray().frame] * 8)  # traffic meanwhile
            link.host.namespace.run(plane.detach)
            assert plane.forwarding == "xdp"
            link.host.namespace.run(plane.attach_packets)
            assert plane.forwarding == "zero-copy"
    assert kernel_log.lines() == []
