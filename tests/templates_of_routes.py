# SPDX-License-Identifier: BSD-2-Clause
"""Builds the header template of a golden route with the code under test."""

from __future__ import annotations

from pyxdp_gossip.templates import HeaderTemplate
from tests.golden_world import OWN_MAC, TUNNEL_PORT, golden_world
from tests.model import Route, World


def template(route: Route, world: World | None = None) -> HeaderTemplate:
    """The outer headers from the golden world's host 3 along `route`."""
    world = world or golden_world()
    return HeaderTemplate.build(
        source=world.address,
        destination=route.destination,
        source_mac=OWN_MAC,
        destination_mac=route.destination_mac,
        tunnel_port=TUNNEL_PORT,
        cookie=route.cookie,
        mtu=route.mtu,
        mark=route.mark,
        vlan=route.vlan,
        encapsulation=world.flavour.name,
        vni=world.flavour.vni,
        udp_checksum=world.flavour.checksum,
    )
