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
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tests import model_odd
from tests.model_formats import (
    GUE_IPV4,
    Flavour,
    answer_probe,
    has_checksum,
    is_for_tunnel,
    outer_headers,
    read_shim,
    with_checksum,
)
from tests.model_fragmenting import pieces
from tests.model_too_big import answered

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP = 6, 17
EXTENSIONS: Final = {0: "hop-by-hop", 43: "routing", 44: "fragment", 60: "destination"}
EXTENSIONS_MAX = 4
EXTENSION_BYTES_MAX = 256
VLAN_TYPES = (0x8100, 0x88A8)
VLAN_TAGS_MAX = 2
MARK_FLOOD, MARK_RELAY, MARK_HOP = 0x80, 0x02, 0x01
MASK64 = (1 << 64) - 1
UNOWNED = 65535


class NotReadableError(Exception):
    """The frame ends here; the argument is its ending."""


class NoTransportError(NotReadableError):
    """There is an IP header, but no TCP or UDP behind it: `packet` has no ports."""

    def __init__(self, packet: Packet) -> None:
        super().__init__("passed_unparsed")
        self.packet = packet


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
    may_be_told: bool = True  # if it is too big: no ICMP error, no later fragment

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

    destination: IPv4Address | IPv6Address
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
    flood, where there is no flood group: `flood_group` is 0.0.0.0 then, and `flood` None.
    `fragments`: what became of first ones lately; None: nothing is remembered. `sent`: gets the
    frames of what a loop fragments; None: there is no loop."""

    host: int
    address: IPv4Address | IPv6Address
    mac: bytes
    flood_group: IPv4Address | IPv6Address
    tunnel_port: int
    services: Mapping[tuple[bytes, int, int], int]
    table: dict[tuple[bytes, int, int], Entry]
    active: frozenset[int]
    routes: Mapping[int, Route]
    flood: Route | None
    peers: Mapping[IPv4Address | IPv6Address, Peer]
    agent_alive: bool = True
    relay: Route | None = None
    flavour: Flavour = GUE_IPV4
    knows: Callable[[Packet], bool] = field(default=_nobody)
    named: Callable[[int, bytes, Packet], int | None] = field(default=_names_nobody)
    fragments: dict[model_odd.FragmentKey, model_odd.First] | None = None
    sent: list[bytes] | None = None


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
        raise NoTransportError(
            Packet(family, protocol, *addresses, 0, 0, 0, tos, start, at, length)
        )
    header = _take(data[: start + length], at, 20 if protocol == TCP else 8)
    source_port, destination_port = struct.unpack_from("!HH", header)
    flags = header[13] if protocol == TCP else 0
    return Packet(
        family, protocol, *addresses, source_port, destination_port, flags, tos, start, at, length
    )


# ---- writing ----


def flow_hash(packet: Packet) -> int:
    """32 bits of a mix of the flow.

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
    return int(mix) >> 32


def entropy_port(packet: Packet) -> int:
    """The outer UDP source port: 14 bits of the flow's hash, in 49152..65535."""
    return 0xC000 | flow_hash(packet) & 0x3FFF


def encapsulate(world: World, route: Route, frame: bytes, packet: Packet, mark: int) -> bytes:
    """The frame with its Ethernet header replaced by the outer headers of `route`.

    What follows the IP packet (Ethernet padding) stays behind it.
    """
    ethernet = route.destination_mac + world.mac
    if route.vlan is not None:
        ethernet += struct.pack("!HH", 0x8100, route.vlan)
    ethernet += b"\x08\x00" if world.flavour.version == 4 else b"\x86\xdd"
    headers = outer_headers(world, route, packet, mark, entropy_port(packet), flow_hash(packet))
    if world.flavour.checksum:
        headers = with_checksum(headers, frame[packet.l3 : packet.l3 + packet.length])
    return ethernet + headers + frame[packet.l3 :]


def wrap(
    world: World, route: Route, frame: bytes, packet: Packet, mark: int, ending: str
) -> tuple[str, bytes]:
    """`encapsulate`, unless the result is too big for the path: its sender is told, if it may."""
    fits = route.mtu - world.flavour.overhead
    if packet.length > fits and world.sent is not None:
        parts = pieces(packet, frame, fits)
        model_odd.remember(world, frame, packet, route, mark)
        world.sent += [encapsulate(world, route, part, piece, mark) for piece, part in parts]
        if parts:
            return "fragmented", frame
    if packet.length > fits:
        answer = answered(frame, packet, fits)
        return ("too_big", frame) if answer is None else ("too_big_answered", answer)
    inner = frame[packet.l3 : packet.l3 + packet.length]
    if world.flavour.checksum and not has_checksum(inner, packet):
        return "no_checksum", frame
    model_odd.remember(world, frame, packet, route, mark)
    return ending, encapsulate(world, route, frame, packet, mark)


# ---- deciding ----


def run(world: World, frame: bytes) -> tuple[str, bytes]:
    """The ending of a frame (a name of csrc/stats.h) and the frame as it leaves the program."""
    try:
        packet = parse(frame)
    except NoTransportError as error:
        if _is_tunnel(world, error.packet):
            return run_tunnel(world, frame, error.packet)
        return model_odd.run_unread(world, frame, str(error))
    except NotReadableError as error:
        return model_odd.run_unread(world, frame, str(error))
    if _is_tunnel(world, packet):
        return run_tunnel(world, frame, packet)
    ending, output = run_plain(world, frame, packet)
    if ending.startswith("passed_"):
        model_odd.remember(world, frame, packet, None, 0)
    return ending, output


def mapped(address: IPv4Address | IPv6Address) -> bytes:
    """(16,) bytes, an IPv4 address v4-mapped."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _is_tunnel(world: World, packet: Packet) -> bool:
    to_us = (mapped(world.address), mapped(world.flood_group))
    return packet.destination in to_us and is_for_tunnel(world, packet)


def run_untunnelled(world: World, frame: bytes) -> tuple[str, bytes]:
    """`run` for a reader that knows no tunnel, as the C forwarder: it sees strays only."""
    try:
        return run_plain(world, frame, parse(frame))
    except NotReadableError as error:
        return model_odd.run_unread(world, frame, str(error))


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
    shim = read_shim(world, frame, outer)
    if shim is None:
        return "tunnel_malformed", frame
    senders = {mapped(address): peer for address, peer in world.peers.items()}
    peer = senders.get(outer.source)
    if peer is None or peer.host not in world.active:
        return "tunnel_bad_source", frame
    to_group = outer.destination == mapped(world.flood_group)
    if shim.cookie not in (None, *(peer.flood if to_group else peer.unicast)):
        return "tunnel_bad_cookie", frame
    if not shim.is_sound or (shim.is_probe and to_group):
        return "tunnel_malformed", frame
    if shim.is_probe:
        reply = answer_probe(frame, outer, peer.reply)
        return ("tunnel_malformed", frame) if reply is None else ("probe_answered", reply)
    is_flood = to_group or bool(shim.mark & MARK_FLOOD)
    is_search = is_flood or bool(shim.mark & MARK_RELAY)
    if shim.kind not in (4, 41):
        return "tunnel_malformed", frame
    try:
        inner = (parse_ipv4 if shim.kind == 4 else parse_ipv6)(frame, shim.inner_at)
    except NotReadableError:
        family = 4 if shim.kind == 4 else 6
        ending, odd = model_odd.judge_unread(world, frame, shim.inner_at, family, is_search)
        return _strip(world, frame, outer, odd, ending) if odd else (ending, frame)
    ending = _judge(world, inner, is_flood, is_search)
    if ending == "misdirected":
        return _misdirected(world, frame, inner, shim.mark)
    if ending.startswith("delivered_"):
        model_odd.remember(world, frame, inner, None, 0)
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
