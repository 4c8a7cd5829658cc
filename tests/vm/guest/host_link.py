# SPDX-License-Identifier: BSD-2-Clause
"""A host's data path at one end of the guest's host link, and a wire at the other."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyxdp_gossip.stats import ENDINGS
from pyxdp_gossip.xsk import XskSocket
from tests.golden_world import OWN_MAC
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import DEVICE, OUTSIDE, HostUnderTest, host_under_test
from tests.kernel.wire import WAIT_S, Wire, wire
from tests.vm.rows import Row, golden_rows

MTU: Final = 1700  # the largest golden packet has outer headers of its own

Ends = tuple[Namespace, Namespace]


def first(ending: str) -> Row:
    """The first golden packet, with an agent alive, that ends so."""
    return next(row for row in golden_rows() if row.ending == ending and row.agent_alive)


def driver_drops(inside: Namespace) -> int:
    """How many frames of the XDP program itself the driver did not send."""
    said = inside.exec(f"ethtool -S {DEVICE}")
    return sum(map(int, re.findall(r"^\s+tx\d+_xdp_tx_drops: (\d+)", said, re.MULTILINE)))


class Link:
    """Frames over the link, and what became of them.

    Attributes:
        program_sends: what the XDP program itself sends (XDP_TX) leaves the driver. virtio-net
            drops it while its queue is in zero-copy mode, and counts it.
    """

    def __init__(self, host: HostUnderTest, far: Wire) -> None:
        self.host = host
        self.far = far
        self.program_sends = True

    def ended(self, row: Row) -> dict[str, int]:
        """Sends a frame; the counters that rose, with the right ending among them."""
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
        return risen

    def check(self, row: Row) -> None:
        """One frame over the link ends as it must, and comes back with the right bytes."""
        risen = self.ended(row)
        if ENDINGS[row.ending] == "tx" and (self.program_sends or "handed_over" in risen):
            assert self.far.receive_tunnelled(OWN_MAC) == row.output, row.description

    def find_out_whether_the_program_sends(self) -> None:
        """By one flood: it arrives, or the driver's own counter says that it dropped it."""
        dropped = driver_drops(self.host.namespace)
        row = first("miss_flooded")
        self.ended(row)
        self.program_sends = driver_drops(self.host.namespace) == dropped
        if self.program_sends:
            assert self.far.receive_tunnelled(OWN_MAC) == row.output

    @property
    def sockets(self) -> list[XskSocket]:
        """Of the loops."""
        plane = self.host.plane._plane
        assert plane
        return [queue.socket for queue in plane._queues]


def plane_of(mode: str) -> dict[str, str]:
    """Settings of the data path."""
    return {"plane": "xdp", "mode": "native"} if mode == "xdp" else {"plane": "xsk", "mode": mode}


@contextmanager
def linked(ends: Ends, mode: str, mtu: int = MTU) -> Iterator[Link]:
    """The data path, attached, with its loop in this mode; "xdp": without one."""
    inside, outside = ends
    for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
        namespace.ip(f"link set {device} mtu {mtu}")
    # no frame of the kernel's own may end in a counter meanwhile
    outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
    with (
        host_under_test(inside, **plane_of(mode)) as host,
        wire(outside, OUTSIDE) as far,
    ):
        inside.run(host.plane.attach_packets)
        assert host.plane.forwarding == mode
        host.set_flood()
        host.set_agent(True)
        yield Link(host, far)
