# SPDX-License-Identifier: BSD-2-Clause
"""Turns the route to a host into its header template (pure: addresses in, bytes out)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from pyxdp_gossip import _native
from pyxdp_gossip.encapsulation import (
    CLIENT_MTU,
    ENCAPSULATIONS,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    GUE_CONTROL,
    GUE_LEN,
    GUE_PROBE,
    GUE_PROBE_REPLY,
    IP_LEN,
    MARK_FLOOD,
    MARK_HOP,
    PRIVATE_FORMAT,
    UDP_LEN,
    VNI_MAX,
    Address,
    inner_mac,
    multicast_mac,
    overhead,
    shim_headers,
)

__all__ = [
    "CLIENT_MTU",
    "MARK_FLOOD",
    "MARK_HOP",
    "HeaderTemplate",
    "TemplateOffsets",
    "inner_mac",
    "ipv4_header_sum",
    "multicast_mac",
    "overhead",
    "probe_payload",
    "probe_reply_nonce",
]

ETHERTYPE_VLAN: Final = 0x8100
PROTO_UDP: Final = 17
OUTER_TTL: Final = 64
DONT_FRAGMENT: Final = 0x4000
IPV4_LEN: Final = IP_LEN[4]
IP_LEN_MAX: Final = 0xFFFF  # the loopback's MTU is 65536

VNI_AT: Final = 4  # of the Geneve or VXLAN header
FLAG_IPV6: Final = 0x01
FLAG_SUM: Final = 0x02
PACKED: Final = struct.Struct("<112sHHHBBII")
"""`struct xg_template` of csrc/header_template.h."""


def _folded_sum(data: bytes) -> int:
    """One's-complement sum of 16-bit words, folded, not inverted. Source: RFC 1071 section 1."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


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
    return _folded_sum(header)


@dataclass(frozen=True, slots=True)
class TemplateOffsets:
    """Where a template is patched: offsets from the frame's first byte, in bytes; None where the
    format has no such field.

    Attributes:
        tos: DSCP and ECN, copied from the inner packet (RFC 6040 section 4.1): (1,) of IPv4's
            TOS; (4,) of IPv6's version, traffic class and flow label, which is the flow's hash.
        total_length: (2,) of IPv4's total or of IPv6's payload length.
        checksum: (2,) of the outer IPv4 header.
        source_port: (2,) of UDP: the inner flow's hash, 49152..65535.
        udp_length: (2,).
        udp_checksum: (2,), if it is not 0.
        payload_protocol: GUE, IP-in-IP: (1,), 4 for an IPv4 packet, 41 for IPv6; Geneve, VXLAN:
            (2,), the inner Ethernet header's type.
        mark: (1,) of the private data: flood, and hop.
        cookie: (8,) of the private data; precomputed, named for those who look for it.

    Source: docs/wire-format.md.
    """

    tos: int
    total_length: int
    checksum: int | None
    source_port: int | None
    udp_length: int | None
    udp_checksum: int | None
    payload_protocol: int
    mark: int | None
    cookie: int | None


@dataclass(frozen=True, slots=True)
class HeaderTemplate:
    """The precomputed outer headers for one destination; needs no netlink and no privilege.

    `build()` makes one, `apply()` puts it in front of a packet with the code that the data path
    runs, `bytes(template)` are the headers before they are patched.

    Attributes:
        header: outer headers from Ethernet to the shim; lengths, checksums, source port, TOS and
            the shim's payload protocol are patched per packet.
        l2_len: bytes of Ethernet and VLAN tag, 14 or 18.
        mtu: largest outer IP packet, bytes.
        sum: one's-complement sum with the patched fields zero: of the outer IPv4 header, or of
            what UDP's checksum over IPv6 covers, pseudo header included.
        encapsulation: "gue", "geneve", "vxlan" or "ipip".
        version: 4 or 6, of the outer IP header.
        udp_checksum: UDP over IPv6 carries a real checksum.
    """

    header: bytes
    l2_len: int
    mtu: int
    sum: int
    encapsulation: str = "gue"
    version: int = 4
    udp_checksum: bool = False

    @classmethod
    def build(
        cls,
        *,
        source: Address,
        destination: Address,
        source_mac: bytes,
        destination_mac: bytes,
        tunnel_port: int,
        cookie: bytes,
        mtu: int,
        mark: int = 0,
        vlan: int | None = None,
        encapsulation: str = "gue",
        vni: int = 0,
        udp_checksum: bool = True,
    ) -> HeaderTemplate:
        """The headers of one format over IPv4 or IPv6.

        Args:
            source, destination: underlay addresses of one family; a multicast destination is a
                flood's.
            source_mac, destination_mac: (6,) bytes; the peer's own or its gateway's.
            tunnel_port: UDP destination port, 1..65535; of no use to "ipip".
            cookie: (8,) bytes, keyed over the outer addresses; "vxlan" and "ipip" have no room.
            mtu: largest outer IP packet of the path, bytes.
            mark: MARK_FLOOD for floods, else 0.
            vlan: 802.1Q VLAN id 1..4094, or None for untagged frames.
            encapsulation: "gue", "geneve", "vxlan" or "ipip".
            vni: of Geneve and VXLAN, 0..2^24-1.
            udp_checksum: over IPv6: a real checksum, derived from the inner packet's. Over IPv4
                it is always 0, as RFC 8085 section 3.4.1 allows tunnels.

        Raises:
            ValueError: an argument has another length or range.

        Source: draft-ietf-intarea-gue-09 section 3; RFC 8926; RFC 7348; RFC 2003; RFC 2473;
            RFC 6935 and 6936 (no checksum over IPv6).
        """
        if len(source_mac) != 6 or len(destination_mac) != 6:
            raise ValueError("MAC addresses are 6 bytes")
        if len(cookie) != 8:
            raise ValueError(f"cookie is {len(cookie)} bytes, expected 8")
        if not 1 <= tunnel_port <= 65535:
            raise ValueError(f"tunnel port {tunnel_port} is not in 1..65535")
        if encapsulation not in ENCAPSULATIONS:
            raise ValueError(f"no encapsulation {encapsulation!r}: {', '.join(ENCAPSULATIONS)}")
        if not 0 <= vni <= VNI_MAX:
            raise ValueError(f"VNI {vni} is not in 0..{VNI_MAX}")
        if source.version != destination.version:
            raise ValueError(f"{source} and {destination} are of two families")
        shim = shim_headers(encapsulation, source, destination, mark=mark, cookie=cookie, vni=vni)
        has_udp = ENCAPSULATIONS[encapsulation].has_udp
        if has_udp:
            shim = struct.pack("!HHHH", 0, tunnel_port, 0, 0) + shim
        ethernet = destination_mac + source_mac + _ethertype(vlan, source.version)
        ip = _outer_ip(source, destination, PROTO_UDP if has_udp else 0)
        summed = udp_checksum and has_udp and source.version == 6
        total = ipv4_header_sum(ip) if source.version == 4 else 0
        if summed:
            total = _folded_sum(source.packed + destination.packed + bytes([0, PROTO_UDP]) + shim)
        return cls(
            ethernet + ip + shim, len(ethernet), mtu, total, encapsulation, source.version, summed
        )

    def __bytes__(self) -> bytes:
        return self.header

    @property
    def offsets(self) -> TemplateOffsets:
        """Where `apply()` patches the headers."""
        form, ip = ENCAPSULATIONS[self.encapsulation], self.l2_len
        shim = ip + IP_LEN[self.version]
        is_ipv4 = self.version == 4

        def at(place: int | None) -> int | None:
            return None if place is None else shim + place

        protocol = at(form.payload_at)
        return TemplateOffsets(
            tos=ip + 1 if is_ipv4 else ip,
            total_length=ip + 2 if is_ipv4 else ip + 4,
            checksum=ip + 10 if is_ipv4 else None,
            source_port=shim if form.has_udp else None,
            udp_length=shim + 4 if form.has_udp else None,
            udp_checksum=shim + 6 if self.udp_checksum else None,
            payload_protocol=ip + (9 if is_ipv4 else 6) if protocol is None else protocol,
            mark=at(form.mark_at),
            cookie=at(form.cookie_at),
        )

    def apply(self, frame: bytes, *, mark: int = 0) -> bytes:
        """Encapsulates one packet, by the C code that the data path runs.

        Args:
            frame: from the Ethernet header on, VLAN tags included; a TCP or UDP packet.
            mark: bits to set in the format's mark, if it has one: MARK_HOP, MARK_FLOOD, or 0.

        Returns:
            The outer headers, then the packet from its IP header on, byte for byte, padding
            included. The frame's own Ethernet header is gone.

        Raises:
            ValueError: the frame cannot be read, the outer packet would exceed `mtu`, the mark is
                not 0..255, or a checksum is wanted and the packet has none to derive it from.

        Source: RFC 6040 section 4.1 (TOS); RFC 1071 (checksum).
        """
        if not 0 <= mark <= 0xFF:
            raise ValueError(f"mark is {mark}, expected 0..255")
        return _native.apply_template(self.pack(), frame, mark)

    @classmethod
    def unpack(cls, packed: bytes) -> HeaderTemplate | None:
        """The inverse of `pack()`; None: there are no headers in it.

        Args:
            packed: (128,) bytes, `struct xg_template`.
        """
        header, length, l2_len, mtu, number, flags, total, _ = PACKED.unpack(packed)
        names = [name for name, form in ENCAPSULATIONS.items() if form.number == number]
        if not length or not names:
            return None
        version, summed = 6 if flags & FLAG_IPV6 else 4, bool(flags & FLAG_SUM)
        return cls(header[:length], l2_len, mtu, total, names[0], version, summed)

    @property
    def vni(self) -> int:
        """Of Geneve and VXLAN; 0 where the format has none."""
        at = self.l2_len + IP_LEN[self.version] + UDP_LEN + VNI_AT
        is_named = self.encapsulation in ("geneve", "vxlan")
        return int.from_bytes(self.header[at : at + 3]) if is_named else 0

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
            ENCAPSULATIONS[self.encapsulation].number,
            (FLAG_IPV6 if self.version == 6 else 0) | (FLAG_SUM if self.udp_checksum else 0),
            self.sum,
            generation,
        )


def _ethertype(vlan: int | None, version: int) -> bytes:
    ethertype = ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6
    if vlan is None:
        return struct.pack("!H", ethertype)
    if not 1 <= vlan <= 4094:
        raise ValueError(f"VLAN {vlan} is not in 1..4094")
    return struct.pack("!HHH", ETHERTYPE_VLAN, vlan, ethertype)


def _outer_ip(source: Address, destination: Address, protocol: int) -> bytes:
    if source.version == 6:
        head = struct.pack("!IHBB", 0x60000000, 0, protocol, OUTER_TTL)
        return head + source.packed + destination.packed
    return struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 0, 0, DONT_FRAGMENT, OUTER_TTL, protocol, 0,
        source.packed, destination.packed,
    )  # fmt: skip


def probe_payload(cookie: bytes, nonce: int) -> bytes:
    """(24,) bytes: a liveness probe as UDP payload for a peer's tunnel port.

    Args:
        cookie: (8,) bytes of the direction from here to the peer.
        nonce: 0..2^64-1, comes back in the reply.
    """
    header = struct.pack("!BBHBBH8s", GUE_CONTROL, GUE_PROBE, 0, PRIVATE_FORMAT, 0, 0, cookie)
    return header + struct.pack("!Q", nonce)


def probe_reply_nonce(payload: bytes, cookie: bytes) -> int | None:
    """The nonce of a probe's reply, or None if it is no reply or its cookie is wrong.

    Args:
        payload: UDP payload as received.
        cookie: (8,) bytes of the direction from the peer to here.
    """
    if len(payload) != GUE_LEN + 8:
        return None
    head = struct.pack("!BBHBBH", GUE_CONTROL, GUE_PROBE_REPLY, 0, PRIVATE_FORMAT, 0, 0)
    if payload[:GUE_LEN] != head + cookie:
        return None
    nonce: int = struct.unpack_from("!Q", payload, GUE_LEN)[0]
    return nonce
