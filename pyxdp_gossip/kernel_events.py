# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel tells of sockets and packets, in the order in which the core must hear it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

from pyxdp_gossip import netlink
from pyxdp_gossip._native import OwnershipLog
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import EVENTS_A_READ
from pyxdp_gossip.gossip.events import IncomingEvent, Misdirected, Misses, SocketEvents
from pyxdp_gossip.gossip.records import EVENT, EventKind
from pyxdp_gossip.session import Address, Service

RECORD: Final = EVENT.size
READS_MAX: Final = 8  # of a full ring, 21,800 records, in one turn
RESYNC_EVERY_NS: Final = 1_000_000_000  # at most; a storm of resets must not become one of dumps
RESYNC_SHARE: Final = 10  # resyncs take at most a tenth of the agent's time


class KernelEvents:
    """The two event rings, sock_diag's dumps and its notifications of destroyed sockets.

    Args:
        log: the codec, which knows what this host said.
        services: TCP services, (VIP, port) to slot.

    Raises:
        HostError: the kernel has no inet_diag, or refused.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        log: OwnershipLog,
        services: Mapping[tuple[Address, int], int],
    ) -> None:
        self._dataplane = dataplane
        self._log = log
        self._services = services
        self._slots = frozenset(services.values())
        self._destroyed = netlink.DestroyListener(services)
        # Sockets that were there before the sockops program: only their end is not told by it.
        # Once they are gone, a destroyed socket is nothing new: the listener costs nothing then.
        self._unflagged: set[bytes] = set()
        self._listens = True
        self._missed_seen = self._missed()
        self._resync_at = 0

    def close(self) -> None:
        """Ends the subscription; the rings are the data path's."""
        self._destroyed.close()

    def filenos(self) -> tuple[int, ...]:
        """Descriptors, one of which is readable when `read` has something."""
        plane = self._dataplane
        return plane.socket_events_fd, plane.packet_events_fd, self._destroyed.fileno()

    def read(self, now: int) -> Iterator[IncomingEvent]:
        """What has come, in order: a claim that a packet made is older than its socket's end.

        The sockets' ring is read first and told last: whatever claim came before one of its
        events is in the packets' ring by then.
        """
        sockets = self._dataplane.socket_events.read(EVENTS_A_READ)
        by_kind = self._packets()
        # Without listening, too: what came before is there still.
        destroyed = self._forget_known(sockets, self._destroyed.read(now))
        for records in (by_kind.get(EventKind.CLAIM, b""), sockets, destroyed):
            if records:
                yield SocketEvents(records)
        if EventKind.MISS in by_kind:
            yield Misses(by_kind[EventKind.MISS])
        if EventKind.MISDIRECTED in by_kind:
            yield Misdirected(by_kind[EventKind.MISDIRECTED])

    def _packets(self) -> dict[int, bytes]:
        by_kind: dict[int, list[bytes]] = {}
        for _ in range(READS_MAX):
            records = self._dataplane.packet_events.read(EVENTS_A_READ)
            for record in _each(records):
                by_kind.setdefault(record[0], []).append(record)
            if len(records) < EVENTS_A_READ * RECORD:
                break
        return {kind: b"".join(records) for kind, records in by_kind.items()}

    def _forget_known(self, sockets: bytes, destroyed: bytes) -> bytes:
        """The destroyed sockets that nothing else tells of.

        Those of the sockops program's time are told by it, earlier and with their state; and a
        client that came again with the same port has a new one by then.
        """
        if not self._unflagged:
            return b""
        self._unflagged.difference_update(map(_identity, _each(sockets)))
        ended = []
        for record in _each(destroyed):
            if _identity(record) in self._unflagged:
                self._unflagged.discard(_identity(record))
                ended.append(record)
        self._listen_if_needed()
        return b"".join(ended)

    def _listen_if_needed(self) -> None:
        if self._listens != bool(self._unflagged):
            self._listens = not self._listens
            self._destroyed.listen(self._listens)

    def begin(self, now: int) -> SocketEvents:
        """All sockets that are there, once the sockops program is attached."""
        records = netlink.established_sockets(self._services, now)
        self._unflagged = set(map(_identity, _each(records)))
        self._listen_if_needed()
        return self._compare(records, now)

    def change_services(
        self, services: Mapping[tuple[Address, int], int], now: int
    ) -> SocketEvents:
        """Further services, which the sockops program tells of already: the sockets of theirs
        that are there.

        Raises:
            HostError: the kernel refused; `resync_if_due` asks again.
        """
        before = self._slots
        self._services, self._slots = services, frozenset(services.values())
        self._destroyed.change_services(services)
        missed = self._missed()
        if not self._listens:  # before the sockets are read: none ends in between
            self._destroyed.listen(True)
            self._listens = True
        self.resync_soon()  # if the next line fails
        records = netlink.established_sockets(services, now)
        new = (record for record in _each(records) if _slot(record) not in before)
        self._unflagged.update(map(_identity, new))
        self._missed_seen = missed
        self._listen_if_needed()
        return self._compare(records, now)

    def resync_soon(self) -> None:
        """Makes `resync_if_due` read the sockets again, whatever was told."""
        self._missed_seen = (-1, 0, 0)

    def resync_if_due(self, now: int) -> Iterator[IncomingEvent]:
        """After events were lost: what the tables miss of the kernel's sockets."""
        missed = self._missed()
        if missed == self._missed_seen or now < self._resync_at:
            return
        self._missed_seen = missed
        records = netlink.established_sockets(self._services, now)
        yield self._compare(records, now)
        taken = time.monotonic_ns() - now
        self._resync_at = now + max(RESYNC_EVERY_NS, RESYNC_SHARE * taken)

    def _compare(self, records: bytes, now: int) -> SocketEvents:
        slots, missed = self._slots, self._log.reconcile(records, now)
        # A claim of the application's (UDP) has no socket that a dump of TCP could show.
        return SocketEvents(b"".join(one for one in _each(missed) if _slot(one) in slots))

    def _missed(self) -> tuple[int, int, int]:
        """Whatever grows when something was not told."""
        # Sockets that ended without saying which: only those without a flag matter.
        unnamed = self._destroyed.unnamed if self._unflagged else 0
        return self._dataplane.socket_events_lost(), self._destroyed.overflows, unnamed


def tcp_services(services: Mapping[int, Service]) -> dict[tuple[Address, int], int]:
    """Those of the services that have sockets: (VIP, port) to slot."""
    return {
        (service.vip, service.port): slot
        for slot, service in services.items()
        if service.protocol == "tcp"
    }


def _each(records: bytes) -> Iterator[bytes]:
    return (records[start : start + RECORD] for start in range(0, len(records), RECORD))


def _slot(record: bytes) -> int:
    return int.from_bytes(record[2:4], sys.byteorder)


def _identity(record: bytes) -> bytes:
    """What names a session in a record: family, slot and port, and the client's address."""
    return record[1:6] + record[16:32]
