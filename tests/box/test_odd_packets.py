# SPDX-License-Identifier: BSD-2-Clause
"""Fragments and ICMP errors that real kernels make reach the owner, wherever ECMP brings them."""

import random
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.session import Session
from tests.box.host_maps import session_key
from tests.box.pop import AGENTS, NO_AGENT, Pop, nothing_misdelivered
from tests.box.static_host import services
from tests.box.traffic import FAMILIES, PATIENCE_S, VIPS, Connection, inside, session_of

MakeBox = Callable[..., Box]

OWNER, OTHER = 1, 2
DATAGRAM_BYTES = 4000  # three fragments at the client's MTU of 1500
LATER_FRAGMENTS = 2
SMALL_MTU = 1400
PART_BYTES = 20_000


@pytest.fixture(params=sorted(FAMILIES), ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# ---- UDP in fragments ----


def udp_socket(namespace: str, family: int, address: str, port: int) -> socket.socket:
    with inside(namespace):
        made = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    made.bind((address, port))
    return made


@pytest.fixture
def udp_pop(make_box: MakeBox) -> Iterator[Pop]:
    """Two hosts without agents: the test writes their tables."""
    made = Pop(make_box(hosts=2, proxy="none"), NO_AGENT)
    yield made
    made.close()


def claim_udp(pop: Pop, session: Session, owner: int) -> None:
    """What the tables of all hosts say once the owner has claimed a session of UDP."""
    key = session_key(session, services()[session.service])
    for host in pop.box.host_ids:
        pop.maps(host).lie(session.family, lambda table: table.put(key, owner))


def test_a_datagram_in_fragments_reaches_its_owner(udp_pop: Pop, family: int) -> None:
    box, payload = udp_pop.box, random.Random(family).randbytes(DATAGRAM_BYTES)
    client = udp_socket(box.client_namespace(1), family, "", 0)
    server, wrong = (
        udp_socket(box.host_namespace(host), family, VIPS[family], names.VIP_PORT)
        for host in (OWNER, OTHER)
    )
    with client, server, wrong:
        tcp = session_of(client.getsockname()[1], family)
        ends = f"{tcp.client}", f"{tcp.service.vip}"
        ends = ends if family == 4 else (f"[{ends[0]}]", f"[{ends[1]}]")
        session = Session.udp(f"{ends[0]}:{tcp.client_port}", f"{ends[1]}:{names.VIP_PORT}")
        claim_udp(udp_pop, session, OWNER)
        box.set_next_hops([OTHER])
        client.sendto(payload, (VIPS[family], names.VIP_PORT))
        received, sender = server.recvfrom(2 * DATAGRAM_BYTES)
        assert received == payload
        server.sendto(b"got it", sender)
        assert client.recv(100) == b"got it"
        wrong.setblocking(False)
        with pytest.raises(BlockingIOError):
            wrong.recv(2 * DATAGRAM_BYTES)
    assert udp_pop.count(OTHER, "stray_forwarded") == 1
    assert udp_pop.count(OTHER, "fragment_forwarded") == LATER_FRAGMENTS
    assert udp_pop.count(OWNER, "delivered_udp") == 1
    assert udp_pop.count(OWNER, "delivered_fragment") == LATER_FRAGMENTS


# ---- ICMP errors ----


@pytest.fixture(params=[NO_AGENT, AGENTS])
def pop(request: pytest.FixtureRequest, make_box: MakeBox) -> Iterator[Pop]:
    """Three hosts with real proxies: alone they flood, with agents they know the owner."""
    made = Pop(make_box(hosts=3), request.param)
    yield made
    made.close()


@contextmanager
def narrow(box: Box) -> Iterator[None]:
    """The router's link to the client carries only smaller packets, and the router says so."""
    device, space = names.client_port(1), box.router_namespace()
    box.run_in(space, ["ip", "link", "set", device, "mtu", str(SMALL_MTU)])
    try:
        yield
    finally:
        box.run_in(space, ["ip", "link", "set", device, "mtu", str(names.CLIENT_MTU)])


def download(connection: socket.socket) -> None:
    """Part of a long file, in packets as large as the sender thinks that the path carries."""
    asked = f"GET /long HTTP/1.1\r\nHost: vip\r\nRange: bytes=0-{PART_BYTES - 1}\r\n\r\n"
    connection.sendall(asked.encode())
    data = b""
    while len(data.partition(b"\r\n\r\n")[2]) < PART_BYTES:
        chunk = connection.recv(65536)
        assert chunk, "the connection ended in the middle of the file"
        data += chunk
    assert data.startswith(b"HTTP/1.1 206 "), data[:80]


def path_mtu(box: Box, host: int, client_port: int) -> int:
    """What the host's kernel takes for the path's MTU of a connection."""
    show = ["ss", "-Htin", "dport", "=", f":{client_port}"]
    found = re.search(r"\bpmtu:(\d+)", box.run_in(box.host_namespace(host), show))
    assert found, f"host {host} has no such connection"
    return int(found[1])


def test_a_routers_error_reaches_the_owners_socket(pop: Pop, family: int) -> None:
    box = pop.box
    box.set_next_hops([OWNER])
    connection = Connection(box, family).connect()
    assert connection.ask() == OWNER
    pop.wait_owner(session_of(connection.port, family), OWNER)
    assert path_mtu(box, OWNER, connection.port) > SMALL_MTU
    box.set_next_hops([OTHER])
    with nothing_misdelivered(box), narrow(box):
        download(connection.socket)
        assert path_mtu(box, OWNER, connection.port) == SMALL_MTU
    sent = "icmp_flooded" if pop.mode == NO_AGENT else "icmp_forwarded"
    assert pop.count(OTHER, sent) > 0
    assert pop.count(OWNER, "delivered_icmp") > 0
    if pop.mode == NO_AGENT:
        assert pop.count(3, "icmp_unknown") > 0
    connection.close()
