# SPDX-License-Identifier: BSD-2-Clause
"""The boundary to the native codec: its interface, and the layout of struct xg_event."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

EVENT = struct.Struct("=BBH2sHII16sQ")  # struct xg_event of csrc/xg_types.h
HOST_UNOWNED = 0xFFFF  # XG_HOST_UNOWNED: the owner of the mark "no host has this session"
NO_SLOT = 0xFFFF  # in a translation: this host does not have the service
POSITION_MASK = (1 << 32) - 1  # the codec compares log positions modulo 2**32
RECORD_BYTES = {4: 8, 6: 20}  # XG_RECORD4_LEN, XG_RECORD6_LEN
OPEN_KINDS = {4: 0x10, 6: 0x18}  # XG_SECTION_OPEN4, XG_SECTION_OPEN6
_SLOT = struct.Struct("=H")


class EventKind(IntEnum):
    """enum xg_event_kind."""

    OPEN = 1
    CLOSE = 2
    CLOSE_LINGER = 3
    CLAIM = 4
    MISS = 5
    MISDIRECTED = 6


@dataclass(frozen=True, slots=True)
class EventRecord:
    """struct xg_event; `address` is (16,) bytes, an IPv4 client in the first four."""

    kind: int
    family: int
    slot: int
    client_port: int
    host: int
    seq: int
    ack: int
    address: bytes
    at: int

    def pack(self) -> bytes:
        """(40,) bytes."""
        port = self.client_port.to_bytes(2, "big")
        head = (self.kind, self.family, self.slot, port, self.host)
        return EVENT.pack(*head, self.seq, self.ack, self.address, self.at)

    @property
    def key(self) -> bytes:
        """struct xg_key4 or xg_key6: (8,) or (24,) bytes."""
        return session_key(self.family, self.slot, self.client_port, self.address)


def check_records(records: bytes) -> None:
    """Raise ValueError if this is no whole number of records."""
    if len(records) % EVENT.size:
        raise ValueError(f"records are {len(records)} bytes, no multiple of {EVENT.size}")


def unpack_records(records: bytes, most: int) -> list[EventRecord]:
    """The first `most` records; only for the rare events, never for a log."""
    rows = EVENT.iter_unpack(records[: most * EVENT.size])
    return [
        EventRecord(kind, family, slot, int.from_bytes(port, "big"), host, seq, ack, address, at)
        for kind, family, slot, port, host, seq, ack, address, at in rows
    ]


def session_key(family: int, slot: int, client_port: int, address: bytes) -> bytes:
    """struct xg_key4 or xg_key6 of a session; `address` is (16,) bytes."""
    tail = client_port.to_bytes(2, "big") + _SLOT.pack(slot)
    return address[:4] + tail if family == 4 else address + tail + bytes(4)


class ApplyResult(Protocol):
    """What became of one section of a peer's records."""

    @property
    def applied(self) -> int: ...
    @property
    def stale(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def unknown_service(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def rivals(self) -> bytes: ...


class OwnershipLog(Protocol):
    """`pyxdp_gossip._native.OwnershipLog`: records ⇄ session tables."""

    @property
    def pending(self) -> int: ...
    def absorb(self, events: bytes, *, clock: int, position: int, now_ms: int) -> int: ...
    def encode(self, budget: int) -> bytes: ...
    def shard(self, family: int, cursor: int, budget: int) -> tuple[bytes, int | None]: ...
    def apply(
        self,
        sender: int,
        kind: int,
        body: bytes,
        translation: bytes,
        *,
        clock: int,
        position: int,
        now_ms: int,
        keep_closed: bool,
    ) -> ApplyResult:
        """Enter one section; OSError EBADMSG if its body is no row of records."""
        ...

    # Digests, and what owners said that the tables do not show.
    @property
    def digest_buckets(self) -> int: ...
    def set_services(self, ids: bytes) -> object: ...
    def begin_owner(self, owner: int, digest_key: int) -> object: ...
    def forget_owner(self, owner: int) -> object: ...
    def drop_closed(self, owner: int) -> object: ...
    def settle(self) -> object: ...
    def digest(self, owner: int) -> tuple[int, int]: ...
    def digest_sums(self, owner: int) -> bytes: ...
    def select(self, bitmap: bytes) -> tuple[bytes, bytes]: ...
    def prune(self, owner: int, bitmap: bytes, position: int) -> int: ...
    def deny(self, owner: int, family: int, key: bytes, *, keep_closed: bool) -> bool: ...


class OwnerStates(Protocol):
    """`pyxdp_gossip._native.OwnerStates`: what all entries of one owner depend on."""

    def activate(self, host: int) -> object: ...
    def deactivate(self, host: int) -> object: ...
    def void(self, host: int) -> object: ...
    def new_epoch(self, host: int) -> object: ...
    def drop_previous(self, host: int) -> object: ...


class Entry(Protocol):
    """What the table says of a session."""

    @property
    def owner(self) -> int: ...


class SessionTable(Protocol):
    """`pyxdp_gossip._native.SessionTable`: the three calls that the core makes itself."""

    def get(self, key: bytes) -> Entry | None: ...
    def remove(self, key: bytes) -> object: ...
    def mark_unowned(self, key: bytes, now_ms: int) -> bool:
        """Mark that no host has it; False if one claimed it; OSError ENOSPC if there is no room."""
        ...
