# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel formats: what each costs, and the headers between outer and inner IP (pure)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

Address = IPv4Address | IPv6Address

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPE_TEB: Final = 0x6558  # an Ethernet frame follows

IP_LEN: Final = {4: 20, 6: 40}
UDP_LEN: Final = 8
ETH_LEN: Final = 14
GUE_LEN: Final = 16
GENEVE_LEN: Final = 24
VXLAN_LEN: Final = 8
VNI_MAX: Final = (1 << 24) - 1
CLIENT_MTU: Final = 1500  # what clients on Ethernet send; a path must carry `overhead` more

GUE_DATA: Final = 0x03
GUE_CONTROL: Final = 0x23
GUE_PROBE: Final = 1
GUE_PROBE_REPLY: Final = 2
PRIVATE_FORMAT: Final = 1
GENEVE_FIRST: Final = 0x04
GENEVE_CLASS: Final = 0xFF58  # experimental: RFC 8926 section 7
GENEVE_TYPE: Final = 0x01
GENEVE_WORDS: Final = 3
VXLAN_FLAGS: Final = 0x08

MARK_FLOOD: Final = 0x80
MARK_RELAY: Final = 0x02
MARK_HOP: Final = 0x01


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """One tunnel format.

    Attributes:
        number: of `enum xg_encapsulation` in csrc/encapsulation.h.
        shim_len: bytes between the outer IP header and the inner one.
        has_udp: it rides on UDP.
        payload_at: where it names the inner packet's protocol: bytes into the shim, or None if
            that is the outer IP header's own field.
        mark_at, cookie_at: bytes into the shim, or None.
        port: of UDP, as IANA has it; IP-in-IP uses GUE's for its probes.
    """

    number: int
    shim_len: int
    has_udp: bool
    payload_at: int | None
    mark_at: int | None
    cookie_at: int | None
    port: int

    @property
    def is_marked(self) -> bool:
        """It has room for marks and a cookie."""
        return self.mark_at is not None


ENCAPSULATIONS: Final = {
    "gue": Encapsulation(0, UDP_LEN + GUE_LEN, True, 9, 13, 16, 6080),
    "geneve": Encapsulation(1, UDP_LEN + GENEVE_LEN + ETH_LEN, True, 44, 21, 24, 6081),
    "vxlan": Encapsulation(2, UDP_LEN + VXLAN_LEN + ETH_LEN, True, 28, None, None, 4789),
    "ipip": Encapsulation(3, 0, False, None, None, None, 6080),
}
"""By the names of the configuration."""


def overhead(encapsulation: str, version: int) -> int:
    """Bytes that a format adds to an IP packet, the outer Ethernet header not counted.

    Args:
        encapsulation: a name of `ENCAPSULATIONS`.
        version: 4 or 6, of the outer IP header.
    """
    return IP_LEN[version] + ENCAPSULATIONS[encapsulation].shim_len


def inner_mac(address: Address) -> bytes:
    """(6,) bytes: what Geneve and VXLAN name a host by inside: 02:00 and the end of its underlay
    address. Our hosts do not look at it; a kernel's tunnel device can be given it."""
    return b"\x02\x00" + address.packed[-4:]


def shim_headers(
    encapsulation: str, source: Address, destination: Address, *, mark: int, cookie: bytes, vni: int
) -> bytes:
    """What follows UDP (or IP, for IP-in-IP) before the inner packet, its protocol still 0.

    Source: draft-ietf-intarea-gue-09 section 3 (private data: surplus header length); RFC 8926
    section 3.4 and 3.5; RFC 7348 section 5.
    """
    private = struct.pack("!BBH8s", PRIVATE_FORMAT, mark, 0, cookie)
    ethernet = inner_mac(destination) + inner_mac(source) + bytes(2)
    if encapsulation == "gue":
        return struct.pack("!BBH", GUE_DATA, 0, 0) + private
    if encapsulation == "geneve":
        option = struct.pack("!HBB", GENEVE_CLASS, GENEVE_TYPE, GENEVE_WORDS) + private
        return struct.pack("!BBHI", GENEVE_FIRST, 0, ETHERTYPE_TEB, vni << 8) + option + ethernet
    if encapsulation == "vxlan":
        return struct.pack("!II", VXLAN_FLAGS << 24, vni << 8) + ethernet
    return b""


def multicast_mac(group: Address) -> bytes:
    """(6,) bytes: the Ethernet address of an IP multicast group.

    Source: RFC 1112 section 6.4; RFC 2464 section 7.
    """
    if isinstance(group, IPv6Address):
        return b"\x33\x33" + group.packed[-4:]
    return b"\x01\x00\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]
