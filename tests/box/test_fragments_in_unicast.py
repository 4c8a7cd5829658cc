# SPDX-License-Identifier: BSD-2-Clause
"""A client's fragments of what no table knows, without multicast: each goes to one host at most.

A datagram is a new session of the host that it came to. A miss is relayed: to one host, drawn anew
for each packet, all fragments of a packet to the same one, and no loop makes copies of them.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, TCP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pyxdp_gossip.popbox import Box, names
from tests.box.host_maps import session_key
from tests.box.pop import AGENTS, Pop, nothing_misdelivered
from tests.box.test_odd_packets import udp_socket
from tests.box.traffic import (
    VIPS,
    WINDOW,
    RawClient,
    hide_raw_ports,
    session_of,
    wait_for,
)

MakeBox = Callable[..., Box]

HOSTS = 4
OWNER, ENTRY = 1, 2  # whose socket it is, and where ECMP brings the packets
NOWHERE = 99  # a host that may own sessions, to which no way leads
UDP_SLOTS = {4: 1, 6: 3}  # behind TCP of the same VIP
DATAGRAM_BYTES = 4000  # three fragments at the client's MTU of 1500
LATER_FRAGMENTS = 2
DATAGRAMS = 40  # each is relayed to one of three hosts: the owner among them, and not
REQUESTS = 12
RAW_PORT = 21000
SENT = ("stray_forwarded", "miss_relayed", "miss_flooded", "fragment_forwarded", "fragmented",
        "flood_copies", "misdirected_flooded")  # fmt: skip
RECEIVED = ("delivered_udp", "delivered_stray", "delivered_flood", "delivered_fragment",
            "fragment_refused", "flood_unknown", "misdirected_dropped")  # fmt: skip


@pytest.fixture
def pop(make_box: MakeBox) -> Iterator[Pop]:
    """Four hosts that are told of each other; loops run on all of them."""
    service = [
        {"vip": VIPS[version], "port": names.VIP_PORT, "protocol": protocol}
        for version in (4, 6)
        for protocol in ("tcp", "udp")
    ]
    made = Pop(make_box(hosts=HOSTS, multicast=False), AGENTS, {"service": service})
    made.box.set_next_hops([ENTRY])
    yield made
    made.close()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@contextmanager
def udp_servers(box: Box, family: int, hosts: Sequence[int]) -> Iterator[dict[int, socket.socket]]:
    """An unconnected socket on each of these hosts."""
    with ExitStack() as stack:
        yield {
            host: stack.enter_context(
                udp_socket(box.host_namespace(host), family, VIPS[family], names.VIP_PORT)
            )
            for host in hosts
        }


def client_socket(box: Box, family: int) -> socket.socket:
    """Connected, so that it hears of a port that is said to be unreachable."""
    made = udp_socket(box.client_namespace(1), family, "", 0)
    made.connect((VIPS[family], names.VIP_PORT))
    return made


def connect_to_client(server: socket.socket, client: socket.socket, family: int) -> None:
    """So that the server's kernel knows the session."""
    address = names.client_address(1)
    to = address.ipv4 if family == 4 else address.ipv6
    server.connect((to, client.getsockname()[1]))


def assert_silent(*sockets: socket.socket) -> None:
    """None of them has got anything, an ICMP error neither."""
    for one in sockets:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(2 * DATAGRAM_BYTES)


def test_a_datagram_of_no_table_is_a_new_session_of_the_host_that_it_came_to(
    pop: Pop, family: int
) -> None:
    """Also if a socket of another host is connected to its client: nobody claimed that."""
    box, payload = pop.box, random.Random(1).randbytes(DATAGRAM_BYTES)
    with client_socket(box, family) as client, udp_servers(box, family, box.host_ids) as servers:
        connect_to_client(servers[OWNER], client, family)
        client.send(payload)
        received, sender = servers[ENTRY].recvfrom(2 * DATAGRAM_BYTES)
        assert received == payload
        servers[ENTRY].sendto(b"got it", sender)
        assert client.recv(100) == b"got it"
        assert_silent(client, *servers.values())
    assert pop.count(ENTRY, "passed_udp_new") == 1
    assert pop.count(ENTRY, "passed_fragment") == LATER_FRAGMENTS
    assert pop.count_all("passed_udp_new", "passed_fragment") == 1 + LATER_FRAGMENTS
    assert pop.count_all(*SENT, *RECEIVED, "fragment_unknown") == 0


def point_nowhere(pop: Pop, port: int, family: int) -> None:
    """The entry's table names a host to which no way leads: so the datagram is a miss."""
    maps = pop.maps(ENTRY)
    maps.lead_nowhere(NOWHERE)
    key = session_key(session_of(port, family), UDP_SLOTS[family])
    maps.lie(family, lambda table: table.put(key, NOWHERE))


def test_a_datagram_that_is_a_miss_goes_to_one_relay_and_only_its_owner_takes_it(
    pop: Pop, family: int
) -> None:
    box, delivered = pop.box, 0
    with udp_servers(box, family, (ENTRY, 3, 4)) as others:
        for number in range(DATAGRAMS):
            payload = random.Random(number).randbytes(DATAGRAM_BYTES)
            with client_socket(box, family) as client, udp_servers(box, family, [OWNER]) as servers:
                owner = servers[OWNER]
                connect_to_client(owner, client, family)
                point_nowhere(pop, client.getsockname()[1], family)
                client.send(payload)
                wait_received(pop, (number + 1) * (1 + LATER_FRAGMENTS))
                if pop.count(OWNER, "delivered_flood") > delivered:
                    delivered += 1
                    assert owner.recv(2 * DATAGRAM_BYTES) == payload
                    owner.send(b"got it")
                    assert client.recv(100) == b"got it"
                assert_silent(client, owner)
        assert_silent(*others.values())
    assert pop.count(ENTRY, "miss_relayed") == DATAGRAMS
    assert_each_went_to_one(pop, DATAGRAMS, delivered)


def wait_received(pop: Pop, fragments: int) -> None:
    """Until so many fragments have ended at those to which they were relayed."""
    wait_for(f"{fragments} fragments", lambda: pop.count_all(*RECEIVED) >= fragments)


def assert_each_went_to_one(pop: Pop, packets: int, delivered: int) -> None:
    """Of packets of three fragments each: some came to the owner, all others were dropped."""
    assert 0 < delivered < packets
    assert pop.count(ENTRY, "fragment_forwarded") == packets * LATER_FRAGMENTS
    assert pop.count_all("miss_relayed", "fragment_forwarded") == packets * (1 + LATER_FRAGMENTS)
    assert pop.count_all(*RECEIVED) == packets * (1 + LATER_FRAGMENTS)
    assert pop.count(OWNER, "delivered_flood") == delivered
    assert pop.count_all("delivered_fragment") == delivered * LATER_FRAGMENTS
    assert pop.count(OWNER, "delivered_fragment") == delivered * LATER_FRAGMENTS
    assert pop.count_all("misdirected_dropped") == packets - delivered
    assert pop.count_all("fragment_refused") == (packets - delivered) * LATER_FRAGMENTS
    assert pop.count_all("flood_copies", "misdirected_flooded", "flood_unknown") == 0
    assert pop.count_all("stray_forwarded", "passed_unowned", "fragment_unknown") == 0


class FragmentingClient(RawClient):
    """Its requests leave in three fragments each, which the entry's table does not know."""

    def __init__(self, pop: Pop, port: int) -> None:
        super().__init__(pop.box, port)
        self._pop = pop
        self.tries = 0

    def send_again(self, flags: str, payload: bytes = b"", *, back: int = 0) -> None:
        if not payload:
            super().send_again(flags, payload, back=back)
            return
        ports = {"sport": self.port, "dport": names.VIP_PORT, "window": WINDOW}
        tcp = TCP(**ports, flags=flags, seq=self.seq, ack=self.ack)
        taken = self._pop.count(OWNER, "delivered_fragment")
        while self._pop.count(OWNER, "delivered_fragment") == taken:
            self._try_once(tcp / Raw(payload))

    def _try_once(self, segment: TCP) -> None:
        """As a client whose kernel sends it once more, with another identification."""
        self.tries += 1
        packet = self._lower[IP].copy()
        packet.id = self.tries
        pieces = fragment(packet / segment, fragsize=24)
        assert len(pieces) == 1 + LATER_FRAGMENTS
        key = session_key(session_of(self.port))
        self._pop.maps(ENTRY).lie(4, lambda table: table.remove(key))
        for piece in pieces:
            self._socket.send(bytes(Ether(src=self._lower.src, dst=self._lower.dst) / piece))
        ended = self.tries * LATER_FRAGMENTS
        wait_for("later fragments", lambda: self._ended() == ended)

    def _ended(self) -> int:
        return self._pop.count_all("delivered_fragment", "fragment_refused")


def test_fragments_of_a_live_connection_are_never_answered_by_another_host(pop: Pop) -> None:
    box = pop.box
    hide_raw_ports(box)
    box.set_next_hops([OWNER])
    with nothing_misdelivered(box), FragmentingClient(pop, RAW_PORT) as client:
        client.connect()
        pop.wait_owner(session_of(RAW_PORT), OWNER)
        box.set_next_hops([ENTRY])
        assert [client.ask() for _ in range(REQUESTS)] == [OWNER] * REQUESTS
    assert client.tries > REQUESTS, "each was relayed to the owner by chance"
    assert pop.count(ENTRY, "miss_relayed") > 0
    assert pop.count(OWNER, "delivered_fragment") == REQUESTS * LATER_FRAGMENTS
    assert pop.count_all("fragment_unknown", "fragment_over_budget") == 0
