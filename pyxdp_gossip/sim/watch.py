# SPDX-License-Identifier: BSD-2-Clause
"""The invariants that are checked while records are applied, and what breaks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyxdp_gossip._native import ApplyResult, OwnershipLog, SessionTable
from pyxdp_gossip.gossip.records import HOST_UNOWNED, NO_SLOT, session_key
from pyxdp_gossip.gossip.translation import slot_of

OPEN4, CLOSE4 = 0x10, 0x11
RECORD4 = 8
HALF = 1 << 31  # positions are compared modulo 2**32


class WatchedLog:
    """The codec, and around each section the questions that its result must answer.

    * Only the owner's word changes its entries: a section of one host never ends, nor changes,
      what the table shows of another, but by a claim that ranks higher.
    * No closed session comes back: what its owner closed later is not shown by an older OPEN.

    Args:
        violated: told what is wrong.
    """

    def __init__(
        self, log: OwnershipLog, table: SessionTable, violated: Callable[[str], None]
    ) -> None:
        self._log = log
        self._table = table
        self._violated = violated
        self._closed: dict[tuple[int, bytes], int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def begin_owner(self, owner: int, digest_key: int) -> None:
        """Another start: its log's positions begin anew."""
        self._closed = {name: at for name, at in self._closed.items() if name[0] != owner}
        self._log.begin_owner(owner, digest_key)

    def apply(
        self, sender: int, kind: int, body: bytes, translation: bytes, **rest: Any
    ) -> ApplyResult:
        """One section; the same arguments as the codec's."""
        keys = [self._key(body[at : at + RECORD4], translation) for at in range(0, len(body), 8)]
        before = [None if key is None else self._table.get(key) for key in keys]
        result = self._log.apply(sender, kind, body, translation, **rest)
        for key, was in zip(keys, before, strict=True):
            if key is not None:
                self._check(sender, kind, key, was, rest["position"])
        return result

    def _key(self, record: bytes, translation: bytes) -> bytes | None:
        slot = slot_of(translation, int.from_bytes(record[6:], "big"))
        port = int.from_bytes(record[4:6], "big")
        return None if slot == NO_SLOT else session_key(4, slot, port, record[:4].ljust(16, b"\0"))

    def _check(self, sender: int, kind: int, key: bytes, was: Any, position: int) -> None:
        now = self._table.get(key)
        others = was is not None and was.owner not in (sender, HOST_UNOWNED)
        claimed = kind == OPEN4 and now is not None and now.owner == sender
        if others and not claimed and (now is None or now.owner != was.owner):
            self._violated(f"host {sender} changed an entry of host {was.owner}")
        name = (sender, key)
        if kind == CLOSE4:
            self._closed[name] = position
            return
        closed = self._closed.get(name)
        shown = now is not None and now.owner == sender and now.position == position
        if shown and closed is not None and 0 < (closed - position) % (1 << 32) < HALF:
            self._violated(f"a session that host {sender} closed came back")
