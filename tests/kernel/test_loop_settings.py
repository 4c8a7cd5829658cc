# SPDX-License-Identifier: BSD-2-Clause
"""The AF_XDP loops on chosen CPUs, and polling the driver: on a link, with traffic; a Umem's frames
on two devices; and a loop's process that is killed again and again in the midst of traffic."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip import bpf_object, busy_poll
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.golden import plain_rows
from tests.golden_world import OWN_MAC
from tests.kernel.conftest import Namespace, connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.test_loop_process import Site
from tests.kernel.wire import Wire, wire
from tests.kernel.xsk_link import WAIT_S, give, number_of, payload, until

STRAY = next(row for row in plain_rows() if row.ending == "stray_forwarded")
SOME = 200
KILLS = 20


@contextmanager
def linked(**changes: Any) -> Iterator[tuple[HostUnderTest, Wire]]:
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
        with (
            host_under_test(inside, plane="xsk", mode="copy", **changes) as host,
            wire(outside, OUTSIDE) as far,
        ):
            yield host, far


def send_some(host: HostUnderTest, far: Wire) -> None:
    """Strays come out byte for byte, through the loop."""
    far.send(*[STRAY.frame] * SOME)
    for _ in range(SOME):
        assert far.receive_tunnelled(OWN_MAC) == STRAY.output
    counted = host.plane.statistics()
    assert counted.handed_over > 0
    assert (counted.loop_lost, counted.tx_refused) == (0, 0)


def thread_named(prefix: str) -> threading.Thread:
    [found] = [one for one in threading.enumerate() if one.name.startswith(prefix)]
    return found


def test_a_loop_runs_on_its_cpu_and_the_others_where_they_did() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    with linked(cpus=(cpu,)) as (host, far):
        host.namespace.run(host.plane.attach_packets)
        loop = thread_named(f"xg-{DEVICE}-0").native_id
        assert loop is not None
        until(lambda: os.sched_getaffinity(loop) == {cpu})
        assert os.sched_getaffinity(0) == before
        send_some(host, far)


def test_a_cpu_that_is_not_ours_leaves_nothing_of_the_loops() -> None:
    with linked(cpus=(8191,)) as (host, _):
        with pytest.raises(HostError, match="cpus: CPU 8191 is not one of this process's"):
            host.namespace.run(host.plane.attach_packets)
        assert not [one for one in threading.enumerate() if one.name.startswith("xg-")]


def test_a_polling_loop_forwards_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[int]] = []
    prefer = busy_poll.prefer_busy_polling

    def watched(fd: int, interface: str) -> None:
        prefer(fd, interface)
        with socket.socket(busy_poll.AF_XDP, socket.SOCK_RAW, 0, fileno=os.dup(fd)) as same:
            options = (busy_poll.SO_PREFER_BUSY_POLL, busy_poll.SO_BUSY_POLL)
            found.append([same.getsockopt(socket.SOL_SOCKET, one) for one in options])

    monkeypatch.setattr("pyxdp_gossip.xsk_plane.prefer_busy_polling", watched)
    with linked(busy_poll=True) as (host, far):
        host.namespace.run(host.plane.attach_packets)
        assert found == [[1, busy_poll.BUSY_POLL_US]]  # the kernel does not tell the budget
        send_some(host, far)
        host.namespace.run(host.plane._close_plane)
        assert host.plane.forwarding == "xdp"


def test_a_frame_that_came_to_one_device_leaves_by_another_without_a_copy(
    netns: Callable[[str], Namespace],
) -> None:
    """One Umem, two veth devices; each socket has a fill and a completion ring of its own."""
    host, left, right = netns("h"), netns("l"), netns("r")
    for name, far in (("left", left), ("right", right)):
        host.ip(f"link add {name} type veth peer name {name} netns {far.name}")
        for one in (host, far):
            one.exec(f"sysctl -qw net.ipv6.conf.{name}.disable_ipv6=1")
            one.ip(f"link set {name} arp off up")

    def packets(name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((name, 0))
        made.settimeout(WAIT_S)
        return made

    def open_both() -> tuple[XskProgram, XskSocket, XskSocket]:
        program = XskProgram("left")
        sockets = [XskSocket(umem, name, mode="copy") for name in ("left", "right")]
        program.add(sockets[0])
        return program, sockets[0], sockets[1]

    with (
        Umem(64) as umem, left.run(packets, "left") as source, right.run(packets, "right") as sink
    ):  # fmt: skip
        program, into, out = host.run(open_both)
        with program, into, out:
            at = into.addresses, out.addresses
            assert len({*(at[0].fill, at[0].completion), *(at[1].fill, at[1].completion)}) == 4
            give(into, [0, 2048])
            source.send(payload(77))
            assert into.wait(WAIT_S)
            [(address, length)] = into.rx.peek(1)
            into.rx.release(1)
            umem.frame(address, length)[18] = 0xAB  # in place: what leaves is this very memory
            out.tx.reserve(1)
            out.tx.write([(address, length)])
            out.tx.submit(1)
            while not out.completion.available:
                out.wakeup()
            frame = sink.recv(2048)
            assert (number_of(frame), frame[18]) == (77, 0xAB)
            assert out.completion.peek(1) == [address]
            assert (into.completion.available, out.rx.available) == (0, 0)


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def complaints(self) -> list[str]:
        """Lines of level "warning" and worse: an oops and a BUG are."""
        lines = []
        while True:
            try:
                line = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                os.close(self._fd)
                return lines
            if int(line.split(",", 1)[0]) & 7 <= 4:
                lines.append(line)


@pytest.mark.parametrize("mode", ["copy", "skb"])
def test_twenty_kills_in_the_midst_of_traffic_trouble_no_kernel(mode: str) -> None:
    """The kernel closes what the process had, in whatever order: the pinned link holds the program,
    and the map its reference to the socket, until both let go by themselves."""
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
        with (
            host_under_test(inside, plane="xsk", mode=mode) as host,
            wire(outside, OUTSIDE) as far,
        ):
            inside.run(host.plane._attach_program)
            site, log = Site(host, far), KernelLog()
            stop = threading.Event()

            def traffic() -> None:
                while not stop.is_set():
                    far.send(*[STRAY.frame] * 32)
                    time.sleep(0.001)  # the other core is for the loop

            sender = threading.Thread(target=traffic)
            sender.start()
            try:
                for _ in range(KILLS):
                    with site.loops() as loops:
                        before = site.counters()["handed_over"]
                        until(lambda: site.counters()["handed_over"] > before)  # noqa: B023
                        loops.kill()
                    index = host.plane.interface_index
                    assert inside.run(bpf_object.attached_mode, index), "the program stays"
            finally:
                stop.set()
                sender.join()
            with site.loops() as loops:  # the queue is free, and the next loop works
                before = site.counters()["handed_over"]
                site.send_until(lambda: site.counters()["handed_over"] > before)
                loops.close()
            assert log.complaints() == []


def test_the_kernels_log_is_read() -> None:
    log = KernelLog()
    Path("/dev/kmsg").write_text("<3>a test writes this line\n")
    assert len(log.complaints()) == 1
