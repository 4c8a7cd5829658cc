# SPDX-License-Identifier: BSD-2-Clause
"""From the operator's configuration to what the data path is told."""

from __future__ import annotations

from collections.abc import Mapping

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
        ConfigError: the underlay is of two families, or this host is among the others.
        HostError: the interface is missing, or has no address.
    """
    plane, gossip = config.dataplane, config.gossip
    others = gossip.group or gossip.members[0]
    address = config.host.address or netlink.first_address(config.host.interface, others.version)
    if gossip.group and gossip.group.version != address.version:
        raise ConfigError(f"[gossip] group is {gossip.group}, expected one of {address}'s family")
    for member in gossip.members:
        if member.version != address.version:
            raise ConfigError(f"[gossip] members is {member}, expected one of {address}'s family")
        if member == address:
            raise ConfigError(f"[gossip] members is {member}, expected {NOT_ITSELF}")
    return DataplaneSettings(
        host=config.host.id,
        interface=config.host.interface,
        address=address,
        flood_group=gossip.flood_group,
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
        encapsulation=plane.encapsulation,
        vni=plane.vni,
        udp_checksum=plane.udp_checksum,
        too_big_rate_pps=plane.too_big_rate_pps,
        mss=plane.mss,
        quic=config.quic,
        cpus=plane.cpus,
        busy_poll=plane.busy_poll,
    )
