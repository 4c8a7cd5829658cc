# SPDX-License-Identifier: BSD-2-Clause
"""Turns the route to a host into its header template (pure: addresses in, bytes out)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from pyxdp_gossip import _native

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_VLAN: Final = 0x8100
PROTO_UDP: Final = 17
OUTER_TTL: Final = 64
DONT_FRAGMENT: Final = 0x4000

IPV4_LEN: Final = 20
UDP_LEN: Final = 8
GUE_LEN: Final = 16
GUE_OVERHEAD: Final = IPV4_LEN + UDP_LEN + GUE_LEN
"""Bytes that GUE over IPv4 adds to a packet, Ethernet not counted."""
IP_LEN_MAX: Final = 0xFFFF  # the loopback's MTU is 65536

GUE_DATA: Final = 0x03
GUE_CONTROL: Final = 0x23
GUE_PROBE: Final = 1
GUE_PROBE_REPLY: Final = 2
GUE_FORMAT: Final = 1
MARK_FLOOD: Final = 0x80
MARK_HOP: Final = 0x01

PACKED: Final = struct.Struct("<112sHHHHII")
"""`struct xg_template` of csrc/header_template.h."""


def ipv4_header_sum(header: bytes) -> int:
    """One's-complement sum of an IPv4 header, folded to 16 bits, not inverted.

    Args:
        header: (20,) bytes, network order; TOS, total length and checksum are zero.

    Returns:
        0..0xffff, host order. Add TOS and total length, fold, invert: that is the checksum.

    Raises:
        ValueError: `header` is not 20 bytes, or one of the three fields is not zero.

    Source: RFC 1071 section 2 (the sum is associative); RFC 791 section 3.1.
    """
    if len(header) != IPV4_LEN:
        raise ValueError(f"header is {len(header)} bytes, expected {IPV4_LEN}")
    if header[1] or header[2:4] != b"\0\0" or header[10:12] != b"\0\0":
        raise ValueError("TOS, total length and checksum must be zero in a template")
    total: int = sum(struct.unpack("!10H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def multicast_mac(group: IPv4Address) -> bytes:
    """(6,) bytes: the Ethernet address of an IPv4 multicast group. Source: RFC 1112 6.4."""
    return b"\x01\x00\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]


@dataclass(frozen=True, slots=True)
class TemplateOffsets:
    """Where a template is patched: offsets from the frame's first byte, in bytes.

    Attributes:
        tos: (1,) DSCP and ECN, copied from the inner packet (RFC 6040 section 4.1).
        total_length: (2,) of the outer IPv4 packet.
        checksum: (2,) of the outer IPv4 header.
        source_port: (2,) of UDP: the inner flow's hash, 49152..65535.
        udp_length: (2,).
        payload_protocol: (1,) of GUE: 4 for an IPv4 packet, 41 for IPv6.
        mark: (1,) of GUE's private data: flood, and hop.
        cookie: (8,) of GUE's private data; precomputed, named for those who look for it.

    Source: draft-ietf-intarea-gue-09 section 3; docs/wire-format.md.
    """

    tos: int
    total_length: int
    checksum: int
    source_port: int
    udp_length: int
    payload_protocol: int
    mark: int
    cookie: int


@dataclass(frozen=True, slots=True)
class HeaderTemplate:
    """The precomputed outer headers for one destination; needs no netlink and no privilege.

    `build()` makes one, `apply()` puts it in front of a packet with the code that the data path
    runs, `bytes(template)` are the headers before they are patched.

    Attributes:
        header: outer headers from Ethernet to the shim; lengths, checksum, source port, TOS and
            the shim's payload protocol are patched per packet.
        l2_len: bytes of Ethernet and VLAN tag, 14 or 18.
        mtu: largest outer IP packet, bytes.
        ip_sum: one's-complement sum of the outer IPv4 header with the patched fields zero.
    """

    header: bytes
    l2_len: int
    mtu: int
    ip_sum: int

    @classmethod
    def build(
        cls,
        *,
        source: IPv4Address,
        destination: IPv4Address,
        source_mac: bytes,
        destination_mac: bytes,
        tunnel_port: int,
        cookie: bytes,
        mtu: int,
        mark: int = 0,
        vlan: int | None = None,
    ) -> HeaderTemplate:
        """GUE (variant 0) over UDP over IPv4.

        Args:
            source, destination: underlay addresses; a multicast destination is a flood's.
            source_mac, destination_mac: (6,) bytes; the peer's own or its gateway's.
            tunnel_port: UDP destination port, 1..65535.
            cookie: (8,) bytes, keyed over the outer addresses.
            mtu: largest outer IP packet of the path, bytes.
            mark: MARK_FLOOD for floods, else 0.
            vlan: 802.1Q VLAN id 1..4094, or None for untagged frames.

        Raises:
            ValueError: an argument has another length or range.

        Source: draft-ietf-intarea-gue-09 section 3 (private data: surplus header length).
        """
        if len(source_mac) != 6 or len(destination_mac) != 6:
            raise ValueError("MAC addresses are 6 bytes")
        if len(cookie) != 8:
            raise ValueError(f"cookie is {len(cookie)} bytes, expected 8")
        if not 1 <= tunnel_port <= 65535:
            raise ValueError(f"tunnel port {tunnel_port} is not in 1..65535")
        ethernet = destination_mac + source_mac + _ethertype(vlan)
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            0x45, 0, 0, 0, DONT_FRAGMENT, OUTER_TTL, PROTO_UDP, 0,
            source.packed, destination.packed,
        )  # fmt: skip
        udp = struct.pack("!HHHH", 0, tunnel_port, 0, 0)
        gue = struct.pack("!BBHBBH8s", GUE_DATA, 0, 0, GUE_FORMAT, mark, 0, cookie)
        return cls(ethernet + ip + udp + gue, len(ethernet), mtu, ipv4_header_sum(ip))

    def __bytes__(self) -> bytes:
        return self.header

    @property
    def offsets(self) -> TemplateOffsets:
        """Where `apply()` patches the headers."""
        ip = self.l2_len
        udp = ip + IPV4_LEN
        gue = udp + UDP_LEN
        return TemplateOffsets(
            tos=ip + 1,
            total_length=ip + 2,
            checksum=ip + 10,
            source_port=udp,
            udp_length=udp + 4,
            payload_protocol=gue + 1,
            mark=gue + 5,
            cookie=gue + 8,
        )

    def apply(self, frame: bytes, *, mark: int = 0) -> bytes:
        """Encapsulates one packet, by the C code that the data path runs.

        Args:
            frame: from the Ethernet header on, VLAN tags included; a TCP or UDP packet.
            mark: bits to set in GUE's mark: MARK_HOP, MARK_FLOOD, or 0.

        Returns:
            The outer headers, then the packet from its IP header on, byte for byte, padding
            included. The frame's own Ethernet header is gone.

        Raises:
            ValueError: the frame cannot be read, the outer packet would exceed `mtu`, or the mark
                is not 0..255.

        Source: RFC 6040 section 4.1 (TOS); RFC 1071 (checksum).
        """
        if not 0 <= mark <= 0xFF:
            raise ValueError(f"mark is {mark}, expected 0..255")
        return _native.apply_template(self.pack(), frame, mark)

    def with_mtu(self, mtu: int) -> HeaderTemplate:
        """The same headers for another path.

        Args:
            mtu: largest outer IP packet of the path, bytes.
        """
        return replace(self, mtu=mtu)

    def pack(self, generation: int = 0) -> bytes:
        """(128,) bytes: `struct xg_template`, as the data path reads it.

        Args:
            generation: 0..2^32-1, raised with each new content; for people who look.
        """
        return PACKED.pack(
            self.header,
            len(self.header),
            self.l2_len,
            min(self.mtu, IP_LEN_MAX),
            0,
            self.ip_sum,
            generation,
        )


def _ethertype(vlan: int | None) -> bytes:
    if vlan is None:
        return struct.pack("!H", ETHERTYPE_IPV4)
    if not 1 <= vlan <= 4094:
        raise ValueError(f"VLAN {vlan} is not in 1..4094")
    return struct.pack("!HHH", ETHERTYPE_VLAN, vlan, ETHERTYPE_IPV4)


def probe_payload(cookie: bytes, nonce: int) -> bytes:
    """(24,) bytes: a liveness probe as UDP payload for a peer's tunnel port.

    Args:
        cookie: (8,) bytes of the direction from here to the peer.
        nonce: 0..2^64-1, comes back in the reply.
    """
    header = struct.pack("!BBHBBH8s", GUE_CONTROL, GUE_PROBE, 0, GUE_FORMAT, 0, 0, cookie)
    return header + struct.pack("!Q", nonce)


def probe_reply_nonce(payload: bytes, cookie: bytes) -> int | None:
    """The nonce of a probe's reply, or None if it is no reply or its cookie is wrong.

    Args:
        payload: UDP payload as received.
        cookie: (8,) bytes of the direction from the peer to here.
    """
    if len(payload) != GUE_LEN + 8:
        return None
    expected = struct.pack("!BBHBBH8s", GUE_CONTROL, GUE_PROBE_REPLY, 0, GUE_FORMAT, 0, 0, cookie)
    if payload[:GUE_LEN] != expected:
        return None
    nonce: int = struct.unpack_from("!Q", payload, GUE_LEN)[0]
    return nonce
