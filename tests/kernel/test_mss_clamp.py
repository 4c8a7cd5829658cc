# SPDX-License-Identifier: BSD-2-Clause
"""What the services' SYN-ACKs announce on the wire, with and without [dataplane] mss."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from tests.golden_world import CLIENTS, PORT, VIPS
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import LINK_MTU, OUTSIDE, Pair, host_under_test
from tests.kernel.live_connection import PATIENCE_S

HEADERS: Final = {4: 40, 6: 60}  # IP and TCP
OVERHEAD: Final = 44
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
ETH_P_ALL: Final = 3
TCP_MAXSEG: Final = socket.TCP_MAXSEG
OTHER_PORT: Final = PORT + 1

Mss = int | Literal["auto"] | None

_ports = itertools.count(43000)
pair = dataplane_fixture.pair


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def listening(address: str, family: int, port: int = PORT, own: int = 0) -> socket.socket:
    """A listener; `own`: the application's own limit of its segments."""
    listener = socket.socket(FAMILIES[family])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MAXSEG, own)
    listener.bind((address, port))
    listener.listen(16)
    return listener


def capture() -> socket.socket:
    """What the client's device sees."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sniffer.bind((OUTSIDE, ETH_P_ALL))
    sniffer.settimeout(PATIENCE_S)
    return sniffer


def announced(pair: Pair, family: int, port: int = PORT) -> int:
    """The MSS option of the SYN-ACK that a new connection gets, as captured at the client."""
    client_port = next(_ports)
    with pair[1].run(capture) as sniffer, pair[1].run(socket.socket, FAMILIES[family]) as client:
        client.settimeout(PATIENCE_S)
        client.bind((str(CLIENTS[family]), client_port))
        client.connect((str(VIPS[family]), port))
        while True:
            tcp = Ether(sniffer.recv(2048)).getlayer(TCP)
            if tcp is not None and tcp.dport == client_port and tcp.flags == "SA":
                return int(dict(tcp.options)["MSS"])


@contextmanager
def limited(pair: Pair, mss: Mss) -> Iterator[None]:
    """The sockops program at work with this configuration."""
    with host_under_test(pair[0], mss=mss) as host:
        host.namespace.run(host.plane.attach_sessions)
        yield


@contextmanager
def unlimited_listener(pair: Pair, *arguments: Any) -> Iterator[None]:
    """A listener that was there before the program."""
    with pair[0].run(listening, *arguments):
        yield


@pytest.mark.parametrize("mss", [None, 1200, "auto"])
@pytest.mark.parametrize("is_first", [True, False], ids=["listener first", "program first"])
@pytest.mark.parametrize("bound", ["the VIP", "any address"])
def test_a_syn_ack_announces_what_is_configured(
    pair: Pair, family: int, mss: Mss, is_first: bool, bound: str
) -> None:
    of_kernel = LINK_MTU - HEADERS[family]
    expected = {None: of_kernel, 1200: 1200, "auto": of_kernel - OVERHEAD}[mss]
    address = str(VIPS[family]) if bound == "the VIP" else ""
    if is_first:
        with unlimited_listener(pair, address, family):
            assert announced(pair, family) == of_kernel
            with limited(pair, mss):
                assert announced(pair, family) == expected
    else:
        with limited(pair, mss), pair[0].run(listening, address, family):
            assert announced(pair, family) == expected


@pytest.mark.parametrize("bound", ["the VIP", "any address"])
def test_other_ports_are_left_alone(pair: Pair, family: int, bound: str) -> None:
    address = str(VIPS[family]) if bound == "the VIP" else ""
    of_kernel = LINK_MTU - HEADERS[family]
    with unlimited_listener(pair, address, family, OTHER_PORT), limited(pair, 1200):
        assert announced(pair, family, OTHER_PORT) == of_kernel
    with limited(pair, 1200), pair[0].run(listening, address, family, OTHER_PORT):
        assert announced(pair, family, OTHER_PORT) == of_kernel


@pytest.mark.parametrize(("own", "expected"), [(1000, 1000), (1300, 1200)])
def test_the_applications_own_limit_is_never_raised(
    pair: Pair, family: int, own: int, expected: int
) -> None:
    vip = str(VIPS[family])
    with unlimited_listener(pair, vip, family, PORT, own), limited(pair, 1200):
        assert announced(pair, family) == expected
    with limited(pair, 1200), pair[0].run(listening, vip, family, PORT, own):
        assert announced(pair, family) == expected


def test_cookies_announce_it_too(pair: Pair, family: int) -> None:
    pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=2")
    try:
        with limited(pair, 1200), pair[0].run(listening, str(VIPS[family]), family):
            assert announced(pair, family) == 1200
    finally:
        pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=1")


def test_a_dual_stack_listener_announces_what_fits_ipv6_to_both(pair: Pair, family: int) -> None:
    make = partial(socket.create_server, ("", PORT), family=FAMILIES[6], dualstack_ipv6=True)
    with limited(pair, "auto"), pair[0].run(make):
        assert announced(pair, family) == LINK_MTU - HEADERS[6] - OVERHEAD
