# SPDX-License-Identifier: BSD-2-Clause
"""Follows changes of links, neighbours, routes and addresses, and says which kind changed."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from contextlib import suppress
from typing import Self

from pyxdp_gossip.netlink_formats import (
    NUD_DELAY,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    ndmsg,
)
from pyxdp_gossip.netlink_socket import NETLINK_ROUTE, NetlinkSocket, decode, messages

LINK, NEIGHBOUR, ROUTE, ADDRESS = "link", "neighbour", "route", "address"
EVERYTHING = frozenset((LINK, NEIGHBOUR, ROUTE, ADDRESS))

# RTNLGRP_* of linux/rtnetlink.h: LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR,
# IPV6_ROUTE, IPV6_RULE, NEXTHOP.
GROUPS = sum(1 << (group - 1) for group in (1, 3, 5, 7, 8, 9, 11, 19, 32))

RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

# RTM_NEW* and RTM_DEL* of links, addresses, routes, neighbours, rules and next-hop objects.
KINDS = {
    16: LINK, 17: LINK,
    20: ADDRESS, 21: ADDRESS,
    24: ROUTE, 25: ROUTE,
    RTM_NEWNEIGH: NEIGHBOUR, RTM_DELNEIGH: NEIGHBOUR,
    32: ROUTE, 33: ROUTE,
    104: ROUTE, 105: ROUTE,
}  # fmt: skip

# A bridge reports its ports and its forwarding database under this family, as links and
# neighbours; neither changes a next hop.
AF_BRIDGE = 7
FAMILY_OFFSET = 16

NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY

# Notifications that may wait while the thread does not run: about 2000 route changes. What does
# not fit is reported as "everything changed", so this is comfort, not correctness.
RECEIVE_BUFFER = 1 << 20

# Neighbours whose last MAC is remembered, to tell a change from the kernel's routine (REACHABLE,
# STALE, PROBE). Larger than any ARP table of a POP; past it, everything counts as new once more.
NEIGHBOURS_MAX = 16384

# Closing waits this long for the thread, which is never blocked in anything but poll().
JOIN_S = 5.0


class Follower:
    """A daemon thread that turns rtnetlink notifications into "this kind changed".

    Subscribed when the constructor returns, so: make the follower, then take the snapshot, then
    take a new one after each wake-up; no change falls between. A neighbour counts as changed when
    its MAC comes, goes or differs, not at each of the kernel's routine probes. Thread-safe.

    Raises:
        HostError: the kernel refused the subscription.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_ROUTE, GROUPS, RECEIVE_BUFFER)
        self._netlink.socket.setblocking(False)
        self._changed_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._closed = False
        self._macs: dict[tuple[int, str], str] = {}
        self._thread = threading.Thread(target=self._run, name="xg-netlink", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """An eventfd that is readable while `drain` has something to say; -1 once closed."""
        return self._changed_fd

    def drain(self) -> frozenset[str]:
        """What changed since the last call: of "link", "neighbour", "route", "address".

        All four if the kernel dropped notifications; empty if nothing changed, or once closed.
        """
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._changed_fd)
            changed = frozenset(self._changed)
            self._changed.clear()
            return changed

    def close(self) -> None:
        """Ends the thread and the subscription; may be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._changed.clear()
            os.eventfd_write(self._stop_fd, 1)
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
        self._netlink.close()
        os.close(self._stop_fd)
        os.close(self._changed_fd)
        self._changed_fd = -1

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._netlink.socket, select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        while True:
            poller.poll()
            with self._lock:
                if self._closed:
                    return
            self._report(self._read())

    def _report(self, changed: set[str]) -> None:
        with self._lock:
            if self._closed or changed <= self._changed:
                return
            self._changed |= changed
            os.eventfd_write(self._changed_fd, 1)

    def _read(self) -> set[str]:
        """What one datagram changed; everything, if datagrams before it were dropped."""
        try:
            datagram = self._netlink.receive()
        except BlockingIOError:
            return set()
        except OSError as error:
            if error.errno == errno.EINTR:
                return set()
            self._macs.clear()
            return set(EVERYTHING)
        return {
            KINDS[kind]
            for kind, _flags, _sequence, message in messages(datagram)
            if kind in KINDS and self._matters(kind, message)
        }

    def _matters(self, kind: int, message: memoryview) -> bool:
        if len(message) <= FAMILY_OFFSET or message[FAMILY_OFFSET] == AF_BRIDGE:
            return False
        if KINDS[kind] != NEIGHBOUR:
            return True
        return self._mac_changed(kind, message)

    def _mac_changed(self, kind: int, message: memoryview) -> bool:
        try:
            entry = decode(ndmsg, message)
            key = (entry["ifindex"], entry.get_attr("NDA_DST"))
        except (struct.error, KeyError, ValueError):
            return True  # a message this version cannot read may be the one that matters
        valid = kind == RTM_NEWNEIGH and entry["state"] & NUD_VALID
        mac = (entry.get_attr("NDA_LLADDR") or "") if valid else ""
        if self._macs.get(key) == mac:
            return False
        if len(self._macs) >= NEIGHBOURS_MAX:
            self._macs.clear()
        self._macs[key] = mac
        return True
