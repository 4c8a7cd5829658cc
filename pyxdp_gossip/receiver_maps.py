# SPDX-License-Identifier: BSD-2-Clause
"""What a running host's maps say of whose tunnel packets it takes."""

from __future__ import annotations

from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.dataplane_settings import unpack_config
from pyxdp_gossip.tunnel_receiver import TunnelReceiver


def receiver_of(config: bytes | bytearray | memoryview, peers: BpfMap) -> TunnelReceiver:
    """The receiver of `struct xg_config` and the map of peers, as they are this moment."""
    found = {key: peers.lookup(key) for key in peers.each_key()}
    return TunnelReceiver.of_maps(
        unpack_config(config), {key: value for key, value in found.items() if value}
    )
