# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel formats for the model of the data path, written from their RFCs, field by field."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

IP_BYTES: Final = {4: 20, 6: 40}
UDP_BYTES = 8
ETHERNET_BYTES = 14
GUE_BYTES, GENEVE_BYTES, VXLAN_BYTES = 16, 24, 8
UDP = 17
CONTROL, PROBE = 0x23, 1
PROBE_BYTES = UDP_BYTES + GUE_BYTES + 8  # from UDP on, the nonce included
INNER_PROTOCOLS: Final = {4: 4, 6: 41}
ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}
FRAME_FOLLOWS = 0x6558


@dataclass(frozen=True, slots=True)
class Flavour:
    """How a POP writes its tunnel packets: format, family of the outer header, whether UDP over
    IPv6 has a real checksum."""

    name: str = "gue"
    version: int = 4
    checksum: bool = False
    vni: int = 0

    @property
    def shim_bytes(self) -> int:
        """Between the outer IP header and the inner one."""
        return {
            "gue": UDP_BYTES + GUE_BYTES,
            "geneve": UDP_BYTES + GENEVE_BYTES + ETHERNET_BYTES,
            "vxlan": UDP_BYTES + VXLAN_BYTES + ETHERNET_BYTES,
            "ipip": 0,
        }[self.name]

    @property
    def overhead(self) -> int:
        """Bytes that are added to an IP packet."""
        return IP_BYTES[self.version] + self.shim_bytes


GUE_IPV4: Final = Flavour()
FLAVOURS: Final = (
    GUE_IPV4,
    Flavour("gue", 6, checksum=True),
    Flavour("gue", 6),
    Flavour("geneve", 4, vni=0x123456),
    Flavour("geneve", 6, checksum=True, vni=7),
    Flavour("vxlan", 4, vni=42),
    Flavour("vxlan", 6, checksum=True),
    Flavour("ipip", 4),
    Flavour("ipip", 6),
)


def checksum(data: bytes) -> int:
    """RFC 1071 over data whose checksum field is zero."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)  # folding is taking the remainder, never to 0


def has_checksum(inner: bytes, packet: Any) -> bool:
    """Whether the inner packet's own checksum covers all of its payload."""
    header, protocol = packet.l4 - packet.l3, inner[9 if packet.family == 4 else 6]
    if packet.family == 4 and int.from_bytes(inner[6:8]) & 0x3FFF:
        return False
    if packet.family == 6 and header != 40:
        return False
    if protocol not in (6, UDP, 1 if packet.family == 4 else 58):
        return False
    if protocol == UDP:
        length, field = struct.unpack_from("!HH", inner, header + 4)
        return field != 0 and length == packet.length - header
    return True


def shim(
    flavour: Flavour, family: int, mark: int, cookie: bytes, ends: tuple[bytes, bytes]
) -> bytes:
    """What lies between UDP (or IP) and the inner packet. `ends`: packed outer addresses."""
    source, destination = ends
    private = struct.pack("!BBH", 1, mark, 0) + cookie
    ethernet = b"\2\0" + destination[-4:] + b"\2\0" + source[-4:] + ETHERTYPES[family].to_bytes(2)
    if flavour.name == "gue":
        return struct.pack("!BBH", 3, INNER_PROTOCOLS[family], 0) + private
    if flavour.name == "geneve":
        base = struct.pack("!BBHI", 4, 0, FRAME_FOLLOWS, flavour.vni << 8)
        return base + struct.pack("!HBB", 0xFF58, 1, 3) + private + ethernet
    if flavour.name == "vxlan":
        return struct.pack("!II", 0x08000000, flavour.vni << 8) + ethernet
    return b""


def outer_headers(world: Any, route: Any, packet: Any, mark: int, port: int, flow: int) -> bytes:
    """From the outer IP header to the inner one; the UDP checksum is still 0."""
    flavour = world.flavour
    source, destination = world.address.packed, route.destination.packed
    inner = shim(flavour, packet.family, route.mark | mark, route.cookie, (source, destination))
    length = flavour.overhead + packet.length
    protocol = UDP
    if flavour.name == "ipip":
        protocol = INNER_PROTOCOLS[packet.family]
    else:
        udp_len = length - IP_BYTES[flavour.version]
        inner = struct.pack("!HHHH", port, world.tunnel_port, udp_len, 0) + inner
    if flavour.version == 6:
        first = 0x60000000 | packet.tos << 20 | flow & 0xFFFFF
        return struct.pack("!IHBB", first, length - 40, protocol, 64) + source + destination + inner
    ip = bytearray(
        struct.pack("!BBHHHBBH", 0x45, packet.tos, length, 0, 0x4000, 64, protocol, 0)
        + source
        + destination
    )
    ip[10:12] = checksum(bytes(ip)).to_bytes(2)
    return bytes(ip) + inner


def with_checksum(headers: bytes, inner: bytes) -> bytes:
    """Outer IPv6 and UDP headers with the checksum over all that follows."""
    udp = headers[40:] + inner
    pseudo = headers[8:40] + struct.pack("!II", len(udp), UDP)
    value = checksum(pseudo + udp) or 0xFFFF
    return headers[:46] + value.to_bytes(2) + headers[48:]


@dataclass(frozen=True, slots=True)
class Shim:
    """What the headers between outer and inner IP say; `cookie` None: there is no room for one."""

    inner_at: int
    kind: int  # of the inner packet: 4, 41, or none of them
    mark: int = 0
    cookie: bytes | None = None
    is_sound: bool = True
    is_probe: bool = False


def is_for_tunnel(world: Any, packet: Any) -> bool:
    """Whether a packet, whatever its destination, may be the tunnel's."""
    if packet.protocol == UDP:
        return bool(packet.destination_port == world.tunnel_port)
    return world.flavour.name == "ipip" and packet.protocol in INNER_PROTOCOLS.values()


def _inner_kind(ethernet: bytes) -> int:
    ethertype = int.from_bytes(ethernet[12:14])
    return {0x0800: 4, 0x86DD: 41}.get(ethertype, 0)


def _read_gue(data: bytes, at: int, data_allowed: bool) -> Shim | None:
    header = data[at : at + GUE_BYTES]
    if len(header) < GUE_BYTES:
        return None
    first, kind, flags, version, mark = struct.unpack_from("!BBHBB", header)
    is_probe = first == CONTROL
    fits = kind == PROBE if is_probe else first == 3 and data_allowed
    sound = flags == 0 and version == 1 and fits
    return Shim(at + GUE_BYTES, kind, mark, header[8:], sound, is_probe)


def _read_geneve(data: bytes, at: int) -> Shim | None:
    header = data[at : at + GENEVE_BYTES + ETHERNET_BYTES]
    if len(header) < GENEVE_BYTES + ETHERNET_BYTES:
        return None
    base = struct.unpack_from("!BBH", header)
    option = struct.unpack_from("!HBBBB", header, 8)
    sound = base == (4, 0, FRAME_FOLLOWS) and option[:4] == (0xFF58, 1, 3, 1)
    kind = _inner_kind(header[GENEVE_BYTES:])
    return Shim(at + len(header), kind, option[4], header[16:24], sound)


def _read_vxlan(data: bytes, at: int) -> Shim | None:
    header = data[at : at + VXLAN_BYTES + ETHERNET_BYTES]
    if len(header) < VXLAN_BYTES + ETHERNET_BYTES:
        return None
    sound = header[:4] == b"\x08\0\0\0"
    return Shim(at + len(header), _inner_kind(header[VXLAN_BYTES:]), is_sound=sound)


def read_shim(world: Any, frame: bytes, outer: Any) -> Shim | None:
    """What a tunnel packet says before its inner packet; None: it is cut."""
    name = world.flavour.name
    if outer.protocol != UDP:
        return Shim(outer.l4, outer.protocol)
    at = outer.l4 + UDP_BYTES
    if at >= len(frame):
        return None
    if name in ("gue", "ipip") or frame[at] == CONTROL:
        return _read_gue(frame, at, name == "gue")
    return _read_geneve(frame, at) if name == "geneve" else _read_vxlan(frame, at)


def answer_probe(frame: bytes, outer: Any, cookie: bytes) -> bytes | None:
    """A probe's answer: addresses and ports swapped, the cookie of the other direction; None: it
    has no nonce, or more."""
    if frame[outer.l4 + 4 : outer.l4 + 6] != PROBE_BYTES.to_bytes(2):
        return None
    if len(frame) < outer.l4 + PROBE_BYTES:
        return None
    reply = bytearray(frame)
    reply[0:6], reply[6:12] = frame[6:12], frame[0:6]
    at, size = (outer.l3 + 12, 4) if outer.family == 4 else (outer.l3 + 8, 16)
    udp = outer.l4
    reply[at : at + 2 * size] = frame[at + size : at + 2 * size] + frame[at : at + size]
    reply[udp : udp + 4] = frame[udp + 2 : udp + 4] + frame[udp : udp + 2]
    reply[udp + 9] = 2
    reply[udp + 16 : udp + 24] = cookie
    reply[udp + 6 : udp + 8] = bytes(2)
    if outer.family == 6:
        pseudo = bytes(reply[at : at + 32]) + struct.pack("!II", PROBE_BYTES, UDP)
        value = checksum(pseudo + bytes(reply[udp : udp + PROBE_BYTES])) or 0xFFFF
        reply[udp + 6 : udp + 8] = value.to_bytes(2)
    return bytes(reply)
