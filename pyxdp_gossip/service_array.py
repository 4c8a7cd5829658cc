# SPDX-License-Identifier: BSD-2-Clause
"""The arrays of services and of QUIC layouts that the BPF programs and the loops read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from mmap import mmap
from typing import Final

from pyxdp_gossip._native import SERVICE_PLACES, service_places
from pyxdp_gossip.forwarder import pack_layouts, pack_services
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Service

SERVICE_BYTES: Final = 24  # struct xg_service
ARRAY_BYTES: Final = SERVICE_PLACES * SERVICE_BYTES
# Its word of port, protocol and `used`, without which nobody believes the rest of a place.
_WORD: Final = slice(16, 20)


def write_layouts(memory: bytearray | mmap, layouts: Iterable[QuicLb]) -> memoryview:
    """Makes the array of layouts say these; (QUIC_LAYOUTS * QUIC_LAYOUT_BYTES,) bytes of it.

    Args:
        memory: of the BPF map, whole pages.
    """
    packed = pack_layouts(layouts)
    array = memoryview(memory)[: len(packed)]
    array[:] = packed
    return array


def write_services(array: memoryview, services: Mapping[int, Service]) -> None:
    """Makes the array say these services; places that say the right thing are not touched.

    Each search goes by the order in which services were put, so that further slots move none.

    Args:
        array: (ARRAY_BYTES,) bytes, shared with the programs.
        services: slot to service.
    """
    wanted = service_places(pack_services(dict(sorted(services.items()))), SERVICE_PLACES)
    for start in range(0, ARRAY_BYTES, SERVICE_BYTES):
        place = array[start : start + SERVICE_BYTES]
        new = wanted[start : start + SERVICE_BYTES]
        if place != new:
            place[: _WORD.start] = new[: _WORD.start]
            place[_WORD.stop :] = new[_WORD.stop :]
            place[_WORD] = new[_WORD]  # one store, and last
