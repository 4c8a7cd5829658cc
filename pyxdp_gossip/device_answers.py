# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel answers about one device: its XDP abilities, NAPI, flags and XDP program."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pyxdp_gossip.interfaces import RTM_GETLINK
from pyxdp_gossip.netlink_formats import ctrlmsg, genlmsg, ifinfmsg
from pyxdp_gossip.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_DUMP,
    NetlinkError,
    NetlinkSocket,
    decode,
    decoded_reply,
    encode,
    host_error,
)

NETLINK_GENERIC: Final = 16
GENL_ID_CTRL: Final = 16
CTRL_CMD_GETFAMILY: Final = 3
NETDEV_CMD_DEV_GET: Final = 1
NETDEV_CMD_NAPI_GET: Final = 11
IFF_MULTICAST: Final = 0x1000
NO_FAMILY: Final = "Linux before 6.3 does not tell"

# enum netdev_xdp_act
XDP_BASIC, XDP_REDIRECT, XDP_NDO_XMIT, XDP_ZERO_COPY = 1, 2, 4, 8
XDP_HW_OFFLOAD, XDP_RX_SG = 16, 32
# enum netdev_xdp_rx_metadata
RX_TIMESTAMP, RX_HASH, RX_VLAN = 1, 2, 4

# pyroute2's words for IFLA_XDP_ATTACHED, and ours.
XDP_MODES: Final = {
    "xdp": "native",
    "xdpgeneric": "skb",
    "xdpoffload": "offload",
    "xdpmulti": "several",
}


class NetdevDevice(genlmsg):  # type: ignore[misc]
    """The attribute set "dev" of Documentation/netlink/specs/netdev.yaml."""

    __slots__ = ()
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XDP_ZC_MAX_SEGS", "uint32"),
        ("NETDEV_A_DEV_XDP_RX_METADATA_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XSK_FEATURES", "uint64"),
    )


class NetdevNapi(genlmsg):  # type: ignore[misc]
    """The attribute set "napi" of the same file."""

    __slots__ = ()
    nla_map = (
        ("NETDEV_A_NAPI_UNSPEC", "none"),
        ("NETDEV_A_NAPI_IFINDEX", "uint32"),
        ("NETDEV_A_NAPI_ID", "uint32"),
        ("NETDEV_A_NAPI_IRQ", "uint32"),
        ("NETDEV_A_NAPI_PID", "uint32"),
        ("NETDEV_A_NAPI_DEFER_HARD_IRQS", "uint32"),
        ("NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT", "uint64"),
        ("NETDEV_A_NAPI_IRQ_SUSPEND_TIMEOUT", "uint64"),
        ("NETDEV_A_NAPI_THREADED", "uint32"),
    )


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What the netdev family says of a device; None: this kernel does not say it.

    Attributes:
        xdp: bits of `enum netdev_xdp_act` (Linux 6.3).
        zero_copy_buffers: buffers of one frame in zero-copy mode (6.6).
        rx_metadata: bits of `enum netdev_xdp_rx_metadata` (6.7).
        xsk: bits of `enum netdev_xsk_flags`, for sending (6.8).
    """

    xdp: int | None = None
    zero_copy_buffers: int | None = None
    rx_metadata: int | None = None
    xsk: int | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """An XDP program at a device: how, and its id; 0 if the kernel does not say."""

    mode: str
    program: int


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What rtnetlink says of a device beyond `Link`.

    Attributes:
        multicast: it takes multicast (IFF_MULTICAST).
        attached: the XDP program on it, or None.
    """

    multicast: bool
    attached: Attached | None


def device_answer(message: bytes | memoryview) -> DeviceAnswer:
    """Reads one reply to NETDEV_CMD_DEV_GET, from its nlmsghdr on."""
    found = decode(NetdevDevice, memoryview(message))
    return DeviceAnswer(
        xdp=found.get_attr("NETDEV_A_DEV_XDP_FEATURES"),
        zero_copy_buffers=found.get_attr("NETDEV_A_DEV_XDP_ZC_MAX_SEGS"),
        rx_metadata=found.get_attr("NETDEV_A_DEV_XDP_RX_METADATA_FEATURES"),
        xsk=found.get_attr("NETDEV_A_DEV_XSK_FEATURES"),
    )


def napi_threads(messages: Iterable[Any], index: int) -> list[bool | None]:
    """Of each NAPI of a device, whether a thread of its own polls it; None: not told."""
    found: list[bool | None] = []
    for one in messages:
        if one.get_attr("NETDEV_A_NAPI_IFINDEX") == index:
            threaded = one.get_attr("NETDEV_A_NAPI_THREADED")
            has_thread = one.get_attr("NETDEV_A_NAPI_PID") is not None
            found.append(bool(threaded) if threaded is not None else has_thread or None)
    return found


def ask_device(index: int) -> DeviceAnswer | str:
    """The netdev family's answer, or why there is none."""
    try:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            family = _netdev_family(netlink)
            values = [("NETDEV_A_DEV_IFINDEX", index)]
            question = _netdev_question(NetdevDevice, family, NETDEV_CMD_DEV_GET, values)
            reply = netlink.request(question)
            return DeviceAnswer() if reply is None else device_answer(reply)
    except NetlinkError as error:
        return NO_FAMILY if error.errno == errno.ENOENT else f"netdev: {error.strerror}"


def ask_napi(index: int) -> list[bool | None] | str:
    """`napi_threads` of a device, or why the kernel does not tell."""
    try:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            family = _netdev_family(netlink)
            values = [("NETDEV_A_NAPI_IFINDEX", index)]
            question = _netdev_question(NetdevNapi, family, NETDEV_CMD_NAPI_GET, values, NLM_F_DUMP)
            return napi_threads(netlink.dump_all(NetdevNapi, question), index)
    except NetlinkError as error:
        too_old = error.errno in (errno.ENOENT, errno.EOPNOTSUPP)
        return "Linux before 6.8 does not tell" if too_old else f"netdev: {error.strerror}"


def _netdev_family(netlink: NetlinkSocket) -> int:
    fields = {"cmd": CTRL_CMD_GETFAMILY, "version": 1}
    values = [("CTRL_ATTR_FAMILY_NAME", "netdev")]
    found = decoded_reply(netlink, ctrlmsg, encode(ctrlmsg, GENL_ID_CTRL, 0, fields, values))
    return int(found.get_attr("CTRL_ATTR_FAMILY_ID"))


def _netdev_question(
    message_class: Any, family: int, command: int, values: list[Any], flags: int = 0
) -> bytes:
    return encode(message_class, family, flags, {"cmd": command, "version": 1}, values)


def ask_state(index: int) -> DeviceState:
    """Flags and XDP program of a device; needs no privilege.

    Raises:
        HostError: it is gone.
    """
    question = encode(ifinfmsg, RTM_GETLINK, 0, {"index": index}, [])
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            return device_state(decoded_reply(netlink, ifinfmsg, question))
        except NetlinkError as error:
            raise host_error(error, f"read interface {index}") from error


def device_state(message: Any) -> DeviceState:
    """Reads an ifinfmsg."""
    nest = message.get_attr("IFLA_XDP")
    mode = nest.get_attr("IFLA_XDP_ATTACHED") if nest else None
    program = (nest.get_attr("IFLA_XDP_PROG_ID") if nest else None) or 0
    attached = Attached(XDP_MODES[mode], program) if mode in XDP_MODES else None
    return DeviceState(bool(message["flags"] & IFF_MULTICAST), attached)
