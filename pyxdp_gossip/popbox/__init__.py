# SPDX-License-Identifier: BSD-2-Clause
"""The POP in a box: router, hosts, proxies and clients in network namespaces, on real packets."""

from pyxdp_gossip.popbox.box import Box
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.observer import Observed

__all__ = ["Box", "BoxError", "Observed"]
