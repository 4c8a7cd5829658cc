# SPDX-License-Identifier: BSD-2-Clause
"""A kernel of a test's own making: event rings, sockets, notifications; its time stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.gossip.records import EventKind, EventRecord
from tests.golden_world import CLIENTS, OWN_HOST, PORT, VIPS

SLOTS = {4: 0, 6: 2}
SERVICES = {(VIPS[family], PORT): slot for family, slot in SLOTS.items()}
NOW = 50_000_000_000


def record(kind: EventKind, port: int, slot: int = SLOTS[4]) -> bytes:
    """One record of an IPv4 client."""
    address = CLIENTS[4].packed.ljust(16, b"\0")
    return EventRecord(kind, 4, slot, port, 0, 0, 0, address, NOW).pack()


class Ring:
    """A ring buffer; `before_read` runs when somebody begins to read."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.before_read: Callable[[], None] = lambda: None

    def read(self, limit: int) -> bytes:
        self.before_read()
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return b"".join(taken)


class FakeKernel:
    """In the places of data path, sock_diag and its notifications; time stands still."""

    def __init__(self) -> None:
        self.owners = OwnerStates()
        self.owners.activate(OWN_HOST)
        self.table4 = SessionTable(4, 256, self.owners)
        self.table6 = SessionTable(6, 256, self.owners)
        self.log = OwnershipLog(self.table4, self.table6, OWN_HOST)
        self.socket_events, self.packet_events = Ring(), Ring()
        self.socket_events_fd, self.packet_events_fd = 101, 102
        self.lost = 0
        self.sockets: list[bytes] = []
        self.destroyed: list[bytes] = []
        self.dumps = 0
        self.dump_ns = 0
        self.clock = NOW
        self.overflows = self.unnamed = 0
        self.is_closed = False
        self.listening = True
        self.listens_to: Any = SERVICES

    def socket_events_lost(self) -> int:
        return self.lost

    def established_sockets(self, services: Any, now: int) -> bytes:
        self.dumps += 1
        self.clock += self.dump_ns
        return b"".join(self.sockets)

    def monotonic_ns(self) -> int:
        return self.clock

    # what DestroyListener offers

    def fileno(self) -> int:
        return 103

    def read(self, now: int) -> bytes:
        ended, self.destroyed = b"".join(self.destroyed), []
        return ended

    def listen(self, wanted: bool) -> None:
        self.listening = wanted

    def change_services(self, services: Any) -> None:
        self.listens_to = services

    def close(self) -> None:
        self.is_closed = True

    def own(self, port: int, slot: int = SLOTS[4], flags: int = 0) -> None:
        """An entry of this host's own."""
        address = CLIENTS[4].packed.ljust(16, b"\0")
        key = EventRecord(EventKind.OPEN, 4, slot, port, 0, 0, 0, address, 0).key
        self.table4.put(key, OWN_HOST, flags=flags)
