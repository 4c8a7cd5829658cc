# SPDX-License-Identifier: BSD-2-Clause
"""A plain model of the data path: a dict for the table, bytes in, an ending and bytes out.

It is the second opinion on the C and BPF code, written from the documentation (the decision
table, RFC 791, RFC 8200, RFC 6040), and slow on purpose: every field is read by name. What only
a kernel can say ("does a socket here fit this segment?") is asked of `World.knows`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP = 6, 17
EXTENSIONS: Final = {0: "hop-by-hop", 43: "routing", 44: "fragment", 60: "destination"}
EXTENSIONS_MAX = 4
EXTENSION_BYTES_MAX = 256
VLAN_TYPES = (0x8100, 0x88A8)
VLAN_TAGS_MAX = 2
GUE_BYTES = 16
MARK_FLOOD, MARK_RELAY, MARK_HOP = 0x80, 0x02, 0x01
OVERHEAD = 20 + 8 + GUE_BYTES
MASK64 = (1 << 64) - 1
UNOWNED = 65535


class NotReadableError(Exception):
    """The frame ends here; the argument is its ending."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet with ports. Addresses are 16 bytes, IPv4 ones v4-mapped."""

    family: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    flags: int
    tos: int
    l3: int  # offset of the IP header in the frame
    l4: int
    length: int  # of the IP packet, by its own header

    @property
    def is_syn(self) -> bool:
        return self.protocol == TCP and self.flags & (SYN | ACK | RST) == SYN

    @property
    def has_no_flags(self) -> bool:
        return self.protocol == TCP and not self.flags & (SYN | ACK | RST)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the session table."""

    owner: int
    lingering: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """How packets to one destination are wrapped. `mtu`: largest outer IP packet, bytes."""

    destination: IPv4Address
    destination_mac: bytes
    cookie: bytes
    mtu: int
    vlan: int | None = None
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host as a sender: its id and the cookies that it may show, (8,) bytes each."""

    host: int
    unicast: tuple[bytes, bytes]
    flood: tuple[bytes, bytes]
    reply: bytes


def _nobody(_: Packet) -> bool:
    return False


def _names_nobody(_slot: int, _frame: bytes, _packet: Packet) -> int | None:
    return None


@dataclass(slots=True)
class World:
    """All that the program knows when a frame arrives. `relay`: to a host that it may ask to
    flood, where there is no flood group: `flood_group` is 0.0.0.0 then, and `flood` None."""

    host: int
    address: IPv4Address
    mac: bytes
    flood_group: IPv4Address
    tunnel_port: int
    services: Mapping[tuple[bytes, int, int], int]
    table: dict[tuple[bytes, int, int], Entry]
    active: frozenset[int]
    routes: Mapping[int, Route]
    flood: Route | None
    peers: Mapping[IPv4Address, Peer]
    agent_alive: bool = True
    relay: Route | None = None
    knows: Callable[[Packet], bool] = field(default=_nobody)
    named: Callable[[int, bytes, Packet], int | None] = field(default=_names_nobody)


# ---- reading ----


def _take(data: bytes, offset: int, count: int) -> bytes:
    if offset + count > len(data):
        raise NotReadableError("passed_unparsed")
    return data[offset : offset + count]


def parse(frame: bytes) -> Packet:
    """Reads a frame; raises NotReadableError with its ending."""
    offset = 12
    ethertype = int.from_bytes(_take(frame, offset, 2))
    for _ in range(VLAN_TAGS_MAX):
        if ethertype in VLAN_TYPES:
            offset += 4
            ethertype = int.from_bytes(_take(frame, offset, 2))
    if ethertype == 0x0800:
        return parse_ipv4(frame, offset + 2)
    if ethertype == 0x86DD:
        return parse_ipv6(frame, offset + 2)
    raise NotReadableError("passed_not_ip")


def parse_ipv4(data: bytes, start: int) -> Packet:
    """Reads an IPv4 packet at `start`."""
    header = _take(data, start, 20)
    version, words = header[0] >> 4, header[0] & 15
    length = int.from_bytes(header[2:4])
    if version != 4 or words < 5 or length < 4 * words:
        raise NotReadableError("passed_unparsed")
    _take(data, start, length)
    if int.from_bytes(header[6:8]) & 0x1FFF:
        raise NotReadableError("passed_fragment")
    mapped = bytes(10) + b"\xff\xff"
    addresses = mapped + header[12:16], mapped + header[16:20]
    return _transport(data, 4, header[9], addresses, header[1], (start, start + 4 * words, length))


def parse_ipv6(data: bytes, start: int) -> Packet:
    """Reads an IPv6 packet at `start`, stepping over its extension headers."""
    header = _take(data, start, 40)
    length = 40 + int.from_bytes(header[4:6])
    if header[0] >> 4 != 6 or length > 65535:
        raise NotReadableError("passed_unparsed")
    _take(data, start, length)
    protocol, at = header[6], start + 40
    for _ in range(EXTENSIONS_MAX):
        if protocol not in EXTENSIONS:
            break
        extension = _take(data, at, 8)
        size = 8
        if EXTENSIONS[protocol] != "fragment":
            size = 8 * (extension[1] + 1)
        elif int.from_bytes(extension[2:4]) >> 3:
            raise NotReadableError("passed_fragment")
        if size > EXTENSION_BYTES_MAX:
            raise NotReadableError("passed_unparsed")
        protocol, at = extension[0], at + size
    traffic_class = int.from_bytes(header[:2]) >> 4 & 0xFF
    addresses = header[8:24], header[24:40]
    return _transport(data, 6, protocol, addresses, traffic_class, (start, at, length))


def _transport(
    data: bytes,
    family: int,
    protocol: int,
    addresses: tuple[bytes, bytes],
    tos: int,
    place: tuple[int, int, int],
) -> Packet:
    """Reads ports and flags; the whole transport header must lie inside the IP packet."""
    start, at, length = place
    if protocol not in (TCP, UDP):
        raise NotReadableError("passed_unparsed")
    header = _take(data[: start + length], at, 20 if protocol == TCP else 8)
    source_port, destination_port = struct.unpack_from("!HH", header)
    flags = header[13] if protocol == TCP else 0
    return Packet(
        family, protocol, *addresses, source_port, destination_port, flags, tos, start, at, length
    )


# ---- writing ----


def entropy_port(packet: Packet) -> int:
    """The outer UDP source port: 14 bits of a mix of the flow, in 49152..65535.

    The mix multiplies by the odd constants of splitmix64's family and keeps the high half; it
    reads addresses as the little-endian words that lie in memory.
    """
    source = struct.unpack("<4I", packet.source)
    destination = struct.unpack("<4I", packet.destination)
    source_port, destination_port = struct.unpack(
        "<HH", struct.pack("!HH", packet.source_port, packet.destination_port)
    )
    mix = source[3] << 32 | destination[3]
    mix ^= (source[0] ^ source[2]) << 16
    mix ^= source[1]
    mix = mix + (source_port << 16 | destination_port) * 0x9E3779B97F4A7C15 & MASK64
    mix ^= mix >> 32
    mix = mix * 0xD6E8FEB86659FD93 & MASK64
    high = int(mix) >> 32
    return 0xC000 | (high & 0x3FFF)


def ipv4_checksum(header: bytes) -> int:
    """RFC 1071 over a header whose checksum field is zero."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)  # folding is taking the remainder, never to 0


def encapsulate(world: World, route: Route, frame: bytes, packet: Packet, mark: int) -> bytes:
    """The frame with its Ethernet header replaced by the outer headers of `route`.

    What follows the IP packet (Ethernet padding) stays behind it.
    """
    outer_len = OVERHEAD + packet.length
    ethernet = route.destination_mac + world.mac
    if route.vlan is not None:
        ethernet += struct.pack("!HH", 0x8100, route.vlan)
    ip = bytearray(
        struct.pack("!BBHHHBBH", 0x45, packet.tos, outer_len, 0, 0x4000, 64, UDP, 0)
        + world.address.packed
        + route.destination.packed
    )
    ip[10:12] = ipv4_checksum(bytes(ip)).to_bytes(2)
    udp = struct.pack("!HHHH", entropy_port(packet), world.tunnel_port, outer_len - 20, 0)
    inner_protocol = 4 if packet.family == 4 else 41
    gue = struct.pack("!BBHBBH", 3, inner_protocol, 0, 1, route.mark | mark, 0) + route.cookie
    return ethernet + b"\x08\x00" + bytes(ip) + udp + gue + frame[packet.l3 :]


def wrap(
    world: World, route: Route, frame: bytes, packet: Packet, mark: int, ending: str
) -> tuple[str, bytes]:
    """`encapsulate`, unless the result is too big for the path."""
    if packet.length + OVERHEAD > route.mtu:
        return "too_big", frame
    return ending, encapsulate(world, route, frame, packet, mark)


# ---- deciding ----


def run(world: World, frame: bytes) -> tuple[str, bytes]:
    """The ending of a frame (a name of csrc/stats.h) and the frame as it leaves the program."""
    try:
        packet = parse(frame)
    except NotReadableError as error:
        return str(error), frame
    to_us = (world.address.packed, world.flood_group.packed)
    if (
        packet.family == 4
        and packet.protocol == UDP
        and packet.destination_port == world.tunnel_port
        and packet.destination[12:] in to_us
    ):
        return run_tunnel(world, frame, packet)
    return run_plain(world, frame, packet)


def run_untunnelled(world: World, frame: bytes) -> tuple[str, bytes]:
    """`run` for a reader that knows no tunnel, as the C forwarder: it sees strays only."""
    try:
        return run_plain(world, frame, parse(frame))
    except NotReadableError as error:
        return str(error), frame


def run_plain(world: World, frame: bytes, packet: Packet) -> tuple[str, bytes]:
    """A packet that came straight from the router."""
    service = world.services.get((packet.destination, packet.destination_port, packet.protocol))
    if service is None:
        return "passed_no_service", frame
    if packet.has_no_flags:
        return "dropped_no_flags", frame
    entry = world.table.get((packet.source, packet.source_port, service))
    if entry is not None and entry.owner == UNOWNED:
        if world.agent_alive:
            return _run_by_id(world, service, frame, packet, "passed_unowned")
        entry = None
    if entry is not None and entry.owner not in world.active:
        entry = None
    if entry is not None and entry.owner == world.host:
        if packet.protocol == UDP or packet.is_syn or world.knows(packet):
            return "passed_own", frame
        entry = None
    if entry is None and packet.protocol == UDP:
        return _run_by_id(world, service, frame, packet, "passed_udp_new")
    if entry is None:
        return _run_absent(world, frame, packet)
    return _run_elsewhere(world, entry.owner, frame, packet)


def _run_by_id(
    world: World, service: int, frame: bytes, packet: Packet, otherwise: str
) -> tuple[str, bytes]:
    owner = world.named(service, frame, packet)
    route = world.routes.get(owner) if owner in world.active else None
    if owner == world.host or route is None:
        return otherwise, frame
    return wrap(world, route, frame, packet, 0, "quic_forwarded")


def _run_absent(world: World, frame: bytes, packet: Packet) -> tuple[str, bytes]:
    if packet.is_syn:
        return "passed_syn", frame
    if world.knows(packet):
        return "passed_known", frame
    return _flood(world, frame, packet, MARK_FLOOD, "miss_flooded")


def _run_elsewhere(world: World, owner: int, frame: bytes, packet: Packet) -> tuple[str, bytes]:
    route = world.routes.get(owner)
    if packet.is_syn:
        if route is None:
            return "passed_syn", frame
        return wrap(world, route, frame, packet, 0, "syn_forwarded")
    if world.knows(packet):
        return "passed_stale_entry", frame
    if route is None:
        return _flood(world, frame, packet, MARK_FLOOD, "miss_flooded")
    return wrap(world, route, frame, packet, 0, "stray_forwarded")


def _flood(world: World, frame: bytes, packet: Packet, mark: int, ending: str) -> tuple[str, bytes]:
    if world.flood is None and world.relay is not None:
        return wrap(world, world.relay, frame, packet, MARK_RELAY, "miss_relayed")
    if world.flood is None:
        return "miss_no_flood", frame
    return wrap(world, world.flood, frame, packet, mark, ending)


# ---- the tunnel ----


def run_tunnel(world: World, frame: bytes, outer: Packet) -> tuple[str, bytes]:
    """A packet that another host sent to this one, or to the flood group."""
    gue = frame[outer.l4 + 8 : outer.l4 + 8 + GUE_BYTES]
    if len(gue) < GUE_BYTES:
        return "tunnel_malformed", frame
    peer = world.peers.get(IPv4Address(outer.source[12:]))
    if peer is None or peer.host not in world.active:
        return "tunnel_bad_source", frame
    to_group = outer.destination[12:] == world.flood_group.packed
    if gue[8:] not in (peer.flood if to_group else peer.unicast):
        return "tunnel_bad_cookie", frame
    first, kind, flags, version, mark = struct.unpack_from("!BBHBB", gue)
    if flags != 0 or version != 1:
        return "tunnel_malformed", frame
    if (first, kind) == (0x23, 1) and not to_group:
        return "probe_answered", _answer(frame, outer, peer)
    if first != 0x03 or kind not in (4, 41):
        return "tunnel_malformed", frame
    start = outer.l4 + 8 + GUE_BYTES
    try:
        inner = (parse_ipv4 if kind == 4 else parse_ipv6)(frame, start)
    except NotReadableError:
        return "tunnel_malformed", frame
    is_flood = to_group or bool(mark & MARK_FLOOD)
    ending = _judge(world, inner, is_flood, is_flood or bool(mark & MARK_RELAY))
    if ending == "misdirected":
        return _misdirected(world, frame, inner, mark)
    if ending.startswith("delivered_"):
        return _strip(world, frame, outer, inner, ending)
    return ending, frame


def _judge(world: World, inner: Packet, is_flood: bool, is_search: bool) -> str:
    if (inner.destination, inner.destination_port, inner.protocol) not in world.services:
        return "tunnel_no_service"
    if inner.is_syn:
        return "flood_syn" if is_search else "delivered_syn"
    if inner.protocol == UDP and not is_search:
        return "delivered_udp"
    if world.knows(inner):
        return "delivered_flood" if is_search else "delivered_stray"
    return "flood_unknown" if is_flood else "misdirected"


def _misdirected(world: World, frame: bytes, inner: Packet, mark: int) -> tuple[str, bytes]:
    relays = world.relay is not None and not mark & MARK_RELAY
    if mark & MARK_HOP or (world.flood is None and not relays):
        return "misdirected_dropped", frame
    return _flood(world, frame, inner, MARK_FLOOD | MARK_HOP, "misdirected_flooded")


def _answer(frame: bytes, outer: Packet, peer: Peer) -> bytes:
    """A probe's answer: addresses and ports swapped, the cookie of the other direction."""
    reply = bytearray(frame)
    reply[0:6], reply[6:12] = frame[6:12], frame[0:6]
    ip, udp = outer.l3, outer.l4
    reply[ip + 12 : ip + 20] = frame[ip + 16 : ip + 20] + frame[ip + 12 : ip + 16]
    reply[udp : udp + 4] = frame[udp + 2 : udp + 4] + frame[udp : udp + 2]
    reply[udp + 6 : udp + 8] = bytes(2)
    reply[udp + 9] = 2
    reply[udp + 16 : udp + 24] = peer.reply
    return bytes(reply)


# RFC 6040 section 4.2, figure 4: (inner, outer) to the new inner field, where it changes.
# 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE; None: drop.
ECN_CHANGES: Final[Mapping[tuple[int, int], int | None]] = {
    (0, 3): None,
    (1, 3): 3,
    (2, 1): 1,
    (2, 3): 3,
}


def _strip(
    world: World, frame: bytes, outer: Packet, inner: Packet, ending: str
) -> tuple[str, bytes]:
    """The inner packet behind the Ethernet header (and tags) that came, addressed to us."""
    was = inner.tos & 3
    ecn = ECN_CHANGES.get((was, outer.tos & 3), was)
    if ecn is None:
        return "tunnel_ecn_dropped", frame
    body = bytearray(frame[inner.l3 :])
    if ecn != was and inner.family == 4:
        words = (body[0] & 15) * 4
        body[1] = body[1] & 0xFC | ecn
        body[10:12] = _updated_checksum(body[:words], inner.tos, body[1]).to_bytes(2)
    elif ecn != was:
        body[1] = body[1] & 0xCF | ecn << 4
    ethertype = b"\x08\x00" if inner.family == 4 else b"\x86\xdd"
    return ending, world.mac + frame[6 : outer.l3 - 2] + ethertype + bytes(body)


def _updated_checksum(header: bytearray, old_tos: int, new_tos: int) -> int:
    """RFC 1624 equation 3: a checksum that was wrong before stays wrong by the same amount."""
    total = (~int.from_bytes(header[10:12]) & 0xFFFF) + (~old_tos & 0xFFFF) + new_tos
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
