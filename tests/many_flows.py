# SPDX-License-Identifier: BSD-2-Clause
"""Strays of many flows, and how evenly something spreads them."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tests.golden import ethernet, ip
from tests.golden_world import PORT

BUCKETS: Final = 64
FLOWS: Final = 6400
KINDS: Final = ("ports, IPv4", "clients, IPv4", "ports, IPv6", "clients, IPv6", "networks, IPv6")
"""What differs: the client's port, its address, or (a client in each of many /64) its network."""
TCP: Final = 6
CLIENT: Final = {4: int(IPv4Address("11.0.0.1")), 6: int(IPv6Address("2001:db8::1"))}


def chi_square(buckets: Counter[int]) -> float:
    """Of FLOWS flows in BUCKETS buckets: 63 degrees of freedom. One value in a thousand is above
    103.4, one in 40 000 above 119, one in a million above 132."""
    assert sum(buckets.values()) == FLOWS
    expected = FLOWS / BUCKETS
    return sum((buckets[value] - expected) ** 2 / expected for value in range(BUCKETS))


def flow_frames(kind: str) -> Iterator[bytes]:
    """FLOWS segments from the router, each of another flow."""
    what, _, family_name = kind.partition(", IPv")
    family = int(family_name)
    size = 4 if family == 4 else 16
    template = ethernet() / (ip(4, proto=TCP, len=40) if family == 4 else ip(6, nh=TCP, plen=20))
    frame = bytearray(bytes(template))
    source = 14 + (12 if family == 4 else 8)
    step = 1 << 64 if what == "networks" else 1
    for number in range(FLOWS):
        port = 1024 + number if what == "ports" else 40000
        client = CLIENT[family] + (0 if what == "ports" else number * step)
        frame[source : source + size] = client.to_bytes(size)
        yield bytes(frame) + struct.pack("!HHIIBBHHH", port, PORT, 1, 1, 0x50, 0x10, 1024, 0, 0)
