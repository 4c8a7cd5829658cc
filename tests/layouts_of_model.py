# SPDX-License-Identifier: BSD-2-Clause
"""The golden world's layouts of connection ids, as the code under test takes them."""

from __future__ import annotations

from pyxdp_gossip.quic_lb import QuicLb
from tests.golden_world import LAYOUTS


def quic_layouts() -> tuple[QuicLb, ...]:
    """One for each that the model knows."""
    return tuple(
        QuicLb(config_id, layout.server_id, layout.nonce, layout.key)
        for config_id, layout in LAYOUTS.items()
    )
