# SPDX-License-Identifier: BSD-2-Clause
"""From the operator's configuration to what the data path is told."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from pyxdp_gossip import netlink
from pyxdp_gossip.config import Config
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.session import Service


def dataplane_settings(
    config: Config, address: IPv4Address, flood_group: IPv4Address, services: Mapping[Service, int]
) -> DataplaneSettings:
    """What the data path of one host is told.

    Args:
        address: the host's underlay address.
        services: each service's slot.
    """
    plane = config.dataplane
    return DataplaneSettings(
        host=config.host.id,
        interface=config.host.interface,
        address=address,
        flood_group=flood_group,
        tunnel_port=plane.tunnel_port,
        services=services,
        sessions_v4=config.table.sessions_v4,
        sessions_v6=config.table.sessions_v6,
        mode=plane.mode,
        pins=plane.pins,
        cgroup=plane.cgroup or netlink.cgroup2_mount(),
        flood_rate_pps=plane.flood_rate_pps,
        flood_new_rate_pps=plane.flood_new_rate_pps,
        plane=plane.plane,
    )
