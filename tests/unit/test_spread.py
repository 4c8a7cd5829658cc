# SPDX-License-Identifier: BSD-2-Clause
"""What RSS makes of our outer headers: Microsoft's Toeplitz hash spreads flows over the queues."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import ip_address
from typing import Final

import pytest

from tests.golden_formats import FLAVOURS, Flavour
from tests.golden_world import PEER, ROUTES
from tests.many_flows import BUCKETS, FLOWS, KINDS, chi_square, flow_frames
from tests.model import NoTransportError, parse
from tests.unit.test_golden_formats import built, name_of

# "RSS hash verification suite" of Microsoft's NDIS documentation: key and vectors.
KEY: Final = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
# (source, its port, destination, its port, hash with ports, hash of the addresses alone)
VECTORS: Final = (
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178, 0x323E8FC2),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xC626B0EA, 0xD718262A),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5C2B394A, 0xD2D0A5DE),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xAFC7327F, 0x82989176),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10E828A2, 0x5D1809C5),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D, 0x2CC18CD5),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xDDE51BBF, 0x0F0C461C),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024,
     0x02D1FEEF, 0x4B61E985),
)  # fmt: skip

CHI_SQUARE_MAX: Final = 119.0  # once in a thousand over all cases here: they are 40
WITH_PORTS = [one for one in FLAVOURS if one.name != "ipip"]


def toeplitz(data: bytes) -> int:
    """The hash of a NIC's RSS: for each bit that is set, 32 bits of the key from there on."""
    key, bits = int.from_bytes(KEY), len(KEY) * 8
    value, total = int.from_bytes(data), len(data) * 8
    result = 0
    for at in range(total):
        if value >> (total - 1 - at) & 1:
            result ^= key >> (bits - 32 - at) & 0xFFFFFFFF
    return result


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
def test_the_vectors_of_the_verification_suite(
    vector: tuple[str, int, str, int, int, int],
) -> None:
    source, port, destination, other_port, with_ports, without = vector
    addresses = ip_address(source).packed + ip_address(destination).packed
    assert toeplitz(addresses) == without
    assert toeplitz(addresses + struct.pack("!HH", port, other_port)) == with_ports


def outer_hash(frame: bytes, *, ports: bool) -> int:
    """What a NIC hashes of a frame: its addresses and, if it can, its ports."""
    try:
        packet = parse(frame)
    except NoTransportError as error:
        packet = error.packet
    source, destination = packet.source, packet.destination
    if packet.family == 4:
        source, destination = source[-4:], destination[-4:]
    return toeplitz(source + destination + (frame[packet.l4 : packet.l4 + 4] if ports else b""))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flavour", WITH_PORTS, ids=name_of)
def test_rss_spreads_the_tunnel_packets_of_many_flows(flavour: Flavour, kind: str) -> None:
    template = built(flavour, ROUTES[PEER])
    buckets: Counter[int] = Counter()
    for frame in flow_frames(kind):
        buckets[outer_hash(template.apply(frame), ports=True) % BUCKETS] += 1
    assert chi_square(buckets) < CHI_SQUARE_MAX


@pytest.mark.parametrize("flavour", [one for one in FLAVOURS if one.name == "ipip"], ids=name_of)
def test_ip_in_ip_has_nothing_that_rss_could_tell_flows_by(flavour: Flavour) -> None:
    template = built(flavour, ROUTES[PEER])
    frames = list(flow_frames("ports, IPv4"))[:100]
    hashes = {outer_hash(template.apply(frame), ports=False) for frame in frames}
    assert len(hashes) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_flow_is_another_one(kind: str) -> None:
    packets = [parse(frame) for frame in flow_frames(kind)]
    assert len({(packet.source, packet.source_port) for packet in packets}) == FLOWS
    assert len({(packet.destination, packet.destination_port) for packet in packets}) == 1
