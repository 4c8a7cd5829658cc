# SPDX-License-Identifier: BSD-2-Clause
"""Busy polling of an AF_XDP socket: its thread drives the driver, in the place of interrupts."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Final

from pyxdp_gossip.errors import HostError

AF_XDP: Final = 44
SO_BUSY_POLL: Final = 46
SO_PREFER_BUSY_POLL: Final = 69  # Linux 5.11
SO_BUSY_POLL_BUDGET: Final = 70  # Linux 5.11

BUSY_POLL_US: Final = 20  # a call polls at most so long; the kernel documentation's own value
BUDGET: Final = 64  # frames a poll: a burst of the loop (XG_BURST)
DEFER_IRQS: Final = 2  # empty polls before interrupts come back
FLUSH_TIMEOUT_NS: Final = 200_000  # then the kernel polls by itself: a frozen loop stalls no queue

HINTS: Final = {
    errno.ENOPROTOOPT: "needs Linux 5.11, built with CONFIG_NET_RX_BUSY_POLL: "
    "leave [dataplane] busy_poll out",
    errno.EPERM: "needs CAP_NET_ADMIN: run as root",
}


def prefer_busy_polling(fd: int, interface: str) -> None:
    """Tells the kernel that whoever calls it on this socket polls the driver.

    Args:
        fd: of an AF_XDP socket; it stays the caller's.
        interface: for the error.

    Raises:
        HostError: the kernel cannot; says what it needs.

    Source: Documentation/networking/napi.rst of the kernel, "Busy polling".
    """
    options = (
        (SO_PREFER_BUSY_POLL, 1), (SO_BUSY_POLL, BUSY_POLL_US), (SO_BUSY_POLL_BUDGET, BUDGET)
    )  # fmt: skip
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0, fileno=os.dup(fd)) as same:
        for option, value in options:
            try:
                same.setsockopt(socket.SOL_SOCKET, option, value)
            except OSError as error:
                hint = HINTS.get(error.errno or 0, "leave [dataplane] busy_poll out")
                raise HostError(f"busy polling on {interface}: {error.strerror} ({hint})") from None


def advice(interface: str, net: Path = Path("/sys/class/net")) -> str:
    """One line: how the interface must be set for busy polling to take over from interrupts.

    Args:
        net: where the kernel lists interfaces; a test makes its own.
    """
    wanted = (
        ("napi_defer_hard_irqs", DEFER_IRQS),
        ("gro_flush_timeout", FLUSH_TIMEOUT_NS),
        ("threaded", 0),  # else a kernel thread competes for the same polls
    )
    missing = []
    for name, value in wanted:
        found = _read(net / interface / name)
        if found is not None and bool(found) != bool(value):
            missing.append(f"`echo {value} > {net / interface / name}`")
    if not missing:
        return f"busy polling on {interface}: each loop's thread keeps one CPU busy"
    return f"busy polling on {interface} goes beside its interrupts until {', '.join(missing)}"


def _read(path: Path) -> int | None:
    """A number of the kernel's; None: this kernel or interface has it not."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None
