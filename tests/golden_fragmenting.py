# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets that are too big for their path and have no DF; scapy is the oracle.

The XDP program alone tells their sender; a loop sends them in fragments. No row needs the memory of
another one but the fragments in sequence, of which the first one comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from scapy.layers.inet import IP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.golden import OVERHEAD, TAGS, encapsulated, ethernet, ip, tcp, udp
from tests.golden_too_big import told
from tests.golden_world import (
    FLOOD,
    MTU,
    PEER,
    ROUTES,
    SCANT_MTU,
    SCANT_MTU_PEER,
    SMALL_MTU,
    SMALL_MTU_PEER,
    VLAN_PEER,
    State,
)
from tests.model import Route

WAYS: Final = {
    State.OTHER: (ROUTES[PEER], MTU),
    State.OTHER_VLAN: (ROUTES[VLAN_PEER], MTU),
    State.SMALL_PATH: (ROUTES[SMALL_MTU_PEER], SMALL_MTU),
    State.SCANT_PATH: (ROUTES[SCANT_MTU_PEER], SCANT_MTU),
    State.ABSENT: (FLOOD, MTU),
    State.NO_TEMPLATE: (FLOOD, MTU),
}


@dataclass(frozen=True, slots=True)
class Cut:
    """One row: what leaves with a loop, in order, and what the program alone answers."""

    description: str
    frame: bytes
    outputs: tuple[bytes, ...]
    answer: bytes


def _outer(piece: bytes, frame: bytes, route: Route) -> bytes:
    """A fragment behind outer headers; one without ports borrows the first one's for them."""
    mark = 0x80 if route is FLOOD else 0
    if not IP(piece).frag:
        return encapsulated(bytes(12) + b"\x08\x00" + piece, route, mark)
    headers = len(_outer(bytes(frame), frame, route)) - len(frame)
    whole = Ether(_outer(bytes(frame), frame, route)[:headers] + piece)
    outer = whole[IP]
    del outer.len, outer.chksum, outer.payload.len
    return bytes(whole)


def cut(name: str, frame: Any, state: State, tags: tuple[Any, ...] = ()) -> Cut:
    """The row of a client's packet that is too big for the way to the owner of `state`."""
    route, mtu = WAYS[state]
    fits = mtu - OVERHEAD
    data = bytes(frame)
    packet = data[14 + 4 * len(tags) :]
    whole = IP(packet[: int.from_bytes(packet[2:4])])
    pieces = [bytes(piece) for piece in fragment(whole, fits - 4 * (packet[0] & 15))]
    outputs = tuple(_outer(piece, pieces[0], route) for piece in pieces)
    return Cut(name, data, outputs, told(4, data, fits, tags))


def _payload(length: int) -> Raw:
    return Raw(bytes(at * 7 % 251 for at in range(length)))


@cache
def cut_rows() -> tuple[Cut, ...]:
    """All of them."""
    return tuple(_cut_rows())


def _cut_rows() -> Iterator[Cut]:
    for state, (_, mtu) in WAYS.items():
        fits = mtu - OVERHEAD
        for more in (1, 7, 8, 9, 100):
            payload = _payload(fits - 40 + more)
            frame = ethernet() / ip(4, id=4660) / tcp(state) / payload
            yield cut(f"{state.name}, flood or stray, {more} bytes too many", frame, state)
    for state in (State.OTHER, State.SMALL_PATH, State.SCANT_PATH, State.OTHER_VLAN):
        frame = ethernet() / ip(4, id=1) / udp(state) / _payload(1600)
        yield cut(f"UDP to {state.name}", frame, state)
        frame = ethernet() / ip(4, id=2, flags="MF") / udp(state) / _payload(1600)
        yield cut(f"UDP to {state.name}, a first fragment", frame, state)
    for kind, tags in TAGS.items():
        frame = ethernet(*tags) / ip(4, id=3, tos=0xBB) / tcp(State.OTHER) / _payload(1600)
        yield cut(f"too big without DF, {kind}", frame, State.OTHER, tags)
    padded = ethernet() / ip(4, id=4) / tcp(State.SMALL_PATH) / _payload(1450)
    yield cut("without DF, padding", bytes(padded) + b"\xee" * 9, State.SMALL_PATH)
    router_alert = ip(4, id=5, options=b"\x94\x04\x00\x00")
    frame = ethernet() / router_alert / tcp(State.OTHER) / _payload(1600)
    yield cut("without DF, an option that all fragments get", frame, State.OTHER)
    syn = ethernet() / ip(4, id=6) / tcp(State.SMALL_PATH, "S") / _payload(1450)
    yield cut("without DF, a SYN with data", syn, State.SMALL_PATH)
