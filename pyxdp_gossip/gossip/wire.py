# SPDX-License-Identifier: BSD-2-Clause
"""Bytes of a gossip datagram: header, sections, bodies, and every length check on peer data.

The layout with bit diagrams is docs/wire-format.md. Everything is in network order.
A body of a fixed size may be longer than this version knows: the rest is for later versions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from pyxdp_gossip.config import HOST_ID_MAX
from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.messages import (
    OURS,
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
from pyxdp_gossip.session import Service, packed16, unpacked16

DATAGRAM_MAX = 1400  # bytes of UDP payload: fits a 1500-byte network under IPv6 and a tunnel
DATAGRAM_MIN = 1200  # less is no network for IPv6 (RFC 8200 section 5: links carry 1280)
SECTIONS_MAX = 64  # a datagram of this version has fewer than ten
TAG_BYTES = 16  # both AEADs: RFC 5116 section 5.1, RFC 8439 section 2.8
FLAG_PLAIN = 0x80  # in the type byte: not sealed, key id 0

HEADER = struct.Struct("!BBHHHQQQ")
SECTION = struct.Struct("!BBH")
PAYLOAD_MAX = DATAGRAM_MAX - HEADER.size - TAG_BYTES

_BATCH = struct.Struct("!QQ")
_HEARTBEAT = struct.Struct("!BBHB3x16sQQQ")
_GENERATION = struct.Struct("!I4x")
_SERVICE = struct.Struct("!HHB3x16s")
_HELLO = struct.Struct("!IB3x")
_WELCOME = struct.Struct("!IHHQ")
_MEMBER = struct.Struct("!HHIQ16s")
_SHARD = struct.Struct("!IIQ")
_SHARD_END = struct.Struct("!IIQ")
_NUMBER = struct.Struct("!I4x")
_QUESTION = struct.Struct("!BxHH2xII16s")
_ANSWER = struct.Struct("!IIQ")
_STRAY = struct.Struct("!BxHH2x16s")
_DUPLICATE = struct.Struct("!HHIQ")
_RANGE = struct.Struct("!QII")
_GONE = struct.Struct("!Q")
_SUMS = struct.Struct("!QHH4x")
_SUM = struct.Struct("!Q")
_ACCUSATION = struct.Struct("!HHIQ")

QUESTIONS_IN_SECTION = 32  # bits of the answer's map
STRAYS_IN_SECTION = 32  # more are told when their packets come again
RANGES_IN_SECTION = 32  # more are asked for once these came
BATCHES_IN_RANGE = 4096  # as many as a sender keeps
BUCKETS_MAX = 8192  # of a digest: one bitmap fits a datagram
BATCH_NUMBER_MAX = (1 << 63) - 1  # never reached; keeps sums of numbers far from wrapping


@dataclass(frozen=True, slots=True)
class Room:
    """What fits into one datagram: of records in bytes, of other sections in rows."""

    payload: int
    batch: int
    shard: int
    services: int
    members: int
    sums: int


def room_of(datagram_max: int) -> Room:
    """What fits into datagrams of `datagram_max` bytes of UDP payload, `DATAGRAM_MIN` or more."""
    payload = min(datagram_max, DATAGRAM_MAX) - HEADER.size - TAG_BYTES
    one = payload - SECTION.size
    # A WELCOME has a heartbeat, the answer and a HELLO beside its members.
    greeting = 3 * SECTION.size + _HEARTBEAT.size + _WELCOME.size + _HELLO.size
    return Room(
        payload=payload,
        batch=one - _BATCH.size,
        shard=one - _SHARD.size,
        services=(one - _GENERATION.size) // _SERVICE.size,
        members=(one - greeting) // _MEMBER.size,
        sums=(one - _SUMS.size) // _SUM.size,
    )


ROOM_MAX = room_of(DATAGRAM_MAX)

_HOST_STATES = {state.value: state for state in HostState}
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}  # IANA protocol numbers
RECORD_KINDS = frozenset((0x10, 0x11, 0x12, 0x18, 0x19, 0x1A))


class DatagramType(IntEnum):
    """What a datagram is about, readable without the key; what it says is in its sections."""

    LOG = 1
    MEMBERSHIP = 2
    SNAPSHOT = 3
    QUESTION = 4


_TYPES = {kind.value: kind for kind in DatagramType}


class SectionKind(IntEnum):
    """Sections of this version, beside the records (0x10..0x1f)."""

    BATCH = 0x01
    HEARTBEAT = 0x02
    SERVICES = 0x03
    HELLO = 0x04
    WELCOME = 0x05
    MEMBERS = 0x06
    SHARD = 0x07
    SHARD_END = 0x08
    LEAVE = 0x09
    WHO_HAS = 0x0A
    ANSWER = 0x0B
    NOT_MINE = 0x0C
    DUPLICATE = 0x0D
    NACK = 0x0E
    SUMS = 0x0F
    GONE = 0x20
    ASK_SUMS = 0x21
    PULL_BUCKETS = 0x22
    ACCUSATION = 0x23


class Header(NamedTuple):
    """The clear header: 32 bytes, authenticated with the payload."""

    type: DatagramType
    plain: bool
    key_id: int
    site: int
    sender: int
    incarnation: int
    salt: int
    counter: int
    version: int = OURS.lowest


def encode_header(header: Header) -> bytes:
    """(32,) bytes."""
    kind = header.type | (FLAG_PLAIN if header.plain else 0)
    return HEADER.pack(
        *(header.version, kind, header.key_id, header.site, header.sender),
        *(header.incarnation, header.salt, header.counter),
    )


def decode_header(data: bytes) -> Header:
    """Read the first 32 bytes of a datagram; they are the same in every version.

    Raises:
        PeerError: too short or long, version 0, another type, plain with a key id or sealed
            without, or the sender is no host id.
    """
    if not HEADER.size <= len(data) <= DATAGRAM_MAX:
        raise PeerError("malformed_datagram")
    version, kind, key_id, site, sender, incarnation, salt, counter = HEADER.unpack_from(data)
    if version == 0:
        raise PeerError("unknown_version")
    plain = bool(kind & FLAG_PLAIN)
    if plain != (key_id == 0) or sender > HOST_ID_MAX:
        raise PeerError("malformed_datagram")
    datagram_type = _TYPES.get(kind & ~FLAG_PLAIN)
    if datagram_type is None:
        raise PeerError("unknown_type")
    return Header(datagram_type, plain, key_id, site, sender, incarnation, salt, counter, version)


def encode_section(kind: int, body: bytes) -> bytes:
    """A section: kind, flags (none yet), length, body."""
    return SECTION.pack(kind, 0, len(body)) + body


def split_sections(payload: bytes) -> list[tuple[int, bytes]]:
    """Cut a payload into (kind, body), all of it or nothing.

    Raises:
        PeerError: a section ends behind the payload, or there are more than `SECTIONS_MAX`.
    """
    sections: list[tuple[int, bytes]] = []
    at = 0
    while at < len(payload):
        if len(sections) == SECTIONS_MAX or len(payload) - at < SECTION.size:
            raise PeerError("malformed_section")
        kind, _flags, length = SECTION.unpack_from(payload, at)
        at += SECTION.size
        if length > len(payload) - at:
            raise PeerError("malformed_section")
        sections.append((kind, payload[at : at + length]))
        at += length
    return sections


def decode_payload(payload: bytes) -> list[Message]:
    """Read all sections of an opened datagram.

    Raises:
        PeerError: one section is malformed; none of the others counts then.
    """
    return [_decode(kind, body) for kind, body in split_sections(payload)]


def _decode(kind: int, body: bytes) -> Message:
    if kind in RECORD_KINDS:
        return Records(kind, body)
    decode = _DECODERS.get(kind)
    return decode(body) if decode is not None else Unknown(kind)


def encode_message(message: Message) -> bytes:
    """One section, its header included.

    Raises:
        KeyError: a type that this host never sends (`Records`, `Unknown`).
    """
    kind, encode = _ENCODERS[type(message)]
    return encode_section(kind, encode(message))


def _fixed(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) < layout.size:
        raise PeerError("malformed_body")
    return layout.unpack_from(body)


def _rows(layout: struct.Struct, body: bytes, most: int) -> Iterator[tuple[Any, ...]]:
    count, rest = divmod(len(body), layout.size)
    if rest or not 1 <= count <= most:
        raise PeerError("malformed_body")
    return layout.iter_unpack(body)


def _decode_batch(body: bytes) -> Batch:
    number, clock = _fixed(_BATCH, body)
    if number > BATCH_NUMBER_MAX:
        raise PeerError("malformed_body")
    return Batch(number, clock)


def _encode_heartbeat(beat: Heartbeat) -> bytes:
    address = packed16(beat.address)
    log = (beat.last_batch, beat.digest, beat.sessions)
    older = beat.versions.highest - beat.versions.lowest
    return _HEARTBEAT.pack(
        *(beat.state, beat.versions.highest, beat.tunnel_port, older, address), *log
    )


def _decode_heartbeat(body: bytes) -> Heartbeat:
    state, version, tunnel_port, older, address, number, digest, sessions = _fixed(_HEARTBEAT, body)
    if state not in _HOST_STATES or tunnel_port == 0 or number > BATCH_NUMBER_MAX:
        raise PeerError("malformed_body")
    if older >= version:
        raise PeerError("malformed_body")
    log = (digest, sessions, Versions(version - older, version))
    return Heartbeat(_HOST_STATES[state], tunnel_port, number, unpacked16(address), *log)


def _encode_services(services: Services) -> bytes:
    return _GENERATION.pack(services.generation) + b"".join(
        _SERVICE.pack(index, svc.port, _PROTOCOL_NUMBERS[svc.protocol], packed16(svc.vip))
        for index, svc in services.entries
    )


def _decode_services(body: bytes) -> Services:
    """An entry of an unknown protocol is left out: it is for later versions."""
    (generation,) = _fixed(_GENERATION, body)
    entries: list[tuple[int, Service]] = []
    rows = body[_GENERATION.size :]
    if not rows:
        return Services(generation, ())
    for index, port, protocol, vip in _rows(_SERVICE, rows, ROOM_MAX.services):
        if protocol == _PROTOCOL_NUMBERS["tcp"]:
            entries.append((index, Service(unpacked16(vip), port, "tcp")))
        elif protocol == _PROTOCOL_NUMBERS["udp"]:
            entries.append((index, Service(unpacked16(vip), port, "udp")))
    return Services(generation, tuple(entries))


def _decode_hello(body: bytes) -> Hello:
    request, wanted = _fixed(_HELLO, body)
    return Hello(request, bool(wanted & 1), bool(wanted & 2))


def _decode_welcome(body: bytes) -> Welcome:
    request, host, _, incarnation = _fixed(_WELCOME, body)
    return Welcome(request, host, incarnation)


def _encode_members(members: Members) -> bytes:
    return b"".join(
        _MEMBER.pack(row.host, row.tunnel_port, 0, row.incarnation, packed16(row.address))
        for row in members.entries
    )


def _decode_members(body: bytes) -> Members:
    entries: list[MemberEntry] = []
    for host, tunnel_port, _, incarnation, address in _rows(_MEMBER, body, ROOM_MAX.members):
        if tunnel_port == 0 or host > HOST_ID_MAX:
            raise PeerError("malformed_body")
        entries.append(MemberEntry(host, tunnel_port, incarnation, unpacked16(address)))
    return Members(tuple(entries))


def _decode_leave(_body: bytes) -> Leaving:
    return Leaving()


def _encode_who_has(asked: WhoHas) -> bytes:
    return _NUMBER.pack(asked.number) + b"".join(
        _QUESTION.pack(row.family, row.index, row.client_port, row.seq, row.ack, row.address)
        for row in asked.questions
    )


def _check_family(family: int, address: bytes) -> None:
    if family not in (4, 6) or (family == 4 and any(address[4:])):
        raise PeerError("malformed_body")


def _decode_who_has(body: bytes) -> WhoHas:
    (number,) = _fixed(_NUMBER, body)
    rows = _rows(_QUESTION, body[_NUMBER.size :], QUESTIONS_IN_SECTION)
    questions = tuple(Question(*row) for row in rows)
    for row in questions:
        _check_family(row.family, row.address)
    return WhoHas(number, questions)


def _encode_not_mine(told: NotMine) -> bytes:
    return b"".join(
        _STRAY.pack(row.family, row.index, row.client_port, row.address) for row in told.strays
    )


def _decode_not_mine(body: bytes) -> NotMine:
    strays = tuple(Stray(*row) for row in _rows(_STRAY, body, STRAYS_IN_SECTION))
    for row in strays:
        _check_family(row.family, row.address)
    return NotMine(strays)


def _decode_nack(body: bytes) -> Nack:
    ranges: list[tuple[int, int]] = []
    for first, count, _ in _rows(_RANGE, body, RANGES_IN_SECTION):
        if not 1 <= count <= BATCHES_IN_RANGE or first > BATCH_NUMBER_MAX:
            raise PeerError("malformed_body")
        ranges.append((first, count))
    return Nack(tuple(ranges))


def _encode_sums(sums: Sums) -> bytes:
    head = _SUMS.pack(sums.position, sums.first, sums.buckets)
    return head + struct.pack(f"!{len(sums.sums)}Q", *sums.sums)


def _decode_sums(body: bytes) -> Sums:
    position, first, buckets = _fixed(_SUMS, body)
    rows = _rows(_SUM, body[_SUMS.size :], ROOM_MAX.sums)
    values = tuple(value for (value,) in rows)
    if not first + len(values) <= buckets <= BUCKETS_MAX:
        raise PeerError("malformed_body")
    return Sums(position, first, buckets, values)


def _decode_pull_buckets(body: bytes) -> PullBuckets:
    (request,) = _fixed(_NUMBER, body)
    bitmap = body[_NUMBER.size :]
    if not 1 <= len(bitmap) <= BUCKETS_MAX // 8:
        raise PeerError("malformed_body")
    return PullBuckets(request, bitmap)


def _decode_accusation(body: bytes) -> Accusation:
    host, _, _, incarnation = _fixed(_ACCUSATION, body)
    return Accusation(host, incarnation)


def _decode_duplicate(body: bytes) -> Duplicate:
    host, _, _, incarnation = _fixed(_DUPLICATE, body)
    return Duplicate(host, incarnation)


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    SectionKind.BATCH: _decode_batch,
    SectionKind.HEARTBEAT: _decode_heartbeat,
    SectionKind.SERVICES: _decode_services,
    SectionKind.HELLO: _decode_hello,
    SectionKind.WELCOME: _decode_welcome,
    SectionKind.MEMBERS: _decode_members,
    SectionKind.SHARD: lambda body: Shard(*_fixed(_SHARD, body)),
    SectionKind.SHARD_END: lambda body: ShardEnd(*_fixed(_SHARD_END, body)),
    SectionKind.LEAVE: _decode_leave,
    SectionKind.WHO_HAS: _decode_who_has,
    SectionKind.ANSWER: lambda body: Answer(*_fixed(_ANSWER, body)),
    SectionKind.NOT_MINE: _decode_not_mine,
    SectionKind.DUPLICATE: _decode_duplicate,
    SectionKind.NACK: _decode_nack,
    SectionKind.SUMS: _decode_sums,
    SectionKind.GONE: lambda body: Gone(*_fixed(_GONE, body)),
    SectionKind.ASK_SUMS: lambda body: AskSums(),
    SectionKind.PULL_BUCKETS: _decode_pull_buckets,
    SectionKind.ACCUSATION: _decode_accusation,
}

_ENCODERS: dict[type, tuple[SectionKind, Callable[[Any], bytes]]] = {
    Batch: (SectionKind.BATCH, lambda m: _BATCH.pack(m.number, m.clock)),
    Heartbeat: (SectionKind.HEARTBEAT, _encode_heartbeat),
    Services: (SectionKind.SERVICES, _encode_services),
    Hello: (SectionKind.HELLO, lambda m: _HELLO.pack(m.request, m.pull | m.members << 1)),
    Welcome: (SectionKind.WELCOME, lambda m: _WELCOME.pack(m.request, m.host, 0, m.incarnation)),
    Members: (SectionKind.MEMBERS, _encode_members),
    Shard: (SectionKind.SHARD, lambda m: _SHARD.pack(m.request, m.number, m.position)),
    ShardEnd: (SectionKind.SHARD_END, lambda m: _SHARD_END.pack(m.request, m.count, m.position)),
    Leaving: (SectionKind.LEAVE, lambda m: b""),
    WhoHas: (SectionKind.WHO_HAS, _encode_who_has),
    Answer: (SectionKind.ANSWER, lambda m: _ANSWER.pack(m.number, m.not_mine, m.view)),
    NotMine: (SectionKind.NOT_MINE, _encode_not_mine),
    Duplicate: (SectionKind.DUPLICATE, lambda m: _DUPLICATE.pack(m.host, 0, 0, m.incarnation)),
    Nack: (SectionKind.NACK, lambda m: b"".join(_RANGE.pack(*row, 0) for row in m.ranges)),
    Sums: (SectionKind.SUMS, _encode_sums),
    Gone: (SectionKind.GONE, lambda m: _GONE.pack(m.lowest)),
    AskSums: (SectionKind.ASK_SUMS, lambda m: b""),
    PullBuckets: (SectionKind.PULL_BUCKETS, lambda m: _NUMBER.pack(m.request) + m.bitmap),
    Accusation: (SectionKind.ACCUSATION, lambda m: _ACCUSATION.pack(m.host, 0, 0, m.incarnation)),
}
