# SPDX-License-Identifier: BSD-2-Clause
"""The far kernel as a peer in each tunnel format: its devices, and what goes in and comes out.

A device for each family inside. GUE, FOU and IP-in-IP have IP devices (ipip, sit, ip6tnl), Geneve
and VXLAN Ethernet ones.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pyxdp_gossip.encapsulation import inner_mac
from tests.formats_world import flavoured_world, in_family
from tests.golden_world import OWN_MAC, PEER, PEERS, TUNNEL_PORT, mac, underlay
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import DEVICE, OUTSIDE
from tests.kernel.wire import WAIT_S
from tests.model import NotReadableError, parse
from tests.model_formats import ETHERTYPES, Flavour

ETH_P_ALL: Final = 3
PACKET_OUTGOING: Final = 4  # linux/if_packet.h
ETHERNET_BYTES: Final = 14
DEVICE_MTU: Final = 1600
OPTION: Final = "ff58:01:01000000"  # class, type and the first word of our Geneve option


def packet_socket(namespace: Namespace, device: str) -> socket.socket:
    """All that a device of the namespace receives; what is sent leaves by it."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((device, ETH_P_ALL))
        made.settimeout(WAIT_S)
        return made

    return namespace.run(make)


def received(link: socket.socket, *, timeout_s: float = WAIT_S) -> bytes:
    """The next frame that a device received; not what it sent."""
    limit = time.monotonic() + timeout_s
    while True:
        link.settimeout(max(limit - time.monotonic(), 0.01))
        frame, address = link.recvfrom(1 << 16)
        if address[2] != PACKET_OUTGOING:
            return frame


@dataclass(frozen=True, slots=True)
class FarDevices:
    """The devices, by the family of the packets inside."""

    outside: Namespace
    flavour: Flavour
    names: dict[int, str]

    @property
    def ethernet(self) -> bool:
        """They carry Ethernet frames."""
        return self.flavour.name in ("geneve", "vxlan")

    @contextmanager
    def opened(self, family: int) -> Iterator[socket.socket]:
        """A packet socket on the device for this family."""
        with closing(packet_socket(self.outside, self.names[family])) as made:
            yield made

    def put(self, link: socket.socket, family: int, packet: bytes) -> None:
        """A packet into the device, as the far stack would."""
        head = b""
        if self.ethernet:
            ends = (inner_mac(flavoured_world(self.flavour).address), inner_mac(peer(self.flavour)))
            head = b"".join(ends) + ETHERTYPES[family].to_bytes(2)
        link.sendto(head + packet, (self.names[family], ETHERTYPES[family]))

    def delivered(self, link: socket.socket, family: int) -> bytes:
        """The next packet of this family that the device hands to the far stack."""
        frame = received(link)
        if not self.ethernet:
            return frame
        own = inner_mac(flavoured_world(self.flavour).address)
        assert frame[:6] == inner_mac(peer(self.flavour))
        assert frame[6:ETHERNET_BYTES] == own + ETHERTYPES[family].to_bytes(2)
        return frame[ETHERNET_BYTES:]


def peer(flavour: Flavour) -> IPv4Address | IPv6Address:
    """The far kernel's underlay address."""
    return in_family(underlay(PEER), flavour.version)


def _underlay(inside: Namespace, outside: Namespace, flavour: Flavour) -> None:
    """Addresses of both ends of the link, and who has them."""
    own, prefix = flavoured_world(flavour).address, 24 if flavour.version == 4 else 64
    nodad = " nodad" if flavour.version == 6 else ""
    for namespace, device, address, hardware, other in (
        (inside, DEVICE, own, OWN_MAC, (peer(flavour), mac(PEER))),
        (outside, OUTSIDE, peer(flavour), mac(PEER), (own, OWN_MAC)),
    ):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=0")
        namespace.ip(f"link set {device} address {hardware.hex(':')} mtu 1700")
        namespace.ip(f"addr replace {address}/{prefix} dev {device}{nodad}")
        namespace.ip(
            f"neigh replace {other[0]} lladdr {other[1].hex(':')} nud permanent dev {device}"
        )


def _ip_devices(flavour: Flavour, way: str) -> dict[int, tuple[str, str]]:
    """Name and what makes it, by the family inside."""
    ends = f"local {peer(flavour)} remote {flavoured_world(flavour).address}"
    how = "" if way == "ipip" else f" encap {way} encap-sport auto encap-dport {TUNNEL_PORT}"
    if flavour.version == 4:
        kinds = {4: "ipip", 6: "sit"}
        return {
            family: (f"far{family}", f"type {kind} {ends} ttl 64{how}")
            for family, kind in kinds.items()
        }
    how = f"{how} encap-csum" if how and flavour.checksum else how
    # without encaplimit, an option of RFC 2473 that would come between the headers
    both = ("far6", f"type ip6tnl {ends} mode any encaplimit none hoplimit 64{how}")
    return {4: both, 6: both}


def _ethernet_device(flavour: Flavour) -> tuple[str, str]:
    own = flavoured_world(flavour).address
    address = f"address {inner_mac(peer(flavour)).hex(':')}"
    zero = "" if flavour.checksum or flavour.version == 4 else "udp6zerocsumrx"
    if flavour.name == "geneve":
        return "far0", f"{address} type geneve external dstport {TUNNEL_PORT} {zero}"
    checks = "" if flavour.version == 4 else "noudp6zerocsumtx"
    return "far0", (
        f"{address} type vxlan id {flavour.vni} local {peer(flavour)} remote {own} "
        f"dstport {TUNNEL_PORT} nolearning dev {OUTSIDE} {checks} {zero}"
    )


def _write_the_option(outside: Namespace, device: str, flavour: Flavour) -> None:
    """Outer headers and our option for all that the Geneve device sends, by a tc action."""
    own, cookie = flavoured_world(flavour).address, PEERS[underlay(PEER)].unicast[0]
    outside.exec(f"tc qdisc add dev {device} clsact")
    outside.exec(
        f"tc filter add dev {device} egress matchall action tunnel_key set "
        f"src_ip {peer(flavour)} dst_ip {own} id {flavour.vni} dst_port {TUNNEL_PORT} "
        f"ttl 64 csum geneve_opts {OPTION}{cookie.hex()}"
    )


@contextmanager
def far_devices(
    inside: Namespace, outside: Namespace, flavour: Flavour, way: str = ""
) -> Iterator[FarDevices]:
    """The far kernel's devices for a format.

    Args:
        way: how IP devices wrap: "gue", "fou" or "ipip"; as the format does otherwise.
    """
    way = way or flavour.name
    _underlay(inside, outside, flavour)
    six = "-6 " if flavour.version == 6 else ""
    if way in ("geneve", "vxlan"):
        made = dict.fromkeys((4, 6), _ethernet_device(flavour))
    else:
        made = _ip_devices(flavour, way)
    if way == "gue":
        outside.exec(f"ip {six}fou add port {TUNNEL_PORT} gue")
    names = {family: name for family, (name, _) in made.items()}
    try:
        for name, words in dict(made.values()).items():
            outside.ip(f"link add {name} {words}")
            outside.exec(f"sysctl -qw net.ipv6.conf.{name}.disable_ipv6=1")
            outside.ip(f"link set {name} mtu {DEVICE_MTU} up")
            if way == "geneve":
                _write_the_option(outside, name, flavour)
        yield FarDevices(outside, flavour, names)
    finally:
        for name in set(names.values()):
            with suppress(AssertionError):
                outside.ip(f"link del {name}")
        if way == "gue":
            outside.exec(f"ip {six}fou del port {TUNNEL_PORT}")
        outside.ip(f"addr del {peer(flavour)}/{24 if flavour.version == 4 else 64} dev {OUTSIDE}")


def to_service(frame: bytes, service: bytes) -> bool:
    """Whether a frame is to this address, so none of the kernels' own."""
    try:
        return parse(frame).destination == service
    except NotReadableError:
        return False
