# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's TCP sockets as session events, with `ss` as the oracle."""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

import pytest

from pyxdp_gossip import netlink, sockets_diag

VIP4 = IPv4Address("198.51.100.1")
VIP6 = IPv6Address("2001:db8:1::1")
CLIENT4 = "203.0.113.9"
CLIENT6 = "2001:db8:2::9"
SERVICES = {(VIP4, 443): 7, (VIP6, 443): 8, (VIP4, 80): 9}
NOW = 123_456_789_000

# Longer than the kernel takes for anything here; a test that waits for it has failed.
PATIENCE_MS = 10_000

LIVE = {"ESTAB", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "LAST-ACK", "CLOSING"}
ABORT = struct.pack("ii", 1, 0)  # of SO_LINGER: close() resets the connection


class Event(NamedTuple):
    """A `struct xg_event` (csrc/xg_types.h), read independently of the code under test."""

    kind: int
    family: int
    slot: int
    port: int
    client: str


def events(data: bytes) -> list[Event]:
    assert len(data) % 40 == 0
    found = []
    for record in (data[start : start + 40] for start in range(0, len(data), 40)):
        kind, family, slot = struct.unpack("=BBH", record[:4])
        (port,) = struct.unpack("!H", record[4:6])
        assert record[6:16] == bytes(10), "host, seq and ack are not used here"
        if family == 4:
            assert record[20:32] == bytes(12), "an IPv4 address fills the first four bytes only"
        client = ip_address(record[16:20] if family == 4 else record[16:32])
        assert struct.unpack("=Q", record[32:]) == (NOW,)
        found.append(Event(kind, family, slot, port, str(client)))
    return sorted(found)


class Host:
    """A namespace with the VIPs and client addresses, and pairs of connected sockets."""

    def __init__(self, namespace: Any) -> None:
        self.namespace = namespace
        namespace.ip(f"addr add {VIP4}/32 dev lo")
        namespace.ip(f"addr add {CLIENT4}/32 dev lo")
        namespace.ip(f"addr add {VIP6}/128 dev lo nodad")
        namespace.ip(f"addr add {CLIENT6}/128 dev lo nodad")
        self.listeners: dict[tuple[str, int], socket.socket] = {}

    def listen(self, address: str, port: int, dual: bool = False) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def make() -> socket.socket:
            return socket.create_server((address, port), family=family, dualstack_ipv6=dual)

        self.listeners[address, port] = self.namespace.run(make)
        return self.listeners[address, port]

    def connect(
        self, listener: socket.socket, vip: Any, port: int
    ) -> tuple[socket.socket, socket.socket]:
        """(client's socket, accepted socket) of one connection."""
        source = CLIENT4 if vip.version == 4 else CLIENT6

        def make() -> socket.socket:
            return socket.create_connection((str(vip), port), source_address=(source, 0))

        client = self.namespace.run(make)
        accepted, _peer = listener.accept()
        return client, accepted

    def dump(self) -> list[Event]:
        data: bytes = self.namespace.run(netlink.established_sockets, SERVICES, NOW)
        return events(data)

    def shown_by_ss(self) -> list[Event]:
        """The same from `ss`, TIME_WAIT sockets left out by their timer."""
        found = []
        for line in self.namespace.exec("ss -Htano").splitlines():
            state, _receive, _send, local, remote = line.split()[:5]
            if state not in LIVE or "timer:(timewait" in line:
                continue
            slot = SERVICES.get(address_and_port(local))
            if slot is not None:
                client, port = address_and_port(remote)
                found.append(Event(1, client.version, slot, port, str(client)))
        return sorted(found)


def address_and_port(text: str) -> tuple[Any, int]:
    match = re.fullmatch(r"\[?([0-9a-f.:]+?)\]?(?:%\w+)?:(\d+)", text)
    assert match, text
    address = ip_address(match[1])
    return getattr(address, "ipv4_mapped", None) or address, int(match[2])


@pytest.fixture
def host(netns: Callable[[str], Any]) -> Host:
    return Host(netns("s"))


@pytest.fixture
def listener(host: Host) -> Any:
    with host.namespace.run(netlink.DestroyListener, SERVICES) as made:
        yield made


def wait_for(listener: netlink.DestroyListener, what: int) -> None:
    poller = select.poll()
    poller.register(listener, what)
    assert poller.poll(PATIENCE_MS), "no destroy notification came"


def reported(listener: netlink.DestroyListener) -> list[Event]:
    """The next reports, which may be of sockets that are none of ours (the clients', here)."""
    wait_for(listener, select.POLLIN)
    return events(listener.read(NOW))


def destroyed(listener: netlink.DestroyListener) -> list[Event]:
    """Waits for the next reports of sessions of ours."""
    while not (found := reported(listener)):
        pass
    return found


def end(client: socket.socket, accepted: socket.socket) -> None:
    """Ends a session by a reset of the client's, which the server's kernel reports in full."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    client.close()
    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    accepted.close()


def expected(client: socket.socket, kind: int, slot: int) -> Event:
    address, port = client.getsockname()[:2]
    return Event(kind, 6 if ":" in address else 4, slot, port, address)


def test_the_dump_has_the_sessions_of_services_and_no_other_socket(host: Host) -> None:
    web4, web6 = host.listen(str(VIP4), 443), host.listen(str(VIP6), 443)
    other = host.listen(CLIENT4, 443)
    admin = host.listen(str(VIP4), 444)
    kept = [host.connect(web4, VIP4, 443) for _ in range(3)]
    kept += [host.connect(web6, VIP6, 443) for _ in range(3)]
    kept += [host.connect(other, IPv4Address(CLIENT4), 443), host.connect(admin, VIP4, 444)]
    wanted = [expected(client, 1, 7) for client, _ in kept[:3]]
    wanted += [expected(client, 1, 8) for client, _ in kept[3:6]]
    assert host.dump() == sorted(wanted) == host.shown_by_ss()


def test_a_mapped_ipv4_session_of_a_dual_stack_listener_is_an_ipv4_session(host: Host) -> None:
    both = host.listen("::", 443, dual=True)
    four, six = host.connect(both, VIP4, 443), host.connect(both, VIP6, 443)
    assert four[1].family == socket.AF_INET6
    wanted = sorted((expected(four[0], 1, 7), expected(six[0], 1, 8)))
    assert host.dump() == wanted == host.shown_by_ss()


def test_half_closed_sessions_are_live_and_time_wait_is_not(host: Host) -> None:
    web = host.listen(str(VIP4), 443)
    passive, active = host.connect(web, VIP4, 443), host.connect(web, VIP4, 443)
    passive[0].shutdown(socket.SHUT_WR)  # the server's side: CLOSE_WAIT
    active[1].shutdown(socket.SHUT_WR)  # the server's side: FIN_WAIT2
    wanted = sorted((expected(passive[0], 1, 7), expected(active[0], 1, 7)))
    assert host.dump() == wanted == host.shown_by_ss()
    active[0].close()  # the server's side: TIME_WAIT
    assert host.dump() == [expected(passive[0], 1, 7)] == host.shown_by_ss()


def test_a_closed_session_that_waits_for_the_clients_fin_is_not_live(host: Host) -> None:
    web = host.listen(str(VIP4), 443)
    client, accepted = host.connect(web, VIP4, 443)
    accepted.close()
    client.recv(1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # ACK of the FIN, not delayed
    assert "timer:(timewait" in host.namespace.exec("ss -Htano src 198.51.100.1")
    assert host.dump() == [] == host.shown_by_ss()


def test_many_services_need_one_dump_and_find_the_same(host: Host) -> None:
    web, plain = host.listen(str(VIP4), 443), host.listen(str(VIP4), 80)
    clients = [host.connect(web, VIP4, 443), host.connect(plain, VIP4, 80)]
    wanted = sorted((expected(clients[0][0], 1, 7), expected(clients[1][0], 1, 9)))
    for ports in (100, sockets_diag.FILTERED_PORTS_MAX, sockets_diag.FILTERED_PORTS_MAX + 1000):
        more = {(VIP4, 20000 + port): 1 for port in range(ports - 2)} | SERVICES
        found = host.namespace.run(netlink.established_sockets, more, NOW)
        assert events(found) == wanted


def test_no_service_is_no_event(host: Host) -> None:
    web = host.listen(str(VIP4), 443)
    _kept = host.connect(web, VIP4, 443)
    assert host.namespace.run(netlink.established_sockets, {}, NOW) == b""


def test_a_dump_of_several_datagrams_is_whole(host: Host) -> None:
    web = host.listen(str(VIP4), 443)
    kept = [host.connect(web, VIP4, 443) for _ in range(1000)]
    assert host.dump() == sorted(expected(client, 1, 7) for client, _ in kept)


@pytest.mark.parametrize(("vip", "slot"), [(VIP4, 7), (VIP6, 8)])
def test_a_session_that_is_closed_is_reported_destroyed(
    host: Host, listener: netlink.DestroyListener, vip: Any, slot: int
) -> None:
    client, accepted = host.connect(host.listen(str(vip), 443), vip, 443)
    wanted = expected(client, 3, slot)
    client.close()
    accepted.recv(1)
    accepted.close()
    assert destroyed(listener) == [wanted]
    assert host.dump() == []


@pytest.mark.parametrize(("vip", "slot"), [(VIP4, 7), (VIP6, 8)])
def test_a_session_that_is_reset_is_reported_destroyed(
    host: Host, listener: netlink.DestroyListener, vip: Any, slot: int
) -> None:
    client, accepted = host.connect(host.listen(str(vip), 443), vip, 443)
    wanted = expected(client, 3, slot)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    client.close()
    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    assert host.dump() == []
    accepted.close()
    assert destroyed(listener) == [wanted]


def test_a_mapped_ipv4_session_is_reported_destroyed_as_ipv4(
    host: Host, listener: netlink.DestroyListener
) -> None:
    client, accepted = host.connect(host.listen("::", 443, dual=True), VIP4, 443)
    wanted = expected(client, 3, 7)
    end(client, accepted)
    assert destroyed(listener) == [wanted]


@pytest.mark.parametrize(("bind", "vip"), [(str(VIP4), VIP4), ("::", VIP4), ("::", VIP6)])
def test_a_session_aborted_here_is_counted_since_its_report_has_no_client(
    host: Host, listener: netlink.DestroyListener, bind: str, vip: Any
) -> None:
    web = host.listen(bind, 443, dual=bind == "::")
    _client, accepted = host.connect(web, vip, 443)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    accepted.close()
    while listener.unnamed == 0:
        assert reported(listener) == []
    assert listener.unnamed == 1
    assert host.dump() == []


def test_other_sockets_and_listeners_are_not_reported(
    host: Host, listener: netlink.DestroyListener
) -> None:
    web, admin = host.listen(str(VIP4), 443), host.listen(str(VIP4), 444)
    session, other = host.connect(web, VIP4, 443), host.connect(admin, VIP4, 444)
    wanted = expected(session[0], 3, 7)
    end(*other)
    admin.close()
    web.close()
    end(*session)
    found: list[Event] = []
    while wanted not in found:
        found += destroyed(listener)
    assert found == [wanted]
    assert listener.unnamed == 0


def test_dropped_notifications_are_counted_and_the_listener_goes_on(
    host: Host, listener: netlink.DestroyListener
) -> None:
    buffer = listener._netlink.socket
    enough = buffer.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    buffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    web = host.listen(str(VIP4), 443)
    for session in [host.connect(web, VIP4, 443) for _ in range(50)]:
        end(*session)
    wait_for(listener, 0)  # POLLERR alone, which is there unasked: the kernel dropped some
    assert len(reported(listener)) < 50
    assert listener.overflows >= 1
    buffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, enough)
    last = host.connect(web, VIP4, 443)
    wanted = expected(last[0], 3, 7)
    end(*last)
    while wanted not in destroyed(listener):
        pass


def test_a_listener_may_stop_to_listen_and_begin_again(
    host: Host, listener: netlink.DestroyListener
) -> None:
    web = host.listen(str(VIP4), 443)
    listener.listen(False)
    end(*host.connect(web, VIP4, 443))
    listener.listen(True)
    heard = host.connect(web, VIP4, 443)
    wanted = expected(heard[0], 3, 7)
    end(*heard)
    assert destroyed(listener) == [wanted]


def test_a_listener_with_nothing_to_say_reads_nothing_and_closes_twice(host: Host) -> None:
    listener = host.namespace.run(netlink.DestroyListener, SERVICES)
    assert listener.read(NOW) == b""
    host.namespace.remove()
    assert listener.read(NOW) == b""
    listener.close()
    listener.close()
    assert listener.fileno() == -1
    assert listener.read(NOW) == b""


def test_the_cookie_tells_namespaces_apart_and_stays(netns: Callable[[str], Any]) -> None:
    one, two = netns("one"), netns("two")
    assert one.run(netlink.netns_cookie) == one.run(netlink.netns_cookie)
    cookies = {one.run(netlink.netns_cookie), two.run(netlink.netns_cookie), netlink.netns_cookie()}
    assert len(cookies) == 3
    assert all(0 < cookie < 1 << 64 for cookie in cookies)
