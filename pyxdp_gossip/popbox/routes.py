# SPDX-License-Identifier: BSD-2-Clause
"""Writes the commands that change the router's ECMP set, in each of the three kinds (pure)."""

from collections.abc import Sequence
from typing import Literal, get_args

from pyxdp_gossip.popbox import names
from pyxdp_gossip.popbox.failures import BoxError

Kind = Literal["plain", "group", "resilient"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RESILIENT_BUCKETS = 128
"""Enough that the share of each of eight hosts is even within a few per cent."""

_GROUP_IDS: dict[Kind, int] = {"group": 10, "resilient": 20}
_FAMILIES = ((4, names.VIP4 + "/32"), (6, names.VIP6 + "/128"))


def _gateway(family: int, host: int) -> str:
    address = names.host_address(host)
    return address.ipv4 if family == 4 else address.ipv6


def next_hop_id(family: int, host: int) -> int:
    """Id of the next-hop object of a host."""
    return family * 1000 + host


def next_hop_objects(hosts: int) -> list[str]:
    """Lines for `ip -batch`: one next-hop object per host and family, made once per box."""
    return [
        f"nexthop add id {next_hop_id(family, host)} via {_gateway(family, host)} "
        f"dev {names.BRIDGE}"
        for family, _ in _FAMILIES
        for host in range(1, hosts + 1)
    ]


def _plain(family: int, vip: str, hosts: Sequence[int]) -> list[str]:
    hops = " ".join(
        f"nexthop via {_gateway(family, host)} dev {names.BRIDGE} weight 1" for host in hosts
    )
    return [f"route replace {vip} {hops}"]


def _group(family: int, vip: str, hosts: Sequence[int], kind: Kind) -> list[str]:
    group = family * 1000 + 900 + _GROUP_IDS[kind]
    members = "/".join(str(next_hop_id(family, host)) for host in hosts)
    shape = f" type resilient buckets {RESILIENT_BUCKETS}" if kind == "resilient" else ""
    return [
        f"nexthop replace id {group} group {members}{shape}",
        f"route replace {vip} nhid {group}",
    ]


def change(hosts: Sequence[int], kind: Kind) -> list[str]:
    """Lines for `ip -batch` that make exactly `hosts`, in this order, the next hops of both VIPs.

    Raises:
        BoxError: no hosts, a host twice, or an unknown kind.
    """
    if not hosts or len(set(hosts)) != len(hosts):
        raise BoxError(f"next hops {list(hosts)}: name at least one host, and each once")
    if kind not in KINDS:
        raise BoxError(f"next-hop kind {kind!r}: use one of {', '.join(KINDS)}")
    lines: list[str] = []
    for family, vip in _FAMILIES:
        if kind == "plain":
            lines += _plain(family, vip, hosts)
        else:
            lines += _group(family, vip, hosts, kind)
    return lines
