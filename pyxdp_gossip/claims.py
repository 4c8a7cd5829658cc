# SPDX-License-Identifier: BSD-2-Clause
"""What the application claimed, and when it said so last: idle claims are released (pure)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pyxdp_gossip.gossip.records import EventKind, EventRecord

RELEASED_AT_ONCE: Final = 4096  # a few milliseconds of work; the rest waits for the next turn


class Claims:
    """The claims of one host, in the order in which they were made or made again.

    All have the same time to live, so the first one is always the next to end: nothing is sorted,
    and what has not ended is not looked at. Times are ns of CLOCK_MONOTONIC.

    Args:
        idle_ns: how long a claim holds; 0: for ever, and nothing is kept.
        room: the most that are kept, which is what the session tables hold; the oldest go first.
    """

    def __init__(self, idle_ns: int, room: int) -> None:
        self._idle_ns = idle_ns
        self._room = room
        # Not a dict, which looks through what was taken from its front, each time.
        self._claimed_at: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claimed_at)

    def keep(self, record: EventRecord, now: int) -> None:
        """It was claimed, for the first time or again."""
        if self._idle_ns:
            session = _session(record)
            self._claimed_at[session] = now
            self._claimed_at.move_to_end(session)

    def drop(self, record: EventRecord) -> None:
        """It was released."""
        self._claimed_at.pop(_session(record), None)

    def take_idle(self, now: int) -> bytes:
        """Those that were not claimed again in time, or for which there is no room, and are kept
        no longer: struct xg_event records that close them, at most RELEASED_AT_ONCE."""
        closed: list[bytes] = []
        while self._claimed_at and len(closed) < RELEASED_AT_ONCE:
            session = next(iter(self._claimed_at))
            is_idle = now - self._claimed_at[session] >= self._idle_ns
            if not is_idle and len(self._claimed_at) <= self._room:
                break
            del self._claimed_at[session]
            closed.append(_close(session, now))
        return b"".join(closed)


def _session(record: EventRecord) -> bytes:
    """(21,) bytes: what names the session in struct xg_event."""
    packed = record.pack()
    return packed[1:6] + packed[16:32]


def _close(session: bytes, now: int) -> bytes:
    """The record that ends a session: family, slot, port, no numbers, address and time."""
    tail = bytes(2 + 4 + 4) + session[5:] + now.to_bytes(8, "little")
    return bytes([EventKind.CLOSE]) + session[:5] + tail
