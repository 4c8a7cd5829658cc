# SPDX-License-Identifier: BSD-2-Clause
"""Reads and writes an opened payload, from docs/wire-format.md alone: the package's is not used.

One table says everything. A layout is written as on that page, field by field: `name:bytes`, `-`
for reserved ones, `&3` where only two bits count. A field of 16 bytes is an
address and stays bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Fields = dict[str, Any]
Section = tuple[str, Fields]  # name; the fields, and "rows" where there are some

SECTIONS_MAX = 64
SECTION_HEAD = 4
BATCHES = 1 << 63  # batch numbers stay below


class RefusedError(Exception):
    """The page says that such a payload is malformed."""


@dataclass(frozen=True)
class Layout:
    """A section's body: a head, then `least` to `most` rows; and what may stand there."""

    name: str
    head: str = ""
    row: str = ""
    least: int = 1
    most: int = 0
    head_may: Callable[[Fields], bool] = lambda head: True
    row_may: Callable[[Fields], bool] = lambda row: True
    all_may: Callable[[Fields, list[Fields]], bool] = lambda head, rows: True


def _is_client(row: Fields) -> bool:
    return row["family"] == 6 or (row["family"] == 4 and row["address"][4:] == bytes(12))


_ABOUT_START = "host:2 -:2 -:4 incarnation:8"
_CLIENT = "family:1 -:1 index:2 client_port:2 -:2"

LAYOUTS = {
    0x01: Layout("BATCH", "number:8 clock:8", head_may=lambda h: h["number"] < BATCHES),
    0x02: Layout(
        "HEARTBEAT",
        "state:1 version:1 tunnel_port:2 older:1 -:3 address:16 last_batch:8 digest:8 sessions:8",
        head_may=lambda h: (
            h["state"] in {1, 2, 3}
            and h["tunnel_port"] != 0
            and h["last_batch"] < BATCHES
            and h["older"] < h["version"]
        ),
    ),
    0x03: Layout(
        *("SERVICES", "generation:4 -:4", "index:2 port:2 protocol:1 -:3 vip:16"),
        *(0, 55),
    ),
    0x04: Layout("HELLO", "request:4 wanted:1&3 -:3"),
    0x05: Layout("WELCOME", "request:4 host:2 -:2 incarnation:8"),
    0x06: Layout(
        *("MEMBERS", "", "host:2 tunnel_port:2 -:4 incarnation:8 address:16", 1, 39),
        row_may=lambda row: row["host"] <= 65000 and row["tunnel_port"] != 0,
    ),
    0x07: Layout("SHARD", "request:4 number:4 position:8"),
    0x08: Layout("SHARD_END", "request:4 count:4 position:8"),
    0x09: Layout("LEAVE"),
    0x0A: Layout(
        *("WHO_HAS", "number:4 -:4", _CLIENT + " seq:4 ack:4 address:16", 1, 32),
        row_may=_is_client,
    ),
    0x0B: Layout("ANSWER", "number:4 not_mine:4 view:8"),
    0x0C: Layout("NOT_MINE", "", _CLIENT + " address:16", 1, 32, row_may=_is_client),
    0x0D: Layout("DUPLICATE", _ABOUT_START),
    0x0E: Layout(
        *("NACK", "", "first:8 count:4 -:4", 1, 32),
        row_may=lambda row: row["first"] < BATCHES and 1 <= row["count"] <= 4096,
    ),
    0x0F: Layout(
        *("SUMS", "position:8 first:2 buckets:2 -:4", "sum:8", 1, 166),
        all_may=lambda h, rows: h["first"] + len(rows) <= h["buckets"] <= 8192,
    ),
    0x20: Layout("GONE", "lowest:8"),
    0x21: Layout("ASK_SUMS"),
    0x22: Layout("PULL_BUCKETS", "request:4 -:4", "bits:1", 1, 1024),
    0x23: Layout("ACCUSATION", _ABOUT_START),
}
RECORDS = {
    0x10: ("OPEN", 4),
    0x11: ("CLOSE", 4),
    0x12: ("LINGER", 4),
    0x18: ("OPEN", 16),
    0x19: ("CLOSE", 16),
    0x1A: ("LINGER", 16),
}
"""Kind: meaning, and bytes of the client's address."""

Record = tuple[str, bytes, int, int]  # meaning, client address, client port, service index


class Cursor:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise RefusedError(f"{size} bytes of {len(self.rest)}")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self, size: int) -> int:
        value = 0
        for octet in self.take(size):
            value = value * 256 + octet
        return value


def fields_of(spec: str) -> Iterator[tuple[str, int, int]]:
    """Name, size, and the bits that count."""
    for word in spec.split():
        name, _, size = word.partition(":")
        size, _, mask = size.partition("&")
        yield name, int(size), int(mask) if mask else (1 << 8 * int(size)) - 1


def size_of(spec: str) -> int:
    return sum(size for _, size, _ in fields_of(spec))


def _read_fields(spec: str, cursor: Cursor) -> Fields:
    read: Fields = {}
    for name, size, mask in fields_of(spec):
        value = cursor.take(size) if size == 16 else cursor.number(size) & mask
        if name != "-":
            read[name] = value
    return read


def _read_body(layout: Layout, body: bytes) -> Fields:
    cursor = Cursor(body)
    head = _read_fields(layout.head, cursor)
    if not layout.head_may(head):
        raise RefusedError(f"{layout.name} has {head}")
    if not layout.row:
        return head  # what follows is for later versions
    rows = []
    while cursor.rest:
        rows.append(_read_fields(layout.row, cursor))
        if len(rows) > layout.most or not layout.row_may(rows[-1]):
            raise RefusedError(f"{layout.name} has {rows[-1]} as row {len(rows)}")
    if len(rows) < layout.least or not layout.all_may(head, rows):
        raise RefusedError(f"{layout.name} has {len(rows)} rows behind {head}")
    if layout.name == "SERVICES":
        rows = [row for row in rows if row["protocol"] in {6, 17}]
    return head | {"rows": rows}


def read_payload(payload: bytes) -> list[Section]:
    """All sections. Records stay bytes: {"kind", "body"}; an unknown section is its kind.

    Raises:
        RefusedError: one is malformed, so none counts.
    """
    cursor, sections = Cursor(payload), list[Section]()
    while cursor.rest:
        kind, _flags, size = cursor.number(1), cursor.number(1), cursor.number(2)
        body = cursor.take(size)
        if len(sections) == SECTIONS_MAX:
            raise RefusedError("too many sections")
        if kind in RECORDS:
            sections.append(("RECORDS", {"kind": kind, "body": body}))
        elif kind in LAYOUTS:
            sections.append((LAYOUTS[kind].name, _read_body(LAYOUTS[kind], body)))
        else:
            sections.append(("UNKNOWN", {"kind": kind}))
    return sections


def read_records(kind: int, body: bytes) -> list[Record]:
    """The sessions that one record section is about.

    Raises:
        RefusedError: no whole number of records.
    """
    meaning, address_len = RECORDS[kind]
    cursor, records = Cursor(body), list[Record]()
    while cursor.rest:
        address = cursor.take(address_len)
        records.append((meaning, address, cursor.number(2), cursor.number(2)))
    return records


def _write_fields(spec: str, values: Fields) -> bytes:
    written = b""
    for name, size, _ in fields_of(spec):
        value = values.get(name, 0)  # reserved and left out fields are sent as zero
        written += value if isinstance(value, bytes) else value.to_bytes(size, "big")
    return written


def _write_section(kind: int, body: bytes) -> bytes:
    return bytes([kind, 0]) + len(body).to_bytes(2, "big") + body


def write_payload(sections: list[Section]) -> bytes:
    """Sections of `LAYOUTS`, by name; nothing is checked: a test may want it malformed."""
    kinds = {layout.name: kind for kind, layout in LAYOUTS.items()}
    written = b""
    for name, fields in sections:
        layout = LAYOUTS[kinds[name]]
        rows = b"".join(_write_fields(layout.row, row) for row in fields.get("rows", ()))
        written += _write_section(kinds[name], _write_fields(layout.head, fields) + rows)
    return written


def write_records(records: list[Record]) -> bytes:
    """Record sections in the order of the records; neighbours of one kind share a section."""
    kinds = {meaning: kind for kind, meaning in RECORDS.items()}
    written, body, open_kind = b"", b"", 0
    for meaning, address, port, index in records:
        kind = kinds[meaning, len(address)]
        if body and kind != open_kind:
            written, body = written + _write_section(open_kind, body), b""
        open_kind = kind
        body += address + port.to_bytes(2, "big") + index.to_bytes(2, "big")
    return written + (_write_section(open_kind, body) if body else b"")
