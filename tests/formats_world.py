# SPDX-License-Identifier: BSD-2-Clause
"""The golden world of each tunnel format; without scapy, for guests that have none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from tests.golden_world import FLOOD, PEERS, ROUTES, golden_world
from tests.model import Route, World
from tests.model_formats import Flavour

Address = IPv4Address | IPv6Address

GROUP6 = IPv6Address("ff05::7:2")
GROUP6_MAC = bytes.fromhex("333300070002")


def in_family(address: Address, version: int) -> Address:
    """An underlay address of the golden world in the family of a flavour."""
    if version == 4:
        return address
    if address.is_multicast:
        return GROUP6
    return IPv6Address("fd00:8::") + address.packed[3]


def flavoured_route(route: Route, flavour: Flavour) -> Route:
    """A golden route over the flavour's underlay."""
    destination = in_family(route.destination, flavour.version)
    is_group = destination == GROUP6
    return replace(
        route,
        destination=destination,
        destination_mac=GROUP6_MAC if is_group else route.destination_mac,
    )


@cache
def flavoured_world(flavour: Flavour) -> World:
    """The golden world, whose hosts write their tunnel packets in this way."""
    world = golden_world()
    return replace(
        world,
        flavour=flavour,
        address=in_family(world.address, flavour.version),
        flood_group=in_family(world.flood_group, flavour.version),
        routes={host: flavoured_route(route, flavour) for host, route in ROUTES.items()},
        flood=flavoured_route(FLOOD, flavour),
        peers={in_family(one, flavour.version): peer for one, peer in PEERS.items()},
    )
