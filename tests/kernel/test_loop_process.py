# SPDX-License-Identifier: BSD-2-Clause
"""The AF_XDP loop of a process that is stopped or killed: the XDP program sends in its place, and
every frame that was handed over ends in one counter."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.world import enter
from pyxdp_gossip.stats import ENDINGS
from tests.golden import plain_rows
from tests.golden_world import OWN_MAC
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.wire import Wire, wire
from tests.kernel.xsk_link import until

STRAY, MARKER = [row for row in plain_rows() if row.ending == "stray_forwarded"][:2]
STALE_S = 2.1  # a loop that did not look for 2 s drops what waits (STALE_NS)
SOME = 100
BURST = 64  # XG_BURST


class LoopProcess:
    """A process of its own that runs the loops over a data path's maps, as an agent's would.

    It is forked, so that it has the maps and their memory, and the test reads the counters.
    """

    def __init__(self, host: HostUnderTest) -> None:
        ready, self._ready = os.pipe()
        self._end, end = os.pipe()
        self._stop = end
        self.pid = os.fork()
        if self.pid == 0:
            os.close(end)
            os._exit(self._live(host))
        os.close(self._ready)
        os.close(self._end)
        with os.fdopen(ready) as told:
            assert told.read() == "ready"

    def _live(self, host: HostUnderTest) -> int:
        try:
            enter(host.namespace.name)
            host.plane._open_plane(host.plane.mode)
            os.write(self._ready, b"ready")
            os.close(self._ready)
            os.read(self._end, 1)  # until the test closes its end
            host.plane._close_plane()
        except BaseException as failure:
            os.write(2, f"in the loops' process: {failure!r}\n".encode())
            return 1
        return 0

    def freeze(self) -> None:
        """Stops the process; none of its threads runs when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")

        def frozen() -> bool:
            stats = [(task / "stat").read_text() for task in tasks.iterdir()]
            return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

        until(frozen)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As `kill -9`."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """As an agent that ends by itself."""
        os.close(self._stop)
        self._stop = -1
        assert self._reap() == 0

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Whatever became of it."""
        if self.pid:
            self.kill()
        if self._stop >= 0:
            os.close(self._stop)


class Site:
    """A data path, the far end of its link, and the loops' process of the moment."""

    def __init__(self, host: HostUnderTest, far: Wire) -> None:
        self.host = host
        self.far = far
        self.mark()

    @contextmanager
    def loops(self) -> Iterator[LoopProcess]:
        process = LoopProcess(self.host)
        try:
            yield process
        finally:
            process.end()

    def counters(self) -> dict[str, int]:
        return dict(self.host.plane.statistics())

    def mark(self) -> None:
        """`risen` counts from here."""
        self.start = self.counters()

    def risen(self, name: str) -> int:
        return self.counters()[name] - self.start[name]

    def expect(self, output: bytes, count: int = 1) -> None:
        """So many frames come out, and nothing of ours before them."""
        for _ in range(count):
            assert self.far.receive_tunnelled(OWN_MAC) == output

    def send_until(self, condition: Callable[[], bool]) -> int:
        """Strays, one by one; how many."""
        sent, base = 0, self.seen()

        def step() -> bool:
            nonlocal sent
            if condition():
                return True
            self.far.send(STRAY.frame)
            sent += 1
            until(lambda: self.seen() == base + sent)
            return condition()

        until(step)
        return sent

    def ended(self) -> int:
        """Frames that ended, whoever ended them."""
        return sum(self.risen(name) for name in ENDINGS)

    def seen(self) -> int:
        """Strays that the XDP program saw: handed over, or sent by itself."""
        return self.risen("handed_over") + self.risen("loop_behind")

    def assert_all_ended_once(self) -> None:
        """Each frame that XDP saw ended once: in XDP, or in the loop that it was handed to."""

        until(lambda: self.ended() == self.seen())


@pytest.fixture(params=["copy", "skb"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
        with (
            host_under_test(inside, plane="xsk", mode=request.param) as host,
            wire(outside, OUTSIDE) as far,
        ):
            inside.run(host.plane._attach_program)  # its loops are another process's
            yield Site(host, far)


def test_a_frozen_loop_costs_no_frame_and_gets_its_work_back(site: Site) -> None:
    with site.loops() as loops:
        site.far.send(*[STRAY.frame] * SOME)
        site.expect(STRAY.output, SOME)
        assert site.risen("handed_over") > 0
        site.assert_all_ended_once()

        site.mark()
        loops.freeze()
        sent = site.send_until(lambda: site.risen("loop_behind") > 0)
        waiting = site.risen("handed_over")
        assert (waiting > 0, site.risen("loop_behind")) == (True, sent - waiting)
        site.far.send(*[STRAY.frame] * SOME)
        site.expect(STRAY.output, sent - waiting + SOME)
        assert site.risen("handed_over") == waiting, "handed to a frozen loop"

        loops.thaw()
        site.send_until(lambda: site.risen("handed_over") > waiting)
        site.assert_all_ended_once()
        loops.close()
    assert site.risen("loop_lost") == 0


def test_what_waited_while_the_loop_was_frozen_for_seconds_is_dropped(site: Site) -> None:
    with site.loops() as loops:
        loops.freeze()
        waiting = site.send_until(lambda: site.risen("handed_over") > 0)
        assert site.risen("loop_behind") == 0
        time.sleep(STALE_S)  # the time itself is what the loop looks at
        loops.thaw()
        until(lambda: site.risen("loop_stale") == waiting)
        site.far.send(MARKER.frame)
        site.expect(MARKER.output)  # and nothing before it
        site.assert_all_ended_once()
        loops.close()


def test_a_killed_loop_loses_what_it_held_and_the_next_one_counts_it(site: Site) -> None:
    with site.loops() as loops:
        loops.freeze()
        waiting = site.send_until(lambda: site.risen("handed_over") > 0)
        loops.kill()
    site.far.send(*[STRAY.frame] * SOME)
    site.expect(STRAY.output, SOME)
    assert site.risen("loop_behind") == SOME, "nobody is there, and XDP sends"
    assert (site.risen("handed_over"), site.risen("loop_lost")) == (waiting, 0)
    with site.loops() as loops:
        assert site.risen("loop_lost") == waiting
        site.send_until(lambda: site.risen("handed_over") > waiting)
        site.assert_all_ended_once()
        loops.close()
    # one that ended by itself leaves nothing that could be lost
    with site.loops() as loops:
        assert site.risen("loop_lost") == waiting
        loops.close()


def test_whenever_a_loop_is_killed_every_frame_is_sent_or_counted(site: Site) -> None:
    for _ in range(5):
        with site.loops() as loops:
            site.far.send(*[STRAY.frame] * SOME)
            loops.kill()
    until(lambda: site.seen() == 5 * SOME)
    with site.loops() as loops:
        # a burst in whose midst the process died may be counted as sent and as lost
        until(lambda: site.seen() <= site.ended() <= site.seen() + 5 * BURST)
        loops.close()
    assert site.risen("handed_over") > 0
    site.expect(STRAY.output, site.risen("loop_behind"))  # no kill concerns what XDP sends
