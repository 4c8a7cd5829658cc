# SPDX-License-Identifier: BSD-2-Clause
"""The model's second half: fragments, and ICMP errors that quote a packet of a service.

As plain as model.py, and written from RFC 791, 792, 4443 and 8200 and the decision table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from tests import model

FRAGMENT_S = 2.0
FragmentKey = tuple[bytes, bytes, int, int]
"""Source, destination, identification; protocol of an IPv4 packet, 0 for IPv6."""

ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ECHO = {4: 8, 6: 128}
ICMP = {4: 1, 6: 58}
QUOTED_PORTS = 8


@dataclass(frozen=True, slots=True)
class First:
    """What became of a first fragment. `route` None: it was passed to the stack."""

    ports: tuple[int, int]
    route: model.Route | None
    mark: int


@dataclass(slots=True)
class Header:
    """The IP header of a packet and where its extension headers end."""

    packet: model.Packet  # without ports
    fragment: str  # "", "first" or "later"
    identification: int
    is_cut: bool  # the packet ends within its extension headers

    @property
    def key(self) -> FragmentKey:
        protocol = self.packet.protocol if self.packet.family == 4 else 0
        return self.packet.source, self.packet.destination, self.identification, protocol


def read_header(data: bytes, start: int, family: int) -> Header | None:
    """The IP header at `start` of a packet that lies whole in `data`, or None."""
    return (_read4 if family == 4 else _read6)(data, start)


def _read4(data: bytes, start: int) -> Header | None:
    header = data[start : start + 20]
    if len(header) < 20:
        return None
    words, length = header[0] & 15, int.from_bytes(header[2:4])
    if header[0] >> 4 != 4 or words < 5 or length < 4 * words or start + length > len(data):
        return None
    identification, flags = struct.unpack_from("!HH", header, 4)
    mapped = bytes(10) + b"\xff\xff"
    packet = model.Packet(
        4, header[9], mapped + header[12:16], mapped + header[16:20], 0, 0, 0, header[1],
        start, start + 4 * words, length,
    )  # fmt: skip
    return Header(packet, _kind(bool(flags & 0x2000), flags & 0x1FFF), identification, False)


def _read6(data: bytes, start: int) -> Header | None:
    header = data[start : start + 40]
    if len(header) < 40 or header[0] >> 4 != 6:
        return None
    length = 40 + int.from_bytes(header[4:6])
    if length > 65535 or start + length > len(data):
        return None
    fragment, identification, is_cut = "", 0, False
    protocol, at = header[6], start + 40
    for _ in range(model.EXTENSIONS_MAX):
        if protocol not in model.EXTENSIONS:
            break
        extension = data[at : at + 8]
        if len(extension) < 8:
            protocol, is_cut = 0, True
            break
        size = 8 * (extension[1] + 1)
        if model.EXTENSIONS[protocol] == "fragment":
            size, offset = 8, int.from_bytes(extension[2:4])
            kind = _kind(bool(offset & 1), offset >> 3)
            fragment, identification = kind or fragment, int.from_bytes(extension[4:8])
            if kind == "later":
                break
        if size > model.EXTENSION_BYTES_MAX:
            protocol = 0
            break
        protocol, at = extension[0], at + size
    tos = int.from_bytes(header[:2]) >> 4 & 0xFF
    packet = model.Packet(6, protocol, header[8:24], header[24:40], 0, 0, 0, tos, start, at, length)
    return Header(packet, fragment, identification, is_cut)


def _kind(more: bool, offset: int) -> str:
    return "later" if offset else "first" if more else ""


# ---- ICMP ----


def read_icmp(data: bytes, packet: model.Packet) -> str | model.Packet:
    """ "echo", "other", or for an error the client's packet of the session that it quotes: at
    the place of the ICMP packet, and as long."""
    icmp = data[packet.l4 : packet.l3 + packet.length]
    if len(icmp) < 8:
        return "other"
    if icmp[0] == ECHO[packet.family]:
        return "echo"
    if icmp[0] not in ERRORS[packet.family]:
        return "other"
    quoted = (_quote4 if packet.family == 4 else _quote6)(icmp[8:])
    if quoted is None:
        return "other"
    source, destination, protocol, transport = quoted
    if source != packet.destination or protocol not in (model.TCP, model.UDP):
        return "other"
    source_port, destination_port = struct.unpack_from("!HH", transport)
    return replace(
        packet, source=destination, protocol=protocol, source_port=destination_port,
        destination_port=source_port, flags=model.RST if protocol == model.TCP else 0,
        may_be_told=False,
    )  # fmt: skip


Quote = tuple[bytes, bytes, int, bytes]


def _quote4(quote: bytes) -> Quote | None:
    words = quote[0] & 15 if quote else 0
    if len(quote) < 4 * words + QUOTED_PORTS or words < 5 or quote[0] >> 4 != 4:
        return None
    if int.from_bytes(quote[6:8]) & 0x1FFF:
        return None
    mapped = bytes(10) + b"\xff\xff"
    return mapped + quote[12:16], mapped + quote[16:20], quote[9], quote[4 * words :]


def _quote6(quote: bytes) -> Quote | None:
    if len(quote) < 40 or quote[0] >> 4 != 6:
        return None
    protocol, rest = quote[6], quote[40:]
    if protocol == 44:
        if len(rest) < 8 or int.from_bytes(rest[2:4]) >> 3:
            return None
        protocol, rest = rest[0], rest[8:]
    return (quote[8:24], quote[24:40], protocol, rest) if len(rest) >= QUOTED_PORTS else None


# ---- deciding ----


def is_vip(world: model.World, address: bytes) -> bool:
    return any(vip == address for vip, _, _ in world.services)


def service_of(world: model.World, packet: model.Packet) -> int | None:
    key = packet.destination, packet.destination_port, packet.protocol
    return world.services.get(key)


def run_unread(world: model.World, frame: bytes, ending: str) -> tuple[str, bytes]:
    """A frame from the router that `model.parse` gave up on with `ending`."""
    place = _place(frame)
    header = read_header(frame, *place) if place else None
    if header is None or not is_vip(world, header.packet.destination):
        return ending, frame
    if header.fragment == "later":
        return _follow(world, frame, header) if ending == "passed_fragment" else (ending, frame)
    if header.fragment == "first":
        is_tiny = header.is_cut or header.packet.protocol in (model.TCP, model.UDP)
        return "dropped_tiny_fragment" if is_tiny else ending, frame
    if header.packet.protocol != ICMP[header.packet.family]:
        return ending, frame
    found = read_icmp(frame, header.packet)
    if isinstance(found, str):
        return "passed_echo" if found == "echo" else "passed_icmp", frame
    return _run_error(world, frame, found)


def _place(frame: bytes) -> tuple[int, int] | None:
    """Offset and family of the IP header behind at most two VLAN tags."""
    at = 12
    for _ in range(model.VLAN_TAGS_MAX):
        if int.from_bytes(frame[at : at + 2]) in model.VLAN_TYPES:
            at += 4
    families = {0x0800: 4, 0x86DD: 6}
    family = families.get(int.from_bytes(frame[at : at + 2]))
    return (at + 2, family) if family else None


def _follow(world: model.World, frame: bytes, header: Header) -> tuple[str, bytes]:
    first = world.fragments.get(header.key) if world.fragments is not None else None
    if first is None:
        return "fragment_unknown", frame
    if first.route is None:
        return "passed_fragment", frame
    source_port, destination_port = first.ports
    packet = replace(
        header.packet, source_port=source_port, destination_port=destination_port,
        may_be_told=False,
    )  # fmt: skip
    return model.wrap(world, first.route, frame, packet, first.mark, "fragment_forwarded")


def _run_error(world: model.World, frame: bytes, session: model.Packet) -> tuple[str, bytes]:
    service = service_of(world, session)
    if service is None:
        return "passed_icmp", frame
    entry = world.table.get((session.source, session.source_port, service))
    if entry is not None and entry.owner == model.UNOWNED:
        if world.agent_alive:
            return "passed_icmp_own", frame
        entry = None
    if entry is not None and entry.owner not in world.active:
        entry = None
    own_or_none = entry is None or entry.owner == world.host
    if (session.protocol == model.UDP and own_or_none) or world.knows(session):
        return "passed_icmp_own", frame
    route = None if own_or_none or entry is None else world.routes.get(entry.owner)
    if route is not None:
        return model.wrap(world, route, frame, session, 0, "icmp_forwarded")
    if world.flood is None:
        return "icmp_dropped", frame
    return model.wrap(world, world.flood, frame, session, model.MARK_FLOOD, "icmp_flooded")


def judge_unread(
    world: model.World, frame: bytes, start: int, family: int, is_search: bool
) -> tuple[str, model.Packet | None]:
    """The ending of an inner packet that `model.parse_ipv4` or `_ipv6` gave up on, and the
    packet if it is to be delivered."""
    header = read_header(frame, start, family)
    if header is None:
        return "tunnel_malformed", None
    if header.fragment == "later":
        first = world.fragments.get(header.key) if world.fragments is not None else None
        if first is None or first.route is not None:
            return "fragment_refused", None
        return "delivered_fragment", header.packet
    if header.fragment or header.packet.protocol != ICMP[family]:
        return "tunnel_malformed", None
    session = read_icmp(frame, header.packet)
    if isinstance(session, str):
        return "tunnel_malformed", None
    if service_of(world, session) is None:
        return "tunnel_no_service", None
    if (session.protocol == model.UDP and not is_search) or world.knows(session):
        return "delivered_icmp", session
    return "icmp_unknown", None


# ---- remembering ----


def remember(
    world: model.World, frame: bytes, packet: model.Packet, route: model.Route | None, mark: int
) -> None:
    """Notes what became of a packet, if it is a first fragment to a VIP."""
    if world.fragments is None or not is_vip(world, packet.destination):
        return
    header = read_header(frame, packet.l3, packet.family)
    if header is not None and header.fragment == "first":
        ports = packet.source_port, packet.destination_port
        world.fragments[header.key] = First(ports, route, mark)
