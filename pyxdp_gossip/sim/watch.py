# SPDX-License-Identifier: BSD-2-Clause
"""The invariants that are checked while records enter the tables, and what breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pyxdp_gossip._native import LINGER, ApplyResult, Entry, OwnershipLog, SessionTable
from pyxdp_gossip.gossip.records import (
    EVENT,
    HOST_UNOWNED,
    NO_SLOT,
    OPEN_KINDS,
    RECORD_BYTES,
    session_key,
    unpack_records,
)
from pyxdp_gossip.gossip.translation import slot_of

OPEN4 = OPEN_KINDS[4]
HALF = 1 << 31  # positions are compared modulo 2**32


def outranks(left: Entry, right: Entry) -> bool:
    """The rule of csrc/ledger.h, said once more: open before lingering, the later OPEN before the
    earlier, the higher host before the lower."""
    return _rank(left) > _rank(right)


def _rank(entry: Entry) -> tuple[bool, int, int]:
    is_open = not entry.flags & LINGER
    return is_open, entry.opened_at if is_open else 0, entry.owner


class WatchedLog:
    """The codec, and around each call the questions that its result must answer.

    * Only the owner's word changes its entries: what one host says, or is told to have said,
      never ends nor changes what the table shows of another, but by a claim of higher rank. So
      a released session is not deleted under a newer claim either.
    * No closed session comes back: what its owner closed later is not shown by an older OPEN.

    Args:
        violated: told what is wrong.
    """

    def __init__(
        self, log: OwnershipLog, table: SessionTable, host: int, violated: Callable[[str], None]
    ) -> None:
        self._log = log
        self._table = table
        self._host = host
        self._violated = violated
        self._closed: dict[tuple[int, bytes], int] = {}
        self._seen: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def begin_owner(self, owner: int, digest_key: int) -> None:
        """Another start: its log's positions begin anew."""
        self._closed = {name: at for name, at in self._closed.items() if name[0] != owner}
        self._log.begin_owner(owner, digest_key)

    def apply(
        self, sender: int, kind: int, body: bytes, translation: bytes, **rest: Any
    ) -> ApplyResult:
        """One section; the same arguments as the codec's, and likewise below."""
        step = RECORD_BYTES[4]
        records = (body[at : at + step] for at in range(0, len(body), step))
        before = self._shown(key for record in records if (key := _key(record, translation)))
        result = self._log.apply(sender, kind, body, translation, **rest)
        self._check_others(sender, before)
        for key in before:
            self._check_order(sender, kind, key, rest["position"])
        return result

    def absorb(self, events: bytes, **rest: int) -> int:
        """This host's own sockets."""
        rows = unpack_records(events, len(events) // EVENT.size)
        before = self._shown(row.key for row in rows)
        ignored = self._log.absorb(events, **rest)
        self._check_others(self._host, before)
        return ignored

    def prune(self, owner: int, bitmap: bytes, position: int) -> int:
        """What an owner's buckets came without is closed."""
        before = self._shown(self._seen)
        closed = self._log.prune(owner, bitmap, position)
        self._check_others(owner, before)
        return closed

    def deny(self, owner: int, family: int, key: bytes, **rest: bool) -> bool:
        """An owner says that it does not have a session."""
        before = self._shown((bytes(key),))
        was_there = self._log.deny(owner, family, key, **rest)
        self._check_others(owner, before)
        return was_there

    def _shown(self, keys: Iterable[bytes]) -> dict[bytes, Entry | None]:
        shown = {key: self._table.get(key) for key in keys}
        self._seen |= shown.keys()
        return shown

    def _check_others(self, speaker: int, before: dict[bytes, Entry | None]) -> None:
        for key, was in before.items():
            if was is None or was.owner in (speaker, HOST_UNOWNED):
                continue
            now = self._table.get(key)
            if now is None or (now.owner != was.owner and not outranks(now, was)):
                self._violated(f"host {speaker} changed an entry of host {was.owner}")
            elif now.owner == was.owner and _said(now) != _said(was):
                self._violated(f"host {speaker} rewrote an entry of host {was.owner}")

    def _check_order(self, sender: int, kind: int, key: bytes, position: int) -> None:
        closed = self._closed.get((sender, key))
        if kind != OPEN4:  # CLOSE or LINGER; one that was repaired comes late
            if closed is None or _is_later(position, closed):
                self._closed[sender, key] = position
            return
        now = self._table.get(key)
        if now is None or closed is None or now.owner != sender or now.flags & LINGER:
            return
        if _is_later(closed, now.position):
            self._violated(f"a session that host {sender} closed came back")


def _key(record: bytes, translation: bytes) -> bytes | None:
    """(8,) bytes, or None: this host does not have the record's service."""
    slot = slot_of(translation, int.from_bytes(record[6:], "big"))
    port = int.from_bytes(record[4:6], "big")
    return None if slot == NO_SLOT else session_key(4, slot, port, record[:4].ljust(16, b"\0"))


def _said(entry: Entry) -> tuple[int, int, int]:
    return entry.flags, entry.opened_at, entry.position


def _is_later(position: int, than: int) -> bool:
    return 0 < (position - than) % (1 << 32) < HALF
