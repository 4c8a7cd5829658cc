# SPDX-License-Identifier: BSD-2-Clause
"""The package's decoders against a second one that was written from the page alone."""

from __future__ import annotations

import errno
import os
import re
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip import _native
from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip import messages as m
from pyxdp_gossip.gossip import wire
from pyxdp_gossip.session import packed16
from tests.unit.second_decoder import (
    LAYOUTS,
    RECORDS,
    SECTION_HEAD,
    SECTIONS_MAX,
    Layout,
    Record,
    RefusedError,
    Section,
    fields_of,
    read_payload,
    read_records,
    size_of,
    write_payload,
    write_records,
)

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = {"tcp": 6, "udp": 17}


# ---- the package's messages, as the second decoder says them ----


def rows_of(rows: Any, *names: str) -> list[dict[str, Any]]:
    """The named attributes of each row; an address as its 16 bytes."""
    return [
        {
            name: packed16(value) if name == "address" and not isinstance(value, bytes) else value
            for name in names
            for value in [getattr(row, name)]
        }
        for row in rows
    ]


def attributes(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda message: rows_of([message], *names)[0]


CLIENT = ("family", "index", "client_port")
PLAIN: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    m.Batch: ("BATCH", attributes("number", "clock")),
    m.Heartbeat: (
        "HEARTBEAT",
        lambda b: {
            **attributes("state", "tunnel_port", "address", "last_batch", "digest", "sessions")(b),
            "version": b.versions.highest,
            "older": b.versions.highest - b.versions.lowest,
        },
    ),
    m.Services: (
        "SERVICES",
        lambda s: {
            "generation": s.generation,
            "rows": [
                {
                    "index": index,
                    "port": service.port,
                    "protocol": PROTOCOLS[service.protocol],
                    "vip": packed16(service.vip),
                }
                for index, service in s.entries
            ],
        },
    ),
    m.Hello: (
        "HELLO",
        lambda hello: {"request": hello.request, "wanted": hello.pull | hello.members << 1},
    ),
    m.Welcome: ("WELCOME", attributes("request", "host", "incarnation")),
    m.Members: (
        "MEMBERS",
        lambda s: {"rows": rows_of(s.entries, "host", "tunnel_port", "incarnation", "address")},
    ),
    m.Shard: ("SHARD", attributes("request", "number", "position")),
    m.ShardEnd: ("SHARD_END", attributes("request", "count", "position")),
    m.Leaving: ("LEAVE", attributes()),
    m.WhoHas: (
        "WHO_HAS",
        lambda s: {
            "number": s.number,
            "rows": rows_of(s.questions, *CLIENT, "seq", "ack", "address"),
        },
    ),
    m.Answer: ("ANSWER", attributes("number", "not_mine", "view")),
    m.NotMine: ("NOT_MINE", lambda s: {"rows": rows_of(s.strays, *CLIENT, "address")}),
    m.Duplicate: ("DUPLICATE", attributes("host", "incarnation")),
    m.Nack: ("NACK", lambda s: {"rows": [{"first": a, "count": n} for a, n in s.ranges]}),
    m.Sums: (
        "SUMS",
        lambda s: (
            attributes("position", "first", "buckets")(s)
            | {"rows": [{"sum": value} for value in s.sums]}
        ),
    ),
    m.Gone: ("GONE", attributes("lowest")),
    m.AskSums: ("ASK_SUMS", attributes()),
    m.PullBuckets: (
        "PULL_BUCKETS",
        lambda s: {"request": s.request, "rows": [{"bits": bits} for bits in s.bitmap]},
    ),
    m.Accusation: ("ACCUSATION", attributes("host", "incarnation")),
    m.Records: ("RECORDS", attributes("kind", "body")),
    m.Unknown: ("UNKNOWN", attributes("kind")),
}


def by_the_package(payload: bytes) -> list[Section] | None:
    """None: refused."""
    try:
        decoded = wire.decode_payload(payload)
    except PeerError:
        return None
    return [(PLAIN[type(one)][0], PLAIN[type(one)][1](one)) for one in decoded]


def by_the_page(payload: bytes) -> list[Section] | None:
    try:
        return read_payload(payload)
    except RefusedError:
        return None


# ---- what is fed to both ----

USUAL = {
    "state": st.integers(1, 3),
    "tunnel_port": st.integers(1, 65535),
    "version": st.integers(128, 255),
    "older": st.integers(0, 127),
    "number": st.integers(0, 2**31),
    "last_batch": st.one_of(st.integers(0, 9), st.just(2**63 - 1)),
    "first": st.integers(0, 700),
    "buckets": st.sampled_from([1024, 8192]),
    "count": st.one_of(st.integers(1, 9), st.just(4096)),
    "host": st.integers(0, 65000),
    "protocol": st.sampled_from([6, 17, 17, 6, 132]),
    "wanted": st.integers(0, 3),
    "family": st.just(6),
}
"""Values that a section may have, where not every value is one; the rest is any."""


def values_of(spec: str) -> st.SearchStrategy[dict[str, Any]]:
    rows = {
        name: st.binary(min_size=16, max_size=16)
        if size == 16
        else USUAL.get(name, st.integers(0, (1 << 8 * size) - 1))
        for name, size, _ in fields_of(spec)
        if name != "-"
    }
    return st.fixed_dictionaries(rows).map(
        lambda row: (
            row | {"address": row["address"][:4] + bytes(12), "family": 4}
            if "family" in row and row["address"][0] & 1
            else row
        )
    )


def sections_of(layout: Layout) -> st.SearchStrategy[Section]:
    most = min(layout.most, 40)  # more of the same finds nothing; the limits have their own test
    rows = st.lists(values_of(layout.row), min_size=layout.least, max_size=most)
    body = values_of(layout.head)
    if layout.row:
        body = st.tuples(body, rows).map(lambda pair: pair[0] | {"rows": pair[1]})
    return body.map(lambda fields: (layout.name, fields))


valid = st.lists(
    st.one_of([sections_of(layout) for layout in LAYOUTS.values()]), min_size=1, max_size=4
)
KINDS = sorted({*LAYOUTS, *RECORDS, 0x00, 0x13, 0x1F, 0x24, 0xFF})


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid payload with some bytes changed, cut out or put in."""
    payload = write_payload(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(payload)))
        cut = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 16]))
        payload = payload[:at] + draw(st.binary(max_size=cut)) + payload[at + cut :]
    return payload


arbitrary = st.lists(
    st.tuples(st.sampled_from(KINDS), st.binary(max_size=80)), min_size=1, max_size=4
).map(lambda rows: b"".join(bytes([k, 0, 0, len(body)]) + body for k, body in rows))


# ---- sections ----


@settings(deadline=None, max_examples=300)
@given(valid)
def test_a_valid_payload_means_the_same_to_both_and_is_written_the_same(
    sections: list[Section],
) -> None:
    payload = write_payload(sections)
    assert by_the_package(payload) == by_the_page(payload)
    assert by_the_page(payload) is not None
    again = b"".join(map(wire.encode_message, wire.decode_payload(payload)))
    if not any(row.get("protocol") == 132 for _, f in sections for row in f.get("rows", ())):
        assert again == payload


@settings(deadline=None, max_examples=500)
@given(st.one_of(mutated(), arbitrary))
def test_any_payload_means_the_same_to_both_or_both_refuse_it(payload: bytes) -> None:
    assert by_the_package(payload) == by_the_page(payload)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_mean_the_same_to_both_or_both_refuse_them(payload: bytes) -> None:
    assert by_the_package(payload) == by_the_page(payload)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@pytest.mark.parametrize("fill", [0x00, 0x01, 0x06, 0xFF])
def test_bodies_of_every_size_mean_the_same_to_both(layout: Layout, fill: int) -> None:
    """Each size up to three rows, and each around the most rows."""
    (kind,) = (kind for kind, one in LAYOUTS.items() if one is layout)
    head, row = size_of(layout.head), size_of(layout.row)
    last = head + row * layout.most
    for size in (*range(head + 3 * row + 10), *range(last - row, last + row + 2)):
        payload = bytes([kind, 0]) + size.to_bytes(2, "big") + bytes([fill]) * size
        assert by_the_package(payload) == by_the_page(payload), size


@pytest.mark.parametrize("layout", [one for one in LAYOUTS.values() if one.row],
                         ids=lambda layout: layout.name)  # fmt: skip
def test_as_many_rows_as_the_page_allows_and_not_one_more(layout: Layout) -> None:
    usual = {"family": 6, "tunnel_port": 1, "protocol": 6, "count": 1, "buckets": 8192}
    row = {
        name: bytes(16) if size == 16 else usual.get(name, 0)
        for name, size, _ in fields_of(layout.row)
    }
    head = {name: usual.get(name, 0) for name, _, _ in fields_of(layout.head)}
    for count in (layout.least, layout.most):
        payload = write_payload([(layout.name, head | {"rows": [row] * count})])
        assert by_the_page(payload) == by_the_package(payload)
        assert by_the_page(payload) is not None
    payload = write_payload([(layout.name, head | {"rows": [row] * (layout.most + 1)})])
    assert by_the_page(payload) is by_the_package(payload) is None


def sums(first: int, buckets: int, rows: int) -> Section:
    return "SUMS", {"first": first, "buckets": buckets, "rows": [{"sum": 1}] * rows}


def stray(family: int, address: bytes) -> Section:
    return "NOT_MINE", {"rows": [{"family": family, "address": address}]}


def heartbeat(
    state: int = 1, tunnel_port: int = 1, last_batch: int = 0, version: int = 1, older: int = 0
) -> Section:
    log = {"last_batch": last_batch, "version": version, "older": older}
    return "HEARTBEAT", {"state": state, "tunnel_port": tunnel_port, **log}


EDGES: list[tuple[Section, bool]] = [
    *((heartbeat(state=state), state in {1, 2, 3}) for state in (0, 1, 2, 3, 4, 255)),
    *((heartbeat(tunnel_port=port), port > 0) for port in (0, 1, 65535)),
    *((heartbeat(last_batch=n), n < 2**63) for n in (2**63 - 1, 2**63)),
    *((heartbeat(version=n, older=n - 1), True) for n in (1, 255)),
    *((heartbeat(version=n, older=n), False) for n in (0, 1, 255)),
    (sums(1022, 1024, 2), True),
    (sums(1023, 1024, 2), False),
    (sums(8191, 8192, 1), True),
    (sums(0, 8193, 1), False),
    *((stray(6, bytes(place) + b"\1" + bytes(15 - place)), True) for place in range(16)),
    *((stray(4, bytes(place) + b"\1" + bytes(15 - place)), place < 4) for place in range(16)),
    (stray(5, bytes(16)), False),
    *((("NACK", {"rows": [{"first": 2**63 - 1, "count": n}]}), n == 4096) for n in (4096, 4097)),
    *((("NACK", {"rows": [{"first": n, "count": 1}]}), n < 2**63) for n in (2**63 - 1, 2**63)),
    *((("BATCH", {"number": n}), n < 2**63) for n in (2**63 - 1, 2**63)),
    *(
        (("MEMBERS", {"rows": [{"host": host, "tunnel_port": port}]}), host < 65001 and port > 0)
        for host in (65000, 65001)
        for port in (0, 1)
    ),
]


@pytest.mark.parametrize(("section", "is_valid"), EDGES)
def test_both_draw_each_line_where_the_page_draws_it(section: Section, is_valid: bool) -> None:
    payload = write_payload([section])
    assert by_the_page(payload) == by_the_package(payload)
    assert (by_the_page(payload) is not None) is is_valid


def test_both_count_sections_alike() -> None:
    leave = write_payload([("LEAVE", {})])
    assert by_the_page(leave * SECTIONS_MAX) == by_the_package(leave * SECTIONS_MAX)
    assert by_the_page(leave * (SECTIONS_MAX + 1)) is None
    assert by_the_package(leave * (SECTIONS_MAX + 1)) is None


def test_the_second_decoder_knows_every_section_that_the_package_knows() -> None:
    assert {int(kind): kind.name for kind in wire.SectionKind} == {
        kind: layout.name for kind, layout in LAYOUTS.items()
    }
    assert set(RECORDS) == wire.RECORD_KINDS
    assert set(PLAIN) == set(m.Message.__args__)


def test_the_page_states_the_size_of_every_section_that_has_a_body() -> None:
    page = (ROOT / "docs/wire-format.md").read_text()
    headings = dict(re.findall(r"^### ([A-Z_]+), (.*)$", page, re.MULTILINE))
    for layout in LAYOUTS.values():
        sizes = [int(number) for number in re.findall(r"\b(\d+)\b", headings.get(layout.name, ""))]
        head, row = size_of(layout.head), size_of(layout.row)
        if row <= 1:  # no rows, or a bitmap
            assert sizes == ([head] if head else []), layout.name
        else:
            assert sizes[-1] == row, layout.name
            assert sizes[0] == (head or sizes[0]), layout.name
    for kind, layout in LAYOUTS.items():
        assert f"| 0x{kind:02x} | {layout.name} |" in page


# ---- records ----

HOSTS = 8
SLOTS = array("H", range(16))
EVENT_KINDS = {"OPEN": 1, "CLOSE": 2, "LINGER": 3}


class Tables:
    """Tables and log of one host."""

    def __init__(self, host: int) -> None:
        self.owners = _native.OwnerStates()
        for other in range(HOSTS):
            self.owners.activate(other)
        self.table4 = _native.SessionTable(4, 256, self.owners)
        self.table6 = _native.SessionTable(6, 256, self.owners)
        self.log = _native.OwnershipLog(self.table4, self.table6, host)

    def live_owner(self, address: bytes, port: int, slot: int) -> int | None:
        if len(address) == 4:
            entry = self.table4.get(_native.pack_key4(address, port, slot))
        else:
            entry = self.table6.get(_native.pack_key6(address, port, slot))
        return None if entry is None or entry.flags else entry.owner

    def apply(self, kind: int, body: bytes, position: int) -> _native.ApplyResult:
        return self.log.apply(2, kind, body, SLOTS, clock=1, position=position, now_ms=0)


def event_of(record: Record) -> bytes:
    """struct xg_event of csrc/xg_types.h."""
    meaning, address, port, slot = record
    family = 4 if len(address) == 4 else 6
    head = bytes([EVENT_KINDS[meaning], family]) + slot.to_bytes(2, "little")
    return head + port.to_bytes(2, "big") + bytes(10) + address.ljust(16, b"\0") + bytes(8)


def told(data: bytes) -> list[Record]:
    """Every record of some sections, in order, by the second decoder."""
    sections = read_payload(data)
    assert {name for name, _ in sections} <= {"RECORDS"}
    return [record for _, fields in sections for record in read_records(**fields)]


def live_after(records: list[Record]) -> set[tuple[bytes, int, int]]:
    live = set()
    for meaning, *session in records:
        (live.add if meaning == "OPEN" else live.discard)(tuple(session))
    return live


session = st.tuples(
    st.sampled_from([b"\1\2\3\4", b"\1\2\3\5", bytes(16), bytes(15) + b"\1"]),
    st.sampled_from([1, 0x0102, 65535]),
    st.integers(0, 2),
)
records = st.lists(
    st.tuples(st.sampled_from(sorted(EVENT_KINDS)), session).map(lambda pair: (pair[0], *pair[1])),
    max_size=40,
)


@settings(deadline=None)
@given(st.lists(records, max_size=5), st.integers(24, 200))
def test_what_the_codec_tells_reads_as_the_sessions_that_are_open(
    flushes: list[list[Record]], budget: int
) -> None:
    host = Tables(1)
    heard: list[Record] = []
    for position, happened in enumerate(flushes, 1):
        events = b"".join(map(event_of, happened))
        host.log.absorb(events, clock=position, position=position, now_ms=0)
        while host.log.pending:
            data = host.log.encode(budget)
            assert 0 < len(data) <= budget
            heard += told(data)
    everything = [record for happened in flushes for record in happened]
    assert live_after(heard) == live_after(everything)


@settings(deadline=None)
@given(records, st.integers(24, 200))
def test_a_shard_reads_as_the_sessions_that_are_open(happened: list[Record], budget: int) -> None:
    host = Tables(1)
    host.log.absorb(b"".join(map(event_of, happened)), clock=1, position=1, now_ms=0)
    read: list[Record] = []
    for family in (4, 6):
        cursor: int | None = 0
        while cursor is not None:
            data, cursor = host.log.shard(family, cursor, budget)
            read += told(data)
    assert {meaning for meaning, *_ in read} <= {"OPEN"}
    assert sorted(tuple(rest) for _, *rest in read) == sorted(live_after(happened))


@settings(deadline=None)
@given(records)
def test_what_the_second_encoder_writes_is_applied_by_the_codec(happened: list[Record]) -> None:
    host = Tables(1)
    for position, record in enumerate(happened, 1):
        data = write_records([record])
        assert told(data) == [record]
        host.apply(data[0], data[SECTION_HEAD:], position)
    live = live_after(happened)
    for _, *rest in happened:
        assert host.live_owner(*rest) == (2 if tuple(rest) in live else None)


@settings(deadline=None)
@given(st.lists(session, unique=True, max_size=60))
def test_sections_of_many_records_are_applied_whole(opened: list[tuple[bytes, int, int]]) -> None:
    host = Tables(1)
    data = write_records(sorted((("OPEN", *one) for one in opened), key=lambda r: len(r[1])))
    applied = 0
    for _, fields in read_payload(data):
        applied += host.apply(fields["kind"], fields["body"], 1).applied
    assert applied == len(opened)
    assert all(host.live_owner(*one) == 2 for one in opened)


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_bodies_that_are_no_whole_records_are_refused_by_both(kind: int) -> None:
    for size in range(90):
        body = bytes(size)
        try:
            count = len(read_records(kind, body))
        except RefusedError:
            with pytest.raises(OSError, match=os.strerror(errno.EBADMSG)):
                Tables(1).apply(kind, body, 1)
        else:
            result = Tables(1).apply(kind, body, 1)
            assert (result.unknown_service, result.refused) == (0, 0)
            assert count * (8 if kind < 0x18 else 20) == size


@pytest.mark.parametrize("kind", sorted(set(range(0x10, 0x20)) - set(RECORDS)))
def test_kinds_between_the_records_are_unknown_to_all_three(kind: int) -> None:
    payload = bytes([kind, 0, 0, 8]) + bytes(8)
    assert by_the_page(payload) == by_the_package(payload) == [("UNKNOWN", {"kind": kind})]
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        Tables(1).apply(kind, bytes(8), 1)
