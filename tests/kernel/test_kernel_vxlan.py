# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own VXLAN device as an oracle: it takes what we send, and we strip what it sends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.packet import Raw

from pyxdp_gossip.encapsulation import inner_mac
from pyxdp_gossip.templates import HeaderTemplate
from tests.box.traffic import wait_for
from tests.golden import ethernet, ip, udp
from tests.golden_formats import Flavour, flavoured_world, in_family
from tests.golden_world import CLIENTS, OWN_MAC, PEER, PORT, VIPS, State, mac, underlay
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import DEVICE, host_under_test
from tests.kernel.live_connection import PATIENCE_S

VNI, VXLAN_PORT = 42, 4789
FLAVOURS = [
    Flavour("vxlan", 4, vni=VNI),
    Flavour("vxlan", 6, vni=VNI),
    Flavour("vxlan", 6, checksum=True, vni=VNI),
]
LENGTHS = (0, 1, 100, 1300)


class Tunnel:
    """A host of ours in one namespace, a kernel with a VXLAN device in the other."""

    def __init__(self, ours: Namespace, kernel: Namespace, flavour: Flavour) -> None:
        self.ours, self.kernel, self.flavour = ours, kernel, flavour
        self.own = flavoured_world(flavour).address
        self.peer = in_family(underlay(PEER), flavour.version)
        prefix = 24 if flavour.version == 4 else 64
        nodad = " nodad" if flavour.version == 6 else ""
        for namespace, device, address, hardware in (
            (ours, DEVICE, self.own, OWN_MAC), (kernel, "k0", self.peer, mac(PEER)),
        ):  # fmt: skip
            namespace.ip(f"link set {device} address {hardware.hex(':')} mtu 1700")
            namespace.exec(f"ethtool -K {device} tx off rx off tso off gso off gro off")
            namespace.ip(f"addr add {address}/{prefix} dev {device}{nodad}")
        # RFC 6935: without checksums the receiver must say that it takes such packets
        checks = "udp6zerocsumtx udp6zerocsumrx" if flavour.version == 6 else ""
        if flavour.checksum:
            checks = "noudp6zerocsumtx noudp6zerocsumrx"
        kernel.ip(
            f"link add vx0 address {inner_mac(self.peer).hex(':')} type vxlan id {VNI} "
            f"local {self.peer} remote {self.own} dstport {VXLAN_PORT} dev k0 {checks}"
        )
        kernel.ip("link set vx0 mtu 1600 up")
        kernel.exec("ethtool -K vx0 tx off rx off")

    def give(self, addresses: dict[int, Any], others: dict[int, Any]) -> None:
        """The kernel's own addresses, and those that it finds behind its device."""
        target = inner_mac(self.own).hex(":")
        for version in (4, 6):
            nodad = " nodad" if version == 6 else ""
            length = addresses[version].max_prefixlen
            self.kernel.ip(f"addr add {addresses[version]}/{length} dev vx0{nodad}")
            self.kernel.ip(f"-{version} route add {others[version]} dev vx0")
            self.kernel.ip(f"neigh add {others[version]} lladdr {target} nud permanent dev vx0")

    def template(self) -> HeaderTemplate:
        """Our headers to the kernel."""
        return HeaderTemplate.build(
            source=self.own, destination=self.peer, source_mac=OWN_MAC, destination_mac=mac(PEER),
            tunnel_port=VXLAN_PORT, cookie=bytes(8), mtu=1700, encapsulation="vxlan", vni=VNI,
            udp_checksum=self.flavour.checksum,
        )  # fmt: skip


@pytest.fixture(params=FLAVOURS, ids=["IPv4", "IPv6", "IPv6-checksum"])
def tunnel(
    request: pytest.FixtureRequest, netns: Callable[[str], Any], veth: Callable[..., None]
) -> Tunnel:
    ours, kernel = netns("o"), netns("k")
    veth(ours, DEVICE, kernel, "k0")
    return Tunnel(ours, kernel, request.param)


def opened(family: int, where: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    made.bind((where, port))
    return made


def raw(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.settimeout(PATIENCE_S)
    made.bind((device, 0))
    return made


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_delivers_what_we_send(tunnel: Tunnel, family: int) -> None:
    tunnel.give(VIPS, CLIENTS)
    receiver = tunnel.kernel.run(opened, family, str(VIPS[family]), PORT)
    out = tunnel.ours.run(raw, DEVICE)
    with receiver, out:
        for length in LENGTHS:
            payload = bytes(length)
            frame = bytes(ethernet() / ip(family) / udp(State.OTHER) / Raw(payload))
            out.send(tunnel.template().apply(frame))
            data, source = receiver.recvfrom(2048)
            assert data == payload
            assert ip_address(source[0]) == CLIENTS[family]
            assert source[1] == State.OTHER.client_port


@pytest.mark.parametrize("family", [4, 6])
def test_we_strip_what_the_kernel_sends(tunnel: Tunnel, family: int) -> None:
    """It sends as the peer would: source the client's address, destination a VIP of ours."""
    world = flavoured_world(tunnel.flavour)
    tunnel.give(CLIENTS, VIPS)
    for version, nodad in ((4, ""), (6, " nodad")):
        length = VIPS[version].max_prefixlen
        tunnel.ours.ip(f"addr add {VIPS[version]}/{length} dev {DEVICE}{nodad}")
    changes = {"tunnel_port": VXLAN_PORT, "mode": "native"}
    with host_under_test(tunnel.ours, world, **changes) as host:
        tunnel.ours.run(host.plane.attach_packets)
        receiver = tunnel.ours.run(opened, family, str(VIPS[family]), PORT)
        sender = tunnel.kernel.run(opened, family, str(CLIENTS[family]), State.OTHER.client_port)
        with receiver, sender:
            for length in LENGTHS:
                sender.sendto(bytes(length), (str(VIPS[family]), PORT))
                data, source = receiver.recvfrom(2048)
                assert data == bytes(length)
                assert ip_address(source[0]) == CLIENTS[family]

        def counted() -> bool:
            return host.plane.statistics().counters["delivered_udp"] == len(LENGTHS)

        wait_for("all are counted", counted)
