# SPDX-License-Identifier: BSD-2-Clause
"""The golden world in a forwarder that opens tunnel packets, in each tunnel format."""

from __future__ import annotations

from pyxdp_gossip._native import Forwarder, OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import PeerCookies
from pyxdp_gossip.forwarder import pack_layouts, pack_services
from pyxdp_gossip.session import Service
from pyxdp_gossip.tunnel_receiver import TunnelReceiver
from tests.golden_world import (
    ACTIVE,
    CLIENTS,
    ENTRIES,
    OWN_HOST,
    QUIC_SLOTS,
    SERVICES,
    VIPS,
    golden_world,
    session_key,
)
from tests.layouts_of_model import quic_layouts
from tests.model import World
from tests.templates_of_routes import template


def receiver_of_world(world: World) -> TunnelReceiver:
    """What opens the tunnel packets of a model's POP."""
    return TunnelReceiver.build(
        address=world.address,
        flood_group=world.flood_group,
        port=world.tunnel_port,
        mac=world.mac,
        encapsulation=world.flavour.name,
        senders={
            peer.host: (
                address,
                PeerCookies(
                    peer.unicast[0], peer.flood[0], peer.reply, peer.unicast[1], peer.flood[1]
                ),
            )
            for address, peer in world.peers.items()
        },
    )


def receiving_forwarder(
    world: World | None = None, *, flood: bool = True, own_is_known: bool = False
) -> Forwarder:
    """The tables of the golden world, and its hosts' tunnel packets."""
    world = world or golden_world()
    assert world.flood is not None
    owners = OwnerStates()
    tables = {family: SessionTable(family, 64, owners) for family in (4, 6)}
    for host in (OWN_HOST, *ACTIVE):
        owners.activate(host)
    for index, host in enumerate(world.routes):
        owners.set_template(host, index)
    for (family, _, _), slot in SERVICES.items():
        for state, entry in ENTRIES.items():
            tables[family].put(session_key(CLIENTS[family], state.client_port, slot), entry.owner)
    services = {
        slot: Service(VIPS[family], port, protocol, quic=slot in QUIC_SLOTS)  # type: ignore
        for (family, protocol, port), slot in SERVICES.items()
    }
    routes = (*world.routes.values(), world.flood)
    return Forwarder(
        OWN_HOST, tables[4], tables[6], owners,
        b"".join(template(route, world).pack() for route in routes), pack_services(services),
        len(world.routes) if flood else None, own_is_known, pack_layouts(quic_layouts()),
        receiver=receiver_of_world(world),
    )  # fmt: skip
