# SPDX-License-Identifier: BSD-2-Clause
"""A peer's question as a frame, read back by scapy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pyxdp_gossip import questions
from pyxdp_gossip.gossip.records import EVENT, EventKind, EventRecord
from pyxdp_gossip.session import Service
from tests.model import parse

CLIENTS = {4: IPv4Address("203.0.113.9"), 6: IPv6Address("2001:db8:c::9")}
SERVICES = {
    0: Service(IPv4Address("198.51.100.1"), 443, "tcp"),
    7: Service(IPv6Address("2001:db8:100::1"), 8443, "tcp"),
    8: Service(IPv4Address("198.51.100.1"), 443, "udp"),
}
SLOTS = {4: 0, 6: 7}
LAYERS = {4: IP, 6: IPv6}
U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)


def question(family: int, slot: int, *, port: int = 51000, seq: int = 0, ack: int = 0,
             client: IPv4Address | IPv6Address | None = None) -> bytes:  # fmt: skip
    """One record of a WHO_HAS, as the core hands it over."""
    address = (client or CLIENTS[family]).packed.ljust(16, b"\0")
    return EventRecord(EventKind.MISS, family, slot, port, 0, seq, ack, address, 0).pack()


def one_frame(record: bytes) -> bytes:
    """The frame of one question that this host can ask."""
    (frame,) = questions.frames(record, SERVICES)
    assert frame is not None
    return frame


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def read(frame: bytes, family: int) -> Any:
    """What scapy reads; nothing may lie behind the TCP header."""
    layers = Ether(frame)
    assert (layers.dst, layers.src) == ("00:00:00:00:00:00", "00:00:00:00:00:00")
    assert LAYERS[family] in layers
    assert bytes(layers[TCP].payload) == b""
    assert bytes(layers) == frame
    return layers


def test_a_frame_is_an_ack_of_the_session_with_the_questions_numbers(family: int) -> None:
    numbers = {"port": 51000, "seq": 0xFFFFFFFE, "ack": 0x01020304}
    layers = read(one_frame(question(family, SLOTS[family], **numbers)), family)
    service, tcp = SERVICES[SLOTS[family]], layers[TCP]
    assert (layers[LAYERS[family]].src, layers[LAYERS[family]].dst) == (
        str(CLIENTS[family]),
        str(service.vip),
    )
    assert (tcp.sport, tcp.dport) == (51000, service.port)
    assert (tcp.seq, tcp.ack) == (0xFFFFFFFE, 0x01020304)
    assert (tcp.flags, tcp.dataofs, tcp.options) == ("A", 5, [])


@given(st.sampled_from([4, 6]), U16, U32, U32, st.integers(0, 2**128 - 1))
def test_any_question_comes_back_from_its_frame(
    family: int, port: int, seq: int, ack: int, number: int
) -> None:
    client = IPv4Address(number >> 96) if family == 4 else IPv6Address(number)
    slot = SLOTS[family]
    layers = Ether(one_frame(question(family, slot, port=port, seq=seq, ack=ack, client=client)))
    sent, tcp = layers[LAYERS[family]], layers[TCP]
    assert type(client)(sent.src) == client
    assert (tcp.sport, tcp.seq, tcp.ack) == (port, seq, ack)


def test_the_lengths_are_those_of_a_whole_packet(family: int) -> None:
    frame = one_frame(question(family, SLOTS[family]))
    packet = parse(frame)
    assert packet.length == len(frame) - 14
    assert (packet.family, packet.protocol) == (family, 6)
    if family == 4:
        assert read(frame, 4)[IP].len == 40
    else:
        assert read(frame, 6)[IPv6].plen == 20


def test_an_unknown_slot_has_no_frame(family: int) -> None:
    assert list(questions.frames(question(family, 1), SERVICES)) == [None]
    assert list(questions.frames(question(family, 0xFFFF), SERVICES)) == [None]


def test_a_family_that_is_not_the_services_has_no_frame(family: int) -> None:
    slot_of_the_other = SLOTS[10 - family]
    assert list(questions.frames(question(family, slot_of_the_other), SERVICES)) == [None]


def test_a_udp_service_has_no_frame_for_no_socket_could_deny_the_session() -> None:
    assert list(questions.frames(question(4, 8), SERVICES)) == [None]


@pytest.mark.parametrize("wrong", [0, 5, 255])
def test_an_impossible_family_has_no_frame(family: int, wrong: int) -> None:
    record = bytearray(question(family, SLOTS[family]))
    record[1] = wrong
    assert list(questions.frames(bytes(record), SERVICES)) == [None]


def test_each_question_has_its_answer_at_its_place() -> None:
    records = [
        question(4, 0, port=1), question(4, 9), question(6, 7, port=2), question(6, 0),
        question(4, 0, port=3),
    ]  # fmt: skip
    found = list(questions.frames(b"".join(records), SERVICES))
    assert [frame and parse(frame).source_port for frame in found] == [1, None, 2, None, 3]


def test_no_questions_have_no_frames() -> None:
    assert list(questions.frames(b"", SERVICES)) == []
    assert EVENT.size == 40
