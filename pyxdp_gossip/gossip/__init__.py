# SPDX-License-Identifier: BSD-2-Clause
"""The sans-IO gossip core: bytes, events and time in; bytes, events and timers out."""

from pyxdp_gossip.gossip.core import GossipCore, LocalHost

__all__ = ["GossipCore", "LocalHost"]
