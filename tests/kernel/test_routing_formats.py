# SPDX-License-Identifier: BSD-2-Clause
"""Headers by the kernel's routes and neighbours, over IPv4 and IPv6, in each tunnel format: the
peer's own MAC, the gateway's, and every change of route, neighbour and MTU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pyxdp_gossip.gossip.sealing import tunnel_cookie
from pyxdp_gossip.routing import Routing
from pyxdp_gossip.session import packed16
from pyxdp_gossip.templates import overhead
from tests.golden import ethernet, ip, tcp
from tests.golden_formats import FLAVOURS, Flavour, flavoured_world, tunnelled
from tests.golden_world import CLIENTS, OWN_MAC, VIPS, State
from tests.kernel.conftest import Namespace
from tests.kernel.conftest import connect as link_up
from tests.kernel.dataplane_fixture import DEVICE, HostUnderTest, host_under_test
from tests.kernel.live_connection import wait_for
from tests.model import Entry
from tests.unit.test_golden_formats import name_of

Address = IPv4Address | IPv6Address

HOST, FAR_HOST = 20, 21
PORTS = {HOST: 52020, FAR_HOST: 52021}
NEAR = {4: "10.8.0.30", 6: "fd00:8::30"}
GATEWAY = {4: "10.8.0.40", 6: "fd00:8::40"}
FAR = {4: "10.99.0.9", 6: "fd00:99::9"}
PREFIX = {4: 24, 6: 64}
NEAR_MAC, GATEWAY_MAC, OTHER_MAC = (
    "02:00:00:00:01:30", "02:00:00:00:01:40", "02:00:00:00:01:77",
)  # fmt: skip
SECRET = b"\x11" * 32
TUNNEL_PORT = 6080


class Ways:
    """A host between a peer and a gateway on one switch, and its data path."""

    def __init__(self, netns: Callable[[str], Namespace], flavour: Flavour) -> None:
        self.flavour, self.version = flavour, flavour.version
        self.own = flavoured_world(flavour).address
        self.inside, self.switch = netns("h"), netns("s")
        self.peer, self.gateway = netns("p"), netns("g")
        self.switch.ip("link add br0 type bridge mcast_snooping 0")
        self.switch.ip("link set br0 up")
        self._plug(self.inside, DEVICE, OWN_MAC.hex(":"), str(self.own))
        self._plug(self.peer, "p0", NEAR_MAC, NEAR[self.version])
        self._plug(self.gateway, "g0", GATEWAY_MAC, GATEWAY[self.version])
        self.inside.ip(f"addr add {VIPS[4]}/32 dev {DEVICE}")
        self.inside.ip(f"-{self.version} route add {FAR[self.version]} via {GATEWAY[self.version]}")

    def _plug(self, namespace: Namespace, device: str, mac: str, address: str) -> None:
        link_up(namespace, device, self.switch, f"to-{device}")
        self.switch.ip(f"link set to-{device} master br0 mtu 1700")
        namespace.ip(f"link set {device} address {mac} mtu 1700")
        namespace.exec(f"sysctl -qw net.ipv4.conf.{device}.arp_notify=1")
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.ndisc_notify=1")
        nodad = " nodad" if self.version == 6 else ""
        namespace.ip(f"addr add {address}/{PREFIX[self.version]} dev {device}{nodad}")

    def begin(self, host: HostUnderTest) -> None:
        """Ways to a near and a far host."""
        self.host = host
        self.routing = Routing(host.plane, DEVICE, self.own, [SECRET])
        for number, address in ((HOST, NEAR), (FAR_HOST, FAR)):
            host.plane.owners.activate(number)
            host.put(CLIENTS[4], PORTS[number], 0, Entry(number))
            where = ip_address(address[self.version])
            self.inside.run(self.routing.add, number, where, TUNNEL_PORT)
        wait_for("both ways", self.is_complete)

    def is_complete(self) -> bool:
        """As the agent looks while a way is missing."""
        self.inside.run(self.routing.refresh)
        return self.routing.complete

    def stray(self, number: int = HOST, length: int = 100) -> Any:
        """A stray of that host's session through the program."""
        transport = tcp(State.OTHER, sport=PORTS[number])
        return self.host.run(bytes(ethernet() / ip(4) / transport / Raw(bytes(length - 40))))

    def outer(self, number: int = HOST) -> Any:
        """The headers of a stray that was sent, or None."""
        verdict = self.stray(number)
        return Ether(verdict.frame) if verdict.ending == "stray_forwarded" else None

    def wait_for_mac(self, mac: str, number: int = HOST) -> None:
        """Until strays go to that MAC."""

        def goes() -> bool:
            self.is_complete()
            outer = self.outer(number)
            return outer is not None and outer.dst == mac

        wait_for(f"strays to {mac}", goes)


@pytest.fixture(params=FLAVOURS, ids=name_of)
def ways(request: pytest.FixtureRequest, netns: Callable[[str], Namespace]) -> Iterator[Ways]:
    made = Ways(netns, request.param)
    with host_under_test(made.inside, flavoured_world(request.param)) as host:
        made.begin(host)
        yield made


def test_routes_neighbours_and_mtu_are_followed(ways: Ways) -> None:
    version, layer = ways.version, IP if ways.version == 4 else IPv6
    near, far = ways.outer(), ways.outer(FAR_HOST)
    assert (near.dst, near[layer].dst) == (NEAR_MAC, NEAR[version])
    assert (far.dst, far[layer].dst) == (GATEWAY_MAC, FAR[version])
    assert near[layer].src == far[layer].src == str(ways.own)

    ways.inside.ip(f"-{version} route add {NEAR[version]} via {GATEWAY[version]}")
    ways.wait_for_mac(GATEWAY_MAC)
    ways.inside.ip(f"-{version} route del {NEAR[version]} via {GATEWAY[version]}")
    ways.wait_for_mac(NEAR_MAC)

    ways.gateway.ip(f"link set g0 address {OTHER_MAC}")
    if version == 6:  # without a notice a new MAC waits for the neighbour's next question
        ways.inside.ip(f"neigh flush dev {DEVICE}")
        ways.gateway.ip("neigh flush dev g0")
    ways.wait_for_mac(OTHER_MAC, FAR_HOST)

    added = overhead(ways.flavour.name, version)
    ways.inside.ip(f"link set {DEVICE} mtu 1500")
    ways.is_complete()
    endings = [ways.stray(length=length).ending for length in (1500 - added, 1501 - added)]
    assert endings == ["stray_forwarded", "too_big_answered"]


def test_what_the_peer_sends_is_taken_and_what_it_sent_is_not_after_it_left(ways: Ways) -> None:
    source = ip_address(NEAR[ways.version])
    cookie = tunnel_cookie(SECRET, packed16(source), packed16(ways.own))
    frame = tunnelled(ways.flavour, ip(4) / tcp(State.OWN, "S"), source=source, cookie=cookie)
    assert ways.host.run(frame).ending == "delivered_syn"
    ways.inside.run(ways.routing.remove, HOST)
    assert ways.host.run(frame).ending == "tunnel_bad_source"
