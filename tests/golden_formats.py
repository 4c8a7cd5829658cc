# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets of each tunnel format, over IPv4 and IPv6: the same POP, written otherwise.

scapy writes the headers (its own Geneve and VXLAN layers, its checksums); GUE, which it does not
know, is bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.formats_world import flavoured_route, flavoured_world, in_family
from tests.golden import Golden, colons, ethernet, ip, tcp, udp
from tests.golden_too_big import df, told
from tests.golden_world import (
    CLIENTS,
    FLOOD,
    MTU,
    OWN_MAC,
    PEER,
    PEERS,
    ROUTES,
    TUNNEL_PORT,
    VIPS,
    VLAN_PEER,
    State,
    mac,
    underlay,
)
from tests.model import Packet, Route, entropy_port, flow_hash, parse, parse_ipv4, parse_ipv6
from tests.model_formats import CONTROL, FLAVOURS, PROBE, Flavour

Address = IPv4Address | IPv6Address

STRANGER: Final[dict[int, Address]] = {
    4: IPv4Address("10.8.0.99"),
    6: IPv6Address("fd00:8::99"),
}
FLOOD_MARK, HOP_MARK, RELAY_MARK = 0x80, 0x01, 0x02
COOKIES = PEERS[underlay(PEER)]
NONCE = b"the-nonc"


# ---- scapy's hand ----


def _shim(flavour: Flavour, inner: Any, ends: tuple[Address, Address], mark: int, cookie: bytes,
          **change: Any) -> Any:  # fmt: skip
    """Format headers around `inner`, IP layers or bytes of them; `change`: of a header's field."""
    packet = bytes(inner)
    is_ipv4 = packet[:1] and packet[0] >> 4 == 4
    source, destination = (b"\x02\x00" + end.packed[-4:] for end in ends)
    frame = Ether(src=colons(source), dst=colons(destination), type=0x0800 if is_ipv4 else 0x86DD)
    frame = frame / Raw(packet)
    if flavour.name == "gue":
        fields = {"first": 3, "proto": 4 if is_ipv4 else 41, "flags": 0, "version": 1} | change
        return Raw(struct.pack("!BBHBBH", *fields.values(), mark, 0) + cookie + packet)
    if flavour.name == "geneve":
        option = GeneveOptions(
            classid=0xFF58, type=1, length=3, data=struct.pack("!BBH", 1, mark, 0) + cookie
        )
        fields = {"proto": 0x6558, "vni": flavour.vni, "options": [option]} | change
        return GENEVE(**fields) / frame
    if flavour.name == "vxlan":
        return VXLAN(**({"flags": 0x08, "vni": flavour.vni} | change)) / frame
    return Raw(packet)


def outer(flavour: Flavour, payload: Any, ends: tuple[Address, Address], *, tos: int = 0,
          flow: int = 0, port: int = 51515, inner_family: int = 4,
          with_udp: bool = False) -> Any:  # fmt: skip
    """Outer IP (and UDP) headers around what a format writes."""
    source, destination = map(str, ends)
    has_udp = with_udp or flavour.name != "ipip"
    protocol = 17 if has_udp else (4 if inner_family == 4 else 41)
    if flavour.version == 4:
        layers = IP(src=source, dst=destination, id=0, flags="DF", ttl=64, tos=tos, proto=protocol)
    else:
        layers = IPv6(src=source, dst=destination, tc=tos, fl=flow, hlim=64, nh=protocol)
    if has_udp:
        check = {} if flavour.checksum else {"chksum": 0}
        layers = layers / UDP(sport=port, dport=TUNNEL_PORT, **check)
    # scapy binds ports to layers of its own: the bytes are what matters
    return layers / Raw(bytes(payload))


def tunnelled(flavour: Flavour, inner: Any, *, tags: tuple[Any, ...] = (), mark: int = 0,
              cookie: bytes = COOKIES.unicast[0], source: Address | None = None,
              to_group: bool = False, tos: int = 0, **change: Any) -> bytes:  # fmt: skip
    """`inner` as host 4 sends it here."""
    world = flavoured_world(flavour)
    ends = (
        source or in_family(underlay(PEER), flavour.version),
        world.flood_group if to_group else world.address,
    )
    family = 4 if bytes(inner)[:1] and bytes(inner)[0] >> 4 == 4 else 6
    layers = Ether(dst=colons(OWN_MAC), src=colons(mac(PEER)))
    for tag in tags:
        layers = layers / tag
    shim = _shim(flavour, inner, ends, mark, cookie, **change)
    layers = layers / outer(flavour, shim, ends, tos=tos, inner_family=family)
    return bytes(layers)


def encapsulated(flavour: Flavour, frame: bytes, route: Route, mark: int = 0) -> bytes:
    """The oracle of what leaves this host: scapy writes each header, checksums included."""
    packet = parse(frame)
    return _encapsulated(flavour, frame, packet, flavoured_route(route, flavour), mark)


def _encapsulated(flavour: Flavour, frame: bytes, packet: Packet, route: Route, mark: int) -> bytes:
    world = flavoured_world(flavour)
    inner = frame[packet.l3 : packet.l3 + packet.length]
    ends = (world.address, route.destination)
    layers = Ether(dst=colons(route.destination_mac), src=colons(OWN_MAC))
    if route.vlan is not None:
        layers = layers / Dot1Q(vlan=route.vlan)
    shim = _shim(flavour, inner, ends, route.mark | mark, route.cookie)
    layers = layers / outer(
        flavour, shim, ends, tos=packet.tos, flow=flow_hash(packet) & 0xFFFFF,
        port=entropy_port(packet), inner_family=packet.family,
    )  # fmt: skip
    return bytes(layers) + frame[packet.l3 + packet.length :]


# ---- rows ----


def row(description: str, frame: bytes, ending: str, output: bytes | None = None) -> Golden:
    """A row; what does not change needs no output."""
    return Golden(description, frame, ending, frame if output is None else output)


def _shapes(state: State) -> Iterator[tuple[str, Any, bool]]:
    """(description, frame, whether its own checksum covers all of it)."""
    payload = Raw(b"an odd number of bytes.")
    for family in (4, 6):
        name = f"IPv{family}"
        yield f"{name}, TCP", ethernet() / ip(family) / tcp(state) / payload, True
        yield f"{name}, UDP", ethernet() / ip(family) / udp(state) / payload, True
        yield f"{name}, UDP without payload", ethernet() / ip(family) / udp(state), True
        for tos in (0x02, 0xB9, 0xFF):
            frame = ethernet() / ip(family, tos=tos) / tcp(state) / payload
            yield f"{name}, TOS {tos:#x}", frame, True
        tagged = ethernet(Dot1AD(vlan=5), Dot1Q(vlan=6)) / ip(family) / tcp(state) / payload
        yield f"{name}, two tags", tagged, True
        frame = ethernet() / ip(family) / udp(state, chksum=0) / payload
        yield f"{name}, UDP with no checksum", frame, False
        longer = ethernet() / ip(family) / udp(state, len=12) / payload
        yield f"{name}, UDP shorter than its packet", longer, False
    options = ethernet() / ip(4, options=b"\x94\x04\x00\x00") / tcp(state) / payload
    yield "IPv4 options", options, True
    yield "first fragment", ethernet() / ip(4, flags="MF", id=77) / tcp(state) / payload, False
    yield "extension", ethernet() / ip(6) / IPv6ExtHdrDestOpt() / tcp(state) / payload, False
    first = ethernet() / ip(6) / IPv6ExtHdrFragment(m=1, id=7) / tcp(state) / payload
    yield "first IPv6 fragment", first, False


def sent_rows(flavour: Flavour) -> Iterator[Golden]:
    """What leaves this host: to an owner, behind a tag, to the group."""
    for state, route, ending in (
        (State.OTHER, ROUTES[PEER], "stray_forwarded"),
        (State.OTHER_VLAN, ROUTES[VLAN_PEER], "stray_forwarded"),
        (State.ABSENT, FLOOD, "miss_flooded"),
    ):
        for name, layers, has_sum in _shapes(state):
            frame = bytes(layers)
            if ending == "miss_flooded" and parse(frame).protocol == 17:
                continue  # not in the table: a new session
            description = f"{name}, {state.name}"
            if flavour.checksum and not has_sum:
                yield row(description, frame, "no_checksum")
                continue
            yield row(description, frame, ending, encapsulated(flavour, frame, route))
    for family, header in ((4, 20), (6, 40)):
        room = MTU - flavour.overhead - header - 20
        frame = bytes(ethernet() / ip(family) / tcp(State.OTHER) / Raw(bytes(room)))
        yield row(f"IPv{family}, just fits", frame, "stray_forwarded",
                  encapsulated(flavour, frame, ROUTES[PEER]))  # fmt: skip
        frame = bytes(ethernet() / df(family) / tcp(State.OTHER) / Raw(bytes(room + 1)))
        answer = told(family, frame, MTU - flavour.overhead)
        yield row(f"IPv{family}, a byte too big", frame, "too_big_answered", answer)


def _stripped(inner: Any, tags: tuple[Any, ...] = ()) -> bytes:
    layers = Ether(dst=colons(OWN_MAC), src=colons(mac(PEER)))
    for tag in tags:
        layers = layers / tag
    return bytes(layers / inner)


def _reflooded(flavour: Flavour, inner: Any) -> bytes:
    data = bytes(inner)
    packet = (parse_ipv4 if data[0] >> 4 == 4 else parse_ipv6)(data, 0)
    route = flavoured_route(FLOOD, flavour)
    return _encapsulated(flavour, data, packet, route, HOP_MARK)


def received_rows(flavour: Flavour) -> Iterator[Golden]:
    """What comes from another host and is taken, or is nobody's here."""
    is_marked = flavour.name in ("gue", "geneve")
    for family in (4, 6):
        name = f"inner IPv{family}"
        syn = ip(family) / tcp(State.ABSENT, "S") / Raw(b"data")
        datagram = ip(family) / udp(State.ABSENT)
        ack = ip(family) / tcp(State.OWN) / Raw(b"data")
        for tags in ((), (Dot1Q(vlan=5),), (Dot1AD(vlan=5), Dot1Q(vlan=6))):
            yield row(f"{name}, SYN, {len(tags)} tags", tunnelled(flavour, syn, tags=tags),
                      "delivered_syn", _stripped(syn, tags))  # fmt: skip
            yield row(f"{name}, UDP, {len(tags)} tags", tunnelled(flavour, datagram, tags=tags),
                      "delivered_udp", _stripped(datagram, tags))  # fmt: skip
        for outer_tos, inner_tos, tos in ((0x03, 0x02, 0x03), (0x01, 0x02, 0x01), (0xB8, 0x00, 0)):
            sent = ip(family, tos=inner_tos) / tcp(State.ABSENT, "S")
            got = ip(family, tos=tos) / tcp(State.ABSENT, "S")
            yield row(f"{name}, ECN {inner_tos} in {outer_tos}",
                      tunnelled(flavour, sent, tos=outer_tos), "delivered_syn",
                      _stripped(got))  # fmt: skip
        yield row(f"{name}, congestion outside, no ECN inside",
                  tunnelled(flavour, syn, tos=3), "tunnel_ecn_dropped")  # fmt: skip
        yield row(f"{name}, misdirected", tunnelled(flavour, ack), "misdirected_flooded",
                  _reflooded(flavour, ack))  # fmt: skip
        flooded = tunnelled(flavour, ack, cookie=COOKIES.flood[0], mark=FLOOD_MARK, to_group=True)
        yield row(f"{name}, flooded", flooded, "flood_unknown")
        flooded = tunnelled(flavour, syn, cookie=COOKIES.flood[1], to_group=True)
        yield row(f"{name}, a flooded SYN", flooded, "flood_syn")
        if is_marked:
            twice = tunnelled(flavour, ack, mark=HOP_MARK)
            yield row(f"{name}, misdirected twice", twice, "misdirected_dropped")
            copy = tunnelled(flavour, ack, mark=FLOOD_MARK)
            yield row(f"{name}, a unicast copy of a flood", copy, "flood_unknown")
            yield row(f"{name}, relayed", tunnelled(flavour, ack, mark=RELAY_MARK),
                      "misdirected_flooded", _reflooded(flavour, ack))  # fmt: skip


WRONG: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "gue": (
        ("a flag bit", {"flags": 0x8000}),
        ("another format of ours", {"version": 2}),
        ("a longer header", {"first": 4}),
        ("another payload", {"proto": 6}),
    ),
    "geneve": (
        ("version 1", {"version": 1}),
        ("an OAM packet", {"oam": 1}),
        ("critical options", {"critical": 1}),
        ("another payload", {"proto": 0x0800}),
        ("no options", {"options": []}),
        ("another class", {"options": [GeneveOptions(classid=0x0101, type=1, length=3,
                                                     data=b"\1\0\0\0" + bytes(8))]}),
        ("another type", {"options": [GeneveOptions(classid=0xFF58, type=2, length=3,
                                                    data=b"\1\0\0\0" + COOKIES.unicast[0])]}),
        ("another format of ours", {"options": [
            GeneveOptions(classid=0xFF58, type=1, length=3,
                          data=b"\2\0\0\0" + COOKIES.unicast[0])]}),
    ),
    "vxlan": (("no VNI flag", {"flags": 0}), ("another flag", {"flags": 0x09})),
    "ipip": (),
}  # fmt: skip
WRONG_COOKIE = ("no options", "another class")  # these have something else where the cookie lies


def refused_rows(flavour: Flavour) -> Iterator[Golden]:
    """Strangers, wrong cookies, formats that this POP does not write, cuts at every byte."""
    syn = ip(4) / tcp(State.ABSENT, "S") / Raw(bytes(40))
    stranger = tunnelled(flavour, syn, source=STRANGER[flavour.version])
    yield row("from a stranger", stranger, "tunnel_bad_source")
    if flavour.name in ("gue", "geneve"):
        for name, cookie in (("wrong", b"wrong..."), ("the group's", COOKIES.flood[0])):
            frame = tunnelled(flavour, syn, cookie=cookie)
            yield row(f"cookie: {name}", frame, "tunnel_bad_cookie")
    for name, change in WRONG[flavour.name]:
        ending = "tunnel_bad_cookie" if name in WRONG_COOKIE else "tunnel_malformed"
        yield row(name, tunnelled(flavour, syn, **change), ending)
    other = IP(src=str(CLIENTS[4]), dst="198.51.100.2") / TCP(flags="S", dport=443)
    yield row("no service inside", tunnelled(flavour, other), "tunnel_no_service")
    yield from _cut_rows(flavour)


def _cut_rows(flavour: Flavour) -> Iterator[Golden]:
    """Whole outer headers around less and less; nothing at all inside IP-in-IP, too."""
    world = flavoured_world(flavour)
    ends = (in_family(underlay(PEER), flavour.version), world.address)
    for family in (4, 6):
        inner = bytes(ip(family) / tcp(State.ABSENT, "S"))
        shim = bytes(_shim(flavour, inner, ends, 0, COOKIES.unicast[0]))
        for length in range(len(shim)):
            frame = bytes(
                Ether(dst=colons(OWN_MAC), src=colons(mac(PEER)))
                / outer(flavour, shim[:length], ends, inner_family=family)
            )
            yield row(f"inner IPv{family}, {length} of {len(shim)}", frame, "tunnel_malformed")


def probe_rows(flavour: Flavour) -> Iterator[Golden]:
    """A probe is the same in every POP, and its answer too; its checksum stays right."""
    world = flavoured_world(flavour)
    ends = (in_family(underlay(PEER), flavour.version), world.address)

    def message(kind: int, cookie: bytes) -> bytes:
        return struct.pack("!BBHBBH", CONTROL, kind, 0, 1, 0, 0) + cookie + NONCE

    for checksum in {False, flavour.version == 6}:
        way = replace(flavour, checksum=checksum)
        question = outer(way, message(PROBE, COOKIES.unicast[0]), ends, with_udp=True)
        frame = bytes(Ether(dst=colons(OWN_MAC), src=colons(mac(PEER))) / question)
        way = replace(flavour, checksum=flavour.version == 6)  # or no socket would take it
        answer = outer(way, message(PROBE + 1, COOKIES.reply), ends[::-1], with_udp=True)
        answer[UDP].sport, answer[UDP].dport = TUNNEL_PORT, 51515
        reply = bytes(Ether(dst=colons(mac(PEER)), src=colons(OWN_MAC)) / answer)
        yield row(f"a probe, checksum {checksum}", frame, "probe_answered", reply)
    wrong = outer(flavour, message(PROBE, COOKIES.reply), ends, with_udp=True)
    frame = bytes(Ether(dst=colons(OWN_MAC), src=colons(mac(PEER))) / wrong)
    yield row("a probe with a wrong cookie", frame, "tunnel_bad_cookie")


def not_tunnel_rows(flavour: Flavour) -> Iterator[Golden]:
    """Another family's underlay, another address: plain packets, which the stack may have."""
    syn = ip(4) / tcp(State.ABSENT, "S")
    ends = (CLIENTS[flavour.version], VIPS[flavour.version])
    shim = _shim(flavour, syn, ends, 0, bytes(8))
    frame = bytes(ethernet() / outer(flavour, shim, ends))
    is_udp = flavour.name != "ipip"
    yield row("to a VIP", frame, "passed_no_service" if is_udp else "passed_unparsed")


@cache
def format_rows(flavour: Flavour) -> tuple[Golden, ...]:
    """All rows of one flavour."""
    return (
        *sent_rows(flavour),
        *received_rows(flavour),
        *refused_rows(flavour),
        *probe_rows(flavour),
        *not_tunnel_rows(flavour),
    )


__all__ = ["FLAVOURS", "Flavour", "encapsulated", "flavoured_world", "format_rows"]
