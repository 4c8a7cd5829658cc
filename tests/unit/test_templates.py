# SPDX-License-Identifier: BSD-2-Clause
"""Header templates: built in Python, applied in C, checked by scapy."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from pyxdp_gossip import templates
from pyxdp_gossip.templates import HeaderTemplate, multicast_mac
from tests import c_programs
from tests.golden import encapsulated, plain_rows
from tests.golden_world import FLOOD, OWN_ADDRESS, ROUTES, TUNNEL_PORT, VLAN_PEER
from tests.model import Route, parse
from tests.model_formats import checksum
from tests.templates_of_routes import template

PEER = 4


def applied(route: Route, frames: list[bytes], mark: int = 0) -> list[bytes]:
    """The outer headers that C writes for each frame."""
    records = b"".join(struct.pack("<H", len(frame)) + frame for frame in frames)
    data = template(route).pack() + bytes([mark]) + records
    program = c_programs.build("test_packet_parse")
    return [bytes.fromhex(line) for line in c_programs.run(program, "apply", data=data).split()]


@pytest.mark.parametrize("route", [*ROUTES.values(), FLOOD], ids=lambda route: route.cookie)
def test_c_writes_the_outer_headers_that_scapy_writes(route: Route) -> None:
    rows = [row for row in plain_rows() if row.ending in ("stray_forwarded", "miss_flooded")]
    frames = list({row.frame: None for row in rows})
    for frame, headers in zip(frames, applied(route, frames), strict=True):
        assert headers + frame[parse(frame).l3 :] == encapsulated(frame, route), frame.hex()


def test_a_mark_is_added_to_the_templates_own() -> None:
    frame = plain_rows()[0].frame
    (marked,) = applied(FLOOD, [frame], mark=templates.MARK_HOP)
    assert marked[-11] == templates.MARK_FLOOD | templates.MARK_HOP
    (headers,) = applied(ROUTES[PEER], [frame], mark=templates.MARK_FLOOD)
    assert headers[-11] == templates.MARK_FLOOD


@pytest.mark.parametrize("route", [ROUTES[PEER], ROUTES[VLAN_PEER], FLOOD],
                         ids=["plain", "VLAN", "flood"])  # fmt: skip
def test_the_checksum_is_right_for_every_inner_length_and_every_tos(route: Route) -> None:
    program = c_programs.build("test_packet_parse")
    checked = c_programs.run(program, "checksum", data=template(route).pack())
    assert int(checked) == 65535 - templates.overhead("gue", 4) - 20 + 1 + 256


@given(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)))
def test_the_partial_sum_gives_the_checksum_of_the_whole_header(pair: tuple[int, int]) -> None:
    source, destination = IPv4Address(pair[0]), IPv4Address(pair[1])
    built = HeaderTemplate.build(
        source=source, destination=destination, source_mac=bytes(6), destination_mac=bytes(6),
        tunnel_port=1, cookie=bytes(8), mtu=1500,
    )  # fmt: skip
    header = built.header[14:34]
    total = built.sum + 1500
    folded = (total & 0xFFFF) + (total >> 16)
    folded = (folded & 0xFFFF) + (folded >> 16)
    assert ~folded & 0xFFFF == checksum(header[:2] + struct.pack("!H", 1500) + header[4:])


def source_ports(frames: list[bytes]) -> list[int]:
    """The outer UDP source ports that C chooses."""
    return [int.from_bytes(headers[34:36]) for headers in applied(ROUTES[PEER], frames)]


def flows(count: int, frame: bytes, where: int, step: int) -> list[bytes]:
    """The frame with a 32-bit word counted up at offset `where`."""
    (first,) = struct.unpack_from("!I", frame, where)
    return [
        frame[:where] + struct.pack("!I", (first + step * number) & 0xFFFFFFFF) + frame[where + 4 :]
        for number in range(count)
    ]


def tcp_frame(**fields: Any) -> bytes:
    """One IPv4 stray."""
    return bytes(
        Ether(src="02:00:00:00:00:fe", dst="02:00:00:00:00:03")
        / IP(src="203.0.113.9", dst="198.51.100.1")
        / TCP(**({"sport": 40000, "dport": 443} | fields))
    )


# Offsets in an untagged IPv4 frame: the client's address, and the two ports as one word.
CLIENT_ADDRESS, PORTS = 26, 34
BINS = 64
FLOWS = 6400

# Chi-square with 63 degrees of freedom passes 103.4 once in a thousand (p = 0.001), and falls
# below 34 as rarely; the flows are fixed, so the test gives the same value each time.
CHI_SQUARE_MAX = 103.4


@pytest.mark.parametrize(
    ("where", "step"),
    [(PORTS, 1 << 16), (CLIENT_ADDRESS, 1), (CLIENT_ADDRESS, 1 << 8)],
    ids=["client ports", "neighbouring clients", "clients of many networks"],
)
def test_outer_source_ports_spread_evenly_over_flows(where: int, step: int) -> None:
    ports = source_ports(flows(FLOWS, tcp_frame(), where, step))
    assert all(port >= 0xC000 for port in ports)
    for shift in (0, 8):  # the low bits and the high bits of the 14
        bins = Counter(port >> shift & (BINS - 1) for port in ports)
        expected = FLOWS / BINS
        chi_square = sum((bins[value] - expected) ** 2 / expected for value in range(BINS))
        assert chi_square < CHI_SQUARE_MAX, (shift, chi_square)


def test_all_packets_of_a_flow_get_one_source_port() -> None:
    frames = [tcp_frame(seq=number, flags=flags) for number in (0, 9) for flags in ("A", "FPA")]
    assert len(set(source_ports(frames))) == 1


def test_packed_template_is_the_c_struct() -> None:
    packed = template(ROUTES[VLAN_PEER]).pack(generation=7)
    assert len(packed) == 128
    length, l2_len, mtu, kind, _, generation = struct.unpack_from("<HHHHII", packed, 112)
    assert (length, l2_len, mtu, kind, generation) == (62, 18, 1600, 0, 7)


def test_scapy_reads_the_headers_that_were_built() -> None:
    layers = Ether(template(ROUTES[VLAN_PEER]).header)
    assert layers[Dot1Q].vlan == 7
    assert (layers[IP].src, layers[IP].dst) == ("10.8.0.13", "10.8.0.15")
    assert layers[IP].flags == "DF"
    assert (layers[UDP].dport, layers[UDP].chksum) == (TUNNEL_PORT, 0)


def test_with_mtu_changes_nothing_else() -> None:
    built = template(ROUTES[PEER])
    other = built.with_mtu(1400)
    assert other.mtu == 1400
    assert other.header == built.header


def test_multicast_mac_keeps_23_bits_of_the_group_or_32() -> None:
    assert multicast_mac(IPv4Address("239.192.7.2")) == bytes.fromhex("01005e400702")
    assert multicast_mac(IPv4Address("224.255.255.255")) == bytes.fromhex("01005e7fffff")
    assert multicast_mac(IPv6Address("ff05::8:1:7:2")) == bytes.fromhex("333300070002")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source_mac": bytes(5)}, "6 bytes"),
        ({"destination_mac": bytes(7)}, "6 bytes"),
        ({"cookie": bytes(7)}, "cookie is 7 bytes"),
        ({"tunnel_port": 0}, "tunnel port 0"),
        ({"tunnel_port": 65536}, "tunnel port 65536"),
        ({"vlan": 0}, "VLAN 0"),
        ({"vlan": 4095}, "VLAN 4095"),
        ({"encapsulation": "gre"}, "no encapsulation 'gre': gue, geneve, vxlan, ipip"),
        ({"vni": 1 << 24}, "VNI 16777216"),
        ({"vni": -1}, "VNI -1"),
        ({"destination": IPv6Address("::1")}, "two families"),
    ],
)
def test_build_says_which_argument_is_wrong(change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "source": OWN_ADDRESS,
        "destination": OWN_ADDRESS,
        "source_mac": bytes(6),
        "destination_mac": bytes(6),
        "tunnel_port": TUNNEL_PORT,
        "cookie": bytes(8),
        "mtu": 1500,
    }
    with pytest.raises(ValueError, match=said):
        HeaderTemplate.build(**(arguments | change))


@pytest.mark.parametrize(
    "header",
    [
        bytes(19),
        bytes(21),
        b"\x45\x01" + bytes(18),
        b"\x45\0\0\x14" + bytes(16),
        bytes(10) + b"\x01" + bytes(9),
    ],
)
def test_header_sum_refuses_what_is_no_template(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected 20|must be zero"):
        templates.ipv4_header_sum(header)


def test_probe_and_reply_carry_the_nonce() -> None:
    assert templates.probe_payload(b"8-octets", 7) == (
        bytes.fromhex("23010000 01000000") + b"8-octets" + bytes(7) + b"\x07"
    )
    reply = bytes.fromhex("23020000 01000000") + b"8-octets" + bytes(7) + b"\x07"
    assert templates.probe_reply_nonce(reply, b"8-octets") == 7


def test_every_truncation_and_every_changed_byte_of_a_reply_is_refused() -> None:
    reply = bytes.fromhex("23020000 01000000") + b"8-octets" + bytes(8)
    for length in range(len(reply)):
        assert templates.probe_reply_nonce(reply[:length], b"8-octets") is None
    assert templates.probe_reply_nonce(reply + b"\0", b"8-octets") is None
    for index in range(16):
        changed = bytearray(reply)
        changed[index] ^= 1
        assert templates.probe_reply_nonce(bytes(changed), b"8-octets") is None


# ---- apply and offsets ----


@pytest.mark.parametrize("route", [*ROUTES.values(), FLOOD], ids=lambda route: route.cookie)
def test_apply_gives_the_golden_frames(route: Route) -> None:
    frames = {
        row.frame for row in plain_rows() if row.ending in ("stray_forwarded", "miss_flooded")
    }
    for frame in frames:
        if parse(frame).length + templates.overhead("gue", 4) <= route.mtu:
            assert template(route).apply(frame) == encapsulated(frame, route), frame.hex()


@pytest.mark.parametrize("route", [ROUTES[PEER], ROUTES[VLAN_PEER]], ids=["plain", "VLAN"])
def test_apply_patches_what_the_offsets_name_and_nothing_else(route: Route) -> None:
    built = template(route)
    header, offsets = bytes(built), built.offsets
    lengths = {
        "tos": 1, "total_length": 2, "checksum": 2, "source_port": 2, "udp_length": 2,
        "payload_protocol": 1, "mark": 1,
    }  # fmt: skip
    where = {getattr(offsets, name) + at for name, size in lengths.items() for at in range(size)}
    changed: set[int] = set()
    for row in plain_rows():
        if row.ending == "stray_forwarded":
            result = built.apply(row.frame, mark=templates.MARK_HOP)
            changed |= {at for at, value in enumerate(header) if result[at] != value}
    assert changed == where
    assert header[offsets.cookie : offsets.cookie + 8] == route.cookie
    assert header[offsets.mark] == route.mark


def test_the_offsets_are_scapys_fields() -> None:
    built = template(ROUTES[VLAN_PEER])
    frame = next(row.frame for row in plain_rows() if row.ending == "stray_forwarded")
    result, offsets = built.apply(frame), built.offsets
    outer = Ether(result)

    def field(offset: int, size: int = 2) -> int:
        return int.from_bytes(result[offset : offset + size])

    assert field(offsets.tos, 1) == outer[IP].tos
    assert field(offsets.total_length) == outer[IP].len
    assert field(offsets.checksum) == outer[IP].chksum
    assert field(offsets.source_port) == outer[UDP].sport
    assert field(offsets.udp_length) == outer[UDP].len


def test_apply_refuses_what_it_cannot_send() -> None:
    row = next(row for row in plain_rows() if row.ending == "stray_forwarded")
    size = parse(row.frame).length + templates.overhead("gue", 4)
    built = template(ROUTES[PEER])
    assert built.with_mtu(size).apply(row.frame)
    with pytest.raises(ValueError, match=f"{size} bytes, the path takes {size - 1}"):
        built.with_mtu(size - 1).apply(row.frame)
    for cut in (b"", row.frame[:13], row.frame[:40]):
        with pytest.raises(ValueError, match="no TCP or UDP packet"):
            built.apply(cut)
    for mark in (-1, 256):
        with pytest.raises(ValueError, match=r"expected 0\.\.255"):
            built.apply(row.frame, mark=mark)
