# SPDX-License-Identifier: BSD-2-Clause
"""The model's part on packets that exceed their path: who is told, and what (RFC 1191, RFC 4443).

Written from the documentation, slow on purpose, like model.py.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from tests.model_formats import checksum

if TYPE_CHECKING:
    from tests.model import Packet

QUOTE: Final = 128  # bytes of the packet that are repeated
PORTS: Final = 8  # of TCP or UDP, which the quote must hold
IPV4_ANSWER: Final = 20 + 8 + QUOTE
L2_MAX: Final = 14 + 2 * 4
IPV4_MTU_MIN, IPV6_MTU_MIN = 68, 1280
DONT_FRAGMENT: Final = 0x4000


def answered(frame: bytes, packet: Packet, mtu: int) -> bytes | None:
    """The answer to a packet that does not fit, or None: its sender must not be told.

    Args:
        mtu: bytes of the largest packet that would have fit.
    """
    if not packet.may_be_told or packet.l3 > L2_MAX or frame[0] & 1:  # a tunnel's; to many hosts
        return None
    if packet.l4 - packet.l3 + PORTS > QUOTE or not _is_one_host(packet):
        return None
    quote = frame[packet.l3 : packet.l3 + QUOTE]
    ethernet = frame[6:12] + frame[0:6] + frame[12 : packet.l3]
    if packet.family == 6:
        mtu = max(mtu, IPV6_MTU_MIN)
        return ethernet + _answer6(packet, quote, mtu) if packet.length > mtu else None
    if packet.length < IPV4_ANSWER or mtu < IPV4_MTU_MIN:
        return None
    return ethernet + _answer4(packet, quote, mtu)


def _is_one_host(packet: Packet) -> bool:
    """Whether the source may be one host's address."""
    if packet.family == 4:
        source = IPv4Address(packet.source[12:])
        return source.packed[0] not in (0, 127) and source < IPv4Address("224.0.0.0")
    source6 = IPv6Address(packet.source)
    return not source6.is_multicast and int(source6) >= 1 << 32


def _answer4(packet: Packet, quote: bytes, mtu: int) -> bytes:
    icmp = with_checksum(struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote, 2, b"")
    header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(icmp), 0, DONT_FRAGMENT, 64, 1, 0)
    addresses = packet.destination[12:] + packet.source[12:]
    return with_checksum(header + addresses, 10, b"") + icmp


def _answer6(packet: Packet, quote: bytes, mtu: int) -> bytes:
    addresses = packet.destination + packet.source
    icmp = struct.pack("!BBHI", 2, 0, 0, mtu) + quote
    pseudo = addresses + struct.pack("!II", len(icmp), 58)
    header = struct.pack("!IHBB", 6 << 28, len(icmp), 58, 64)
    return header + addresses + with_checksum(icmp, 2, pseudo)


def with_checksum(data: bytes, at: int, pseudo: bytes) -> bytes:
    """RFC 1071 over a pseudo-header and data whose checksum, at `at`, is zero."""
    return data[:at] + checksum(pseudo + data).to_bytes(2) + data[at + 2 :]
