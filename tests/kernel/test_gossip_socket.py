# SPDX-License-Identifier: BSD-2-Clause
"""The gossip's sockets over a real veth pair in namespaces of their own."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pyxdp_gossip.errors import HostError
from pyxdp_gossip.gossip_socket import GossipSocket, ProbeSocket

PORT = 7946
# Longer than the kernel takes on a veth pair; a test that waits for it has failed.
PATIENCE_MS = 10_000

FAMILIES = {
    4: ("10.72.0.1", "10.72.0.2", "239.192.7.1", "/24"),
    6: ("fd72::1", "fd72::2", "ff15::7946", "/64"),
}


def received(gossip: GossipSocket, count: int = 1) -> list[tuple[bytes, tuple[str, int]]]:
    """Wait for so many datagrams."""
    poll = select.poll()
    for fileno in gossip.filenos:
        poll.register(fileno, select.POLLIN)
    rows: list[tuple[bytes, tuple[str, int]]] = []
    while len(rows) < count:
        assert poll.poll(PATIENCE_MS), f"{len(rows)} of {count} datagrams came"
        rows += gossip.receive(count - len(rows))
    return rows


@pytest.fixture(params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, netns: Callable[[str], Any], veth: Callable[..., None]
) -> Iterator[tuple[Any, Any, GossipSocket, GossipSocket]]:
    """Two hosts of one group, and their sockets."""
    left_address, right_address, group, prefix = FAMILIES[request.param]
    left, right = netns("l"), netns("r")
    veth(left, "l0", right, "r0")
    # Without duplicate address detection an IPv6 address is there to bind to at once.
    left.ip(f"addr add {left_address}{prefix} dev l0 nodad")
    right.ip(f"addr add {right_address}{prefix} dev r0 nodad")
    group_address = ip_address(group)
    with (
        left.run(GossipSocket, "l0", ip_address(left_address), group_address, PORT) as one,
        right.run(GossipSocket, "r0", ip_address(right_address), group_address, PORT) as two,
    ):
        yield left, right, one, two


def addresses(gossip: GossipSocket) -> tuple[str, int]:
    opened = socket.socket(fileno=gossip.filenos[0])
    try:
        name = opened.getsockname()
        return name[0], name[1]
    finally:
        opened.detach()


def test_a_datagram_to_the_group_reaches_the_other_host_and_not_oneself(pair: Any) -> None:
    _, _, one, two = pair
    one.send(None, b"to all")
    assert received(two) == [(b"to all", addresses(one))]
    two.send(None, b"back")
    assert received(one) == [(b"back", addresses(two))]
    assert (one.counters.sent, one.counters.received) == (1, 1)


def test_a_datagram_to_a_host_reaches_that_host(pair: Any) -> None:
    _, _, one, two = pair
    one.send(addresses(two), b"to you")
    assert received(two) == [(b"to you", addresses(one))]
    assert one.receive(10) == []


def test_at_most_so_many_datagrams_are_received_at_once(pair: Any) -> None:
    _, _, one, two = pair
    for _ in range(5):
        one.send(addresses(two), b"x")
    received(two)
    assert len(received(two, 4)) == 4
    assert two.receive(3) == []


def test_without_a_group_what_is_for_all_goes_to_each_host_that_can_be_reached(
    netns: Callable[[str], Any],
) -> None:
    space = netns("l")
    own, second, third = (ip_address(f"127.0.0.{number}") for number in (1, 2, 3))
    nowhere = ip_address("10.99.0.1")  # sorts before them, and there is no route to it
    with (
        space.run(GossipSocket, "lo", own, None, PORT) as one,
        space.run(GossipSocket, "lo", second, None, PORT) as two,
        space.run(GossipSocket, "lo", third, None, PORT) as three,
    ):
        one.send(None, b"nobody is known yet")
        one.set_everyone([nowhere, second, third, own, second])
        one.send(None, b"to all")
        for other in (two, three):
            assert received(other) == [(b"to all", (str(own), PORT))]
            assert other.receive(10) == []
        assert (one.counters.sent, one.counters.send_failed) == (2, 1)
        one.set_everyone([third])
        one.send(None, b"to the third")
        assert received(three) == [(b"to the third", (str(own), PORT))]
        assert [one.receive(10), two.receive(10)] == [[], []]


def test_without_a_group_none_is_joined(netns: Callable[[str], Any]) -> None:
    space = netns("l")
    space.ip("link add d0 type veth peer name d1")
    space.ip("link set d0 up")
    space.ip("addr add 10.72.0.1/24 dev d0")
    before = space.ip("maddr show dev d0")
    with space.run(GossipSocket, "d0", ip_address("10.72.0.1"), None, PORT) as gossip:
        assert len(gossip.filenos) == 1
        space.run(gossip.rejoin, "d0")
        assert space.ip("maddr show dev d0") == before


def test_an_interface_that_goes_down_is_counted_and_raises_nothing(pair: Any) -> None:
    left, _, one, _ = pair
    left.ip("link set l0 down")
    one.send(None, b"lost")
    assert one.counters.send_failed == 1


def test_datagrams_that_were_not_read_in_time_are_counted(pair: Any) -> None:
    _, _, one, two = pair
    small = socket.socket(fileno=two.filenos[0])
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.detach()
    for _ in range(100):
        one.send(addresses(two), bytes(1000))
    while two.receive(64):
        pass
    one.send(addresses(two), b"after")
    received(two)
    assert two.counters.overflowed > 0


def test_a_missing_interface_is_one_clear_line(netns: Callable[[str], Any]) -> None:
    with pytest.raises(HostError, match="'none0' does not exist") as caught:
        netns("l").run(GossipSocket, "none0", ip_address("127.0.0.1"), None, PORT)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_one_clear_line(netns: Callable[[str], Any]) -> None:
    namespace = netns("l")
    with pytest.raises(HostError, match=r"check \[host\] address"):
        namespace.run(GossipSocket, "lo", ip_address("10.72.0.9"), None, PORT)
    with pytest.raises(HostError, match=r"check \[host\] address"):
        namespace.run(ProbeSocket, ip_address("10.72.0.9"))


def test_a_port_that_is_taken_is_one_clear_line(netns: Callable[[str], Any]) -> None:
    namespace = netns("l")
    arguments = ("lo", ip_address("127.0.0.1"), None, PORT)
    with (
        namespace.run(GossipSocket, *arguments),
        pytest.raises(HostError, match="another agent runs"),
    ):
        namespace.run(GossipSocket, *arguments)


def test_a_probe_is_answered_and_a_closed_port_is_no_answer(netns: Callable[[str], Any]) -> None:
    namespace = netns("l")
    address = ip_address("127.0.0.1")
    with (
        namespace.run(ProbeSocket, address) as probe,
        namespace.run(GossipSocket, "lo", address, None, PORT) as answerer,
    ):
        assert probe.send(address, 9, b"nobody")
        assert probe.send(address, PORT, struct.pack("!Q", 7))
        ((payload, source),) = received(answerer)
        answerer.send(source, payload)
        assert select.select([probe.fileno()], [], [], PATIENCE_MS / 1000)[0]
        rows: list[tuple[bytes, tuple[str, int]]] = []
        while not rows:
            rows = probe.receive()
        assert rows == [(struct.pack("!Q", 7), ("127.0.0.1", PORT))]


MEMBERSHIPS_MAX = 20  # net.ipv4.igmp_max_memberships


@pytest.mark.parametrize("options", ["", "index 90"], ids=["new index", "same index"])
def test_an_interface_made_anew_again_and_again_is_joined_each_time(
    netns: Callable[[str], Any], options: str
) -> None:
    space = netns("a")
    address, group = ip_address("10.72.0.1"), ip_address("239.192.7.1")

    def make() -> None:
        space.ip(f"link add d0 {options} type veth peer name d1")
        space.ip("link set d0 up")
        space.ip(f"addr add {address}/24 dev d0")

    make()
    with space.run(GossipSocket, "d0", address, group, PORT) as gossip:
        for _ in range(MEMBERSHIPS_MAX + 2):
            space.ip("link del d0")
            make()
            space.run(gossip.rejoin, "d0")
            assert str(group) in space.ip("maddr show dev d0")
