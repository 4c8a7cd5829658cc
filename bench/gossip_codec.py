# SPDX-License-Identifier: BSD-2-Clause
"""The records alone, on one core: applied from full sections, and written into full batches."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from bench import machine
from bench.gossip_figures import Effort, Row, row
from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.gossip.records import EVENT, EventKind, EventRecord
from pyxdp_gossip.gossip.wire import ROOM_MAX, SECTION

OWN, PEER = 1, 2
OPEN4, CLOSE4 = 0x10, 0x11  # XG_SECTION_OPEN4, XG_SECTION_CLOSE4
RECORD_BYTES: Final = 8
FULL: Final = (ROOM_MAX.batch - SECTION.size) // RECORD_BYTES  # records of a full datagram
PORTS: Final = [struct.pack("!HH", port, 0) for port in range(1024, 51024)]
BATCHES: Final = 2000  # of a measurement: 332,000 records, tens of milliseconds
FIRST_CLIENT: Final = 10 << 24
TRANSLATION: Final = bytes(2)  # their service 0 is ours
SERVICE_ID: Final = bytes(8)
APPLY_TARGETS: Final = {1_000_000: "10 M/s", 10_000_000: "5 M/s"}
MILLION: Final = 1e6


def open_bodies(first: int) -> Iterator[bytes]:
    """The records of 50,000 sessions each, no session twice; `first` counts these portions."""
    portion = first
    while True:
        client = (FIRST_CLIENT + portion).to_bytes(4, "big")
        yield b"".join(map(client.__add__, PORTS))
        portion += 1


def bodies_of(first: int, sessions: int) -> bytes:
    """The records of so many sessions; `first` as above."""
    parts = []
    portions = open_bodies(first)
    for _ in range(-(-sessions // len(PORTS))):
        parts.append(next(portions))
    return b"".join(parts)[: sessions * RECORD_BYTES]


def cut(body: bytes) -> list[bytes]:
    """Full sections' bodies."""
    step = FULL * RECORD_BYTES
    return [body[at : at + step] for at in range(0, len(body) - step + 1, step)]


def new_log(sessions: int) -> tuple[OwnershipLog, SessionTable]:
    """A codec over a table for so many IPv4 sessions; OWN and PEER are active."""
    owners = OwnerStates()
    owners.activate(OWN)
    owners.activate(PEER)
    table4 = SessionTable(4, buckets_for(sessions), owners)
    log = OwnershipLog(table4, SessionTable(6, 2, owners), OWN)
    log.set_services(SERVICE_ID)
    for host in (OWN, PEER):
        log.begin_owner(host, host)  # digests are kept, as in an agent
    return log, table4


class Applier:
    """A peer's log, as it enters a table."""

    def __init__(self, log: OwnershipLog) -> None:
        self._log = log
        self._position = 0

    def apply(self, kind: int, bodies: list[bytes]) -> float:
        """Seconds that it took; every record must change the table."""
        apply, position = self._log.apply, self._position
        begin = time.perf_counter()
        results = [
            apply(PEER, kind, body, TRANSLATION, clock=number, position=number, now_ms=1)
            for number, body in enumerate(bodies, position + 1)
        ]
        taken = time.perf_counter() - begin
        self._position += len(bodies)
        applied = sum(result.applied for result in results)
        if applied != sum(map(len, bodies)) // RECORD_BYTES:
            raise RuntimeError(f"only {applied} records were applied")
        return taken


def apply_row(sessions: int, repeats: int) -> Row:
    """Opens of new sessions in a table of so many, full datagram by full datagram."""
    batches = min(BATCHES, sessions // FULL // 4)
    log, _table = new_log(sessions + batches * FULL)
    applier = Applier(log)
    whole = bodies_of(0, sessions)
    step = 1_000_000 * RECORD_BYTES
    applier.apply(OPEN4, [whole[at : at + step] for at in range(0, len(whole), step)])
    fresh = cut(bodies_of(1 + sessions // len(PORTS), batches * FULL))
    closes: list[float] = []

    def opened() -> float:
        rate = batches * FULL / applier.apply(OPEN4, fresh) / MILLION
        closes.append(batches * FULL / applier.apply(CLOSE4, fresh) / MILLION)
        return rate

    spread = machine.repeat(opened, repeats)
    return row(
        "apply",
        spread["value"],
        "M records/s",
        APPLY_TARGETS.get(sessions, "10 M/s"),
        entries=sessions,
        **{key: spread[key] for key in machine.SPREAD},
        closes=round(sorted(closes)[len(closes) // 2], 2),
        records_a_section=FULL,
    )


def events(sessions: int) -> bytes:
    """OPENs as the kernel tells them."""
    made = []
    for number in range(sessions):
        client = FIRST_CLIENT + number // len(PORTS)
        record = EventRecord(
            kind=EventKind.OPEN,
            family=4,
            slot=0,
            client_port=1024 + number % len(PORTS),
            host=0,
            seq=0,
            ack=0,
            address=client.to_bytes(4, "big").ljust(16, b"\0"),
            at=1,
        )
        made.append(record.pack())
    return b"".join(made)


def absorb_and_encode(batches: list[bytes]) -> float:
    """Seconds for events into full batches: a table of that size, one batch after the other."""
    log, _table = new_log(len(batches) * FULL)
    begin = time.perf_counter()
    for number, records in enumerate(batches, 1):
        log.absorb(records, clock=number, position=number, now_ms=1)
        log.encode(ROOM_MAX.batch)
    taken = time.perf_counter() - begin
    if log.pending:
        raise RuntimeError("a batch was not full")
    return taken


def shard_seconds(log: OwnershipLog, expected: int) -> float:
    """Seconds to write a whole shard, datagram by datagram."""
    cursor: int | None = 0
    size = 0
    begin = time.perf_counter()
    while cursor is not None:
        records, cursor = log.shard(4, cursor, ROOM_MAX.shard)
        size += max(0, len(records) - SECTION.size)
    taken = time.perf_counter() - begin
    if size != expected * RECORD_BYTES:
        raise RuntimeError(f"a shard of {expected} sessions has {size} bytes of records")
    return taken


def encode_rows(sessions: int, repeats: int) -> list[Row]:
    """Both ways in which a host writes its own sessions."""
    count = sessions // FULL
    records = events(count * FULL)
    step = FULL * EVENT.size
    batches = [records[at : at + step] for at in range(0, len(records), step)]
    full, _table = new_log(count * FULL)
    for number, part in enumerate(batches, 1):
        full.absorb(part, clock=number, position=number, now_ms=1)
        full.encode(ROOM_MAX.batch)

    def rate(seconds: Callable[[], float]) -> Callable[[], float]:
        return lambda: count * FULL / seconds() / MILLION

    cases: tuple[tuple[dict[str, str], Callable[[], float]], ...] = (
        ({}, rate(lambda: absorb_and_encode(batches))),
        ({"case": "shard"}, rate(lambda: shard_seconds(full, count * FULL))),
    )
    rows = []
    for labels, measure in cases:
        spread = machine.repeat(measure, repeats)
        more = {key: spread[key] for key in machine.SPREAD}
        rows.append(
            row("encode", spread["value"], "M records/s", "10 M/s", entries=count * FULL,
                **more, **labels)
        )  # fmt: skip
    return rows


def apply(effort: Effort, _seed: int) -> list[Row]:
    """A row for each size of the table."""
    return [apply_row(sessions, effort.repeats) for sessions in effort.tables]


def encode(effort: Effort, _seed: int) -> list[Row]:
    """Batches, and shards."""
    return encode_rows(min(effort.tables), effort.repeats)
