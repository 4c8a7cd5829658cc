# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets: one list that runs against the model, the BPF program and the C forwarder.

Each row is (description, frame, ending, frame as it leaves). Frames and outer headers are built
by scapy, endings are written out by hand: nothing here calls the code under test. Rows of tunnel
packets are in golden_tunnel.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from tests.golden_world import (
    CLIENTS,
    FLOOD,
    MTU,
    OWN_ADDRESS,
    OWN_MAC,
    PEER,
    PORT,
    ROUTER_MAC,
    ROUTES,
    SMALL_MTU,
    SMALL_MTU_PEER,
    TCP_ONLY_PORT,
    TUNNEL_PORT,
    VIPS,
    VLAN_PEER,
    State,
)
from tests.model import Route, entropy_port, parse

OVERHEAD = 44  # outer IPv4 20, UDP 8, GUE 16
NEW_SEGMENTS = ("S", "SEC", "SF", "SPU")
SEGMENTS = ("A", "PA", "FA", "R", "RA", "SA", "SR", "FRPA")
WITHOUT_FLAGS = ("", "F", "PU", "FEC")


@dataclass(frozen=True, slots=True)
class Golden:
    """One row.

    Attributes:
        ending: the name in csrc/stats.h.
        output: the frame after the program; of a dropped frame it is not looked at.
        agent_alive: False: the agent's heartbeat is too old.
        flood: False: no flood template is set.
    """

    description: str
    frame: bytes
    ending: str
    output: bytes
    agent_alive: bool = True
    flood: bool = True


# ---- building ----


def colons(address: bytes) -> str:
    """`02:00:…`, as scapy takes it."""
    return address.hex(":")


def ethernet(*tags: Any) -> Any:
    """Ethernet from the router to this host, with VLAN tags behind it."""
    layers = Ether(dst=colons(OWN_MAC), src=colons(ROUTER_MAC))
    for tag in tags:
        layers = layers / tag
    return layers


def ip(family: int, *, tos: int = 0, **fields: Any) -> Any:
    """The client's IP header to the VIP."""
    source, destination = str(CLIENTS[family]), str(VIPS[family])
    if family == 4:
        return IP(src=source, dst=destination, tos=tos, **fields)
    return IPv6(src=source, dst=destination, tc=tos, **fields)


def tcp(state: State, flags: str = "A", **fields: Any) -> Any:
    """A TCP header to the service; the client port chooses the table's answer."""
    ports = {"sport": state.client_port, "dport": PORT} | fields
    return TCP(flags=flags, seq=0x01020304, ack=0x11121314, **ports)


def udp(state: State, **fields: Any) -> Any:
    """A UDP header to the service."""
    return UDP(**({"sport": state.client_port, "dport": PORT} | fields))


def encapsulated(frame: bytes, route: Route, mark: int = 0) -> bytes:
    """The oracle of the outer headers: scapy writes them, lengths and checksum included."""
    packet = parse(frame)
    gue = struct.pack("!BBHBBH", 3, 4 if packet.family == 4 else 41, 0, 1, route.mark | mark, 0)
    inner = frame[packet.l3 : packet.l3 + packet.length]
    padding = frame[packet.l3 + packet.length :]
    layers = Ether(dst=colons(route.destination_mac), src=colons(OWN_MAC))
    if route.vlan is not None:
        layers = layers / Dot1Q(vlan=route.vlan)
    layers = (
        layers
        / IP(src=str(OWN_ADDRESS), dst=str(route.destination), id=0, flags="DF", ttl=64,
             tos=packet.tos)
        / UDP(sport=entropy_port(packet), dport=TUNNEL_PORT, chksum=0)
        / Raw(gue + route.cookie + inner)
    )  # fmt: skip
    return bytes(layers) + padding


def patched(frame: bytes, offset: int, value: bytes) -> bytes:
    """The frame with some bytes replaced."""
    return frame[:offset] + value + frame[offset + len(value) :]


def row(description: str, frame: Any, ending: str, **more: Any) -> Golden:
    """A row; the output follows from the ending where there is but one route for it."""
    data = bytes(frame)
    output = more.pop("output", None)
    if output is None:
        output = encapsulated(data, FLOOD, 0x80) if ending == "miss_flooded" else data
    return Golden(description, data, ending, output, **more)


def to_owner(description: str, frame: Any, ending: str, host: int, **more: Any) -> Golden:
    """A row whose frame leaves for its owner."""
    output = encapsulated(bytes(frame), ROUTES[host])
    return row(description, frame, ending, output=output, **more)


# ---- the decision table: (TCP SYN, any other segment, UDP) for each answer of the table ----

NEW = ("passed_syn", "miss_flooded", "passed_udp_new")
OWN = ("passed_own", "miss_flooded", "passed_own")  # no socket: the entry lags behind
FORWARDED = ("syn_forwarded", "stray_forwarded", "stray_forwarded")
DECISIONS: Final = {
    State.ABSENT: NEW,
    State.OWN: OWN,
    State.OWN_LINGERING: OWN,
    State.OTHER: FORWARDED,
    State.OTHER_LINGERING: FORWARDED,
    State.OTHER_VLAN: FORWARDED,
    State.NO_TEMPLATE: ("passed_syn", "miss_flooded", "miss_flooded"),
    State.UNOWNED_MARK: ("passed_unowned", "passed_unowned", "passed_unowned"),
    State.DEAD: NEW,
    State.SMALL_PATH: FORWARDED,
}
OWNERS: Final = {
    State.OTHER: PEER,
    State.OTHER_LINGERING: PEER,
    State.OTHER_VLAN: VLAN_PEER,
    State.SMALL_PATH: SMALL_MTU_PEER,
}


def _decided(name: str, frame: Any, state: State, ending: str, alive: bool) -> Golden:
    if ending in ("syn_forwarded", "stray_forwarded"):
        return to_owner(name, frame, ending, OWNERS[state], agent_alive=alive)
    return row(name, frame, ending, agent_alive=alive)


def decision_rows() -> Iterator[Golden]:
    """Each row of the decision table, each set of flags, both families, agent alive or not."""
    for family in (4, 6):
        for state, decisions in DECISIONS.items():
            for alive in (True, False):
                kept = alive or state is not State.UNOWNED_MARK
                new, other, datagram = decisions if kept else NEW
                name = f"IPv{family}, {state.name}, agent {'alive' if alive else 'dead'}"
                kinds = [(flags, new) for flags in NEW_SEGMENTS]
                kinds += [(flags, other) for flags in SEGMENTS]
                kinds += [(flags, "dropped_no_flags") for flags in WITHOUT_FLAGS]
                for flags, ending in kinds:
                    frame = ethernet() / ip(family) / tcp(state, flags) / Raw(b"data")
                    yield _decided(f"{name}: TCP [{flags}]", frame, state, ending, alive)
                frame = ethernet() / ip(family) / udp(state) / Raw(b"datagram")
                yield _decided(f"{name}: UDP", frame, state, datagram, alive)


# ---- shapes of frames that must be read ----

TAGS: Final = {
    "one tag": (Dot1Q(vlan=5, prio=3),),
    "802.1ad outside 802.1Q": (Dot1AD(vlan=5), Dot1Q(vlan=6)),
    "802.1Q twice": (Dot1Q(vlan=5), Dot1Q(vlan=6)),
}


def _options() -> Iterator[tuple[str, int, Any]]:
    """(description, family, IP header with options or extension headers)."""
    yield "IPv4 router alert", 4, ip(4, options=b"\x94\x04\x00\x00")
    yield "40 bytes of IPv4 options", 4, ip(4, options=b"\x01" * 40)
    yield "first IPv4 fragment", 4, ip(4, flags="MF", id=77)
    yield "hop-by-hop", 6, ip(6) / IPv6ExtHdrHopByHop()
    yield "destination options", 6, ip(6) / IPv6ExtHdrDestOpt()
    yield "routing", 6, ip(6) / IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0)
    yield "first IPv6 fragment", 6, ip(6) / IPv6ExtHdrFragment(offset=0, m=1, id=7)
    longest = IPv6ExtHdrDestOpt(options=[PadN(otype=1, optlen=252, optdata=bytes(252))])
    yield "an extension of 256 bytes", 6, ip(6) / longest
    yield "four extensions", 6, (
        ip(6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
        / IPv6ExtHdrFragment(offset=0)
    )  # fmt: skip


def shape_rows() -> Iterator[Golden]:
    """Strays in each shape that the parser knows: they leave for host 4 byte for byte."""
    stray, payload = tcp(State.OTHER), Raw(b"payload")
    for family in (4, 6):
        for name, tags in TAGS.items():
            frame = ethernet(*tags) / ip(family) / stray / payload
            yield to_owner(f"IPv{family}, {name}", frame, "stray_forwarded", PEER)
        for tos in (0x01, 0x02, 0x03, 0xB8, 0xFF):
            frame = ethernet() / ip(family, tos=tos) / stray / payload
            yield to_owner(f"IPv{family}, TOS {tos:#x}", frame, "stray_forwarded", PEER)
        padded = bytes(ethernet() / ip(family) / stray) + b"\xee" * 6
        yield to_owner(f"IPv{family}, padding", padded, "stray_forwarded", PEER)
        long = ethernet() / ip(family) / tcp(State.OTHER, options=[("NOP", None)] * 40)
        yield to_owner(f"IPv{family}, 40 bytes of TCP options", long, "stray_forwarded", PEER)
        empty = ethernet() / ip(family) / udp(State.OTHER)
        yield to_owner(f"IPv{family}, UDP without payload", empty, "stray_forwarded", PEER)
    for name, family, header in _options():
        frame = ethernet() / header / stray / payload
        yield to_owner(f"{name}", frame, "stray_forwarded", PEER)
        tagged = ethernet(*TAGS["one tag"]) / header / udp(State.OTHER_VLAN) / payload
        yield to_owner(f"{name}, IPv{family}, tag", tagged, "stray_forwarded", VLAN_PEER)


# ---- shapes that are passed unread ----


def unread_rows() -> Iterator[Golden]:
    """What the parser does not know, or what is cut, is the stack's business."""
    stray = tcp(State.OTHER)
    arp = ethernet() / ARP(pdst=str(OWN_ADDRESS))
    yield row("ARP", arp, "passed_not_ip")
    yield row("LLDP", ethernet() / Raw(bytes(46)), "passed_not_ip")
    three = (Dot1AD(vlan=5), Dot1Q(vlan=6), Dot1Q(vlan=7))
    yield row("a third VLAN tag", ethernet(*three) / ip(4) / stray, "passed_not_ip")
    to_host = IP(src=str(CLIENTS[4]), dst=str(OWN_ADDRESS))
    yield row("ICMP to this host", ethernet() / to_host / ICMP(), "passed_unparsed")
    other = IPv6(src=str(CLIENTS[6]), dst="2001:db8:100::2")
    yield row("ICMPv6 to another address", ethernet() / other / ICMPv6EchoRequest(),
              "passed_unparsed")  # fmt: skip
    yield row("ESP over IPv6", ethernet() / ip(6, nh=50) / Raw(bytes(40)), "passed_unparsed")
    later = ethernet() / ip(4, frag=1, proto=6) / Raw(bytes(40))
    yield row("later IPv4 fragment", later, "fragment_unknown")
    later = ethernet() / ip(4, flags="MF", frag=0x1FFF, proto=1) / Raw(bytes(40))
    yield row("the last possible IPv4 fragment offset", later, "fragment_unknown")
    later = ethernet() / ip(6) / IPv6ExtHdrFragment(offset=1, nh=6) / Raw(bytes(40))
    yield row("later IPv6 fragment", later, "fragment_unknown")
    five = ip(6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    five = five / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    yield row("five IPv6 extensions", ethernet() / five / stray, "passed_unparsed")
    long = ethernet() / ip(6, nh=60) / Raw(b"\x06\x20" + bytes(262)) / stray
    yield row("an extension of 264 bytes", long, "passed_unparsed")


def malformed_rows() -> Iterator[Golden]:
    """Impossible headers; `at` is the IP header's offset."""
    frame4 = bytes(ethernet() / ip(4) / tcp(State.OTHER) / Raw(b"12345678"))
    frame6 = bytes(ethernet() / ip(6) / tcp(State.OTHER) / Raw(b"12345678"))
    at = 14
    for name, frame, offset, value in (
        ("IPv4 with version 5", frame4, at, b"\x55"),
        ("IPv4 header of 16 bytes", frame4, at, b"\x44"),
        ("IPv4 total length 19", frame4, at + 2, b"\x00\x13"),
        ("IPv4 total length 39: the TCP header is cut", frame4, at + 2, b"\x00\x27"),
        ("IPv4 total length 1 behind the frame", frame4, at + 2, b"\x00\x31"),
        ("IPv4 header reaches behind the packet", frame4, at, b"\x4f"),
        ("IPv6 with version 4", frame6, at, b"\x40"),
        ("IPv6 payload length 19: the TCP header is cut", frame6, at + 4, b"\x00\x13"),
        ("IPv6 payload length 1 behind the frame", frame6, at + 4, b"\x00\x1d"),
        ("IPv6 payload length 65535", frame6, at + 4, b"\xff\xff"),
        ("IPv6 payload length 0", frame6, at + 4, b"\x00\x00"),
    ):
        yield row(name, patched(frame, offset, value), "passed_unparsed")


def truncated_rows() -> Iterator[Golden]:
    """Strays cut after each byte: no shorter frame may be taken for a whole one."""
    whole = {
        "IPv4": ethernet() / ip(4) / tcp(State.OTHER),
        "IPv6": ethernet() / ip(6) / udp(State.OTHER),
        "VLAN, IPv4": ethernet(Dot1Q(vlan=5)) / ip(4) / udp(State.OTHER),
        "IPv6, fragment header": ethernet() / ip(6) / IPv6ExtHdrFragment(offset=0)
        / tcp(State.OTHER),
    }  # fmt: skip
    for name, layers in whole.items():
        frame = bytes(layers)
        for length in range(14, len(frame)):
            yield row(f"{name}, {length} bytes of {len(frame)}", frame[:length], "passed_unparsed")


# ---- services, sizes, no flood ----


def service_rows() -> Iterator[Golden]:
    """Only a configured (VIP, port, protocol) is ours to redirect."""
    stray = tcp(State.OTHER)
    for family in (4, 6):
        name = f"IPv{family}"
        frame = ethernet() / ip(family) / tcp(State.OTHER, dport=444)
        yield row(f"{name}, another port", frame, "passed_no_service")
        frame = ethernet() / ip(family) / tcp(State.OTHER, "", dport=444)
        yield row(f"{name}, another port, no flags", frame, "passed_no_service")
        frame = ethernet() / ip(family) / udp(State.OTHER, dport=TCP_ONLY_PORT)
        yield row(f"{name}, UDP to a TCP service", frame, "passed_no_service")
    frame = ethernet() / IP(src=str(CLIENTS[4]), dst="198.51.100.2") / stray
    yield row("another IPv4 address", frame, "passed_no_service")
    frame = ethernet() / IPv6(src=str(CLIENTS[6]), dst="2001:db8:100::2") / stray
    yield row("another IPv6 address", frame, "passed_no_service")
    mapped_vip = IPv6(src=str(CLIENTS[6]), dst=f"::ffff:{VIPS[4]}")
    yield row("IPv6 to the v4-mapped VIP, unknown session", ethernet() / mapped_vip
              / tcp(State.ABSENT, "S"), "passed_syn")  # fmt: skip
    frame = ethernet() / ip(4) / tcp(State.OTHER, dport=TCP_ONLY_PORT)
    yield to_owner("another service's session", frame, "stray_forwarded", PEER)


def size_rows() -> Iterator[Golden]:
    """The outer packet may be as large as the path's MTU; golden_too_big.py goes on from there."""
    for family, header in ((4, 20), (6, 40)):
        for state, host, mtu in (
            (State.SMALL_PATH, SMALL_MTU_PEER, SMALL_MTU),
            (State.OTHER, PEER, MTU),
        ):
            room = mtu - OVERHEAD - header - 20
            frame = ethernet() / ip(family) / tcp(state) / Raw(bytes(room))
            name = f"IPv{family}, MTU {mtu}"
            yield to_owner(f"{name}, just fits", frame, "stray_forwarded", host)
        room = MTU - OVERHEAD - header - 20
        frame = ethernet() / ip(family) / tcp(State.ABSENT) / Raw(bytes(room))
        yield row(f"IPv{family}, a flood that just fits", frame, "miss_flooded")


def no_flood_rows() -> Iterator[Golden]:
    """Without a flood template a miss is dropped; all else is as ever."""
    for family in (4, 6):
        frame = ethernet() / ip(family) / tcp(State.ABSENT)
        yield row(f"IPv{family}, a miss", frame, "miss_no_flood", flood=False)
        frame = ethernet() / ip(family) / tcp(State.NO_TEMPLATE)
        yield row(f"IPv{family}, no way to the owner", frame, "miss_no_flood", flood=False)
        frame = ethernet() / ip(family) / tcp(State.ABSENT, "S")
        yield row(f"IPv{family}, a SYN, no flood template", frame, "passed_syn", flood=False)
        frame = ethernet() / ip(family) / tcp(State.OTHER)
        name = f"IPv{family}, a stray, no flood template"
        yield to_owner(name, frame, "stray_forwarded", PEER, flood=False)


@cache
def plain_rows() -> tuple[Golden, ...]:
    """All rows of packets without a tunnel header; they need no kernel and no socket."""
    from tests.golden_odd import odd_rows  # which is built of this module

    return (
        *decision_rows(),
        *shape_rows(),
        *unread_rows(),
        *malformed_rows(),
        *truncated_rows(),
        *service_rows(),
        *size_rows(),
        *no_flood_rows(),
        *odd_rows(),
    )
