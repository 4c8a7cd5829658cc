# SPDX-License-Identifier: BSD-2-Clause
"""What this kernel has, by trying the least of each; nothing stays behind."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pyxdp_gossip import netlink
from pyxdp_gossip._libxdp import ffi, lib
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.netlink_formats import ndmsg
from pyxdp_gossip.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NetlinkError,
    NetlinkSocket,
    encode,
)

Answer = bool | str
"""Whether it is there; or why that could not be told."""

AF_XDP: Final = 44
SO_PREFER_BUSY_POLL: Final = 69
BTF: Final = Path("/sys/kernel/btf/vmlinux")
NEEDS_BPF: Final = "needs CAP_BPF and CAP_NET_ADMIN"
NO_SUCH_FLAG: Final = 1 << 31  # of NDA_FLAGS_EXT
PAGE: Final = 4096

REFUSED: Final = frozenset((errno.EPERM, errno.EACCES))


def _answer(code: int, needs: str) -> Answer:
    """Of a negative errno, or 0."""
    if code == 0:
        return True
    return needs if -code in REFUSED else False


def has_xdp() -> Answer:
    """XDP programs at all, generic ones included."""
    lib.xg_capture_messages()
    return _answer(lib.xg_probe_xdp(), NEEDS_BPF)


def has_tcp_lookup() -> Answer:
    """`bpf_skc_lookup_tcp` and `bpf_tcp_check_syncookie` for XDP programs."""
    found = has_xdp()
    if found is not True:
        return found
    kind, helpers = lib.BPF_PROG_TYPE_XDP, (lib.BPF_FUNC_skc_lookup_tcp,
                                            lib.BPF_FUNC_tcp_check_syncookie)  # fmt: skip
    return all(lib.libbpf_probe_bpf_helper(kind, one, ffi.NULL) == 1 for one in helpers)


def has_sockops() -> Answer:
    """Programs that hear of TCP sockets."""
    found = has_xdp()
    if found is not True:
        return found
    return bool(lib.libbpf_probe_bpf_prog_type(lib.BPF_PROG_TYPE_SOCK_OPS, ffi.NULL) == 1)


def _has_map(kind: int, key: int, value: int, entries: int, flags: int = 0) -> Answer:
    lib.xg_capture_messages()
    return _answer(lib.xg_probe_map(kind, key, value, entries, flags), NEEDS_BPF)


def has_ring_buffer() -> Answer:
    """BPF ring buffers."""
    return _has_map(lib.BPF_MAP_TYPE_RINGBUF, 0, 0, PAGE)


def has_mmapable_arrays() -> Answer:
    """Arrays whose memory user space shares (BPF_F_MMAPABLE)."""
    return _has_map(lib.BPF_MAP_TYPE_ARRAY, 4, 8, 1, lib.BPF_F_MMAPABLE)


def has_af_xdp() -> Answer:
    """AF_XDP sockets."""
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW).close()
    except OSError as error:
        return _answer(-(error.errno or errno.EINVAL), "needs CAP_NET_RAW")
    return True


def has_several_buffers() -> Answer:
    """AF_XDP sockets take frames in several buffers (XDP_USE_SG), in copy mode."""
    return _answer(lib.xg_probe_several_buffers(), "needs CAP_NET_RAW")


def has_busy_polling() -> Answer:
    """SO_PREFER_BUSY_POLL; to say "no" needs no privilege, to say "yes" CAP_NET_ADMIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PREFER_BUSY_POLL, 0)
        except OSError as error:
            return _answer(-(error.errno or errno.EINVAL), "needs CAP_NET_ADMIN")
    return True


def has_btf() -> Answer:
    """The kernel's own types, for programs that were compiled elsewhere."""
    return BTF.exists() or (False if BTF.parent.parent.exists() else "needs /sys")


def has_socket_ends() -> Answer:
    """Notifications of destroyed TCP sockets (sock_diag)."""
    try:
        netlink.DestroyListener({}).close()
    except HostError as error:
        return "needs CAP_NET_ADMIN" if "CAP_NET_ADMIN" in str(error) else False
    return True


def has_cgroup2() -> Answer:
    """The cgroup v2 tree is mounted."""
    try:
        return bool(netlink.cgroup2_mount())
    except HostError:
        return False


def has_managed_neighbours() -> Answer:
    """Neighbours that the kernel keeps resolved.

    Asked by a request that every kernel refuses: a new one for a bit that does not exist, an old
    one, which does not read that attribute, for the address that is missing.
    """
    values = [("NDA_FLAGS_EXT", NO_SUCH_FLAG)]
    fields = {"family": socket.AF_INET, "ifindex": 1}
    with NetlinkSocket(NETLINK_ROUTE) as asked:
        try:
            asked.request(encode(ndmsg, netlink.RTM_NEWNEIGH, NLM_F_ACK, fields, values))
        except NetlinkError as error:
            if error.errno in REFUSED:
                return "needs CAP_NET_ADMIN"
            said = (error.strerror or "").lower()
            if "reserved bit" in said:
                return True
            if "address not specified" in said:
                return False
            return f"the kernel says: {error.strerror}"
    return "the kernel took a request that it must refuse"


PROBES: Final[Mapping[str, Callable[[], Answer]]] = {
    "xdp": has_xdp,
    "tcp-lookup": has_tcp_lookup,
    "sockops": has_sockops,
    "ring-buffer": has_ring_buffer,
    "mmapable-arrays": has_mmapable_arrays,
    "af-xdp": has_af_xdp,
    "copy-multi-buffer": has_several_buffers,
    "busy-polling": has_busy_polling,
    "btf": has_btf,
    "socket-ends": has_socket_ends,
    "cgroup-v2": has_cgroup2,
    "managed-neighbours": has_managed_neighbours,
}


def running_kernel() -> str:
    """Its release, as `uname -r`."""
    return os.uname().release
