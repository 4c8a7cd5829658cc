# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel knows of routes, neighbours and links, asked and followed over netlink.

Every function speaks to the network namespace that the calling thread is in.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyxdp_gossip.ingress_filter import attach_ingress_filter, detach_ingress_filter
from pyxdp_gossip.interfaces import (
    MAC_BYTES,
    Link,
    first_address,
    has_address,
    is_there,
    join_group_address,
    leave_group_address,
    leaves_checksums_open,
    link,
    mac_address,
    mac_and_mtu,
)
from pyxdp_gossip.kernel_mounts import cgroup2_mount, ensure_bpffs
from pyxdp_gossip.netlink_follower import Follower
from pyxdp_gossip.netlink_formats import (
    NTF_EXT_LEARNED,
    NTF_USE,
    NUD_NOARP,
    NUD_PERMANENT,
    ndmsg,
    rtmsg,
)
from pyxdp_gossip.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    decoded_reply,
    encode,
    host_error,
)
from pyxdp_gossip.sockets_diag import DestroyListener, established_sockets, netns_cookie

__all__ = [
    "DestroyListener",
    "Follower",
    "Link",
    "Neighbour",
    "NextHop",
    "attach_ingress_filter",
    "cgroup2_mount",
    "detach_ingress_filter",
    "ensure_bpffs",
    "established_sockets",
    "first_address",
    "has_address",
    "is_local",
    "is_there",
    "join_group_address",
    "keep_neighbour",
    "leave_group_address",
    "leaves_checksums_open",
    "link",
    "netns_cookie",
    "path_mtu",
    "release_neighbour",
    "resolve",
]

Address = IPv4Address | IPv6Address

RTM_GETROUTE = 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTN_UNICAST, RTN_LOCAL = 1, 2
NTF_EXT_MANAGED = 1

# Marks the neighbour entries that this program made managed (`ip neigh` shows "proto 88"), so that
# release never touches one that the operator manages. 88 is nobody's in rt_protos.
NEIGHBOUR_PROTOCOL = 88

# A neighbour entry may come into being between the question and the EXCL request; each further
# attempt sees it. More than a few would mean that it comes and goes all the time.
NEIGHBOUR_ATTEMPTS = 3

# What the kernel answers when a destination cannot be reached by unicast: no route, or a route of
# the types unreachable, blackhole and prohibit, or the interface is down or gone.
NO_ROUTE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.ENETDOWN)
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One entry of the neighbour table that `keep_neighbour` asked for.

    Attributes:
        managed: the kernel keeps it resolved by itself (Linux 5.16). False: it was asked once
            (ask again), or the operator's own entry serves, which is left as it is.
    """

    interface_index: int
    address: Address
    managed: bool


@dataclass(frozen=True, slots=True)
class NextHop:
    """How this host reaches a destination now.

    Attributes:
        source_mac, destination_mac: 6 bytes; the MAC of the destination itself or of the gateway.
        mtu: bytes of an outer IP packet: the route's or the path's MTU, at most the link's.
        gateway: None if the destination is in the same broadcast domain; may be an IPv6 address
            for an IPv4 destination (RFC 5549).
    """

    interface_index: int
    source_address: Address
    source_mac: bytes
    destination_mac: bytes
    mtu: int
    gateway: Address | None


@dataclass(frozen=True, slots=True)
class _Route:
    index: int
    source: Address | None
    gateway: Address | None
    mtu: int | None


def _ask_route(netlink: NetlinkSocket, destination: Address) -> Any | None:
    """What `ip route get` says, as an rtmsg; None if the destination cannot be reached."""
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    fields = {"family": family, "dst_len": destination.max_prefixlen}
    question = encode(rtmsg, RTM_GETROUTE, 0, fields, [("RTA_DST", str(destination))])
    try:
        return decoded_reply(netlink, rtmsg, question)
    except NetlinkError as error:
        if error.errno in NO_ROUTE:
            return None
        raise host_error(error, f"ask for the route to {destination}") from error


def _route(netlink: NetlinkSocket, destination: Address) -> _Route | None:
    """The unicast route; None if the destination is local or cannot be reached."""
    message = _ask_route(netlink, destination)
    if message is None or message["type"] != RTN_UNICAST:
        return None
    via = message.get_attr("RTA_GATEWAY") or (message.get_attr("RTA_VIA") or {}).get("addr")
    source = message.get_attr("RTA_PREFSRC")
    return _Route(
        index=message.get_attr("RTA_OIF"),
        source=ip_address(source) if source else None,
        gateway=ip_address(via) if via else None,
        mtu=message.get_nested("RTA_METRICS", "RTAX_MTU"),
    )


def is_local(address: Address) -> bool:
    """Whether this host takes packets to the address as its own.

    Raises:
        HostError: the kernel refused the question.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        message = _ask_route(netlink, address)
    return message is not None and message["type"] == RTN_LOCAL


def path_mtu(destination: Address) -> int | None:
    """Bytes of an IP packet on the way to `destination`: the route's or the path's MTU, at most the
    link's; None if there is no unicast route.

    Raises:
        HostError: the kernel refused the question.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        route = _route(netlink, destination)
        if route is None:
            return None
        try:
            _mac, mtu = mac_and_mtu(netlink, route.index)
        except NetlinkError:
            return None  # the interface went between the two questions
    return min(mtu, route.mtu or mtu)


def _neighbour(netlink: NetlinkSocket, index: int, address: Address) -> Any | None:
    """The neighbour entry as an ndmsg, or None if there is none."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    fields = {"family": family, "ifindex": index}
    question = encode(ndmsg, RTM_GETNEIGH, 0, fields, [("NDA_DST", str(address))])
    try:
        return decoded_reply(netlink, ndmsg, question)
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            return None
        raise host_error(error, f"ask for the neighbour {address}") from error


def resolve(destination: Address) -> NextHop | None:
    """The next hop to `destination` by the kernel's own route and neighbour tables.

    Returns:
        None if there is no unicast route (local and group addresses included) or the neighbour
        has no MAC yet; `keep_neighbour` makes the kernel ask, `Follower` says when to try again.

    Raises:
        HostError: the kernel refused the question.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        route = _route(netlink, destination)
        if route is None or route.source is None:
            return None
        neighbour = _neighbour(netlink, route.index, route.gateway or destination)
        destination_mac = mac_address(neighbour.get_attr("NDA_LLADDR")) if neighbour else None
        if destination_mac is None:
            return None
        try:
            source_mac, mtu = mac_and_mtu(netlink, route.index)
        except NetlinkError:
            return None  # the interface went between the two questions
    if len(source_mac) != MAC_BYTES:
        return None
    return NextHop(
        interface_index=route.index,
        source_address=route.source,
        source_mac=source_mac,
        destination_mac=destination_mac,
        mtu=min(mtu, route.mtu or mtu),
        gateway=route.gateway,
    )


def keep_neighbour(destination: Address) -> Neighbour | None:
    """Makes the kernel resolve the neighbour towards `destination` and keep it so.

    Idempotent and cheap when there is nothing to do. Call it again for every destination after
    each change that `Follower` reports: link down and `ip neigh flush` remove managed entries, and
    another route means another gateway. An entry that the operator made (PERMANENT, NOARP,
    learned by a routing daemon, or managed already) is left as it is: the kernel would drop the
    PERMANENT state of an entry that is made managed.

    Returns:
        The entry, for `release_neighbour`; None if there is no unicast route.

    Raises:
        HostError: CAP_NET_ADMIN is missing, or the kernel refused.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        route = _route(netlink, destination)
        if route is None:
            return None
        address = route.gateway or destination
        for _attempt in range(NEIGHBOUR_ATTEMPTS):
            entry = _neighbour(netlink, route.index, address)
            if entry is not None and (_is_operators(entry) or _is_managed(entry)):
                break
            flags = NLM_F_CREATE if entry is not None else NLM_F_CREATE | NLM_F_EXCL
            try:
                _use_neighbour(netlink, route.index, address, flags, NTF_EXT_MANAGED)
            except NetlinkError as error:
                if error.errno not in (errno.EEXIST, errno.ENODEV, errno.ENETDOWN):
                    raise host_error(error, f"keep the neighbour {address}") from error
            else:
                entry = _neighbour(netlink, route.index, address)
                break
        return Neighbour(route.index, address, entry is not None and _is_managed(entry))


def release_neighbour(neighbour: Neighbour) -> None:
    """Ends what `keep_neighbour` began; the entry stays and ages as any other.

    Only entries with this program's mark are touched. Several destinations may share a gateway:
    release it when the last of them goes.

    Raises:
        HostError: CAP_NET_ADMIN is missing, or the kernel refused.
    """
    index, address = neighbour.interface_index, neighbour.address
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        entry = _neighbour(netlink, index, address)
        if entry is None or _is_operators(entry) or not _is_managed(entry):
            return
        if entry.get_attr("NDA_PROTOCOL") != NEIGHBOUR_PROTOCOL:
            return
        try:
            _use_neighbour(netlink, index, address, 0, 0)
        except NetlinkError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENETDOWN):
                raise host_error(error, f"release the neighbour {address}") from error


def _is_operators(entry: Any) -> bool:
    fixed = entry["state"] & (NUD_PERMANENT | NUD_NOARP)
    return bool(fixed or entry["flags"] & NTF_EXT_LEARNED)


def _is_managed(entry: Any) -> bool:
    return bool((entry.get_attr("NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED)


def _use_neighbour(
    netlink: NetlinkSocket, index: int, address: Address, flags: int, extended: int
) -> None:
    """Asks for the neighbour now (NTF_USE) and sets or clears its managed flag.

    A kernel before 5.16 ignores NDA_FLAGS_EXT and does the first half only: the fall-back needs
    no second request. On an entry that exists NTF_USE leaves state and MAC alone.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    values = [
        ("NDA_DST", str(address)),
        ("NDA_FLAGS_EXT", extended),
        ("NDA_PROTOCOL", NEIGHBOUR_PROTOCOL if extended else 0),
    ]
    fields = {"family": family, "ifindex": index, "flags": NTF_USE}
    netlink.request(encode(ndmsg, RTM_NEWNEIGH, flags | NLM_F_ACK, fields, values))
