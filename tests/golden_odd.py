# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets that are odd: fragments, ICMP and the errors it quotes, rare segments.

No row needs the memory of another one: fragments in sequence are in kernel/test_fragments.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.golden import (
    Golden,
    colons,
    ethernet,
    ip,
    patched,
    row,
    tcp,
    to_owner,
    udp,
)
from tests.golden_tunnel import FLOOD_MARK, HOP_MARK, RELAY_MARK, flooded, stripped, tunnelled
from tests.golden_world import (
    CLIENTS,
    FLOOD,
    OWN_ADDRESS,
    OWN_MAC,
    PEER,
    PORT,
    ROUTER_MAC,
    ROUTES,
    TCP_ONLY_PORT,
    TUNNEL_PORT,
    VIPS,
    VLAN_PEER,
    State,
)
from tests.model import Route, entropy_port, parse

ROUTERS: Final = {4: "192.0.2.77", 6: "2001:db8:f::77"}
"""Whoever sends the error: any router on the way."""
ERRORS: Final[dict[int, dict[str, Any]]] = {
    4: {
        "unreachable": ICMP(type=3, code=1),
        "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=1280),
        "time exceeded": ICMP(type=11),
        "parameter problem": ICMP(type=12),
    },
    6: {
        "unreachable": ICMPv6DestUnreach(code=3),
        "packet too big": ICMPv6PacketTooBig(mtu=1280),
        "time exceeded": ICMPv6TimeExceeded(),
        "parameter problem": ICMPv6ParamProblem(),
    },
}
NOT_ERRORS: Final[dict[int, dict[str, Any]]] = {
    4: {"echo reply": ICMP(type=0), "redirect": ICMP(type=5), "source quench": ICMP(type=4)},
    6: {"echo reply": ICMPv6EchoReply(), "neighbour solicitation": ICMPv6ND_NS()},
}


# ---- building ----


def from_vip(family: int, **fields: Any) -> Any:
    """The IP header of what the VIP sent to the client."""
    header = IP if family == 4 else IPv6
    return header(**({"src": str(VIPS[family]), "dst": str(CLIENTS[family])} | fields))


def quoted(family: int, state: State, protocol: Any = TCP, **fields: Any) -> bytes:
    """The first bytes of a packet of the VIP's in a session, as an error quotes them."""
    ports = {"sport": PORT, "dport": state.client_port}
    packet = from_vip(family, **fields) / protocol(**ports) / Raw(b"more than 8 bytes")
    return bytes(packet)


def error(family: int, quote: bytes, kind: str = "unreachable", *, tags: tuple[Any, ...] = (),
          **fields: Any) -> bytes:  # fmt: skip
    """A router's error to the VIP that quotes these bytes, from Ethernet on."""
    return bytes(ethernet(*tags) / inner_error(family, quote, kind, **fields))


def inner_error(family: int, quote: bytes, kind: str = "unreachable", **fields: Any) -> Any:
    """The same without Ethernet."""
    header = {"src": ROUTERS[family], "dst": str(VIPS[family])} | fields
    layers = IP(**header) if family == 4 else IPv6(**header)
    icmp = ERRORS[family][kind] if kind in ERRORS[family] else NOT_ERRORS[family][kind]
    return layers / icmp.copy() / Raw(quote)


def sent(frame: bytes, family: int, state: State, route: Route, mark: int = 0,
         protocol: Any = TCP) -> bytes:  # fmt: skip
    """The oracle for an error that leaves: outer headers as of the session's own packets."""
    session = ip(family) / protocol(sport=state.client_port, dport=PORT)
    port = entropy_port(parse(bytes(ethernet() / session)))
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    proto = 4 if family == 4 else 41
    tos = frame[at + 1] if family == 4 else int.from_bytes(frame[at : at + 2]) >> 4 & 0xFF
    gue = struct.pack("!BBHBBH", 3, proto, 0, 1, route.mark | mark, 0)
    layers = Ether(dst=colons(route.destination_mac), src=colons(OWN_MAC))
    if route.vlan is not None:
        layers = Ether(layers.build() + b"\x81\x00" + struct.pack("!H", route.vlan))
    return bytes(
        layers
        / IP(src=str(OWN_ADDRESS), dst=str(route.destination), id=0, flags="DF", ttl=64, tos=tos)
        / UDP(sport=port, dport=TUNNEL_PORT, chksum=0)
        / Raw(gue + route.cookie + frame[at:])
    )


def to_peer(name: str, frame: bytes, family: int, *, protocol: Any = TCP) -> Golden:
    """An error about a session of host 4."""
    output = sent(frame, family, State.OTHER, ROUTES[PEER], protocol=protocol)
    return row(name, frame, "icmp_forwarded", output=output)


# ---- ICMP from the router ----


def icmp_rows() -> Iterator[Golden]:
    """What ICMP to a VIP is, by its type and by what it quotes."""
    for family in (4, 6):
        name = f"IPv{family}"
        echo = ICMP() if family == 4 else ICMPv6EchoRequest()
        yield row(f"{name}, ping of the VIP", ethernet() / ip(family) / echo, "passed_echo")
        cut = bytes(ethernet() / ip(family) / echo)
        for length in range(cut_from(family), len(cut)):
            ending = "passed_unparsed"  # shorter than its IP header says
            yield row(f"{name}, ping, {length} bytes", cut[:length], ending)
        for kind in NOT_ERRORS[family]:
            frame = error(family, quoted(family, State.OTHER), kind)
            yield row(f"{name}, {kind} to the VIP", frame, "passed_icmp")
        for kind in ERRORS[family]:
            for protocol in (TCP, UDP):
                frame = error(family, quoted(family, State.OTHER, protocol), kind)
                yield to_peer(f"{name}, {kind}, quotes {protocol.__name__}", frame, family,
                              protocol=protocol)  # fmt: skip


def cut_from(family: int) -> int:
    """Bytes of Ethernet and IP header: cut before it, no address can be read."""
    return 14 + (20 if family == 4 else 40)


def error_decision_rows() -> Iterator[Golden]:
    """An error goes where a segment, or a datagram, of the quoted session would go."""
    own, flood, drop = "passed_icmp_own", "icmp_flooded", "icmp_dropped"
    tcp_endings = {
        State.ABSENT: flood, State.OWN: flood, State.OWN_LINGERING: flood, State.DEAD: flood,
        State.NO_TEMPLATE: flood, State.UNOWNED_MARK: own,
    }  # fmt: skip
    udp_endings = dict.fromkeys(tcp_endings, own) | {State.NO_TEMPLATE: flood}
    for family in (4, 6):
        for protocol, endings in ((TCP, tcp_endings), (UDP, udp_endings)):
            for state, ending in endings.items():
                frame = error(family, quoted(family, state, protocol))
                name = f"IPv{family}, error about {protocol.__name__}, {state.name}"
                output = sent(frame, family, state, FLOOD, FLOOD_MARK, protocol)
                output = output if ending == flood else frame
                yield row(name, frame, ending, output=output)
                ending = drop if ending == flood else ending
                yield row(f"{name}, no flood template", frame, ending, flood=False)
        frame = error(family, quoted(family, State.UNOWNED_MARK))
        output = sent(frame, family, State.UNOWNED_MARK, FLOOD, FLOOD_MARK)
        yield row(f"IPv{family}, error about TCP, UNOWNED_MARK, agent dead", frame, flood,
                  output=output, agent_alive=False)  # fmt: skip


def error_shape_rows() -> Iterator[Golden]:
    """Quotes that are read, and quotes that are not of a session of ours."""
    state = State.OTHER
    for family in (4, 6):
        name = f"IPv{family}, error"
        frame = error(family, quoted(family, state), **_tos(family, 0xB8))
        yield to_peer(f"{name} with a TOS", frame, family)
        frame = error(family, quoted(family, State.OTHER_VLAN))
        output = sent_tagged(frame, family)
        yield row(f"{name} to a host behind a tag", frame, "icmp_forwarded", output=output)
        whole = quoted(family, state)
        needed = (20 if family == 4 else 40) + 8
        for length in range(len(whole) + 1):
            frame = error(family, whole[:length])
            cut = f"{name}, {length} bytes of the quote"
            yield (to_peer(cut, frame, family) if length >= needed
                   else row(cut, frame, "passed_icmp"))  # fmt: skip
        padded = error(family, whole[: needed - 1]) + whole[needed - 1 :]
        yield row(f"{name}, the quote's end is padding", padded, "passed_icmp")
        wrong = {
            "another source": quoted(family, state, src=str(CLIENTS[family])),
            "another version": patched(whole, 0, b"\x55"),
            "a port that is no service": bytes(from_vip(family) / TCP(sport=9, dport=9)),
            "another protocol": bytes(from_vip(family) / Raw(bytes(20))),
            "ICMP": bytes(from_vip(family) / (ICMP() if family == 4 else ICMPv6EchoReply())),
            "the client's own packet": bytes(ip(family) / tcp(state)),
        }
        for what, quote in wrong.items():
            yield row(f"{name}, quotes {what}", error(family, quote), "passed_icmp")
        other = "198.51.100.2" if family == 4 else "2001:db8:100::2"
        frame = error(family, quoted(family, state), dst=other)
        yield row(f"{name} to another address", frame, "passed_unparsed")
    frame = error(4, quoted(4, state, options=b"\x01" * 40))
    yield to_peer("IPv4 error, 40 bytes of quoted options", frame, 4)
    frame = error(4, quoted(4, state), options=b"\x01" * 40)
    yield to_peer("IPv4 error with options of its own", frame, 4)
    for offset, value, what in (
        (0, b"\x44", "a header of 16 bytes"),
        (0, b"\x4f", "a header that is cut"),
        (6, b"\x00\x01", "a later fragment"),
    ):
        frame = error(4, patched(quoted(4, state), offset, value))
        yield row(f"IPv4 error, quotes {what}", frame, "passed_icmp")
    frame = error(4, patched(quoted(4, state), 6, b"\x20\x00"))
    yield to_peer("IPv4 error, quotes a first fragment", frame, 4)
    yield from _quoted_extensions(state)


def _quoted_extensions(state: State) -> Iterator[Golden]:
    ports = TCP(sport=PORT, dport=state.client_port)
    first = bytes(from_vip(6) / IPv6ExtHdrFragment(offset=0, m=1, id=3) / ports)
    yield to_peer("IPv6 error, quotes a first fragment", error(6, first), 6)
    for length in range(40, 56):
        yield row(f"IPv6 error, {length} bytes of a quoted first fragment",
                  error(6, first[:length]), "passed_icmp")  # fmt: skip
    later = bytes(from_vip(6) / IPv6ExtHdrFragment(offset=1, id=3, nh=6) / ports)
    yield row("IPv6 error, quotes a later fragment", error(6, later), "passed_icmp")
    other = bytes(from_vip(6) / IPv6ExtHdrDestOpt() / ports)
    yield row("IPv6 error, quotes another extension", error(6, other), "passed_icmp")


def _tos(family: int, tos: int) -> dict[str, int]:
    return {"tos": tos} if family == 4 else {"tc": tos}


def sent_tagged(frame: bytes, family: int) -> bytes:
    """`sent` to host 5, which is behind a VLAN tag."""
    untagged = sent(frame, family, State.OTHER_VLAN, _without_tag(ROUTES[VLAN_PEER]))
    tag = b"\x81\x00" + struct.pack("!H", ROUTES[VLAN_PEER].vlan)
    return untagged[:12] + tag + untagged[12:]


def _without_tag(route: Route) -> Route:
    return Route(route.destination, route.destination_mac, route.cookie, route.mtu)


# ---- fragments, segments and frames that are rare ----


def fragment_rows() -> Iterator[Golden]:
    """One fragment each, with no other one before it."""
    for family in (4, 6):
        name = f"IPv{family}"
        for protocol in (6, 17):
            whole = bytes(tcp(State.OTHER) if protocol == 6 else udp(State.OTHER))
            size = 20 if protocol == 6 else 8
            for length in range(size):
                frame = ethernet() / first_header(family, protocol) / Raw(whole[:length])
                yield row(f"{name}, first fragment with {length} bytes of protocol {protocol}",
                          frame, "dropped_tiny_fragment")  # fmt: skip
            frame = ethernet() / first_header(family, protocol) / Raw(whole + b"data")
            yield to_owner(f"{name}, a first fragment of protocol {protocol}", frame,
                           "stray_forwarded", PEER)  # fmt: skip
        frame = ethernet() / first_header(family, 6, other=True) / Raw(bytes(7))
        yield row(f"{name}, a tiny first fragment to no VIP", frame, "passed_unparsed")
        frame = ethernet() / later_header(family, 6, other=True) / Raw(bytes(40))
        yield row(f"{name}, a later fragment to no VIP", frame, "passed_fragment")
        frame = (
            ethernet()
            / first_header(family, 1 if family == 4 else 58)
            / Raw(bytes(ICMP() if family == 4 else ICMPv6EchoRequest()))
        )
        yield row(f"{name}, a first fragment of a ping", frame, "passed_unparsed")
    cut = bytes(ethernet() / ip(6, nh=44) / Raw(b"\x3c\x00\x00\x01\x00\x00\x00\x07\x06"))
    yield row("IPv6, a first fragment that ends in an extension", cut, "dropped_tiny_fragment")


def first_header(family: int, protocol: int, *, number: int = 901, other: bool = False) -> Any:
    """IP header of a first fragment to the VIP, or to another address."""
    if family == 4:
        return IP(src=str(CLIENTS[4]), dst="198.51.100.2" if other else str(VIPS[4]), flags="MF",
                  id=number, proto=protocol)  # fmt: skip
    header = ip(6) / IPv6ExtHdrFragment(offset=0, m=1, id=number, nh=protocol)
    if other:
        header[IPv6].dst = "2001:db8:100::2"
    return header


def later_header(family: int, protocol: int, *, number: int = 902, other: bool = False) -> Any:
    """IP header of a later fragment, the last one."""
    if family == 4:
        return IP(src=str(CLIENTS[4]), dst="198.51.100.2" if other else str(VIPS[4]), frag=185,
                  id=number, proto=protocol)  # fmt: skip
    header = ip(6) / IPv6ExtHdrFragment(offset=185, m=0, id=number, nh=protocol)
    if other:
        header[IPv6].dst = "2001:db8:100::2"
    return header


def rare_rows() -> Iterator[Golden]:
    """Segments and frames of which nobody should be surprised."""
    for family in (4, 6):
        name = f"IPv{family}"
        for flags, ending in (("S", "syn_forwarded"), ("SA", "stray_forwarded"),
                              ("R", "stray_forwarded"), ("FA", "stray_forwarded")):  # fmt: skip
            frame = ethernet() / ip(family) / tcp(State.OTHER, flags)
            yield to_owner(f"{name}, [{flags}] on another host's session", frame, ending, PEER)
        for flags, ending in (("S", "passed_own"), ("SA", "miss_flooded"),
                              ("R", "miss_flooded"), ("FA", "miss_flooded")):  # fmt: skip
            frame = ethernet() / ip(family) / tcp(State.OWN, flags)
            yield row(f"{name}, [{flags}] on an own session without a socket", frame, ending)
        empty = ethernet() / ip(family) / udp(State.OWN)
        yield row(f"{name}, zero-length UDP of an own session", empty, "passed_own")
        for state, ending in ((State.ABSENT, "passed_udp_new"), (State.OTHER, "stray_forwarded")):
            wrong = udp(state, len=0)
            frame = ethernet() / ip(family) / wrong
            name_of = f"{name}, UDP that says it has 0 bytes, {state.name}"
            yield (row(name_of, frame, ending) if state is State.ABSENT
                   else to_owner(name_of, frame, ending, PEER))  # fmt: skip
        to_all = Ether(dst="ff:ff:ff:ff:ff:ff", src=colons(ROUTER_MAC))
        frame = to_all / ip(family) / tcp(State.OTHER)
        yield to_owner(f"{name}, a stray to the broadcast address", frame, "stray_forwarded", PEER)
        frame = to_all / ip(family) / tcp(State.ABSENT, "S")
        yield row(f"{name}, a SYN to the broadcast address", frame, "passed_syn")
    other_slot = ethernet() / ip(4) / tcp(State.OTHER, "SA", dport=TCP_ONLY_PORT)
    yield to_owner("a SYN-ACK on another service's session", other_slot, "stray_forwarded", PEER)


def odd_rows() -> tuple[Golden, ...]:
    """Those without a tunnel header."""
    return (
        *icmp_rows(),
        *error_decision_rows(),
        *error_shape_rows(),
        *fragment_rows(),
        *rare_rows(),
    )


# ---- through the tunnel ----


def inner_error_rows() -> Iterator[Golden]:
    """Errors that another host sent here; this kernel has not a socket."""
    for family in (4, 6):
        for kind in ERRORS[family]:
            name = f"IPv{family}, inner {kind}"
            about_tcp = inner_error(family, quoted(family, State.OWN), kind)
            about_udp = inner_error(family, quoted(family, State.OWN, UDP), kind)
            for how, frame in (
                ("sent here", tunnelled(about_tcp)),
                ("after a wrong hop", tunnelled(about_tcp, mark=HOP_MARK)),
                ("relayed", tunnelled(about_tcp, mark=RELAY_MARK)),
                ("flooded", flooded(about_tcp)),
                ("a copy of a flood", tunnelled(about_tcp, mark=FLOOD_MARK)),
            ):
                yield row(f"{name} about TCP, {how}", frame, "icmp_unknown")
            yield row(f"{name} about UDP, sent here", tunnelled(about_udp), "delivered_icmp",
                      output=stripped(about_udp))  # fmt: skip
            yield row(f"{name} about UDP, flooded", flooded(about_udp), "icmp_unknown")
            yield row(f"{name} about UDP, relayed", tunnelled(about_udp, mark=RELAY_MARK),
                      "icmp_unknown")  # fmt: skip
        whole = quoted(family, State.OWN, UDP)
        needed = (20 if family == 4 else 40) + 8
        for length in range(needed):
            frame = tunnelled(inner_error(family, whole[:length]))
            yield row(f"IPv{family}, inner error, {length} bytes of the quote", frame,
                      "tunnel_malformed")  # fmt: skip
        echo = ip(family) / (ICMP() if family == 4 else ICMPv6EchoRequest())
        yield row(f"IPv{family}, an inner ping", tunnelled(echo), "tunnel_malformed")
        other = bytes(from_vip(family) / TCP(sport=9, dport=9))
        frame = tunnelled(inner_error(family, other))
        yield row(f"IPv{family}, inner error about no service", frame, "tunnel_no_service")


def inner_fragment_rows() -> Iterator[Golden]:
    """A later fragment of which no first one was delivered; a first one as any packet."""
    for family in (4, 6):
        name = f"IPv{family}, inner"
        later = later_header(family, 17) / Raw(bytes(40))
        for how, frame in (
            ("sent here", tunnelled(later)),
            ("flooded", flooded(later)),
            ("relayed", tunnelled(later, mark=RELAY_MARK)),
        ):
            yield row(f"{name} later fragment, {how}", frame, "fragment_refused")
        first = first_header(family, 17, number=903) / udp(State.OWN) / Raw(bytes(40))
        yield row(f"{name} first fragment of UDP", tunnelled(first), "delivered_udp",
                  output=stripped(first))  # fmt: skip
        yield row(f"{name} first fragment of UDP, flooded", flooded(first), "flood_unknown")
        tiny = first_header(family, 6, number=904) / Raw(bytes(19))
        yield row(f"{name} tiny first fragment", tunnelled(tiny), "tunnel_malformed")


def odd_tunnel_rows() -> tuple[Golden, ...]:
    """Those with a tunnel header."""
    return (*inner_error_rows(), *inner_fragment_rows())
