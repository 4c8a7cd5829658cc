# SPDX-License-Identifier: BSD-2-Clause
"""The wire format: vectors in both directions and in every truncation."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.messages import (
    Accusation,
    Answer,
    AskSums,
    Batch,
    Duplicate,
    Gone,
    Heartbeat,
    Hello,
    HostState,
    Leaving,
    MemberEntry,
    Members,
    Message,
    Nack,
    NotMine,
    PullBuckets,
    Question,
    Records,
    Services,
    Shard,
    ShardEnd,
    Stray,
    Sums,
    Unknown,
    Versions,
    Welcome,
    WhoHas,
)
from pyxdp_gossip.gossip.wire import (
    BUCKETS_MAX,
    DATAGRAM_MAX,
    DATAGRAM_MIN,
    QUESTIONS_IN_SECTION,
    RANGES_IN_SECTION,
    SECTIONS_MAX,
    STRAYS_IN_SECTION,
    DatagramType,
    Header,
    decode_header,
    decode_payload,
    encode_header,
    encode_message,
    room_of,
    split_sections,
)
from pyxdp_gossip.session import Service

V4 = ip_address("10.8.0.13")
V6 = ip_address("2001:db8::13")
V4_16 = "00000000000000000000ffff0a08000d"
V6_16 = "20010db8000000000000000000000013"
CLIENT = bytes.fromhex("cb007109") + bytes(12)
CLIENT_16 = "cb007109" + "00" * 12

HEADER = Header(
    *(DatagramType.LOG, False, 1, 2, 3),
    *(0x0102030405060708, 0x1112131415161718, 0x2122232425262728),
)
HEADER_BYTES = bytes.fromhex(
    "01010001000200030102030405060708" + "11121314151617182122232425262728"
)

NINE_THREE = "0000000000000009" + "0000000000000003"
SECTIONS: list[tuple[str, Message, str]] = [
    ("batch", Batch(5, 9), "01000010" + "0000000000000005" + "0000000000000009"),
    (
        "heartbeat of IPv4",
        Heartbeat(HostState.ACTIVE, 6080, 7, V4, 9, 3),
        "02000030" + "020117c0" + "00000000" + V4_16 + "0000000000000007" + NINE_THREE,
    ),
    (
        "heartbeat of IPv6",
        Heartbeat(HostState.DRAINING, 6080, 7, V6, 9, 3, Versions(3, 5)),
        "02000030" + "030517c0" + "02000000" + V6_16 + "0000000000000007" + NINE_THREE,
    ),
    ("no services", Services(1, ()), "03000008" + "0000000100000000"),
    (
        "services",
        Services(2, ((0, Service(V4, 443, "tcp")), (9, Service(V6, 53, "udp")))),
        "03000038" + "0000000200000000" + "000001bb06000000" + V4_16 + "0009003511000000" + V6_16,
    ),
    ("hello", Hello(4, False), "04000008" + "00000004" + "00000000"),
    ("hello for members", Hello(4, False, True), "04000008" + "00000004" + "02000000"),
    ("hello that pulls", Hello(4, True), "04000008" + "00000004" + "01000000"),
    ("welcome", Welcome(4, 3, 8), "05000010" + "00000004" + "00030000" + "0000000000000008"),
    (
        "members",
        Members((MemberEntry(3, 6080, 8, V4),)),
        "06000020" + "000317c0" + "00000000" + "0000000000000008" + V4_16,
    ),
    ("shard", Shard(4, 1, 7), "07000010" + "00000004" + "00000001" + "0000000000000007"),
    ("shard end", ShardEnd(4, 2, 7), "08000010" + "00000004" + "00000002" + "0000000000000007"),
    ("leave", Leaving(), "09000000"),
    (
        "who has",
        WhoHas(6, (Question(4, 1, 51000, 2, 3, CLIENT),)),
        "0a000028" + "0000000600000000" + "04000001c7380000" + "0000000200000003" + CLIENT_16,
    ),
    ("answer", Answer(6, 5, 7), "0b000010" + "00000006" + "00000005" + "0000000000000007"),
    (
        "not mine",
        NotMine((Stray(4, 1, 51000, CLIENT),)),
        "0c000018" + "04000001c7380000" + CLIENT_16,
    ),
    ("duplicate", Duplicate(3, 8), "0d000010" + "0003000000000000" + "0000000000000008"),
    (
        "nack",
        Nack(((5, 1), (9, 4096))),
        "0e000020" + "00000000000000050000000100000000" + "00000000000000090000100000000000",
    ),
    (
        "sums",
        Sums(7, 1022, 1024, (9, 3)),
        "0f000020" + "0000000000000007" + "03fe040000000000" + NINE_THREE,
    ),
    ("gone", Gone(9), "20000008" + "0000000000000009"),
    ("ask sums", AskSums(), "21000000"),
    ("pull buckets", PullBuckets(4, b"\x01\x80"), "2200000a" + "0000000400000000" + "0180"),
    ("accusation", Accusation(3, 8), "23000010" + "0003000000000000" + "0000000000000008"),
]
NAMES = [name for name, _, _ in SECTIONS]
# Sections of rows stay whole when whole rows are cut off.
ROWS = {
    "services": (8, 24),
    "members": (0, 32),
    "who has": (8, 32),
    "not mine": (0, 24),
    "nack": (0, 16),
    "sums": (16, 8),
    "pull buckets": (8, 1),
}


def test_the_header_is_written_and_read() -> None:
    assert encode_header(HEADER) == HEADER_BYTES
    assert len(HEADER_BYTES) == 32
    assert decode_header(HEADER_BYTES) == HEADER


@pytest.mark.parametrize("size", range(32))
def test_a_cut_header_is_malformed(size: int) -> None:
    with pytest.raises(PeerError, match="malformed_datagram"):
        decode_header(HEADER_BYTES[:size])


def test_a_datagram_beyond_the_limit_is_malformed() -> None:
    decode_header(HEADER_BYTES.ljust(DATAGRAM_MAX, b"\0"))
    with pytest.raises(PeerError, match="malformed_datagram"):
        decode_header(HEADER_BYTES.ljust(DATAGRAM_MAX + 1, b"\0"))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        *(("0001", "unknown_version"), ("0105", "unknown_type")),
        *(("0100", "unknown_type"), ("0181", "malformed_datagram")),
    ],
)
def test_a_header_of_another_version_type_or_kind_is_refused(head: str, reason: str) -> None:
    with pytest.raises(PeerError, match=reason):
        decode_header(bytes.fromhex(head) + HEADER_BYTES[2:])


def test_sealed_without_a_key_id_is_malformed() -> None:
    with pytest.raises(PeerError, match="malformed_datagram"):
        decode_header(HEADER_BYTES[:2] + b"\0\0" + HEADER_BYTES[4:])


@pytest.mark.parametrize(("name", "message", "wire"), SECTIONS, ids=NAMES)
def test_a_section_is_written_and_read(name: str, message: Message, wire: str) -> None:
    assert encode_message(message).hex() == wire
    assert decode_payload(bytes.fromhex(wire)) == [message]


@pytest.mark.parametrize(("name", "message", "wire"), SECTIONS, ids=NAMES)
def test_a_section_cut_anywhere_is_malformed(name: str, message: Message, wire: str) -> None:
    data = bytes.fromhex(wire)
    for size in range(1, len(data)):
        with pytest.raises(PeerError, match="malformed_section"):
            decode_payload(data[:size])


@pytest.mark.parametrize(("name", "message", "wire"), SECTIONS, ids=NAMES)
def test_a_body_cut_anywhere_is_malformed(name: str, message: Message, wire: str) -> None:
    data = bytes.fromhex(wire)
    head, row = ROWS.get(name, (0, 0))
    for size in range(len(data) - 4):
        rows, rest = divmod(size - head, row) if row else (0, 1)
        if rest == 0 and (rows > 0 or (name == "services" and rows == 0)):
            continue
        with pytest.raises(PeerError, match="malformed_body"):
            decode_payload(data[:2] + size.to_bytes(2, "big") + data[4 : 4 + size])


@pytest.mark.parametrize(("name", "message", "wire"), SECTIONS, ids=NAMES)
def test_a_longer_body_of_fixed_size_is_read_as_far_as_known(
    name: str, message: Message, wire: str
) -> None:
    if name in ROWS or name == "no services":
        return
    data = bytes.fromhex(wire)
    size = len(data) - 4 + 8
    longer = data[:2] + size.to_bytes(2, "big") + data[4:] + bytes(range(8))
    assert decode_payload(longer) == [message]


def test_sections_follow_each_other_and_unknown_ones_are_skipped() -> None:
    records = bytes.fromhex("10000002abcd")
    unknown = bytes.fromhex("ee070003aabbcc")
    payload = encode_message(Batch(1, 2)) + records + unknown + encode_message(Leaving())
    assert decode_payload(payload) == [
        *(Batch(1, 2), Records(0x10, b"\xab\xcd"), Unknown(0xEE), Leaving())
    ]


def test_one_malformed_section_refuses_the_whole_datagram() -> None:
    with pytest.raises(PeerError):
        decode_payload(encode_message(Leaving()) + bytes.fromhex("01000001aa"))


def test_more_sections_than_the_limit_are_malformed() -> None:
    section = encode_message(Leaving())
    assert len(split_sections(section * SECTIONS_MAX)) == SECTIONS_MAX
    with pytest.raises(PeerError, match="malformed_section"):
        split_sections(section * (SECTIONS_MAX + 1))


@pytest.mark.parametrize(
    "body",
    [
        "02000030" + "000117c0" + "00000000" + V4_16 + "00" * 24,  # no such state
        "02000030" + "040117c0" + "00000000" + V4_16 + "00" * 24,
        "02000030" + "02010000" + "00000000" + V4_16 + "00" * 24,  # tunnel port 0
        "02000030" + "020117c0" + "00000000" + V4_16 + "ff" * 8 + "00" * 16,  # batch number
        "01000010" + "ff" * 8 + "00" * 8,
        "0e000010" + "00" * 8 + "00000000" + "00" * 4,  # a range of none
        "0e000010" + "00" * 8 + "00001001" + "00" * 4,  # and of more than anybody keeps
        "0e000010" + "ff" * 8 + "00000001" + "00" * 4,
        "0f000018" + "00" * 8 + "0400040000000000" + "00" * 8,  # a sum behind the last bucket
        "0f000018" + "00" * 8 + "0000200100000000" + "00" * 8,  # more buckets than a bitmap has
        "06000020" + "00030000" + "00000000" + "00" * 8 + V4_16,
        "0a000028" + "00" * 8 + "05000001c7380000" + "00" * 8 + CLIENT_16,  # no such family
        "0a000028" + "00" * 8 + "04000001c7380000" + "00" * 8 + "01" * 16,  # more than IPv4
        "0c000018" + "07000001c7380000" + CLIENT_16,
        "0c000018" + "04000001c7380000" + "01" * 16,
    ],
)
def test_impossible_values_are_malformed(body: str) -> None:
    with pytest.raises(PeerError, match="malformed_body"):
        decode_payload(bytes.fromhex(body))


def test_a_service_of_a_later_protocol_is_left_out() -> None:
    known = encode_message(Services(1, ((0, Service(V4, 443, "tcp")), (1, Service(V4, 80, "tcp")))))
    later = known[:16] + b"\x84" + known[17:]
    assert decode_payload(later) == [Services(1, ((1, Service(V4, 80, "tcp")),))]


@pytest.mark.parametrize("datagram_max", [DATAGRAM_MIN, 1300, DATAGRAM_MAX, 9000])
def test_the_largest_sections_fit_a_datagram(datagram_max: int) -> None:
    room = room_of(datagram_max)
    welcome = (
        encode_message(Heartbeat(HostState.ACTIVE, 1, 1, V6))
        + encode_message(Welcome(1, 1, 1))
        + encode_message(Hello(1, True))
        + encode_message(Members((MemberEntry(1, 1, 1, V6),) * room.members))
    )
    services = Services(1, ((1, Service(V6, 1, "tcp")),) * room.services)
    questions = WhoHas(1, (Question(6, 1, 1, 1, 1, bytes(16)),) * QUESTIONS_IN_SECTION)
    strays = NotMine((Stray(6, 1, 1, bytes(16)),) * STRAYS_IN_SECTION)
    nack = Nack(((1, 1),) * RANGES_IN_SECTION)
    sums = Sums(1, 0, BUCKETS_MAX, (1,) * room.sums)
    pull = PullBuckets(1, bytes(BUCKETS_MAX // 8))
    assert room.payload <= min(datagram_max, DATAGRAM_MAX) - 48
    assert len(welcome) <= room.payload
    for message in (services, questions, strays, nack, sums, pull):
        assert len(encode_message(message)) <= room.payload
        assert decode_payload(encode_message(message)) == [message]


@given(st.binary(max_size=DATAGRAM_MAX))
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    for read in (decode_header, decode_payload):
        with suppress(PeerError):
            read(data)
