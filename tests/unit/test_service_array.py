# SPDX-License-Identifier: BSD-2-Clause
"""The services' array while it changes: what is there stays where it is."""

from __future__ import annotations

from ipaddress import ip_address

from pyxdp_gossip._native import SERVICE_PLACES, service_places
from pyxdp_gossip.forwarder import pack_services
from pyxdp_gossip.service_array import ARRAY_BYTES, SERVICE_BYTES, write_services
from pyxdp_gossip.session import Service

VIP = ip_address("198.51.100.1")
SERVICES = {slot: Service(VIP, slot + 1, "tcp") for slot in range(4000)}


def written(array: bytearray, count: int) -> set[int]:
    """Which places changed when so many services were written."""
    before = bytes(array)
    write_services(memoryview(array), dict(list(SERVICES.items())[:count]))
    return {
        start
        for start in range(0, ARRAY_BYTES, SERVICE_BYTES)
        if array[start : start + SERVICE_BYTES] != before[start : start + SERVICE_BYTES]
    }


def test_further_services_take_free_places_and_touch_no_other() -> None:
    array = bytearray(ARRAY_BYTES)
    taken: set[int] = set()
    for count in (1, 2, 3, 1000, 4000):
        new = written(array, count)
        assert not new & taken
        taken |= new
        assert len(taken) == count + 1  # and a row of their VIP
    assert array == service_places(pack_services(SERVICES), SERVICE_PLACES)
    assert written(array, 4000) == set()


def test_the_order_in_which_services_are_given_changes_nothing() -> None:
    one, other = bytearray(ARRAY_BYTES), bytearray(ARRAY_BYTES)
    write_services(memoryview(one), SERVICES)
    write_services(memoryview(other), dict(reversed(SERVICES.items())))
    assert one == other


def test_what_an_agent_left_there_before_it_said_so_goes() -> None:
    array = bytearray(ARRAY_BYTES)
    written(array, 9)
    written(array, 8)
    assert array == service_places(pack_services(dict(list(SERVICES.items())[:8])), SERVICE_PLACES)
