# SPDX-License-Identifier: BSD-2-Clause
"""What a data path put on its interface and its cgroup, and what one before it left there."""

from __future__ import annotations

from dataclasses import dataclass

from pyxdp_gossip import netlink
from pyxdp_gossip.bpf_object import PinnedLink
from pyxdp_gossip.dataplane_settings import FILTER_NAME
from pyxdp_gossip.session import Address


@dataclass(slots=True)
class Attached:
    """What this process attached, for taking it down in the reverse order."""

    xdp: PinnedLink | None = None
    sockops: PinnedLink | None = None
    mode: str = ""
    filter: bool = False
    group: Address | None = None


def clear_predecessor(old: PinnedLink, own_index: int, group: Address | None) -> None:
    """Takes an earlier agent's program, group and filter off another interface."""
    index = old.ifindex
    old.remove()
    if index not in (0, own_index):
        netlink.detach_ingress_filter(index, FILTER_NAME)
        if group:
            netlink.leave_group_address(index, group)
