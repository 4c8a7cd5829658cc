# SPDX-License-Identifier: BSD-2-Clause
"""A storm of ACKs of a million sessions a second that nobody has, where all strays come in: live
connections finish, and no host gets more floods than the budgets say."""

from __future__ import annotations

import socket
import struct
import threading
import time
from ipaddress import IPv4Address

import pytest

from bench import programs
from bench.link import SENDING
from bench.world import enter
from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.crowd import Crowd
from pyxdp_gossip.stats import ENDINGS
from tests.box.conftest import MakeBox
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, nothing_misdelivered

TARGET, OTHERS = 1, (2, 3)
RATE_PPS = 1_000_000  # offered, if the machine can; nothing below depends on it
CHUNK = 1 << 17  # frames a system call
STORM_S = 4.0  # shorter than the pauses of TCP that a connection counts as broken by
LEAST_FRAMES = 1_000_000  # each of another session; fewer would be no storm
LONGEST_S = 16.0  # on a machine that takes so long for them
FIRST_CLIENT = IPv4Address("11.0.0.0")  # 2^32 sessions from here on, none of them a client's
BUDGETS = {"flood_new_rate_pps": 1000, "flood_rate_pps": 500}
BURST_S = 0.05  # DataplaneSettings.flood_burst_s
FLOODED = ("miss_flooded", "misdirected_flooded")
FLOODS_SEEN = ("flood_unknown", "flood_syn", "delivered_flood")


def storm_frame(host: int) -> tuple[bytes, int]:
    """An ACK to the VIP as the router sends it to a host, and the sum of its IP header."""
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 63, 6, 0, bytes(4), IPv4Address(names.VIP4).packed
    )
    tcp = struct.pack("!HHIIBBHHH", 0, names.VIP_PORT, 1, 1, 0x50, 0x10, 0xFFFF, 0, 0)
    macs = (names.host_address(host).mac, names.ROUTER_MAC)
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + b"\x08\x00"
    frame = (ethernet + ip + tcp).ljust(programs.FRAME_BYTES, b"\0")
    return frame, sum(struct.unpack("!10H", ip))


class Storm:
    """Live frames from the router's end of a host's link, each of another session."""

    def __init__(self, box: Box, host: int) -> None:
        self._traffic = programs.load("traffic")
        self._namespace = box.router_namespace()
        self._port = names.host_port(host)
        frame, ip_sum = storm_frame(host)
        self._memory = self._traffic.maps["sending"].memory()
        self._set = lambda index: SENDING.pack(
            0, 10**9 // RATE_PPS, 0, index, 1, 0, int(FIRST_CLIENT), ip_sum, 0, frame
        )
        self._failure: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    @property
    def offered(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _send(self) -> None:
        try:
            enter(self._namespace)
            self._memory[: SENDING.size] = self._set(socket.if_nametoindex(self._port))
            begun = time.monotonic()
            while self.seconds < STORM_S or (
                self.offered < LEAST_FRAMES and self.seconds < LONGEST_S
            ):
                programs.run_live(self._traffic.program_fd("bench_send"), CHUNK)
                self.seconds = time.monotonic() - begun
        except BaseException as failure:
            self._failure = failure

    def join(self) -> None:
        self._thread.join()
        self._traffic.close()
        if self._failure:
            raise self._failure


class Watch:
    """What the hosts counted between two moments."""

    def __init__(self, pop: Pop) -> None:
        self._pop = pop
        self._at = time.monotonic()
        self._before = {host: self._counted(host) for host in pop.box.host_ids}

    def _counted(self, host: int) -> dict[str, int]:
        return dict(self._pop.maps(host).counters())

    def end(self) -> tuple[dict[int, dict[str, int]], float]:
        """What rose at each host, and the seconds in which it did, at most."""
        risen = {}
        for host, before in self._before.items():
            after = self._counted(host)
            risen[host] = {name: after[name] - before[name] for name in after}
        return risen, time.monotonic() - self._at


def most_floods(seconds: float) -> float:
    """What both budgets of one host allow in so many seconds."""
    return sum(rate * (seconds + BURST_S) + 1 for rate in BUDGETS.values())


def test_a_million_misses_a_second_harm_no_live_session_and_no_other_host(
    make_box: MakeBox, capsys: pytest.CaptureFixture[str]
) -> None:
    pop = Pop(make_box(hosts=3, clients=1), AGENTS, {"dataplane": BUDGETS})
    box = pop.box
    try:
        box.set_next_hops(OTHERS)
        with nothing_misdelivered(box), Crowd(box, connections=40, seed=1) as crowd:
            crowd.wait_ready()
            box.set_next_hops([TARGET])  # from now on each of their packets is a stray
            crowd.wait_report()
            watch = Watch(pop)
            storm = Storm(box, TARGET)
            storm.join()
            risen, seconds = watch.end()
            assert_nothing_broke(crowd.finish())
    finally:
        pop.close()
    said = (
        f"{storm.offered} misses offered in {storm.seconds:.1f} s, "
        f"{storm.offered / storm.seconds:.0f} a second; floods: {risen[TARGET]['miss_flooded']}"
    )
    with capsys.disabled():
        print(f"\nstorm: {said}")
    at = risen[TARGET]
    assert storm.offered >= LEAST_FRAMES, said
    assert at["miss_over_budget_new"] > 10 * sum(at[name] for name in FLOODED), said
    assert at["stray_forwarded"] > 100, "the live sessions went another way"
    assert at["passed_syn"] + at["passed_unowned"] + at["passed_known"] == 0
    for host in box.host_ids:
        floods = sum(risen[host][name] for name in FLOODED)
        assert floods <= most_floods(seconds), f"host {host}: {floods} in {seconds:.2f} s; {said}"
    sent = sum(risen[host][name] for host in box.host_ids for name in FLOODED)
    for host in OTHERS:
        assert sum(risen[host][name] for name in FLOODS_SEEN) <= sent
        tunnelled = [name for name in ENDINGS if name.startswith(("tunnel_", "misdirected_"))]
        assert sum(risen[host][name] for name in tunnelled) == 0
