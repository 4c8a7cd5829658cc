# SPDX-License-Identifier: BSD-2-Clause
"""The array of header templates: which place leads to which host, and which are free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from pyxdp_gossip.encapsulation import IP_LEN
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.templates import FLAG_IPV6, HeaderTemplate

TEMPLATES: Final = 1024  # XG_TEMPLATES
TEMPLATE_BYTES: Final = 128
L2_LEN_AT: Final = 114  # of struct xg_template
FLAGS_AT: Final = 119
FLOOD: Final = -1
"""In the place of a host: the template of the floods."""

# A place that was replaced is written again only so many changes later: a program that has just
# read its index may still copy it.
REST: Final = 256


class TemplateSlots:
    """Places in the array that the programs copy headers from. A template is never edited: a new
    one gets another place, and the old one rests.

    Args:
        memory: the array's bytes, shared with the programs.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._of: dict[int, int] = {}
        self._free = list(range(TEMPLATES - 1, -1, -1))
        self._resting: list[int] = []
        self._generation = 0

    def take_over(self, places: Mapping[int, int]) -> None:
        """Goes on with the places that an earlier agent published."""
        self._of = dict(places)
        used = set(places.values())
        self._free = [place for place in self._free if place not in used]

    def get(self, host: int) -> int | None:
        """The place of a host's template, or of the floods'."""
        return self._of.get(host)

    def of_hosts(self, hosts: Collection[int]) -> list[int]:
        """The places of those that have one, in the order of their ids."""
        return [self._of[host] for host in sorted(hosts) if host in self._of]

    def tunnel_port(self, place: int) -> int:
        """UDP destination port of the headers in a place; 0: they have none."""
        row = self._memory[place * TEMPLATE_BYTES : (place + 1) * TEMPLATE_BYTES]
        udp = int.from_bytes(row[L2_LEN_AT : L2_LEN_AT + 2], "little")
        udp += IP_LEN[6 if row[FLAGS_AT] & FLAG_IPV6 else 4]
        return int.from_bytes(row[udp + 2 : udp + 4], "big")

    def write(self, template: HeaderTemplate) -> int:
        """Writes headers where nobody reads; returns the place.

        Raises:
            HostError: there is none left.
        """
        if not self._free:
            raise HostError("more than 511 hosts in the POP: the template array is full")
        place = self._free.pop()
        self._generation += 1
        packed = template.pack(self._generation & 0xFFFFFFFF)
        self._memory[place * TEMPLATE_BYTES : (place + 1) * TEMPLATE_BYTES] = packed
        return place

    def put(self, host: int, place: int | None) -> None:
        """Notes that the programs read this place for a host now, and no longer the one before."""
        old = self._of.pop(host, None)
        if place is not None:
            self._of[host] = place
        if old is not None:
            self._resting.append(old)
        if len(self._resting) > REST:
            self._free.insert(0, self._resting.pop(0))
