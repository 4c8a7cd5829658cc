# SPDX-License-Identifier: BSD-2-Clause
"""The array of services that the BPF programs and the loops search, changed while they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pyxdp_gossip._native import SERVICE_PLACES, service_places
from pyxdp_gossip.forwarder import pack_services
from pyxdp_gossip.session import Service

SERVICE_BYTES: Final = 24  # struct xg_service
ARRAY_BYTES: Final = SERVICE_PLACES * SERVICE_BYTES
# Its word of port, protocol and `used`, without which nobody believes the rest of a place.
_WORD: Final = slice(16, 20)


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
