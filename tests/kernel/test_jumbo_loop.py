# SPDX-License-Identifier: BSD-2-Clause
"""Frames of several buffers in the AF_XDP loop, over a link with an MTU of 9000."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.packet import Raw

from pyxdp_gossip.stats import ENDINGS
from tests.box.traffic import wait_for
from tests.golden import encapsulated, ethernet, ip, tcp
from tests.golden_world import PEER, State
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.test_jumbo_frames import (
    MTU,
    ROUTE,
    JumboLink,
    packet_socket,
    passing_program,
)
from tests.templates_of_routes import template

PAYLOAD = 8840  # with headers a frame of 8,894 bytes, or 8,914 over IPv6
MANY = 5000  # more buffers than the loop has, several times
BURST = 20
SO_RCVBUFFORCE = 33
RECEIVE_BYTES = 8 << 20  # a burst, in both directions


@pytest.fixture(scope="module", params=["copy", "skb"])
def link(request: pytest.FixtureRequest) -> Iterator[JumboLink]:
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.ip(f"link set {device} mtu {MTU}")
        # no frame of the kernel's own may end in a counter meanwhile
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        with host_under_test(inside, mode=request.param, plane="xsk") as host:
            inside.run(host.plane.set_template, PEER, template(ROUTE))
            inside.run(host.plane.attach_packets)
            assert host.plane.forwarding == request.param
            with outside.run(passing_program), outside.run(packet_socket) as far:
                far.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
                yield JumboLink(inside, host, far)


def long_stray(family: int, size: int = PAYLOAD) -> bytes:
    payload = bytes(number % 251 for number in range(size))
    return bytes(ethernet() / ip(family) / tcp(State.OTHER) / Raw(payload))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [3700, 3840, 3850, 7600, 7680, 8000, PAYLOAD])
def test_the_loop_sends_a_stray_of_several_buffers(link: JumboLink, family: int, size: int) -> None:
    before = link.host.plane.statistics()
    frame = long_stray(family, size)
    link.far.send(frame)
    assert link.receive_tunnelled() == encapsulated(frame, ROUTE)
    wait_for("it is counted", lambda: link.count("stray_forwarded") > before.stray_forwarded)
    risen = {
        name: count for name, count in link.host.plane.statistics().since(before).items() if count
    }
    assert risen == {"stray_forwarded": 1, "handed_over": 1}


def test_all_buffers_come_back(link: JumboLink) -> None:
    before = link.host.plane.statistics()
    frame = long_stray(4)
    expected = encapsulated(frame, ROUTE)
    for _ in range(MANY // BURST):
        for _ in range(BURST):
            link.far.send(frame)
        for _ in range(BURST):
            assert link.receive_tunnelled() == expected
    wait_for(
        "all to be counted", lambda: link.count("stray_forwarded") == before.stray_forwarded + MANY
    )
    risen = link.host.plane.statistics().since(before)
    assert sum(risen[name] for name in ENDINGS) == MANY
    assert risen["handed_over"] + risen["loop_behind"] == MANY
    assert risen["handed_over"] > MANY // 2
    assert risen["loop_lost"] == risen["chain_refused"] == risen["tx_refused"] == 0
