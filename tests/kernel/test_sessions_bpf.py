# SPDX-License-Identifier: BSD-2-Clause
"""The sockops program on real sockets: which of them it tells the agent about, and how."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.golden_world import CLIENTS, PORT, TCP_ONLY_PORT, VIPS
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import (
    TCP_SLOTS,
    Event,
    HostUnderTest,
    Pair,
    host_under_test,
    make_pair,
)
from tests.kernel.live_connection import (
    PATIENCE_S,
    Connection,
    connect,
    connected,
    listen,
    wait_for,
)

LINGER_ZERO = struct.pack("ii", 1, 0)

# Records of 40 bytes behind a header of 8 in a ring of 1 MiB.
RING_RECORDS = (1 << 20) // 48

_ports = itertools.count(42000)
pair = dataplane_fixture.pair


@pytest.fixture(scope="module")
def host(pair: Pair) -> Iterator[HostUnderTest]:
    """The host's data path with the sockops program attached."""
    with host_under_test(pair[0]) as under_test:
        under_test.namespace.run(under_test.plane.attach_sessions)
        yield under_test


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def live(host: HostUnderTest, pair: Pair, family: int) -> Iterator[Connection]:
    """An established connection whose OPEN is still to be read."""
    host.socket_events()
    with connected(pair, family, next(_ports)) as connection:
        yield connection


def event(kind: str, family: int, port: int) -> Event:
    """The record of the test's one client."""
    return Event(kind, family, TCP_SLOTS[family], CLIENTS[family], port, 0, 0, 0)


def expect(host: HostUnderTest, *events: Event) -> None:
    """Waits for so many events and compares them."""
    seen: list[Event] = []

    def arrived() -> bool:
        seen.extend(host.socket_events())
        return len(seen) >= len(events)

    wait_for(f"{len(events)} events", arrived)
    assert seen == list(events)


def test_an_accepted_connection_is_told_once(host: HostUnderTest, live: Connection) -> None:
    expect(host, event("OPEN", live.family, live.client_port))


def test_a_close_by_the_host_lingers(host: HostUnderTest, live: Connection) -> None:
    live.server.close()
    live.wait_for_state("FIN-WAIT-2")
    live.client.close()
    live.wait_for_state("TIME-WAIT")
    opened = event("OPEN", live.family, live.client_port)
    expect(host, opened, event("CLOSE_LINGER", live.family, live.client_port))


def test_a_close_by_the_host_is_told_before_the_clients_fin(
    host: HostUnderTest, live: Connection
) -> None:
    live.server.close()
    live.wait_for_state("FIN-WAIT-2")
    opened = event("OPEN", live.family, live.client_port)
    expect(host, opened, event("CLOSE_LINGER", live.family, live.client_port))


def test_a_close_by_the_client_is_told_at_once(host: HostUnderTest, live: Connection) -> None:
    live.client.close()
    live.wait_for_state("CLOSE-WAIT")
    opened = event("OPEN", live.family, live.client_port)
    expect(host, opened)  # half-closed: the session lives
    live.server.close()
    expect(host, event("CLOSE", live.family, live.client_port))


def test_a_reset_by_the_client_is_told_at_once(host: HostUnderTest, live: Connection) -> None:
    live.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    live.client.close()
    opened = event("OPEN", live.family, live.client_port)
    expect(host, opened, event("CLOSE", live.family, live.client_port))


def test_a_reset_by_the_host_is_told_at_once(host: HostUnderTest, live: Connection) -> None:
    live.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    live.server.close()
    opened = event("OPEN", live.family, live.client_port)
    expect(host, opened, event("CLOSE", live.family, live.client_port))


def dual_stack() -> socket.socket:
    """An IPv6 listener on any address that takes IPv4 as well."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", PORT))
    listener.listen(16)
    return listener


def test_a_dual_stack_listener_gives_events_of_the_clients_family(
    host: HostUnderTest, pair: Pair, family: int
) -> None:
    host.socket_events()
    port = next(_ports)
    with pair[0].run(dual_stack) as listener, pair[1].run(connect, family, port):
        server, _ = listener.accept()
        server.close()
        opened = event("OPEN", family, port)
        expect(host, opened, event("CLOSE_LINGER", family, port))


def test_another_service_has_its_own_slot(host: HostUnderTest, pair: Pair) -> None:
    host.socket_events()
    with pair[0].run(listen, 4, TCP_ONLY_PORT), pair[1].run(socket.socket) as client:
        client.settimeout(PATIENCE_S)
        client.connect((str(VIPS[4]), TCP_ONLY_PORT))
        (opened,) = host.socket_events()
    assert (opened.kind, opened.slot) == ("OPEN", 4)


def test_sockets_that_are_no_services_are_not_told(host: HostUnderTest, pair: Pair) -> None:
    host.socket_events()
    with pair[0].run(listen, 4, PORT + 1) as listener, pair[1].run(socket.socket) as client:
        client.settimeout(PATIENCE_S)
        client.connect((str(VIPS[4]), PORT + 1))
        listener.accept()[0].close()
    assert host.socket_events() == []


def test_sockets_of_other_namespaces_are_not_told(
    host: HostUnderTest, netns: Callable[[str], Any], family: int
) -> None:
    host.socket_events()
    elsewhere = netns("o")
    for address in (VIPS[family], CLIENTS[family]):
        suffix = "/32" if family == 4 else "/128 nodad"
        elsewhere.ip(f"addr add {address}{suffix} dev lo")
    port = next(_ports)
    with elsewhere.run(listen, family) as listener, elsewhere.run(connect, family, port):
        listener.accept()[0].close()
    assert host.socket_events() == []


def test_sockets_that_were_accepted_before_the_attach_are_not_told(
    netns: Callable[[str], Any], veth: Callable[..., None]
) -> None:
    fresh = make_pair(netns, veth)  # in the other pair a program has set the sockets' flag
    with connected(fresh, 4, next(_ports)) as live, host_under_test(fresh[0]) as late:
        late.namespace.run(late.plane.attach_sessions)
        live.client.close()
        live.wait_for_state("CLOSE-WAIT")
        live.server.close()
        wait_for("the socket's end", lambda: live.state() == "")
        assert late.socket_events() == []


def _churn(count: int) -> None:
    """Connections of the host to its own service, each reset at once."""
    with listen(4) as listener:
        for _ in range(count):
            with socket.create_connection((str(VIPS[4]), PORT), PATIENCE_S) as client:
                listener.accept()[0].close()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


def test_a_full_ring_is_counted_and_loses_only_what_does_not_fit(pair: Pair) -> None:
    connections = RING_RECORDS // 2 + 100
    with host_under_test(pair[0]) as full:
        full.namespace.run(full.plane.attach_sessions)
        full.namespace.run(_churn, connections)
        statistics = full.namespace.run(full.plane.statistics)
        events = []
        while batch := full.socket_events():
            events += batch
    told, lost = statistics["socket_events"], statistics["socket_events_lost"]
    assert told + lost == 2 * connections
    assert told == len(events)
    assert 0 < lost < 1000
