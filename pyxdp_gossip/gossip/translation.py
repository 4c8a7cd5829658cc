# SPDX-License-Identifier: BSD-2-Clause
"""From a peer's service indexes to this host's slots."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

from pyxdp_gossip.config import SERVICES_MAX
from pyxdp_gossip.digests import sha256
from pyxdp_gossip.gossip.messages import Services
from pyxdp_gossip.gossip.records import NO_SLOT
from pyxdp_gossip.session import Service, packed16


def build_translation(theirs: Mapping[int, Service], ours: Mapping[int, Service]) -> bytes:
    """An array of native u16: a peer's index → own slot, `NO_SLOT` where there is none.

    Args:
        theirs: the peer's dictionary, index → service.
        ours: slot → service.
    """
    slots = {service: slot for slot, service in ours.items()}
    size = max(theirs, default=-1) + 1
    row = array("H", [NO_SLOT]) * size
    for index, service in theirs.items():
        row[index] = slots.get(service, NO_SLOT)
    return row.tobytes()


def slot_of(translation: bytes, index: int) -> int:
    """One element of `build_translation`'s array; `NO_SLOT` beyond its end."""
    row = memoryview(translation).cast("H")
    return row[index] if index < len(row) else NO_SLOT


def service_id(service: Service) -> int:
    """64 bits that name a service, the same on all hosts."""
    name = f"{service.protocol} {service.port} ".encode() + packed16(service.vip)
    return int.from_bytes(sha256(name)[:8], "big")


class Dictionary:
    """This host's services, as they are told, and what peers' services mean here."""

    def __init__(self, services: Mapping[int, Service]) -> None:
        self._services = dict(services)
        self._generation = 1

    def change(self, services: Mapping[int, Service]) -> None:
        """A reload: other services, a new generation."""
        self._services = dict(services)
        self._generation += 1

    def ids(self) -> bytes:
        """Native u64 by slot: what the codec's digests know a service by, on every host."""
        row = array("Q", [0]) * (max(self._services, default=-1) + 1)
        for slot, service in self._services.items():
            row[slot] = service_id(service)
        return row.tobytes()

    def parts(self, most: int) -> list[Services]:
        """The sections that tell it, each for a datagram of its own; at least one.

        Args:
            most: services that fit a datagram.
        """
        rows = tuple(self._services.items())
        return [
            Services(self._generation, rows[start : start + most])
            for start in range(0, max(len(rows), 1), most)
        ]

    def translate(self, theirs: Mapping[int, Service]) -> bytes:
        """A peer's index → own slot, as `build_translation`."""
        return build_translation(theirs, self._services)

    def has_all(self, theirs: Mapping[int, Service]) -> bool:
        """Whether every service of a peer is one of this host's, too."""
        return set(theirs.values()) <= set(self._services.values())

    def merge(
        self, known: Mapping[int, Service], entries: Iterable[tuple[int, Service]]
    ) -> dict[int, Service]:
        """A peer's dictionary with further entries; not beyond `SERVICES_MAX`."""
        merged = dict(known)
        for index, service in entries:
            if index in merged or len(merged) < SERVICES_MAX:
                merged[index] = service
        return merged
