# SPDX-License-Identifier: BSD-2-Clause
"""The flood group on an interface that was deleted and made anew: the kernel's old memberships."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError
from tests.kernel.conftest import Namespace

GROUP = IPv4Address("239.192.7.2")


def make_anew(space: Namespace, options: str = "") -> int:
    """A device without addresses, in the place of another; returns its index."""
    if "d0" in space.ip("-br link show"):
        space.ip("link del d0")
    space.ip(f"link add d0 {options} type veth peer name d1")
    space.ip("link set d0 up")
    return int(space.run(socket.if_nametoindex, "d0"))


def test_a_membership_of_the_same_index_is_not_in_the_way(
    netns: Callable[[str], Namespace],
) -> None:
    space = netns("a")
    for _ in range(25):
        space.run(netlink.join_group_address, make_anew(space, "index 90"), GROUP)
        assert "autojoin" in space.ip("addr show dev d0")
        assert str(GROUP) in space.ip("maddr show dev d0")


def test_too_many_lost_interfaces_are_told_with_what_to_do(
    netns: Callable[[str], Namespace],
) -> None:
    space = netns("a")
    space.exec("sysctl -qw net.ipv4.igmp_max_memberships=1")
    space.run(netlink.join_group_address, make_anew(space), GROUP)
    index = make_anew(space)
    with pytest.raises(HostError, match=r"raise sysctl net\.ipv4\.igmp_max_memberships"):
        space.run(netlink.join_group_address, index, GROUP)
    space.exec("sysctl -qw net.ipv4.igmp_max_memberships=20")
    space.run(netlink.join_group_address, index, GROUP)
    assert str(GROUP) in space.ip("maddr show dev d0")
