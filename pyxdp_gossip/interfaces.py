# SPDX-License-Identifier: BSD-2-Clause
"""Network interfaces: what the kernel knows of them, and the groups that they join themselves."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyxdp_gossip.errors import HostError
from pyxdp_gossip.netlink_formats import IFA_F_MCAUTOJOIN, IFA_F_NODAD, ifaddrmsg, ifinfmsg
from pyxdp_gossip.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    attributes,
    decoded_reply,
    encode,
    host_error,
)

Address = IPv4Address | IPv6Address

RTM_GETLINK = 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000  # the carrier; not in Python's socket module
IFNAMSIZ = 16
IFLA_ADDRESS, IFLA_MTU = 1, 4
IFINFMSG_END = 32  # nlmsghdr and ifinfmsg: here the attributes of a link begin
MAC_BYTES = 6
# A membership of each deleted interface stays with the kernel; it counts up to 20 of them.
TOO_MANY_GROUPS = "the kernel counts too many groups; raise sysctl net.ipv4.igmp_max_memberships"
RTEXT_FILTER_SKIP_STATS = 8  # a link's counters are half of its message, and nobody reads them
RT_SCOPE_UNIVERSE = 0

SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x03
ETHTOOL_GTXCSUM = 0x16
ETHTOOL_GCHANNELS = 0x3C


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel sees it now.

    Attributes:
        mac: 6 bytes; zeros where the kind of link has no Ethernet address.
        mtu: bytes of an IP packet.
        up: up by the operator's will, and with carrier.
        kind: the kind of a virtual link ("veth", "bridge"), else the driver's name ("virtio_net",
            "ice"), else None.
        rx_queues: receive queues in use, those of an attached XDP program not counted.
        tx_queues: the same of sending: in copy mode an AF_XDP socket sends by those alone.
    """

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    kind: str | None
    rx_queues: int
    tx_queues: int


def link(interface: str) -> Link:
    """The interface of that name (alternative names count).

    Raises:
        HostError: there is no such interface; the message lists those that exist.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            if not 0 < len(interface.encode()) < IFNAMSIZ or "\0" in interface:
                raise NetlinkError(errno.ENODEV, os.strerror(errno.ENODEV))
            return _as_link(decoded_reply(netlink, ifinfmsg, _link_question(0, interface)))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise host_error(error, f"read interface {interface!r}") from error
            there = ", ".join(name for _index, name in socket.if_nameindex())
            raise HostError(f"no interface {interface!r}; there are: {there}") from None


def _link_question(index: int, name: str | None = None) -> bytes:
    values: list[Any] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    if name is not None:
        values.append(("IFLA_IFNAME", name))
    return encode(ifinfmsg, RTM_GETLINK, 0, {"index": index}, values)


def mac_and_mtu(netlink: NetlinkSocket, index: int) -> tuple[bytes, int]:
    """What a next hop needs of a link, taken from the raw message.

    Decoding the whole message costs 0.7 ms, and this is asked once a peer at each change.
    """
    reply = netlink.request(_link_question(index))
    mac, mtu = b"", 0
    for kind, value in attributes(reply, IFINFMSG_END) if reply is not None else ():
        if kind == IFLA_ADDRESS:
            mac = bytes(value)
        elif kind == IFLA_MTU:
            mtu = int.from_bytes(value, sys.byteorder)
    return mac, mtu


def _as_link(message: Any) -> Link:
    name = message.get_attr("IFLA_IFNAME")
    wanted = IFF_UP | IFF_LOWER_UP
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
    rx_channels, tx_channels = _channels(name)
    return Link(
        index=message["index"],
        name=name,
        mac=mac_address(message.get_attr("IFLA_ADDRESS")) or bytes(MAC_BYTES),
        mtu=message.get_attr("IFLA_MTU"),
        up=message["flags"] & wanted == wanted,
        kind=kind or _driver(name),
        rx_queues=rx_channels or message.get_attr("IFLA_NUM_RX_QUEUES") or 1,
        tx_queues=tx_channels or message.get_attr("IFLA_NUM_TX_QUEUES") or 1,
    )


def mac_address(text: str | None) -> bytes | None:
    """6 bytes of "02:00:00:00:00:01"; None for none, and for addresses of other link types."""
    value = bytes.fromhex(text.replace(":", "")) if text else b""
    return value if len(value) == MAC_BYTES else None


def _ethtool(name: str, command: int, size: int) -> bytes | None:
    """The answer of an ethtool `GET` ioctl of `size` bytes, or None if the driver has none.

    ioctl and not /sys/class/net: /sys belongs to the namespace it was mounted in, which is not
    the thread's after setns.
    """
    answer = array.array("B", struct.pack("=I", command).ljust(size, b"\0"))
    request = struct.pack("16sP", name.encode(), answer.buffer_info()[0]).ljust(40, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as carrier:
            fcntl.ioctl(carrier, SIOCETHTOOL, request)
    except OSError:
        return None
    return answer.tobytes()


def _driver(name: str) -> str | None:
    answer = _ethtool(name, ETHTOOL_GDRVINFO, 196)
    return (answer[4:36].split(b"\0")[0].decode("ascii", "replace") or None) if answer else None


def _channels(name: str) -> tuple[int, int]:
    """Channels in use for receiving and for sending; zeros if the driver does not say."""
    answer = _ethtool(name, ETHTOOL_GCHANNELS, 36)
    if answer is None:
        return 0, 0
    values = struct.unpack("=9I", answer)
    rx_count, tx_count, combined_count = values[5], values[6], values[8]
    return int(rx_count + combined_count), int(tx_count + combined_count)


def leaves_checksums_open(name: str) -> bool | None:
    """Whether packets leave the interface with checksums that hardware is to compute; None: the
    driver does not say."""
    answer = _ethtool(name, ETHTOOL_GTXCSUM, 8)
    return None if answer is None else answer[4:8] != bytes(4)


def is_there(interface_index: int) -> bool:
    """Whether the interface exists still; one made anew has another index, whatever its name."""
    try:
        socket.if_indextoname(interface_index)
    except OSError:
        return False
    return True


def first_address(interface: str, version: int = 4) -> Address:
    """The interface's first address of global scope, groups joined by `autojoin` left out.

    Args:
        version: 4 or 6.

    Raises:
        HostError: no such interface, or it has no such address.
    """
    index = link(interface).index
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    question = encode(ifaddrmsg, RTM_GETADDR, NLM_F_DUMP, {"family": family}, [])
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for message in netlink.dump_all(ifaddrmsg, question):
            if message["index"] != index or message["scope"] != RT_SCOPE_UNIVERSE:
                continue
            address = ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            if not address.is_multicast:
                return address
    raise HostError(
        f"interface {interface!r} has no global IPv{version} address: add one, or set host.address"
    )


def has_address(interface_index: int, address: Address) -> bool:
    """Whether an interface has this address now."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        return any(_rows_of(netlink, interface_index, address))


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _rows_of(netlink: NetlinkSocket, index: int, address: Address) -> list[Any]:
    """The kernel's rows of an address of an interface: one, or none."""
    question = encode(ifaddrmsg, RTM_GETADDR, NLM_F_DUMP, {"family": _family(address)}, [])
    name = "IFA_LOCAL" if address.version == 4 else "IFA_ADDRESS"
    return [
        message
        for message in list(netlink.dump_all(ifaddrmsg, question))
        if message["index"] == index and message.get_attr(name) == str(address)
    ]


def join_group_address(interface_index: int, group: Address) -> None:
    """Makes the interface itself a member of `group`: `ip addr add GROUP dev IF autojoin`.

    The kernel holds the membership, so it outlives this process. It also makes the group a local
    address: what this host's own sockets send to it goes to `lo`, so the flood group must not be
    the gossip group. Idempotent.

    Raises:
        ValueError: `group` is no multicast address.
        HostError: CAP_NET_ADMIN is missing, no such interface, or the address is there without
            `autojoin`.
    """
    if not group.is_multicast:
        raise ValueError(f"{group} is not a multicast address")
    what = f"join group {group} on interface {interface_index}"
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            _add_group(netlink, interface_index, group)
            return
        except NetlinkError as error:
            if error.errno == errno.ENOBUFS:
                raise HostError(f"cannot {what}: {TOO_MANY_GROUPS}") from error
            if error.errno != errno.EEXIST:
                raise host_error(error, what) from error
        for message in _rows_of(netlink, interface_index, group):
            if message.get_attr("IFA_FLAGS") & IFA_F_MCAUTOJOIN:
                return
            raise HostError(f"cannot {what}: the address is there without autojoin; remove it")


def leave_group_address(interface_index: int, group: Address) -> None:
    """Undoes `join_group_address`; silent if the address or the interface is gone.

    Raises:
        HostError: CAP_NET_ADMIN is missing, or the kernel refused.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            netlink.request(_group_message(interface_index, group, RTM_DELADDR))
        except NetlinkError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                what = f"leave group {group} on interface {interface_index}"
                raise host_error(error, what) from error


def _add_group(netlink: NetlinkSocket, index: int, group: Address) -> None:
    """The kernel's membership outlives a device that is deleted: one of the same index is in its
    way, and goes with the address added and removed once without `autojoin`."""
    try:
        netlink.request(_group_message(index, group, RTM_NEWADDR))
    except NetlinkError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        netlink.request(_group_message(index, group, RTM_NEWADDR, address_flags=0))
        netlink.request(_group_message(index, group, RTM_DELADDR))
        netlink.request(_group_message(index, group, RTM_NEWADDR))


def _group_message(
    index: int, group: Address, kind: int, address_flags: int = IFA_F_MCAUTOJOIN
) -> bytes:
    fields = {"family": _family(group), "prefixlen": group.max_prefixlen, "index": index}
    if group.version == 6 and address_flags:
        address_flags |= IFA_F_NODAD  # nobody else has a group as its own address
    values: list[Any] = [("IFA_LOCAL", str(group)), ("IFA_ADDRESS", str(group))]
    flags = NLM_F_ACK
    if kind == RTM_NEWADDR:
        values.append(("IFA_FLAGS", address_flags))
        flags |= NLM_F_CREATE | NLM_F_EXCL
    return encode(ifaddrmsg, kind, flags, fields, values)
