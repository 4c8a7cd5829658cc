# SPDX-License-Identifier: BSD-2-Clause
"""Builds the header template of a golden route with the code under test."""

from __future__ import annotations

from pyxdp_gossip.templates import HeaderTemplate
from tests.golden_world import OWN_ADDRESS, OWN_MAC, TUNNEL_PORT
from tests.model import Route


def template(route: Route) -> HeaderTemplate:
    """The outer headers from the golden world's host 3 along `route`."""
    return HeaderTemplate.build(
        source=OWN_ADDRESS,
        destination=route.destination,
        source_mac=OWN_MAC,
        destination_mac=route.destination_mac,
        tunnel_port=TUNNEL_PORT,
        cookie=route.cookie,
        mtu=route.mtu,
        mark=route.mark,
        vlan=route.vlan,
    )
