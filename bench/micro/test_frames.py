# SPDX-License-Identifier: BSD-2-Clause
"""A template applied to one frame, and a burst of strays decided and encapsulated."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

import pytest

from bench.micro.conftest import Timed
from pyxdp_gossip import Forwarder, HeaderTemplate, OwnerStates, Service, Session, SessionTable
from pyxdp_gossip import session_key as key_of
from pyxdp_gossip._native import apply_template

OWN, PEER = 3, 7
BURST: Final = 64
FIRST_PORT: Final = 50_000
SERVICES: Final = {0: Service(IPv4Address("198.51.100.1"), 443, "tcp")}
CLIENT: Final = IPv4Address("203.0.113.9")
ETH_LEN, OUTER_LEN = 14, 58  # GUE over IPv4: 44 bytes beyond the Ethernet header
FRAME_LENS: Final = (60, 1514)


def frame(port: int, frame_len: int) -> bytes:
    """An ACK of a client, filled up with payload."""
    vip = SERVICES[0].vip
    tcp = struct.pack("!HHIIBBHHH", port, 443, 1, 1, 0x50, 0x10, 0x400, 0, 0)
    total = max(40, frame_len - ETH_LEN)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 0, 0, 64, 6, 0, CLIENT.packed, vip.packed
    )  # fmt: skip
    head = bytes.fromhex("0200000000030200000000fe0800") + ip + tcp
    return head + bytes(frame_len - len(head))


def template() -> HeaderTemplate:
    """GUE over IPv4 to the peer."""
    return HeaderTemplate.build(
        source=IPv4Address("10.8.0.13"),
        destination=IPv4Address("10.8.0.17"),
        source_mac=bytes.fromhex("020000000003"),
        destination_mac=bytes.fromhex("020000000007"),
        tunnel_port=6080,
        cookie=bytes(8),
        mtu=1600,
    )


def forwarder() -> Forwarder:
    """A host to which all of the frames' sessions are strays."""
    owners = OwnerStates()
    tables = SessionTable(4, 1024, owners), SessionTable(6, 2, owners)
    owners.activate(PEER)
    for port in range(FIRST_PORT, FIRST_PORT + BURST):
        session = Session.tcp(f"{CLIENT}:{port}", "198.51.100.1:443")
        tables[0].put(key_of(session, SERVICES), PEER)
    return Forwarder.build(OWN, SERVICES, *tables, owners, {PEER: template()})


def name(what: str, frame_len: int) -> str:
    return f"{what}, frames of {frame_len} bytes"


@pytest.mark.parametrize("frame_len", FRAME_LENS)
def test_template(timed: Timed, frame_len: int) -> None:
    """One frame, by the C code of the data path."""
    packed, one = template().pack(), frame(FIRST_PORT, frame_len)
    assert len(apply_template(packed, one, 0)) == len(one) + OUTER_LEN - ETH_LEN
    timed(name("template applied", frame_len), lambda: apply_template(packed, one, 0), 1, "frame")


@pytest.mark.parametrize("frame_len", FRAME_LENS)
def test_template_floor(timed: Timed, frame_len: int) -> None:
    """The same bytes, put together."""
    outer, one = bytes(OUTER_LEN - ETH_LEN), frame(FIRST_PORT, frame_len)
    group = name("template applied", frame_len)
    timed(group, lambda: outer + one, 1, "frame", case="floor: header and frame copied")


@pytest.mark.parametrize("frame_len", FRAME_LENS)
def test_forward(timed: Timed, frame_len: int) -> None:
    """Parsed, looked up, encapsulated, counted."""
    ours = forwarder()
    frames = [frame(FIRST_PORT + number, frame_len) for number in range(BURST)]
    assert {ending for ending, _ in ours.forward(frames)} == {"stray_forwarded"}
    group = name(f"strays forwarded, {BURST} at once", frame_len)
    timed(group, lambda: ours.forward(frames), BURST, "frame")


@pytest.mark.parametrize("frame_len", FRAME_LENS)
def test_forward_floor(timed: Timed, frame_len: int) -> None:
    """The same bytes, put together, in a list."""
    outer = bytes(OUTER_LEN - ETH_LEN)
    frames = [frame(FIRST_PORT + number, frame_len) for number in range(BURST)]
    group = name(f"strays forwarded, {BURST} at once", frame_len)

    def copy() -> list[bytes]:
        return [outer + one for one in frames]

    timed(group, copy, BURST, "frame", case="floor: headers and frames copied")
