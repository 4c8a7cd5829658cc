# SPDX-License-Identifier: BSD-2-Clause
"""From the operator's configuration to what the data path is told."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from pyxdp_gossip import netlink
from pyxdp_gossip.config import NOT_ITSELF, Config
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.session import Service


def dataplane_settings(config: Config, services: Mapping[Service, int]) -> DataplaneSettings:
    """What the data path of one host is told.

    Args:
        services: each service's slot.

    Raises:
        ConfigError: the underlay is not IPv4, or this host is among the others.
        HostError: the interface is missing, or has no address.
    """
    plane, gossip = config.dataplane, config.gossip
    address = config.host.address or netlink.first_address(config.host.interface)
    if not isinstance(address, IPv4Address):
        raise ConfigError("[host] address: this version needs an IPv4 underlay address")
    flood_group = gossip.flood_group
    if not isinstance(flood_group, IPv4Address | None):
        raise ConfigError("[gossip] group: this version needs an IPv4 multicast group")
    for member in gossip.members:
        if member.version != 4:
            raise ConfigError(f"[gossip] members is {member}: this version needs IPv4 addresses")
        if member == address:
            raise ConfigError(f"[gossip] members is {member}, expected {NOT_ITSELF}")
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
        quic=config.quic,
    )
