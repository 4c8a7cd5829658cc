# SPDX-License-Identifier: BSD-2-Clause
"""`ethtool -L` while the data path runs: a new queue gets program and loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pyxdp_gossip import HostError, Node, QueuesChanged
from pyxdp_gossip.queue_watch import ASK_NS, QueueWatch
from pyxdp_gossip.stats import ENDINGS
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.golden import plain_rows
from tests.golden_fragmenting import cut_rows
from tests.kernel.agent_host import DEVICE as NODE_DEVICE
from tests.kernel.agent_host import PATIENCE_S, agent_host, wait_for
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.test_node import running
from tests.kernel.wire import FRAME_SIZE, FRAMES, Wire
from tests.kernel.xsk_link import until

MOST: Final = 3
STRAY: Final = next(row for row in plain_rows() if row.ending == "stray_forwarded")


class Told:
    """What a watch tells and logs."""

    def __init__(self) -> None:
        self.events: list[QueuesChanged] = []
        self.logged: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.logged.append((event, values))


def connect(left: Namespace, left_device: str, right: Namespace, right_device: str) -> None:
    """A veth pair; the left end begins with one RX queue, and so with one TX queue the
    other: where an XDP program is, the kernel wants an RX queue for each that sends to it."""
    many = f"numrxqueues {MOST} numtxqueues {MOST}"
    left.ip(f"link add {left_device} {many} type veth peer name {right_device} {many} "
            f"netns {right.name}")  # fmt: skip
    left.exec(f"ethtool -L {left_device} rx 1")
    right.exec(f"ethtool -L {right_device} tx 1")
    for namespace, device in ((left, left_device), (right, right_device)):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.accept_dad=0")
        namespace.ip(f"link set {device} up")


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    """The host's namespace and the router's."""
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        yield inside, outside


@contextmanager
def router(namespace: Namespace) -> Iterator[list[Wire]]:
    """A wire for each queue of the far end. What one sends comes by the queue of that number."""

    def start() -> tuple[XskProgram, list[Umem], list[XskSocket]]:
        program = XskProgram(OUTSIDE)
        umems = [Umem(FRAMES, frame_size=FRAME_SIZE) for _ in range(MOST)]
        sockets = [XskSocket(umem, OUTSIDE, number) for number, umem in enumerate(umems)]
        for socket in sockets:
            program.add(socket)
        return program, umems, sockets

    program, umems, sockets = namespace.run(start)
    try:
        yield [Wire(*one) for one in zip(umems, sockets, strict=True)]
    finally:
        for socket in sockets:
            socket.close()
        namespace.run(program.close)
        for umem in umems:
            umem.close()


def ended(host: HostUnderTest, wires: list[Wire], queue: int) -> dict[str, int]:
    """The counters of one stray that comes by this queue; it is back with the right bytes."""
    before = host.plane.statistics()
    wires[queue].send(STRAY.frame)
    until(lambda: STRAY.output in [one.receive(0) for one in wires])
    risen = {name: n for name, n in host.plane.statistics().since(before).items() if n}
    assert {name: n for name, n in risen.items() if name in ENDINGS} == {"stray_forwarded": 1}
    return risen


def answered(host: HostUnderTest, wires: list[Wire], queue: int) -> dict[str, int]:
    """The same of a frame that a loop would cut; its sender gets the program's answer."""
    before, row = host.plane.statistics(), cut_rows()[0]
    wires[queue].send(row.frame)
    until(lambda: row.answer in [one.receive(0) for one in wires])
    return {name: n for name, n in host.plane.statistics().since(before).items() if n}


def resize(ends: tuple[Namespace, Namespace]) -> None:
    """More RX queues for the host, and then as many by which the router sends."""
    ends[0].exec(f"ethtool -L {DEVICE} rx {MOST}")
    ends[1].exec(f"ethtool -L {OUTSIDE} tx {MOST}")


def threads(device: str = DEVICE) -> list[str]:
    """The loops' threads of this process."""
    return sorted(one.name for one in threading.enumerate() if one.name.startswith(f"xg-{device}"))


@contextmanager
def watched(
    ends: tuple[Namespace, Namespace], **settings: Any
) -> Iterator[tuple[HostUnderTest, list[Wire], QueueWatch, Told]]:
    """A data path at work on the host's end, the far end's wires, and who watches the queues."""
    inside, outside = ends
    told = Told()
    with host_under_test(inside, **settings) as host, router(outside) as far:
        inside.run(host.plane.attach_packets)
        watch = inside.run(QueueWatch, DEVICE, host.plane, told, told.events.append)
        yield host, far, watch, told


def test_a_new_queue_is_the_programs_until_it_has_a_loop(
    ends: tuple[Namespace, Namespace],
) -> None:
    inside = ends[0]
    with watched(ends, plane="xsk", mode="copy") as (host, far, watch, told):
        assert "handed_over" in ended(host, far, 0)
        resize(ends)
        inside.run(host.plane.renew_program)  # before it, a veth's new queue has no program
        risen = ended(host, far, 2)
        assert ("loop_behind" in risen, "handed_over" in risen) == (True, False)
        assert answered(host, far, 2) == {"too_big_answered": 1, "loop_behind": 1}
        inside.run(watch.check, ASK_NS)
        assert threads() == [f"xg-{DEVICE}-{number}" for number in range(3)]
        assert told.events == [QueuesChanged(DEVICE, 3)]
        assert told.logged == [("queues", {"name": DEVICE, "queues": 3})]
        for queue in range(3):
            assert "handed_over" in ended(host, far, queue)
        assert "handed_over" in ended(host, far, 0)
        inside.run(watch.check, 2 * ASK_NS)
        assert (watch.changes, len(told.events)) == (1, 1)
    assert threads() == []


def test_a_queue_that_does_not_send_gets_no_loop_until_it_does(
    ends: tuple[Namespace, Namespace],
) -> None:
    inside = ends[0]
    inside.exec(f"ethtool -L {DEVICE} tx 1")
    with watched(ends, plane="xsk", mode="copy") as (host, far, watch, _):
        resize(ends)
        inside.run(watch.check, ASK_NS)
        assert threads() == [f"xg-{DEVICE}-0"]
        assert "loop_behind" in ended(host, far, 1)
        inside.exec(f"ethtool -L {DEVICE} tx 2")
        inside.run(watch.check, 2 * ASK_NS)
        assert len(threads()) == 2
        assert "handed_over" in ended(host, far, 1)


def test_the_kernel_keeps_queues_that_have_a_loop(ends: tuple[Namespace, Namespace]) -> None:
    inside = ends[0]
    inside.exec(f"ethtool -L {DEVICE} rx 2")
    with host_under_test(inside, plane="xsk", mode="copy") as host:
        inside.run(host.plane.attach_packets)
        with pytest.raises(AssertionError, match="too low for existing zerocopy AF_XDP sockets"):
            inside.exec(f"ethtool -L {DEVICE} rx 1")
        assert len(threads()) == 2


def test_without_loops_the_number_is_told_all_the_same(ends: tuple[Namespace, Namespace]) -> None:
    inside, outside = ends
    with watched(ends, plane="xdp") as (host, far, watch, told):
        for turn, count in enumerate((3, 2, 3), start=1):
            inside.exec(f"ethtool -L {DEVICE} rx {count}")
            inside.run(watch.check, turn * ASK_NS)
        assert told.events == [QueuesChanged(DEVICE, count) for count in (3, 2, 3)]
        outside.exec(f"ethtool -L {OUTSIDE} tx {MOST}")
        assert "handed_over" not in ended(host, far, 2)


def test_a_new_queue_that_gets_no_loop_stays_the_programs(
    ends: tuple[Namespace, Namespace],
) -> None:
    inside = ends[0]
    with watched(ends, plane="xsk", mode="copy") as (host, far, watch, _):
        resize(ends)
        with Umem(64) as umem, inside.run(XskSocket, umem, DEVICE, 1):
            with pytest.raises(HostError, match=r"queue 1 .*has an AF_XDP socket already"):
                inside.run(watch.check, ASK_NS)
            inside.run(watch.check, 2 * ASK_NS)  # it is tried once for each number
            assert "loop_behind" in ended(host, far, 1)
            assert "handed_over" in ended(host, far, 0)
        assert threads() == [f"xg-{DEVICE}-0"]


def test_a_nodes_loops_follow_and_its_program_hears_of_it(
    netns: Callable[[str], Namespace], tmp_path: Any
) -> None:
    with agent_host(netns("a"), tmp_path) as host:
        connect(host.namespace, NODE_DEVICE, netns("b"), NODE_DEVICE)
        host.namespace.ip(f"addr add {host.address}/24 dev {NODE_DEVICE}")
        host.configure({"gossip": {"preset": "loopback"}})
        with running(host) as node:
            assert node.report()["interface_queue_changes"] == 0
            host.namespace.exec(f"ethtool -L {NODE_DEVICE} rx 3")
            read_queues(node, 3)
            wait_for(lambda: len(threads(NODE_DEVICE)) == 3, "a loop for each queue")
            assert node.report()["interface_queue_changes"] == 1
            assert node.failure is None
        assert (threads(NODE_DEVICE), host.attached()) == ([], [])


def read_queues(node: Node, count: int) -> None:
    """Takes what the node tells, up to this."""
    while (event := node.events().next_event(PATIENCE_S)) != QueuesChanged(NODE_DEVICE, count):
        assert event is not None, f"nothing was told; failure: {node.failure!r}"
