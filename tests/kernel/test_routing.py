# SPDX-License-Identifier: BSD-2-Clause
"""The way to each host, seen on the packets that the XDP program sends, as routes change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pyxdp_gossip.dataplane_settings import NO_TEMPLATE
from pyxdp_gossip.gossip.sealing import tunnel_cookie
from pyxdp_gossip.routing import Routing
from pyxdp_gossip.session import packed16
from pyxdp_gossip.templates import PACKED, overhead
from tests.golden import ethernet, ip, tcp
from tests.golden_tunnel import FLOOD_MARK, RELAY_MARK, flooded, tunnelled
from tests.golden_world import (
    CLIENTS,
    FLOOD_GROUP,
    OWN_ADDRESS,
    OWN_MAC,
    TUNNEL_PORT,
    VIPS,
    State,
)
from tests.kernel.agent_host import AgentHost, agent_host
from tests.kernel.agent_host import wait_for as wait_for_agent
from tests.kernel.conftest import Namespace, command
from tests.kernel.conftest import connect as link_up
from tests.kernel.dataplane_fixture import DEVICE, HostUnderTest, host_under_test
from tests.kernel.live_connection import wait_for
from tests.model import Entry

HOST, FAR_HOST = 20, 21
MISSES = 50  # of two hosts each is drawn at least once
PEER, FAR_PEER = IPv4Address("10.8.0.30"), IPv4Address("10.99.0.9")
GATEWAY = IPv4Address("10.8.0.40")
PEER_MAC, GATEWAY_MAC = "02:00:00:00:01:30", "02:00:00:00:01:40"
OTHER_MAC = "02:00:00:00:01:77"
PEER_PORT = 6080
CLIENT_PORTS = {HOST: 52020, FAR_HOST: 52021}
SECRETS = [b"\x11" * 32, b"\x22" * 32]
TCP_SLOT = 0
OLDER_SECRET = b"\x33" * 32


class Pop:
    """The host under test on a switch, with a peer and a gateway beside it."""

    def __init__(self, netns: Callable[[str], Namespace]) -> None:
        self.inside, self.switch = netns("h"), netns("s")
        self.peer, self.gateway = netns("p"), netns("g")
        self.switch.ip("link add br0 type bridge mcast_snooping 0")
        self.switch.ip("link set br0 up")
        self._plug(self.inside, DEVICE, OWN_MAC.hex(":"), OWN_ADDRESS)
        self._plug(self.peer, "p0", PEER_MAC, PEER)
        self._plug(self.gateway, "g0", GATEWAY_MAC, GATEWAY)
        self.inside.ip(f"addr add {VIPS[4]}/32 dev {DEVICE}")
        self.inside.ip(f"route add {FAR_PEER} via {GATEWAY}")

    def _plug(self, namespace: Namespace, device: str, mac: str, address: IPv4Address) -> None:
        port = f"to-{device}"
        link_up(namespace, device, self.switch, port)
        self.switch.ip(f"link set {port} master br0 mtu 1600")
        namespace.ip(f"link set {device} address {mac} mtu 1600")
        namespace.exec(f"sysctl -qw net.ipv4.conf.{device}.arp_notify=1")
        namespace.ip(f"addr add {address}/24 dev {device}")

    def is_kept(self, address: IPv4Address) -> bool:
        """Whether the kernel keeps the neighbour resolved by itself."""
        shown = self.inside.ip(f"neigh show to {address} dev {DEVICE}")
        return "managed" in shown.split()


class Ways:
    """Routing over a real data path, and the packets by which its work is seen."""

    def __init__(self, pop: Pop, host: HostUnderTest, secrets: list[bytes] = SECRETS) -> None:
        self.pop, self.host = pop, host
        self.routing = Routing(host.plane, DEVICE, OWN_ADDRESS, secrets)
        for number, port in CLIENT_PORTS.items():
            host.plane.owners.activate(number)
            host.put(CLIENTS[4], port, TCP_SLOT, Entry(number))
        self.refresh()

    def add(self, number: int, address: IPv4Address, port: int = PEER_PORT) -> None:
        self.pop.inside.run(self.routing.add, number, address, port)

    def remove(self, number: int) -> None:
        self.pop.inside.run(self.routing.remove, number)

    def refresh(self) -> None:
        self.pop.inside.run(self.routing.refresh)

    def is_complete(self) -> bool:
        """After a look at the kernel, as the agent takes one while a way is missing."""
        self.refresh()
        return self.routing.complete

    def stray(self, number: int = HOST, inner_len: int = 100) -> Any:
        """A stray of a session of that host through the program: its verdict."""
        transport = tcp(State.OTHER, sport=CLIENT_PORTS[number])
        frame = bytes(ethernet() / ip(4) / transport / Raw(bytes(inner_len - 40)))
        return self.host.run(frame)

    def miss(self) -> Any:
        """A segment of a session that nobody knows: its verdict."""
        return self.host.run(bytes(ethernet() / ip(4) / tcp(State.ABSENT, "A")))

    def sent(self, number: int = HOST) -> Any:
        """The outer headers of a stray that is sent to its owner, or None."""
        verdict = self.stray(number)
        return Ether(verdict.frame) if verdict.ending == "stray_forwarded" else None

    def next_hop(self, number: int = HOST) -> str | None:
        """The MAC that a stray is sent to; None: it is flooded, for lack of a way."""
        outer = self.sent(number)
        return None if outer is None else str(outer.dst)

    def wait_for_next_hop(self, mac: str | None, number: int = HOST) -> None:
        """Refreshes as the agent does, until strays go there."""

        def is_there() -> bool:
            self.refresh()
            return self.next_hop(number) == mac

        wait_for(f"strays to {mac}", is_there)

    def arrived(self, *, secret: bytes = SECRETS[0], source: IPv4Address = PEER) -> Any:
        """A SYN that a peer sends here through the tunnel: its verdict."""
        cookie = tunnel_cookie(secret, packed16(source), packed16(OWN_ADDRESS))
        return self.host.run(tunnelled(ip(4) / tcp(State.OWN, "S"), cookie=cookie, source=source))

    def arrived_flood(self, secret: bytes = SECRETS[0]) -> str:
        """What becomes of a flood that the peer sends."""
        cookie = tunnel_cookie(secret, packed16(PEER), packed16(FLOOD_GROUP))
        frame = flooded(ip(4) / tcp(State.OWN, "A"), cookie=cookie, source=PEER)
        return str(self.host.run(frame).ending)


@pytest.fixture
def pop(netns: Callable[[str], Namespace]) -> Pop:
    return Pop(netns)


@contextmanager
def ways_of(pop: Pop, secrets: list[bytes] = SECRETS, **changes: Any) -> Iterator[Ways]:
    """Routing over a data path of its own; `changes` are of DataplaneSettings."""
    with host_under_test(pop.inside, **changes) as host:
        yield Ways(pop, host, secrets)


@pytest.fixture
def ways(pop: Pop) -> Iterator[Ways]:
    with ways_of(pop) as made:
        yield made


@pytest.fixture
def beside(ways: Ways) -> Ways:
    """A way to the peer in the same broadcast domain."""
    ways.add(HOST, PEER)
    wait_for("the way to the peer", ways.is_complete)
    return ways


def cookie_of(outer: Any) -> bytes:
    """The tunnel cookie of a packet that was sent."""
    return bytes(outer[UDP].payload)[8:16]


def test_a_peer_in_the_same_broadcast_domain_is_sent_to_by_its_own_mac(beside: Ways) -> None:
    outer = beside.sent()
    assert (outer.dst, outer.src) == (PEER_MAC, OWN_MAC.hex(":"))
    assert (outer[IP].src, outer[IP].dst) == (str(OWN_ADDRESS), str(PEER))
    assert outer[UDP].dport == PEER_PORT
    secret, ends = SECRETS[0], (packed16(OWN_ADDRESS), packed16(PEER))
    assert cookie_of(outer) == tunnel_cookie(secret, *ends)
    assert beside.routing.complaint is None


def test_a_peer_behind_a_gateway_is_sent_to_by_the_gateways_mac(ways: Ways) -> None:
    ways.add(FAR_HOST, FAR_PEER, 7080)
    wait_for("the way over the gateway", ways.is_complete)
    outer = ways.sent(FAR_HOST)
    assert (outer.dst, outer[IP].dst, outer[UDP].dport) == (GATEWAY_MAC, str(FAR_PEER), 7080)


def test_until_the_neighbour_is_known_strays_are_flooded(ways: Ways) -> None:
    ways.pop.peer.ip("link set p0 down")
    ways.add(HOST, PEER)
    assert (ways.is_complete(), ways.stray().ending) == (False, "miss_flooded")
    ways.pop.peer.ip("link set p0 up")
    wait_for("the way to the peer", ways.is_complete)
    assert ways.next_hop() == PEER_MAC


def test_a_route_that_changes_to_a_gateway_and_back_is_followed(beside: Ways) -> None:
    beside.pop.inside.ip(f"route add {PEER} via {GATEWAY}")
    beside.wait_for_next_hop(GATEWAY_MAC)
    beside.pop.inside.ip(f"route del {PEER} via {GATEWAY}")
    beside.wait_for_next_hop(PEER_MAC)


def test_a_neighbour_that_is_no_next_hop_any_more_is_no_longer_kept(beside: Ways) -> None:
    assert beside.pop.is_kept(PEER)
    beside.pop.inside.ip(f"route add {PEER} via {GATEWAY}")
    beside.wait_for_next_hop(GATEWAY_MAC)
    assert beside.pop.is_kept(GATEWAY)
    assert not beside.pop.is_kept(PEER)


def test_another_mac_of_the_peer_is_followed(beside: Ways) -> None:
    beside.pop.peer.ip(f"link set p0 address {OTHER_MAC}")
    beside.wait_for_next_hop(OTHER_MAC)


def test_the_routes_mtu_limits_what_is_sent_and_so_does_the_links(beside: Ways) -> None:
    fits = 1300 - overhead("gue", 4)
    beside.pop.inside.ip(f"route add {PEER} dev {DEVICE} mtu 1300")
    beside.refresh()
    endings = [beside.stray(inner_len=length).ending for length in (fits, fits + 1)]
    assert endings == ["stray_forwarded", "too_big_answered"]
    beside.pop.inside.ip(f"route del {PEER} dev {DEVICE} mtu 1300")
    beside.refresh()
    assert beside.stray(inner_len=fits + 1).ending == "stray_forwarded"
    beside.pop.inside.ip(f"link set {DEVICE} mtu 1400")
    beside.refresh()
    assert beside.routing.mtu == 1400
    lengths = (1400 - overhead("gue", 4), 1401 - overhead("gue", 4))
    endings = [beside.stray(inner_len=length).ending for length in lengths]
    assert endings == ["stray_forwarded", "too_big_answered"]


def test_a_neighbour_that_goes_away_leaves_no_way_until_it_is_back(beside: Ways) -> None:
    beside.pop.peer.ip("link set p0 down")
    beside.pop.inside.ip(f"neigh flush dev {DEVICE}")
    beside.wait_for_next_hop(None)
    assert not beside.routing.complete
    beside.pop.peer.ip("link set p0 up")
    wait_for("the way to the peer", beside.is_complete)
    assert beside.next_hop() == PEER_MAC


def test_a_host_without_any_route_has_no_way(beside: Ways) -> None:
    beside.pop.inside.ip(f"route add unreachable {PEER}")
    beside.refresh()
    assert (beside.next_hop(), beside.routing.complete) == (None, False)
    beside.pop.inside.ip(f"route del unreachable {PEER}")
    wait_for("the way to the peer", beside.is_complete)


def test_a_peer_that_another_interface_leads_to_is_told_of_and_has_no_way(beside: Ways) -> None:
    inside, peer = beside.pop.inside, beside.pop.peer
    link_up(inside, "x0", peer, "px0")
    inside.ip("addr add 10.77.0.1/24 dev x0")
    peer.ip("addr add 10.77.0.2/24 dev px0")
    inside.ip(f"route add {PEER} via 10.77.0.2")

    def has_complaint() -> bool:
        beside.refresh()
        return beside.routing.complaint is not None

    wait_for("a complaint", has_complaint)
    assert f"host {HOST} at {PEER} is not reached by {DEVICE}" in (beside.routing.complaint or "")
    assert (beside.next_hop(), beside.routing.complete) == (None, False)
    inside.ip(f"route del {PEER} via 10.77.0.2")
    wait_for("the way to the peer", beside.is_complete)
    assert (beside.next_hop(), beside.routing.complaint) == (PEER_MAC, None)


def test_another_mac_of_this_host_is_in_all_that_is_sent_and_delivered(beside: Ways) -> None:
    assert Ether(beside.arrived().frame).dst == OWN_MAC.hex(":")
    beside.pop.inside.ip(f"link set {DEVICE} address {OTHER_MAC}")
    beside.wait_for_next_hop(PEER_MAC)
    assert beside.sent().src == OTHER_MAC
    delivered = beside.arrived()
    assert (delivered.ending, Ether(delivered.frame).dst) == ("delivered_syn", OTHER_MAC)
    miss = beside.miss()
    assert (miss.ending, Ether(miss.frame).src) == ("miss_flooded", OTHER_MAC)


def test_a_flood_goes_to_the_group_with_its_mark_and_cookie(ways: Ways) -> None:
    miss = ways.miss()
    outer = Ether(miss.frame)
    assert (miss.ending, outer.dst) == ("miss_flooded", "01:00:5e:40:07:02")
    assert (outer[IP].dst, outer[UDP].dport) == (str(FLOOD_GROUP), TUNNEL_PORT)
    assert bytes(outer[UDP].payload)[5] == FLOOD_MARK
    ends = (packed16(OWN_ADDRESS), packed16(FLOOD_GROUP))
    assert cookie_of(outer) == tunnel_cookie(SECRETS[0], *ends)


def test_without_a_group_every_host_with_a_way_may_be_asked_to_flood(pop: Pop) -> None:
    with ways_of(pop, flood_group=None) as ways:
        assert ways.miss().ending == "miss_no_flood"
        ways.add(HOST, PEER)
        ways.add(FAR_HOST, FAR_PEER)
        wait_for("both ways", ways.is_complete)
        hops = {}
        for _ in range(MISSES):
            miss = ways.miss()
            outer = Ether(miss.frame)
            assert (miss.ending, bytes(outer[UDP].payload)[5]) == ("miss_relayed", RELAY_MARK)
            ends = (packed16(OWN_ADDRESS), packed16(IPv4Address(outer[IP].dst)))
            assert cookie_of(outer) == tunnel_cookie(SECRETS[0], *ends)
            hops[outer[IP].dst] = outer.dst
        assert hops == {str(PEER): PEER_MAC, str(FAR_PEER): GATEWAY_MAC}
        ways.remove(HOST)
        assert {Ether(ways.miss().frame)[IP].dst for _ in range(MISSES)} == {str(FAR_PEER)}
        ways.pop.inside.ip(f"link set {DEVICE} address {OTHER_MAC}")
        wait_for("the way again", ways.is_complete)
        assert Ether(ways.arrived(source=FAR_PEER).frame).dst == OTHER_MAC


def test_adding_a_host_again_changes_nothing(beside: Ways) -> None:
    state = beside.host.plane.owners.state(HOST)
    beside.add(HOST, PEER)
    beside.refresh()
    assert beside.host.plane.owners.state(HOST) == state
    assert beside.arrived().ending == "delivered_syn"


def test_a_host_with_another_address_is_accepted_from_there_only(beside: Ways) -> None:
    moved = IPv4Address("10.8.0.31")
    beside.pop.peer.ip(f"addr add {moved}/24 dev p0")
    beside.add(HOST, moved)
    wait_for("the way to the new address", beside.is_complete)
    assert beside.sent()[IP].dst == str(moved)
    assert beside.arrived(source=moved).ending == "delivered_syn"
    assert beside.arrived().ending == "tunnel_bad_source"


def test_a_removed_host_is_refused_and_not_sent_to(beside: Ways) -> None:
    assert beside.arrived().ending == "delivered_syn"
    beside.remove(HOST)
    assert beside.arrived().ending == "tunnel_bad_source"
    assert beside.next_hop() is None
    assert beside.routing.complete
    assert not beside.pop.is_kept(PEER)
    beside.remove(HOST)
    beside.add(HOST, PEER)
    assert beside.arrived().ending == "delivered_syn"


def test_a_gateway_is_kept_until_the_last_host_behind_it_is_removed(ways: Ways) -> None:
    other = IPv4Address("10.99.0.10")
    ways.pop.inside.ip(f"route add {other} via {GATEWAY}")
    ways.add(HOST, other)
    ways.add(FAR_HOST, FAR_PEER)
    wait_for("the ways over the gateway", ways.is_complete)
    ways.remove(HOST)
    assert ways.pop.is_kept(GATEWAY)
    ways.remove(FAR_HOST)
    assert not ways.pop.is_kept(GATEWAY)


def test_closing_leaves_the_ways_as_they_are_and_the_neighbours_to_the_kernel(
    beside: Ways,
) -> None:
    beside.pop.inside.run(beside.routing.close)
    assert not beside.pop.is_kept(PEER)
    assert (beside.next_hop(), beside.arrived().ending) == (PEER_MAC, "delivered_syn")


def test_packets_sealed_with_the_present_and_the_previous_key_are_taken(beside: Ways) -> None:
    for secret, syn, flood in (
        (SECRETS[0], "delivered_syn", "flood_unknown"),
        (SECRETS[1], "delivered_syn", "flood_unknown"),
        (OLDER_SECRET, "tunnel_bad_cookie", "tunnel_bad_cookie"),
    ):
        assert (beside.arrived(secret=secret).ending, beside.arrived_flood(secret)) == (syn, flood)


def test_with_one_key_no_other_is_taken(pop: Pop) -> None:
    with ways_of(pop, SECRETS[:1]) as ways:
        ways.add(HOST, PEER)
        endings = [ways.arrived(secret=secret).ending for secret in SECRETS]
    assert endings == ["delivered_syn", "tunnel_bad_cookie"]


def test_a_probes_cookies_are_of_its_two_directions(ways: Ways) -> None:
    there, back = (packed16(OWN_ADDRESS), packed16(PEER)), (packed16(PEER), packed16(OWN_ADDRESS))
    assert ways.routing.probe_cookie(PEER) == tunnel_cookie(SECRETS[0], *there)
    replies = tuple(tunnel_cookie(secret, *back) for secret in SECRETS[:2])
    assert ways.routing.reply_cookies(PEER) == replies


def test_other_keys_change_what_is_accepted_and_what_is_sent(beside: Ways) -> None:
    beside.pop.inside.run(beside.routing.change_secrets, [SECRETS[1], OLDER_SECRET])
    for secret, ending in (
        (SECRETS[0], "tunnel_bad_cookie"),
        (SECRETS[1], "delivered_syn"),
        (OLDER_SECRET, "delivered_syn"),
    ):
        assert beside.arrived(secret=secret).ending == ending
    there = (packed16(OWN_ADDRESS), packed16(PEER))
    assert beside.routing.probe_cookie(PEER) == tunnel_cookie(SECRETS[1], *there)


# ---- the same, followed live by an agent ----


def packed_template(host: AgentHost, peer: int) -> bytes | None:
    """The headers to another host in the maps of the program that is attached now."""
    shown = command("bpftool", "-j", "prog", "show", "id", str(host.xdp_program()))
    program = json.loads(shown)
    maps = {
        row["name"]: row["id"]
        for row in json.loads(command("bpftool", "-j", "map", "show"))
        if row["id"] in program["map_ids"] and "name" in row
    }
    state = value_of(maps["owners"], peer)
    index = int.from_bytes(state[2:4], sys.byteorder)
    return None if index == NO_TEMPLATE else value_of(maps["templates"], index)


def value_of(identifier: int, index: int) -> bytes:
    """One value of a BPF array."""
    key = [str(byte) for byte in index.to_bytes(4, sys.byteorder)]
    text = command("bpftool", "-j", "map", "lookup", "id", str(identifier), "key", *key)
    return bytes(int(byte, 16) for byte in json.loads(text)["value"])


def macs(packed: bytes | None) -> tuple[str, str] | None:
    """(destination, source) of a template."""
    return packed and (packed[:6].hex(":"), packed[6:12].hex(":"))


@pytest.fixture
def agents(netns: Callable[[str], Namespace], tmp_path: Path) -> Iterator[tuple[AgentHost, ...]]:
    """Two hosts on one link, with an agent each, that know each other's way."""
    with agent_host(netns("a"), tmp_path, 1) as one, agent_host(netns("b"), tmp_path, 2) as two:
        one.connect(two.namespace)
        two.namespace.ip(f"addr add {two.address}/24 dev {DEVICE}")
        for host in (one, two):
            host.namespace.exec(f"sysctl -qw net.ipv4.conf.{DEVICE}.arp_notify=1")
        for host in (one, two):
            host.start_synced()
        yield one, two


def wait_for_template(host: AgentHost, peer: int, wanted: Callable[[bytes | None], bool],
                      what: str) -> None:  # fmt: skip
    """Waits until the agent has published such headers."""
    wait_for_agent(lambda: wanted(packed_template(host, peer)), what)


def mac_of(host: AgentHost) -> str:
    (link,) = json.loads(host.namespace.ip(f"-j link show dev {DEVICE}"))
    return str(link["address"])


def test_a_running_agent_follows_macs_routes_and_mtu(agents: tuple[AgentHost, ...]) -> None:
    one, two = agents
    ends = (mac_of(two), mac_of(one))
    wait_for_template(one, 2, lambda packed: macs(packed) == ends, "the way")
    two.namespace.ip(f"link set {DEVICE} address {OTHER_MAC}")
    wait_for_template(one, 2, lambda packed: macs(packed) == (OTHER_MAC, ends[1]), "the peer's MAC")
    wait_for_template(two, 1, lambda packed: macs(packed) == (ends[1], OTHER_MAC), "its own MAC")
    one.namespace.ip(f"route add {two.address} dev {DEVICE} mtu 1400")
    wait_for_template(one, 2, lambda packed: packed is not None and mtu_of(packed) == 1400, "MTU")
    one.namespace.ip(f"route del {two.address} dev {DEVICE} mtu 1400")
    wait_for_template(one, 2, lambda packed: packed is not None and mtu_of(packed) == 1500, "MTU")
    one.namespace.ip(f"route add unreachable {two.address}")
    wait_for_template(one, 2, lambda packed: packed is None, "no way")
    one.namespace.ip(f"route del unreachable {two.address}")
    wait_for_template(one, 2, lambda packed: macs(packed) == (OTHER_MAC, ends[1]), "the way")
    for host in agents:
        host.stop(host.processes[0])
        assert host.attached() == []
        assert "managed" not in host.namespace.ip("neigh show").split()


def mtu_of(packed: bytes) -> int:
    """Of a packed template: `struct xg_template`."""
    return int(PACKED.unpack(packed)[3])
