# SPDX-License-Identifier: BSD-2-Clause
"""The AF_XDP plane of an interface: all queues or none, and a close that loses nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from pyxdp_gossip import xsk_plane
from pyxdp_gossip.bpf_object import BpfObject
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.stats import ENDINGS
from pyxdp_gossip.xsk import Umem, XskSocket
from pyxdp_gossip.xsk_plane import FRAMES, XskPlane
from tests.golden import plain_rows
from tests.golden_world import OWN_MAC
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    OUTSIDE,
    host_under_test,
    own_namespaces,
)
from tests.kernel.dataplane_fixture import make_pair as make_host_pair
from tests.kernel.wire import wire
from tests.kernel.xsk_link import NEAR, make_pair, until

QUEUES: Final = 3
STRAY: Final = next(row for row in plain_rows() if row.ending == "stray_forwarded")
BURST: Final = 1000  # half of a ring


class FakeLoop:
    """A loop that forwards nothing, and tells what is asked of it."""

    def __init__(self, told: list[str], number: int) -> None:
        self._told = told
        self._number = number
        self._stopped = threading.Event()
        self.fails_with: Exception | None = None
        self.frames_fail = False

    def _tell(self, what: str) -> None:
        self._told.append(f"{what} {self._number}")

    def run(self) -> None:
        if self.fails_with:
            raise self.fails_with
        self._stopped.wait()
        self._tell("ended")

    def shut(self) -> None:
        self._tell("shut")

    def stop(self) -> None:
        self._tell("stop")
        self._stopped.set()

    def frames(self) -> tuple[int, int, int]:
        self._tell("frames")
        if self.frames_fail:
            raise OSError(117, "Structure needs cleaning")
        return FRAMES, 0, 0

    def close(self) -> None:
        self._tell("close")


class Site:
    """An interface with several queues, a map for sockets, and planes of fake loops."""

    def __init__(self, netns: Callable[[str], Any]) -> None:
        self.near = make_pair(netns, QUEUES).near
        self._object = BpfObject("xsk_all")
        self.xsks = self._object.maps["xsks"]
        self.told: list[str] = []
        self.loops: list[FakeLoop] = []
        self.sockets: list[XskSocket] = []
        self.prepare: Callable[[FakeLoop], None] = lambda _: None

    def plane(self, queues: int = QUEUES, mode: str = "auto") -> XskPlane:
        return XskPlane(NEAR, queues, 1500, mode, self.xsks, self._make_loop)

    def _make_loop(self, number: int, socket: XskSocket, umem: Umem, driver: int) -> FakeLoop:
        assert (socket.queue, umem.frames, driver) == (number, FRAMES, 0)
        self.sockets.append(socket)
        loop = FakeLoop(self.told, number)
        self.loops.append(loop)
        self.prepare(loop)
        return loop

    def registered(self) -> list[int]:
        """The queues whose sockets are in the map, by what they say: nobody can look into it."""
        return [one.queue for one in self.sockets if one._map]

    def assert_nothing_is_left(self) -> None:
        assert self.registered() == []
        assert [one.name for one in threading.enumerate() if one.name.startswith("xg-")] == []
        with Umem(4) as umem:
            for number in range(QUEUES):
                self.near.run(XskSocket, umem, NEAR, number).close()

    def close(self) -> None:
        self._object.close()


@pytest.fixture
def site(netns: Callable[[str], Any]) -> Iterator[Site]:
    made = Site(netns)
    yield made
    made.close()


def test_all_queues_are_opened_alike(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def make(umem: Umem, interface: str, queue: int, *, mode: str, **others: Any) -> XskSocket:
        asked.append(mode)
        return XskSocket(umem, interface, queue, mode=mode, **others)

    monkeypatch.setattr(xsk_plane, "XskSocket", make)
    plane = site.plane()
    assert site.near.run(plane.open) == plane.mode == "copy"
    assert asked == ["auto", "copy", "copy"]  # the first one's mode is everybody's
    names = sorted(one.name for one in threading.enumerate() if one.name.startswith("xg-"))
    assert names == [f"xg-{NEAR}-{number}" for number in range(QUEUES)]
    plane.check()
    assert site.registered() == list(range(QUEUES))
    plane.close()
    plane.close()
    assert plane.mode == ""
    site.assert_nothing_is_left()


def test_no_queue_is_handed_anything_before_any_is_taken_down(site: Site) -> None:
    plane = site.plane(queues=2)
    site.near.run(plane.open)
    plane.close()
    assert sorted(site.told[:2]) == ["shut 0", "shut 1"]
    for number in range(2):
        mine = [what for what in site.told if what.endswith(str(number))]
        assert mine == [f"{what} {number}" for what in ("shut", "stop", "ended", "frames", "close")]
    assert site.told.index("frames 0") > site.told.index("stop 1"), "all are stopped together"


def test_a_map_with_fewer_places_than_queues_bounds_them(site: Site) -> None:
    small = BpfObject("xsk_all", max_entries={"xsks": 2})
    plane = XskPlane(NEAR, QUEUES, 1500, "copy", small.maps["xsks"], site._make_loop)
    site.near.run(plane.open)
    assert len(site.loops) == 2
    plane.close()
    small.close()
    site.assert_nothing_is_left()


def test_a_queue_that_is_taken_leaves_nothing_of_the_others(site: Site) -> None:
    with Umem(4) as umem, site.near.run(XskSocket, umem, NEAR, 1):
        with pytest.raises(HostError, match=f"on {NEAR}, queue 1 .*has an AF_XDP socket already"):
            site.near.run(site.plane().open)
        assert site.told[-1] == "close 0"
    site.assert_nothing_is_left()


def test_a_loop_that_cannot_be_made_leaves_nothing(site: Site) -> None:
    def refuse(loop: FakeLoop) -> None:
        if len(site.loops) == 2:
            raise MemoryError("no loop")

    site.prepare = refuse
    with pytest.raises(MemoryError, match="no loop"):
        site.near.run(site.plane().open)
    assert site.told[-1] == "close 0"
    site.assert_nothing_is_left()


def test_a_thread_that_cannot_be_started_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == f"xg-{NEAR}-1":
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        site.near.run(site.plane().open)
    assert {"close 0", "close 1"} <= set(site.told)
    site.assert_nothing_is_left()


def test_a_loop_that_ends_by_itself_is_shut_and_said(site: Site) -> None:
    def fail(loop: FakeLoop) -> None:
        if len(site.loops) == 2:
            loop.fails_with = OSError(5, "Input/output error")

    site.prepare = fail
    plane = site.plane()
    site.near.run(plane.open)
    until(lambda: "shut 1" in site.told)
    with pytest.raises(HostError, match=f"the loop of xg-{NEAR}-1 ended: .*Input/output error"):
        plane.check()
    plane.close()
    site.assert_nothing_is_left()


def test_frames_that_do_not_add_up_are_said_when_all_is_down(site: Site) -> None:
    plane = site.plane()
    site.near.run(plane.open)
    site.loops[1].frames_fail = True
    with pytest.raises(OSError, match="Structure needs cleaning"):
        plane.close()
    assert {"close 0", "close 1", "close 2"} <= set(site.told)
    plane.close()
    site.assert_nothing_is_left()


def test_a_forked_childs_close_leaves_the_parents_plane_alone(site: Site) -> None:
    plane = site.plane()
    site.near.run(plane.open)
    child = os.fork()
    if child == 0:
        plane.close()
        os._exit(len(site.told))  # what it asked of the loops
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert site.registered() == list(range(QUEUES))
    plane.close()
    site.assert_nothing_is_left()


@pytest.mark.parametrize("mode", ["copy", "skb"])
def test_what_was_handed_over_before_the_close_comes_out(mode: str) -> None:
    left: list[tuple[int, int, int]] = []

    class Watched:
        """The loop itself; where its frames were at the end, once more."""

        def __init__(self, loop: Any) -> None:
            self._loop = loop

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

        def frames(self) -> Any:
            left.append(self._loop.frames())
            return left[-1]

    with own_namespaces() as make:
        inside, outside = make_host_pair(make, connect)
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        with (
            host_under_test(inside, plane="xsk", mode=mode) as host,
            wire(outside, OUTSIDE) as far,
        ):
            plane = host.plane
            make_loop = plane._make_loop
            plane._make_loop = lambda *parts: Watched(make_loop(*parts))  # type: ignore
            inside.run(plane.attach_packets)
            assert plane.forwarding == mode
            before = plane.statistics()
            far.send(*[STRAY.frame] * BURST)
            inside.run(plane._close_plane)
            assert plane.forwarding == "xdp"
            for _ in range(BURST):
                assert far.receive_tunnelled(OWN_MAC) == STRAY.output
            risen = plane.statistics().since(before)
            assert (risen["handed_over"] > 0, risen["loop_lost"]) == (True, 0)
            assert risen["handed_over"] + risen["loop_behind"] == BURST
            assert sum(risen[name] for name in ENDINGS) == BURST
            [(free, receiving, sending)] = left
            assert (free + receiving, sending) == (FRAMES, 0)
