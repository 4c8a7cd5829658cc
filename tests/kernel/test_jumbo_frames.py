# SPDX-License-Identifier: BSD-2-Clause
"""Frames of several buffers over a link with an MTU of 9000: read, sent and stripped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Raw

from pyxdp_gossip.bpf_object import BpfObject, PinnedLink, attach_xdp
from tests.golden import encapsulated, ethernet, ip, tcp, udp
from tests.golden_tunnel import tunnelled
from tests.golden_world import OWN_MAC, PEER, PORT, ROUTES, TUNNEL_PORT, VIPS, State
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.live_connection import ETH_P_ALL, FAMILIES, PATIENCE_S
from tests.model import NotReadableError, parse
from tests.templates_of_routes import template

MTU = 9000
SIZES = (2000, 3300, 3450, 4000, 8000)  # below, about and above what one buffer holds
ROUTE = replace(ROUTES[PEER], mtu=MTU)


class JumboLink:
    """A host at one end of a link, a packet socket at the other."""

    def __init__(self, namespace: Any, host: HostUnderTest, far: socket.socket) -> None:
        self.namespace = namespace
        self.host = host
        self.far = far

    def receive_tunnelled(self) -> bytes:
        """The next frame of the host's to the tunnel port."""
        while True:
            frame = self.far.recv(2 * MTU)
            with contextlib.suppress(NotReadableError):
                if frame[6:12] == OWN_MAC and parse(frame).destination_port == TUNNEL_PORT:
                    return frame

    def count(self, ending: str) -> int:
        return self.host.plane.statistics()[ending]


@contextlib.contextmanager
def _closing(program: BpfObject, link: PinnedLink) -> Iterator[None]:
    try:
        yield
    finally:
        link.close()
        program.close()


def passing_program() -> contextlib.AbstractContextManager[None]:
    """Without one, a veth does not notice what XDP sends to it. It is the same program: nobody
    told it of a service, so it passes everything."""
    program = BpfObject("redirect")
    index = socket.if_nametoindex(OUTSIDE)
    return _closing(
        program, attach_xdp(None, program.program_fd("xg_redirect"), index, "native")[0]
    )


def packet_socket() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made.bind((OUTSIDE, 0))
    made.settimeout(PATIENCE_S)
    return made


@pytest.fixture(scope="module", params=["native", "skb", "native, with a loop"])
def link(request: pytest.FixtureRequest) -> Iterator[JumboLink]:
    mode, _, loop = request.param.partition(", ")
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.ip(f"link set {device} mtu {MTU}")
        plane = "xsk" if loop else "xdp"
        with host_under_test(inside, mode="auto" if loop else mode, plane=plane) as host:
            inside.run(host.plane.set_template, PEER, template(ROUTE))
            attached = inside.run(host.plane.attach_packets)
            assert attached == mode
            with outside.run(passing_program), outside.run(packet_socket) as far:
                yield JumboLink(inside, host, far)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("size", SIZES)
def test_a_long_stray_leaves_for_its_owner(link: JumboLink, family: int, size: int) -> None:
    before = link.count("stray_forwarded")
    payload = bytes(number % 251 for number in range(size))
    frame = bytes(ethernet() / ip(family) / tcp(State.OTHER) / Raw(payload))
    link.far.send(frame)
    assert link.receive_tunnelled() == encapsulated(frame, ROUTE)
    assert link.count("stray_forwarded") == before + 1


@pytest.mark.parametrize("size", SIZES)
def test_a_long_packet_sent_here_is_stripped(link: JumboLink, family: int, size: int) -> None:
    def server() -> socket.socket:
        made = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
        made.bind((str(VIPS[family]), PORT))
        made.settimeout(PATIENCE_S)
        return made

    payload = bytes(number % 251 for number in range(size))
    inner = ip(family) / UDP(sport=State.OWN.client_port, dport=PORT) / Raw(payload)
    with link.namespace.run(server) as waiting:
        link.far.send(tunnelled(inner))
        assert waiting.recv(2 * MTU) == payload


def test_a_long_frame_that_is_cut_is_passed_unread(link: JumboLink, family: int) -> None:
    before = link.count("passed_unparsed")
    frame = bytes(ethernet() / ip(family) / udp(State.OTHER) / Raw(bytes(8000)))
    link.far.send(frame[:-1])
    link.far.send(frame)
    assert link.receive_tunnelled() == encapsulated(frame, ROUTE)  # the second one is the first
    assert link.count("passed_unparsed") > before
