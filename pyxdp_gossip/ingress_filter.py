# SPDX-License-Identifier: BSD-2-Clause
"""Attaches one direct-action BPF program at an interface's tc ingress, beside others' filters."""

from __future__ import annotations

import errno
import socket
from typing import Any

from pyxdp_gossip.errors import HostError
from pyxdp_gossip.netlink_formats import tcmsg
from pyxdp_gossip.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    encode,
    host_error,
)

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

TC_H_CLSACT = 0xFFFFFFF1
CLSACT_HANDLE = 0xFFFF0000
CLSACT_INGRESS = 0xFFFFFFF2  # an older "ingress" qdisc answers to it as well
CLSACT_EGRESS = 0xFFFFFFF3
ETH_P_ALL = 0x0003
TCA_BPF_FLAG_ACT_DIRECT = 1

# Our place in the chain: early, so that a filter that ends the chain (Cilium's, at 1, hands on;
# tc's automatic priorities count down from 49152) seldom comes before us. The handle is "XG".
FILTER_PRIORITY = 7
FILTER_HANDLE = 0x5847

GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.EINVAL))


def attach_ingress_filter(interface_index: int, program_fd: int, name: str) -> None:
    """Runs the BPF program on every packet that enters by the interface.

    The program should return TC_ACT_UNSPEC, so that later filters see the packet. Adds a clsact
    qdisc if there is none and uses the one that is there otherwise. A filter of the same name at
    our place is replaced at once, without a gap: calling again is safe.

    Args:
        program_fd: a program of type BPF_PROG_TYPE_SCHED_CLS.
        name: what `tc filter show` shows; `detach_ingress_filter` wants the same.

    Raises:
        HostError: CAP_NET_ADMIN is missing, no such interface, or another program's filter has
            our priority and handle.
    """
    what = f"attach the ingress filter {name!r} to interface {interface_index}"
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            _add_clsact(netlink, interface_index)
            taken = _name_at_our_place(netlink, interface_index)
            if taken not in (None, name):
                raise HostError(
                    f"cannot {what}: the filter {taken!r} has its place; remove it with "
                    f"`tc filter del dev IF ingress prio {FILTER_PRIORITY}`"
                )
            attributes = [
                ("TCA_KIND", "bpf"),
                (
                    "TCA_OPTIONS",
                    {
                        "attrs": [
                            ("TCA_BPF_FD", program_fd),
                            ("TCA_BPF_NAME", name),
                            ("TCA_BPF_FLAGS", TCA_BPF_FLAG_ACT_DIRECT),
                        ]
                    },
                ),
            ]
            flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
            fields = _our_place(interface_index)
            netlink.request(encode(tcmsg, RTM_NEWTFILTER, flags, fields, attributes))
        except NetlinkError as error:
            raise host_error(error, what) from error


def detach_ingress_filter(interface_index: int, name: str) -> None:
    """Takes the filter off, and the clsact qdisc too if no filter of anyone is left in it.

    Silent if there is no such filter, or if the interface is gone.

    Raises:
        HostError: CAP_NET_ADMIN is missing, or the kernel refused.
    """
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            if _name_at_our_place(netlink, interface_index) != name:
                return
            fields = _our_place(interface_index)
            kind = [("TCA_KIND", "bpf")]
            netlink.request(encode(tcmsg, RTM_DELTFILTER, NLM_F_ACK, fields, kind))
            _remove_empty_clsact(netlink, interface_index)
        except NetlinkError as error:
            if error.errno not in GONE:
                what = f"detach the ingress filter {name!r} from interface {interface_index}"
                raise host_error(error, what) from error


def _our_place(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "handle": FILTER_HANDLE,
        "parent": CLSACT_INGRESS,
        "info": FILTER_PRIORITY << 16 | socket.htons(ETH_P_ALL),
    }


def _clsact(kind: int, flags: int, index: int) -> bytes:
    fields = {"index": index, "handle": CLSACT_HANDLE, "parent": TC_H_CLSACT}
    return encode(tcmsg, kind, flags | NLM_F_ACK, fields, [("TCA_KIND", "clsact")])


def _add_clsact(netlink: NetlinkSocket, index: int) -> None:
    try:
        netlink.request(_clsact(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise


def _remove_empty_clsact(netlink: NetlinkSocket, index: int) -> None:
    question = encode(tcmsg, RTM_GETQDISC, NLM_F_DUMP, {"index": index}, [])
    kinds = {
        qdisc.get_attr("TCA_KIND")
        for qdisc in netlink.dump_all(tcmsg, question)
        if qdisc["index"] == index
    }
    if "clsact" not in kinds:
        return
    if _filters(netlink, index, CLSACT_INGRESS) or _filters(netlink, index, CLSACT_EGRESS):
        return
    netlink.request(_clsact(RTM_DELQDISC, 0, index))


def _filters(netlink: NetlinkSocket, index: int, parent: int) -> list[Any]:
    """Every filter of one direction; empty if the qdisc or the interface is gone."""
    fields = {"index": index, "parent": parent}
    question = encode(tcmsg, RTM_GETTFILTER, NLM_F_DUMP, fields, [])
    try:
        return netlink.dump_all(tcmsg, question)
    except NetlinkError as error:
        if error.errno in GONE:
            return []
        raise


def _name_at_our_place(netlink: NetlinkSocket, index: int) -> str | None:
    """The name of the filter with our priority and handle ("" for one without), or None."""
    for message in _filters(netlink, index, CLSACT_INGRESS):
        if message["info"] >> 16 != FILTER_PRIORITY or message["handle"] != FILTER_HANDLE:
            continue
        options = message.get_attr("TCA_OPTIONS")
        found = options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None
        return str(found or "")
    return None
