# SPDX-License-Identifier: BSD-2-Clause
"""ICMP errors whose quoted session this kernel knows, or does not, with real sockets."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from pyxdp_gossip.live_explanation import explain_on_host
from tests.golden import ethernet
from tests.golden_odd import ERRORS, from_vip, inner_error
from tests.golden_tunnel import RELAY_MARK, flooded, stripped, tunnelled
from tests.golden_world import CLIENTS, PEER, PORT, VIPS
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import TCP_SLOTS, HostUnderTest, Pair, host_under_test
from tests.kernel.live_connection import FAMILIES, Connection, HalfOpen, connected, listen
from tests.model import Entry

pair = dataplane_fixture.pair
_ports = itertools.count(44000)


@pytest.fixture(scope="module")
def host(pair: Pair) -> Iterator[HostUnderTest]:
    with host_under_test(pair[0]) as under_test:
        under_test.set_flood()
        yield under_test


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def live(pair: Pair, family: int) -> Iterator[Connection]:
    with connected(pair, family, next(_ports)) as connection:
        yield connection


def about(family: int, client_port: int, protocol: Any = TCP, kind: str = "unreachable") -> Any:
    """A router's error that quotes a packet of the VIP to a client's port, without Ethernet."""
    quote = bytes(from_vip(family) / protocol(sport=PORT, dport=client_port) / Raw(bytes(8)))
    return inner_error(family, quote, kind)


def ending(host: HostUnderTest, packet: Any) -> str:
    """Of a packet that came straight from the router."""
    return host.run(bytes(ethernet() / packet)).ending


def endings_in_tunnel(host: HostUnderTest, packet: Any) -> set[str]:
    """Of a packet that another host sent here, flooded or relayed."""
    frames = tunnelled(packet), flooded(packet), tunnelled(packet, mark=RELAY_MARK)
    verdicts = [host.run(frame) for frame in frames]
    for verdict in verdicts:
        assert verdict.action == "drop" or verdict.frame == stripped(packet)
    return {verdict.ending for verdict in verdicts}


def test_an_error_about_a_session_that_the_kernel_knows_is_passed(
    host: HostUnderTest, live: Connection
) -> None:
    for kind in ERRORS[live.family]:
        packet = about(live.family, live.client_port, kind=kind)
        assert ending(host, packet) == "passed_icmp_own"
        assert endings_in_tunnel(host, packet) == {"delivered_icmp"}
    assert ending(host, about(live.family, live.client_port + 1000)) == "icmp_flooded"


def test_a_stale_entry_does_not_take_an_error_from_its_session(
    host: HostUnderTest, live: Connection
) -> None:
    packet = about(live.family, live.client_port)
    where = CLIENTS[live.family], live.client_port, TCP_SLOTS[live.family]
    host.put(*where, Entry(PEER))
    try:
        assert ending(host, packet) == "passed_icmp_own"
    finally:
        host.remove(*where)


def test_an_error_about_a_session_in_time_wait_is_passed(
    host: HostUnderTest, live: Connection
) -> None:
    live.server.close()
    live.wait_for_state("FIN-WAIT-2")
    packet = about(live.family, live.client_port)
    assert ending(host, packet) == "passed_icmp_own"
    live.client.close()
    live.wait_for_state("TIME-WAIT")
    assert ending(host, packet) == "passed_icmp_own"
    assert endings_in_tunnel(host, packet) == {"delivered_icmp"}


def test_an_error_about_a_half_open_session_is_passed(
    host: HostUnderTest, pair: Pair, family: int
) -> None:
    pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=0")
    half = HalfOpen(pair, family, next(_ports))
    try:
        packet = about(family, half.client_port)
        assert ending(host, packet) == "passed_icmp_own"
        assert endings_in_tunnel(host, packet) == {"delivered_icmp"}
    finally:
        half.close()


def test_a_listener_alone_knows_no_error(host: HostUnderTest, pair: Pair, family: int) -> None:
    with contextlib.closing(pair[0].run(listen, family)):
        packet = about(family, next(_ports))
        assert ending(host, packet) == "icmp_flooded"
        assert endings_in_tunnel(host, packet) == {"icmp_unknown"}


def udp_server(family: int) -> socket.socket:
    """An unconnected socket at the VIP."""
    server = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    server.bind((str(VIPS[family]), PORT))
    return server


def test_of_udp_a_connected_socket_alone_takes_a_flooded_error(
    host: HostUnderTest, pair: Pair, family: int
) -> None:
    port = next(_ports)
    packet = about(family, port, UDP)
    with contextlib.closing(pair[0].run(udp_server, family)) as server:
        assert ending(host, packet) == "passed_icmp_own"  # of no table, as with UDP itself
        assert host.run(tunnelled(packet)).ending == "delivered_icmp"
        assert host.run(flooded(packet)).ending == "icmp_unknown"
        server.connect((str(CLIENTS[family]), port))
        assert endings_in_tunnel(host, packet) == {"delivered_icmp"}


def test_an_error_is_explained_as_it_ends(
    host: HostUnderTest, pair: Pair, live: Connection
) -> None:
    for port in (live.client_port, live.client_port + 1000):
        frame = bytes(ethernet() / about(live.family, port))
        found = pair[0].run(explain_on_host, host.plane, frame)
        verdict = host.run(frame)
        assert (found.ending, found.output) == (verdict.ending, verdict.frame)


def test_an_error_tells_the_agent_nothing(host: HostUnderTest, live: Connection) -> None:
    host.packet_events()
    for port in (live.client_port, live.client_port + 1000):
        packet = about(live.family, port)
        ending(host, packet)
        endings_in_tunnel(host, packet)
    assert host.packet_events() == []


def test_a_flooded_error_pays_from_the_budget_of_new_flows(pair: Pair) -> None:
    changes = {"flood_rate_pps": 1_000_000, "flood_new_rate_pps": 1}
    with host_under_test(pair[0], **changes) as host:
        host.set_flood()
        frame = bytes(ethernet() / about(4, next(_ports)))
        found = [one.ending for one in host.run_all([frame] * 50)]
        assert found[0] == "icmp_flooded"
        assert set(found) == {"icmp_flooded", "icmp_dropped"}
        assert found[-1] == "icmp_dropped"
