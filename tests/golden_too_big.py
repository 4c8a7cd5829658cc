# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets that exceed their path: who is told by ICMP, and how; scapy is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.golden import OVERHEAD, TAGS, Golden, colons, ethernet, ip, row, tcp, udp
from tests.golden_world import (
    CLIENTS,
    MTU,
    OWN_MAC,
    ROUTER_MAC,
    SCANT_MTU,
    SMALL_MTU,
    TINY_MTU,
    VIPS,
    State,
)

QUOTE: Final = 128
ANSWER: Final = 20 + 8 + QUOTE
BIG: Final = Raw(bytes(range(256)) * 6)  # with its headers more than any path takes


def told(family: int, frame: bytes, mtu: int, tags: tuple[Any, ...] = ()) -> bytes:
    """The answer as scapy writes it, for a client whose IP header lies behind `tags`."""
    layers = Ether(dst=colons(ROUTER_MAC), src=colons(OWN_MAC))
    for tag in tags:
        layers = layers / tag
    l3 = 14 + 4 * len(tags)
    quote = Raw(frame[l3 : l3 + QUOTE])
    source, destination = str(VIPS[family]), str(CLIENTS[family])
    if family == 4:
        header = IP(src=source, dst=destination, tos=0xC0, id=0, flags="DF", ttl=64)
        return bytes(layers / header / ICMP(type=3, code=4, nexthopmtu=mtu) / quote)
    header = IPv6(src=source, dst=destination, hlim=64)
    return bytes(layers / header / ICMPv6PacketTooBig(mtu=mtu) / quote)


def _told(name: str, family: int, frame: Any, mtu: int, tags: tuple[Any, ...] = ()) -> Golden:
    output = told(family, bytes(frame), mtu, tags)
    return row(name, frame, "too_big_answered", output=output)


def df(family: int, **fields: Any) -> Any:
    """The client's IP header; in IPv4 the packet must not be fragmented."""
    return ip(family, flags="DF", **fields) if family == 4 else ip(family, **fields)


def _padded(layers: Any, length: int) -> Any:
    """The layers with a payload, so that the IP packet behind plain Ethernet is `length` bytes."""
    return layers / Raw(bytes(length - (len(bytes(layers)) - 14)))


def told_rows() -> Iterator[Golden]:
    """Clients that are told: the first byte too many, tags, options, each kind of packet."""
    for family in (4, 6):
        name = f"IPv{family}"
        for state, mtu in ((State.SMALL_PATH, SMALL_MTU), (State.OTHER, MTU)):
            least = _padded(ethernet() / df(family) / tcp(state), mtu - OVERHEAD + 1)
            yield _told(f"{name}, MTU {mtu}, a byte too big, told", family, least, mtu - OVERHEAD)
        fits = MTU - OVERHEAD
        for kind, tags in TAGS.items():
            frame = ethernet(*tags) / df(family) / tcp(State.OTHER) / BIG
            yield _told(f"{name}, {kind}, too big", family, frame, fits, tags)
        for state in (State.OTHER_VLAN, State.OTHER_LINGERING):
            frame = ethernet() / df(family, tos=0xFF) / tcp(state) / BIG
            yield _told(f"{name}, {state.name}, too big", family, frame, fits)
        frame = ethernet() / df(family) / tcp(State.OTHER, "S") / BIG
        yield _told(f"{name}, a SYN with data, too big", family, frame, fits)
        frame = ethernet() / df(family) / udp(State.OTHER) / BIG
        yield _told(f"{name}, UDP, too big", family, frame, fits)
        for state in (State.ABSENT, State.OWN, State.NO_TEMPLATE):
            frame = ethernet() / df(family) / tcp(state) / BIG
            yield _told(f"{name}, {state.name}, a flood too big, told", family, frame, fits)
    fits = SMALL_MTU - OVERHEAD
    for name, options in (("router alert", b"\x94\x04\x00\x00"), ("40 bytes", b"\x01" * 40)):
        frame = ethernet() / df(4, options=options) / tcp(State.SMALL_PATH) / BIG
        yield _told(f"IPv4 options: {name}, too big", 4, frame, fits)
    for name, header in (
        ("hop-by-hop", ip(6) / IPv6ExtHdrHopByHop()),
        ("a first fragment", ip(6) / IPv6ExtHdrFragment(offset=0, m=1, id=7)),
        ("80 bytes", ip(6) / _destination_options(80)),
    ):
        frame = ethernet() / header / tcp(State.SMALL_PATH) / BIG
        yield _told(f"IPv6 extensions: {name}, too big", 6, frame, fits)


def _destination_options(length: int) -> Any:
    pad = length - 4
    return IPv6ExtHdrDestOpt(options=[PadN(otype=1, optlen=pad, optdata=bytes(pad))])


def least_rows() -> Iterator[Golden]:
    """Paths below what a client may be told, and packets that are shorter than the answer."""
    stray = ethernet() / df(4) / tcp(State.TINY_PATH)
    yield _told("IPv4, as long as the answer", 4, _padded(stray, ANSWER), TINY_MTU - OVERHEAD)
    tagged = TAGS["802.1Q twice"]
    frame = ethernet(*tagged) / df(4) / udp(State.TINY_PATH) / Raw(bytes(200))
    yield _told("IPv4, short, with tags", 4, frame, TINY_MTU - OVERHEAD, tagged)
    yield row("IPv4, shorter than the answer", _padded(stray, ANSWER - 1), "too_big")
    fits = SCANT_MTU - OVERHEAD
    frame = _padded(ethernet() / df(4) / tcp(State.SCANT_PATH), fits + 1)
    yield _told("IPv4, less than IPv6's least MTU", 4, frame, fits)
    stray = ethernet() / df(6) / tcp(State.SCANT_PATH)
    yield _told("IPv6, told its least MTU", 6, _padded(stray, 1281), 1280)
    yield row("IPv6, no larger than its least MTU", _padded(stray, 1280), "too_big")


def silent_rows() -> Iterator[Golden]:
    """What is dropped without a word."""
    big = tcp(State.OTHER) / BIG
    for family in (4, 6):
        for name, mac in (("all", "ff:ff:ff:ff:ff:ff"), ("many", "01:00:5e:00:00:01")):
            frame = Ether(dst=mac, src=colons(ROUTER_MAC)) / df(family) / big
            yield row(f"IPv{family}, a frame to {name}", frame, "too_big")
    for source in ("0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"):
        frame = ethernet() / IP(src=source, dst=str(VIPS[4]), flags="DF") / big
        yield row(f"a flood from {source}", frame, "too_big")
    for source in ("::", "::1", "ff02::1"):
        frame = ethernet() / IPv6(src=source, dst=str(VIPS[6])) / big
        yield row(f"a flood from {source}", frame, "too_big")
    frame = ethernet() / ip(6) / _destination_options(88) / big
    yield row("IPv6, the ports lie behind the quote", frame, "too_big")


@cache
def too_big_rows() -> tuple[Golden, ...]:
    """All rows about packets without a tunnel header that exceed their path."""
    return (*told_rows(), *least_rows(), *silent_rows())
