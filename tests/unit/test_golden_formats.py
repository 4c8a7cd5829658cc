# SPDX-License-Identifier: BSD-2-Clause
"""Each tunnel format: the golden packets against the model, and the header templates in C."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.templates import HeaderTemplate, overhead
from tests import c_programs
from tests.examples import examples
from tests.golden import plain_rows
from tests.golden_formats import FLAVOURS, Flavour, encapsulated, flavoured_world, format_rows
from tests.golden_world import FLOOD, OWN_MAC, PEER, ROUTES, VLAN_PEER
from tests.model import (
    NoTransportError,
    NotReadableError,
    Packet,
    Route,
    encapsulate,
    parse,
    parse_ipv4,
    parse_ipv6,
    run,
)
from tests.model_formats import checksum, has_checksum, read_shim
from tests.templates_of_routes import template


def name_of(flavour: Flavour) -> str:
    """For pytest."""
    return f"{flavour.name}-IPv{flavour.version}" + ("-checksum" if flavour.checksum else "")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_the_model_agrees_with_the_golden_packets_of_each_format(flavour: Flavour) -> None:
    found = []
    for golden in format_rows(flavour):
        ending, output = run(flavoured_world(flavour), golden.frame)
        if (ending, output) != (golden.ending, golden.output):
            found.append(
                f"{golden.description}: {golden.ending}, the model says {ending}\n"
                f"  {output.hex()}\n  {golden.output.hex()}"
            )
    assert found == []


# ---- templates: the same bytes from the same C, called from Python and under AddressSanitizer ----


def built(flavour: Flavour, route: Route) -> HeaderTemplate:
    """The template to a golden route of the flavour's POP."""
    world = flavoured_world(flavour)
    if route is FLOOD:
        assert world.flood is not None
        return template(world.flood, world)
    host = next(host for host, one in ROUTES.items() if one is route)
    return template(world.routes[host], world)


def strays() -> list[bytes]:
    """Frames of the golden list that have a transport header."""
    rows = [row for row in plain_rows() if row.ending in ("stray_forwarded", "miss_flooded")]
    return list({row.frame: None for row in rows})


def sums(frame: bytes) -> bool:
    """Whether the packet's own checksum covers all of it."""
    packet = parse(frame)
    return has_checksum(frame[packet.l3 : packet.l3 + packet.length], packet)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
@pytest.mark.parametrize("route", [ROUTES[PEER], ROUTES[VLAN_PEER], FLOOD],
                         ids=["plain", "VLAN", "flood"])  # fmt: skip
def test_apply_writes_the_headers_that_scapy_writes(flavour: Flavour, route: Route) -> None:
    one, most = built(flavour, route), route.mtu - flavour.overhead
    frames = [frame for frame in strays() if parse(frame).length <= most]
    for frame in frames[::5]:
        if flavour.checksum and not sums(frame):
            with pytest.raises(ValueError, match="no checksum"):
                one.apply(frame)
        else:
            assert one.apply(frame) == encapsulated(flavour, frame, route), frame.hex()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_c_touches_no_byte_beyond_header_and_frame(flavour: Flavour) -> None:
    one, frames = built(flavour, ROUTES[VLAN_PEER]), strays()
    records = b"".join(struct.pack("<H", len(frame)) + frame for frame in frames)
    program = c_programs.build("test_packet_parse")
    lines = c_programs.run(program, "apply", data=one.pack() + b"\0" + records).split()
    for frame, line in zip(frames, lines, strict=True):
        if flavour.checksum and not sums(frame):
            assert line == "none"
        elif parse(frame).length + flavour.overhead <= one.mtu:
            headers = one.apply(frame)[: len(one.header)]
            assert bytes.fromhex(line) == headers, frame.hex()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_a_template_is_patched_where_its_offsets_say_and_nowhere_else(flavour: Flavour) -> None:
    one = built(flavour, ROUTES[VLAN_PEER])
    offsets, is_ipv4 = one.offsets, flavour.version == 4
    sizes = {
        "tos": 1 if is_ipv4 else 4, "total_length": 2, "checksum": 2, "source_port": 2,
        "udp_length": 2, "udp_checksum": 2,
        "payload_protocol": 2 if flavour.name in ("geneve", "vxlan") else 1, "mark": 1,
    }  # fmt: skip
    places = {name: getattr(offsets, name) for name in sizes}
    where = {
        place + at
        for name, place in places.items()
        if place is not None
        for at in range(sizes[name])
    }
    changed: set[int] = set()
    for frame in strays():
        if sums(frame) and parse(frame).length + flavour.overhead <= one.mtu:
            result = one.apply(frame, mark=1)
            changed |= {at for at, value in enumerate(one.header) if result[at] != value}
    assert changed <= where
    steady = {offsets.tos} if not is_ipv4 else set()  # the version, in the first four bits
    assert where - changed <= steady
    if offsets.cookie is not None:
        assert one.header[offsets.cookie : offsets.cookie + 8] == ROUTES[VLAN_PEER].cookie


def test_the_table_of_formats_agrees_with_the_models() -> None:
    for flavour in FLAVOURS:
        assert overhead(flavour.name, flavour.version) == flavour.overhead
        assert ENCAPSULATIONS[flavour.name].shim_len == flavour.shim_bytes


# ---- any addresses, ports, lengths, tags and families ----

FOUR, SIX = st.ip_addresses(v=4), st.ip_addresses(v=6)
PORT = st.integers(0, 65535)
WIDEST = max(flavour.overhead for flavour in FLAVOURS)
LONGEST = 9000 - WIDEST - 40 - 20  # payload of TCP over IPv6 that a jumbo frame has room for


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A TCP or UDP packet between any two addresses, whose checksums are right."""
    if draw(st.booleans()):
        layers = IP(src=str(draw(FOUR)), dst=str(draw(FOUR)), tos=draw(st.integers(0, 255)),
                    ttl=draw(st.integers(1, 255)), id=draw(PORT))  # fmt: skip
    else:
        layers = IPv6(src=str(draw(SIX)), dst=str(draw(SIX)), tc=draw(st.integers(0, 255)),
                      fl=draw(st.integers(0, 0xFFFFF)), hlim=draw(st.integers(0, 255)))  # fmt: skip
    ports = {"sport": draw(PORT), "dport": draw(PORT)}
    if draw(st.booleans()):
        layers = layers / TCP(**ports, seq=draw(st.integers(0, 2**32 - 1)), flags="A")
    else:
        layers = layers / UDP(**ports)
    padding = draw(st.binary(max_size=4))
    pattern, size = draw(st.binary(min_size=1, max_size=9)), draw(st.integers(0, LONGEST))
    payload = (pattern * size)[:size]
    return bytes(Ether(dst=OWN_MAC.hex(":")) / layers / Raw(payload)) + padding


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_the_longest_packet_fits_and_one_byte_more_does_not(flavour: Flavour) -> None:
    one = replace(built(flavour, ROUTES[PEER]), mtu=9000)
    head = Ether(dst=OWN_MAC.hex(":")) / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP()
    longest = LONGEST + WIDEST - flavour.overhead
    assert len(one.apply(bytes(head / Raw(bytes(longest))))) == one.l2_len + 9000
    with pytest.raises(ValueError, match="9001 bytes, the path takes 9000"):
        one.apply(bytes(head / Raw(bytes(longest + 1))))


@st.composite
def routes(draw: st.DrawFn) -> tuple[Flavour, Route, IPv4Address | IPv6Address]:
    """A format and any two ends of a tunnel."""
    flavour = draw(st.sampled_from(FLAVOURS))
    addresses = FOUR if flavour.version == 4 else SIX
    route = Route(
        draw(addresses), draw(st.binary(min_size=6, max_size=6)),
        draw(st.binary(min_size=8, max_size=8)), 9000,
        vlan=draw(st.none() | st.integers(1, 4094)), mark=draw(st.sampled_from([0, 0x80])),
    )  # fmt: skip
    vni = draw(st.integers(0, 2**24 - 1)) if flavour.name in ("geneve", "vxlan") else 0
    return replace(flavour, vni=vni), route, draw(addresses)


def outer_of(frame: bytes) -> Packet:
    """The outermost IP header, whatever it carries."""
    try:
        return parse(frame)
    except NoTransportError as error:
        return error.packet


@settings(max_examples=examples(250), deadline=None)
@given(frames(), routes(), st.sampled_from([0, 1, 2, 0x80, 0x81]))
def test_template_and_patch_equal_the_full_encoder_and_decapsulation_inverts_them(
    frame: bytes, way: tuple[Flavour, Route, IPv4Address | IPv6Address], mark: int
) -> None:
    flavour, route, source = way
    world = replace(flavoured_world(flavour), flavour=flavour, address=source)
    packet = parse(frame)
    sent = template(route, world).apply(frame, mark=mark)
    assert sent == encapsulate(world, route, frame, packet, mark)
    outer = outer_of(sent)
    shim = read_shim(world, sent, outer)
    assert shim is not None
    assert shim.is_sound
    assert shim.cookie in (None, route.cookie)
    assert shim.mark == (route.mark | mark if shim.cookie else 0)
    inner = (parse_ipv4 if shim.kind == 4 else parse_ipv6)(sent, shim.inner_at)
    assert sent[inner.l3 :] == frame[packet.l3 :]
    assert outer.tos == packet.tos
    if flavour.version == 4:
        assert checksum(sent[outer.l3 : outer.l4]) == 0, "RFC 1071: the whole sums up to nothing"
    elif flavour.checksum:
        udp = sent[outer.l4 : outer.l3 + outer.length]
        pseudo = outer.source + outer.destination + struct.pack("!II", len(udp), 17)
        assert checksum(pseudo + udp) == 0


@settings(max_examples=examples(300), deadline=None)
@given(
    st.sampled_from(FLAVOURS), st.binary(max_size=200), st.sampled_from([b"\x08\0", b"\x86\xdd"])
)
def test_no_input_makes_a_template_fail_but_by_its_one_error(
    flavour: Flavour, noise: bytes, ethertype: bytes
) -> None:
    frame = bytes(12) + ethertype + noise
    try:
        packet = parse(frame)
    except NotReadableError:
        packet = None
    try:
        sent = built(flavour, ROUTES[PEER]).apply(frame)
    except ValueError:
        assert packet is None or flavour.checksum or packet.length > 1400
    else:
        assert packet is not None
        assert sent.endswith(frame[packet.l3 :])


# Chi-square with 63 degrees of freedom passes 103.4 once in a thousand (p = 0.001).
BINS, FLOWS, CHI_SQUARE_MAX = 64, 6400, 103.4


@pytest.mark.parametrize("flavour", [one for one in FLAVOURS if one.version == 6], ids=name_of)
def test_flow_labels_spread_evenly_over_flows(flavour: Flavour) -> None:
    one = built(flavour, ROUTES[PEER])
    frame = next(frame for frame in strays() if parse(frame).family == 4 and sums(frame))
    at, labels = parse(frame).l3 + 12, Counter[int]()
    for number in range(FLOWS):
        client = struct.pack("!I", 0x0A000000 + number)
        sent = one.apply(frame[:at] + client + frame[at + 4 :])
        labels[int.from_bytes(sent[15:18]) & (BINS - 1)] += 1
    expected = FLOWS / BINS
    chi_square = sum((labels[value] - expected) ** 2 / expected for value in range(BINS))
    assert chi_square < CHI_SQUARE_MAX, chi_square
