# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets that other hosts sent through the tunnel, for a kernel without sockets.

What a socket makes of them ("delivered", where the kernel must know the session) is shown with
real connections in kernel/test_decision_table.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from tests.golden import Golden, colons, encapsulated, ip, patched, row, tcp, udp
from tests.golden_world import (
    CLIENTS,
    DEAD_PEER,
    FLOOD,
    FLOOD_GROUP,
    OWN_ADDRESS,
    OWN_MAC,
    PEER,
    PEERS,
    ROUTER_MAC,
    TUNNEL_PORT,
    State,
    mac,
    underlay,
)

FLOOD_MARK, RELAY_MARK, HOP_MARK = 0x80, 0x02, 0x01
DATA, CONTROL = 0x03, 0x23
PROBE, PROBE_REPLY = 1, 2
COOKIES = PEERS[underlay(PEER)]
SENDER_PORT = 51515


def gue(proto: int, cookie: bytes, *, first: int = DATA, flags: int = 0, version: int = 1,
        mark: int = 0) -> bytes:  # fmt: skip
    """(16,) bytes of GUE with our private data."""
    return struct.pack("!BBHBBH", first, proto, flags, version, mark, 0) + cookie


def outer(
    payload: bytes,
    *,
    source: IPv4Address | None = None,
    destination: IPv4Address = OWN_ADDRESS,
    tags: tuple[Any, ...] = (),
    tos: int = 0,
) -> bytes:
    """Outer headers of host 4, or of another source, around GUE and the inner packet."""
    layers = Ether(dst=colons(OWN_MAC), src=colons(mac(PEER)))
    for tag in tags:
        layers = layers / tag
    source = source or underlay(PEER)
    return bytes(
        layers
        / IP(src=str(source), dst=str(destination), id=0, flags="DF", ttl=64, tos=tos)
        / UDP(sport=SENDER_PORT, dport=TUNNEL_PORT, chksum=0)
        / Raw(payload)
    )


def tunnelled(inner: Any, *, cookie: bytes = COOKIES.unicast[0], mark: int = 0,
              **more: Any) -> bytes:  # fmt: skip
    """`inner` as host 4 sends it here."""
    proto = 4 if bytes(inner)[0] >> 4 == 4 else 41
    return outer(gue(proto, cookie, mark=mark) + bytes(inner), **more)


def flooded(inner: Any, *, cookie: bytes = COOKIES.flood[0], **more: Any) -> bytes:
    """`inner` as host 4 floods it to the group."""
    return tunnelled(inner, cookie=cookie, mark=FLOOD_MARK, destination=FLOOD_GROUP, **more)


def stripped(inner: Any, tags: tuple[Any, ...] = ()) -> bytes:
    """The inner packet as the stack gets it: tags and source address of the outer frame."""
    layers = Ether(dst=colons(OWN_MAC), src=colons(mac(PEER)))
    for tag in tags:
        layers = layers / tag
    return bytes(layers / inner)


def reflooded(inner: Any) -> bytes:
    """The inner packet as this host floods it once more."""
    packet = bytes(inner)
    ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    ether = Ether(dst=colons(OWN_MAC), src=colons(ROUTER_MAC), type=ethertype)
    return encapsulated(bytes(ether) + packet, FLOOD, HOP_MARK)


def _inner(family: int, transport: Any, tos: int = 0) -> Any:
    return ip(family, tos=tos) / transport / Raw(b"inner payload")


def delivery_rows() -> Iterator[Golden]:
    """What is delivered without a socket: a SYN and a datagram that the owner is sent."""
    tag, two = (Dot1Q(vlan=5),), (Dot1AD(vlan=5), Dot1Q(vlan=6))
    for family in (4, 6):
        for flags in ("S", "SEC"):
            inner = _inner(family, tcp(State.OWN, flags))
            yield row(f"IPv{family}, TCP [{flags}] sent here", tunnelled(inner), "delivered_syn",
                      output=stripped(inner))  # fmt: skip
        inner = _inner(family, udp(State.ABSENT))
        yield row(f"IPv{family}, UDP sent here", tunnelled(inner), "delivered_udp",
                  output=stripped(inner))  # fmt: skip
        shortest = ip(family) / udp(State.ABSENT)
        yield row(f"IPv{family}, the shortest inner packet", tunnelled(shortest), "delivered_udp",
                  output=stripped(shortest))  # fmt: skip
        for tags in (tag, two):
            inner = _inner(family, tcp(State.ABSENT, "S"))
            yield row(f"IPv{family}, {len(tags)} tags kept", tunnelled(inner, tags=tags),
                      "delivered_syn", output=stripped(inner, tags))  # fmt: skip
            yield row(f"IPv{family}, {len(tags)} tags, shortest",
                      tunnelled(shortest, tags=tags), "delivered_udp",
                      output=stripped(shortest, tags))  # fmt: skip
        old = tunnelled(inner, cookie=COOKIES.unicast[1])
        yield row(f"IPv{family}, cookie of the previous key", old, "delivered_syn",
                  output=stripped(inner))  # fmt: skip
        padded = tunnelled(inner) + b"\xee" * 5
        yield row(f"IPv{family}, padding behind the outer packet", padded, "delivered_syn",
                  output=stripped(inner) + b"\xee" * 5)  # fmt: skip


def unknown_rows() -> Iterator[Golden]:
    """What this kernel does not know: never passed, flooded once."""
    for family in (4, 6):
        name = f"IPv{family}"
        for flags in ("A", "FA", "R", "SA", "F", ""):
            inner = _inner(family, tcp(State.OWN, flags))
            yield row(f"{name}, TCP [{flags}] misdirected", tunnelled(inner),
                      "misdirected_flooded", output=reflooded(inner))  # fmt: skip
            yield row(
                f"{name}, TCP [{flags}] misdirected twice",
                tunnelled(inner, mark=HOP_MARK),
                "misdirected_dropped",
            )
            yield row(f"{name}, TCP [{flags}] flooded", flooded(inner), "flood_unknown")
            yield row(f"{name}, TCP [{flags}] flooded after a wrong hop",
                      patched(flooded(inner), 47, bytes([FLOOD_MARK | HOP_MARK])),
                      "flood_unknown")  # fmt: skip
            yield row(f"{name}, TCP [{flags}], no flood template", tunnelled(inner),
                      "misdirected_dropped", flood=False)  # fmt: skip
            yield row(f"{name}, TCP [{flags}] relayed", tunnelled(inner, mark=RELAY_MARK),
                      "misdirected_flooded", output=reflooded(inner))  # fmt: skip
            yield row(f"{name}, TCP [{flags}] relayed after a wrong hop",
                      tunnelled(inner, mark=RELAY_MARK | HOP_MARK),
                      "misdirected_dropped")  # fmt: skip
            yield row(f"{name}, TCP [{flags}] relayed, no flood template",
                      tunnelled(inner, mark=RELAY_MARK), "misdirected_dropped",
                      flood=False)  # fmt: skip
        syn = _inner(family, tcp(State.ABSENT, "S"))
        yield row(f"{name}, a relayed SYN", tunnelled(syn, mark=RELAY_MARK), "flood_syn")
        yield row(f"{name}, a flooded SYN", flooded(syn), "flood_syn")
        yield row(f"{name}, a unicast copy of a flooded SYN", tunnelled(syn, mark=FLOOD_MARK),
                  "flood_syn")  # fmt: skip
        ack = _inner(family, tcp(State.ABSENT))
        yield row(f"{name}, a unicast copy of a flood", tunnelled(ack, mark=FLOOD_MARK),
                  "flood_unknown")  # fmt: skip
        to_group = tunnelled(ack, cookie=COOKIES.flood[1], destination=FLOOD_GROUP)
        yield row(f"{name}, to the group without the mark, old cookie", to_group, "flood_unknown")
        datagram = _inner(family, udp(State.ABSENT))
        yield row(f"{name}, flooded UDP", flooded(datagram), "flood_unknown")
        yield row(f"{name}, relayed UDP", tunnelled(datagram, mark=RELAY_MARK),
                  "misdirected_flooded", output=reflooded(datagram))  # fmt: skip
        tagged = tunnelled(ack, tags=(Dot1Q(vlan=5),))
        yield row(f"{name}, misdirected behind a tag", tagged, "misdirected_flooded",
                  output=reflooded(ack))  # fmt: skip
        huge = (ip(4, flags="DF") if family == 4 else ip(6)) / tcp(State.OWN) / Raw(bytes(1540))
        yield row(f"{name}, misdirected, too big to flood", tunnelled(huge), "too_big")


def refused_rows() -> Iterator[Golden]:
    """Senders and cookies that are not this POP's."""
    syn = _inner(4, tcp(State.ABSENT, "S"))
    stranger = IPv4Address("10.8.0.99")
    yield row("from a stranger", tunnelled(syn, source=stranger), "tunnel_bad_source")
    dead = PEERS[underlay(DEAD_PEER)].unicast[0]
    yield row(
        "from a host that is not active",
        tunnelled(syn, source=underlay(DEAD_PEER), cookie=dead),
        "tunnel_bad_source",
    )
    for name, cookie in (
        ("a wrong cookie", b"wrong..."),
        ("a cookie of zeros", bytes(8)),
        ("the group's cookie in a unicast packet", COOKIES.flood[0]),
        ("the cookie of the other direction", COOKIES.reply),
        ("another host's cookie", dead),
    ):
        yield row(name, tunnelled(syn, cookie=cookie), "tunnel_bad_cookie")
    yield row("the unicast cookie in a flood", flooded(syn, cookie=COOKIES.unicast[0]),
              "tunnel_bad_cookie")  # fmt: skip
    for name, proto, more in (
        ("a flag bit", 4, {"flags": 0x8000}),
        ("another format", 4, {"version": 2}),
        ("GUE variant 1", 4, {"first": 0x43}),
        ("no private data", 4, {"first": 0x00}),
        ("a longer header", 4, {"first": 0x04}),
        ("an unknown control message", 9, {"first": CONTROL}),
        ("a probe's answer to the tunnel port", PROBE_REPLY, {"first": CONTROL}),
        ("inner TCP without IP", 6, {}),
        ("inner IPv6 said to be IPv4", 41, {}),
    ):
        frame = outer(gue(proto, COOKIES.unicast[0], **more) + bytes(syn))
        yield row(name, frame, "tunnel_malformed")
    other = IP(src=str(CLIENTS[4]), dst="198.51.100.2") / TCP(flags="S", dport=443)
    yield row("inner destination is no service", tunnelled(other), "tunnel_no_service")
    other = IPv6(src=str(CLIENTS[6]), dst="2001:db8:100::2") / UDP(dport=443)
    yield row("inner IPv6 destination is no service", tunnelled(other), "tunnel_no_service")


def truncated_tunnel_rows() -> Iterator[Golden]:
    """Whole outer headers around an inner packet that is cut after each byte."""
    cookie = COOKIES.unicast[0]
    for family, proto in ((4, 4), (6, 41)):
        inner = bytes(ip(family) / tcp(State.ABSENT, "S"))
        whole = gue(proto, cookie) + inner
        for length in range(len(whole)):
            name = f"IPv{family} in GUE, {length} bytes of {len(whole)}"
            yield row(name, outer(whole[:length]), "tunnel_malformed")
    fragment = ip(4, frag=1, proto=6) / Raw(bytes(40))
    yield row("an inner fragment", tunnelled(fragment), "fragment_refused")


# RFC 6040 figure 4 as text: rows inner Not-ECT, ECT(0), ECT(1), CE; columns outer the same.
CODEPOINTS = (0, 2, 1, 3)
FIGURE_4 = (
    (0, 0, 0, None),
    (2, 2, 1, 3),
    (1, 1, 1, 3),
    (3, 3, 3, 3),
)


def ecn_rows() -> Iterator[Golden]:
    """Each of the 16 combinations, both families; DSCP stays the inner packet's."""
    for family in (4, 6):
        for inner_ecn, outcomes in zip(CODEPOINTS, FIGURE_4, strict=True):
            for outer_ecn, outcome in zip(CODEPOINTS, outcomes, strict=True):
                inner = _inner(family, tcp(State.ABSENT, "S"), tos=0xB8 | inner_ecn)
                frame = tunnelled(inner, tos=0x28 | outer_ecn)
                name = f"IPv{family}, ECN inner {inner_ecn}, outer {outer_ecn}"
                if outcome is None:
                    yield row(name, frame, "tunnel_ecn_dropped")
                    continue
                new = _inner(family, tcp(State.ABSENT, "S"), tos=0xB8 | outcome)
                yield row(name, frame, "delivered_syn", output=stripped(new))


def probe_rows() -> Iterator[Golden]:
    """A probe goes back where it came from, with the cookie of that direction."""
    nonce = b"the-nonc"
    for name, tags in (("", ()), (" behind a tag", (Dot1Q(vlan=5),))):
        question = gue(PROBE, COOKIES.unicast[0], first=CONTROL) + nonce
        answer = gue(PROBE_REPLY, COOKIES.reply, first=CONTROL) + nonce
        layers = Ether(dst=colons(mac(PEER)), src=colons(OWN_MAC))
        for tag in tags:
            layers = layers / tag
        reply = bytes(
            layers
            / IP(src=str(OWN_ADDRESS), dst=str(underlay(PEER)), id=0, flags="DF", ttl=64)
            / UDP(sport=TUNNEL_PORT, dport=SENDER_PORT, chksum=0)
            / Raw(answer)
        )
        yield row(f"a probe{name}", outer(question, tags=tags), "probe_answered", output=reply)
    wrong = gue(PROBE, COOKIES.reply, first=CONTROL) + nonce
    yield row("a probe with a wrong cookie", outer(wrong), "tunnel_bad_cookie")
    to_all = gue(PROBE, COOKIES.flood[0], first=CONTROL) + nonce
    frame = outer(to_all, destination=FLOOD_GROUP)
    yield row("a probe to the flood group", frame, "tunnel_malformed")


def not_tunnel_rows() -> Iterator[Golden]:
    """Near misses of a tunnel packet are plain packets."""
    syn = _inner(4, tcp(State.ABSENT, "S"))
    frame = tunnelled(syn)
    port = struct.pack("!H", TUNNEL_PORT + 1)
    yield row("to another port", patched(frame, 36, port), "passed_no_service")
    other = tunnelled(syn, destination=IPv4Address("239.192.7.3"))
    yield row("to another group", other, "passed_no_service")
    segment = (
        Ether(dst=colons(OWN_MAC), src=colons(ROUTER_MAC))
        / IP(dst=str(OWN_ADDRESS))
        / TCP(dport=TUNNEL_PORT)
    )
    yield row("TCP to the tunnel port", segment, "passed_no_service")


@cache
def tunnel_rows() -> tuple[Golden, ...]:
    """All rows of packets with a tunnel header."""
    from tests.golden_odd import odd_tunnel_rows  # which is built of this module

    return (
        *delivery_rows(),
        *unknown_rows(),
        *refused_rows(),
        *truncated_tunnel_rows(),
        *ecn_rows(),
        *probe_rows(),
        *not_tunnel_rows(),
        *odd_tunnel_rows(),
    )
