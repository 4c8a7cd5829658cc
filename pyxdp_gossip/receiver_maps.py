# SPDX-License-Identifier: BSD-2-Clause
"""What a running host's maps say of whose tunnel packets it takes."""

from __future__ import annotations

from dataclasses import replace

from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.dataplane_settings import unpack_config
from pyxdp_gossip.tunnel_receiver import TunnelReceiver


def receiver_of(config: bytes | bytearray | memoryview, peers: BpfMap) -> TunnelReceiver:
    """The receiver of `struct xg_config` and the map of peers, as they are this moment."""
    said = unpack_config(config)
    made = TunnelReceiver.build(
        address=said.address, flood_group=said.flood_group, port=said.tunnel_port, mac=said.mac,
        senders={}, encapsulation=said.encapsulation,
    )  # fmt: skip
    found = ((key, peers.lookup(key)) for key in peers.each_key())
    return replace(made, senders=b"".join(key + value for key, value in found if value))
