# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets over a real link: XDP program and AF_XDP loop together, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pyxdp_gossip.live_explanation import explain_on_host
from pyxdp_gossip.stats import ENDINGS
from tests.box.traffic import wait_for
from tests.golden import Golden, encapsulated, plain_rows
from tests.golden_quic import quic_rows
from tests.golden_too_big import too_big_rows
from tests.golden_tunnel import tunnel_rows
from tests.golden_world import OWN_MAC, PEER, ROUTES, VLAN_PEER
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.wire import WAIT_S, Wire, wire
from tests.model import MARK_FLOOD, MARK_HOP, parse

ALL_ROWS = plain_rows() + too_big_rows() + tunnel_rows() + quic_rows()
ROWS = [row for row in ALL_ROWS if row.flood]
HANDED_OVER = ("stray_forwarded", "syn_forwarded", "quic_forwarded")
FLOODED = ("miss_flooded", "misdirected_flooded")
ETHERNET_BYTES = 14
UDP_AND_GUE = 8 + 16
MTU = 1700  # the largest golden packet has outer headers of its own


class Link:
    """A host's data path at one end of a link, and a wire at the other."""

    def __init__(self, host: HostUnderTest, far: Wire) -> None:
        self.host = host
        self.far = far

    def counted(self, before: dict[str, int], description: str) -> dict[str, int]:
        """What rose since, once at least one frame has ended."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            now = self.host.plane.statistics().counters
            risen = {name: now[name] - before[name] for name in now if now[name] > before[name]}
            if any(name in ENDINGS for name in risen):
                return risen
        raise AssertionError("the frame ended nowhere: " + description)

    def check(self, row: Golden) -> dict[str, int]:
        """One frame over the link; its ending, and its bytes if it comes back."""
        before = dict(self.host.plane.statistics().counters)
        self.far.send(row.frame)
        risen = self.counted(before, row.description)
        endings = {name: count for name, count in risen.items() if name in ENDINGS}
        assert endings == {row.ending: 1}, f"{row.description}: {risen}"
        if ENDINGS[row.ending] == "tx":
            receive = self.far.receive_told if is_told(row) else self.far.receive_tunnelled
            frame = receive(OWN_MAC)
            assert frame == row.output, f"{row.description}: {frame.hex()}"
        return risen


@contextmanager
def linked(mode: str, **changes: Any) -> Iterator[Link]:
    """A host whose loop is in this mode, and a link to it."""
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.ip(f"link set {device} mtu {MTU}")
        # no frame of the kernel's own may end in a counter meanwhile
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        with (
            host_under_test(inside, plane="xsk", mode=mode, **changes) as host,
            wire(outside, OUTSIDE) as far,
        ):
            inside.run(host.plane.attach_packets)
            assert host.plane.forwarding == mode
            yield Link(host, far)


@pytest.fixture(scope="module", params=["copy", "skb"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    """One link for all golden packets, with the loop in one of the modes that a veth has."""
    with linked(request.param) as made:
        made.host.set_flood()
        yield made


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_both_planes_together_agree_with_the_golden_packets(link: Link, alive: bool) -> None:
    link.host.set_agent(alive)
    for row in ROWS:
        if row.agent_alive != alive or len(row.frame) < ETHERNET_BYTES:
            continue
        risen = link.check(row)
        is_for_loop = row.ending in HANDED_OVER or is_big_stray(row)
        assert risen.get("handed_over", 0) == (is_for_loop and "fragment" not in row.description)


def is_big_stray(row: Golden) -> bool:
    """Too big for its owner's path: that is found where the template is written."""
    is_big = row.ending == "too_big" or is_told(row)
    return is_big and "flood" not in row.description.lower()


def is_told(row: Golden) -> bool:
    """Answered by an ICMP error, not by a tunnel packet."""
    return row.ending == "too_big_answered"


def copy_for(row: Golden, host: int) -> bytes:
    """The copy of a flood that a host beyond the group must get, or any without a group."""
    inner = row.output[parse(row.output).l4 + UDP_AND_GUE :]
    ethernet = bytes(12) + (b"\x08\x00" if inner[0] >> 4 == 4 else b"\x86\xdd")
    mark = MARK_FLOOD if row.ending == "miss_flooded" else MARK_FLOOD | MARK_HOP
    return encapsulated(ethernet + inner, ROUTES[host], mark)


def test_with_hosts_beyond_the_group_the_loop_floods_and_copies(link: Link) -> None:
    link.host.set_agent(True)
    link.host.namespace.run(link.host.plane.set_flood_copies, [PEER])
    try:
        rows = [row for row in ROWS if row.ending in FLOODED and row.agent_alive]
        assert {row.ending for row in rows} == set(FLOODED)
        for row in rows:
            before = link.host.plane.statistics()
            link.check(row)
            assert link.far.receive_tunnelled(OWN_MAC) == copy_for(row, PEER), row.description
            risen = link.host.plane.statistics().since(before)
            assert (risen["handed_over"], risen["flood_copies"]) == (1, 1)
    finally:
        link.host.namespace.run(link.host.plane.set_flood_copies, [])


def test_without_a_group_each_host_gets_a_copy_of_what_is_flooded() -> None:
    hosts = (PEER, VLAN_PEER)  # in the order of their ids
    with linked("copy", flood_group=None) as link:
        link.host.namespace.run(link.host.plane.set_own_mac, OWN_MAC)
        link.host.namespace.run(link.host.plane.set_flood_copies, hosts[::-1])
        link.host.set_agent(True)
        rows = [row for row in ROWS if row.ending in FLOODED and row.agent_alive]
        for row in rows:
            if row.ending == "miss_flooded":
                said = link.host.namespace.run(explain_on_host, link.host.plane, row.frame)
                assert (said.ending, said.output) == (row.ending, copy_for(row, PEER))
            risen = link.check(replace(row, output=copy_for(row, PEER)))
            assert risen["handed_over"] == 1
            assert link.far.receive_tunnelled(OWN_MAC) == copy_for(row, VLAN_PEER)
        assert link.host.plane.statistics().flood_copies == len(rows)


def test_the_loop_keeps_to_the_limit_of_what_it_tells() -> None:
    frames = [row.frame for row in too_big_rows() if is_told(row) and is_big_stray(row)]
    with linked("copy", too_big_rate_pps=1) as link:
        link.host.set_flood()
        link.host.set_agent(True)
        for frame in frames:
            link.far.send(frame)

        def all_ended() -> bool:
            counted = link.host.plane.statistics()
            return counted.too_big + counted.too_big_answered == len(frames)

        wait_for("all frames to end", all_ended)
        counted = link.host.plane.statistics()
        assert 0 < counted.too_big_answered < counted.handed_over


def test_a_frame_that_vanishes_on_its_way_to_the_loop_stops_nothing(link: Link) -> None:
    link.host.set_agent(True)
    stray = next(row for row in ROWS if row.ending == "stray_forwarded")
    before = link.host.plane.statistics().loop_lost
    link.host.run_unchecked([stray.frame])  # a test run: handed over, and never received
    wait_for("it counts as lost", lambda: link.host.plane.statistics().loop_lost == before + 1)
    assert link.check(stray).get("handed_over") == 1
