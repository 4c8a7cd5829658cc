# SPDX-License-Identifier: BSD-2-Clause
"""The listeners that were there before the sockops program: their SYN-ACKs are limited as well."""

from __future__ import annotations

import os
from typing import Literal

from pyxdp_gossip._libxdp import lib
from pyxdp_gossip.bpf_object import BpfObject, checked

READ_BYTES = 4096  # the program prints nothing


def clamp_listeners(sessions: BpfObject, mss: int | Literal["auto"] | None) -> None:
    """Runs the program over all TCP sockets of the calling thread's network namespace.

    Args:
        sessions: the object of the sockops program, its map of the configuration filled.
        mss: as configured; None: there is nothing to limit.

    Raises:
        HostError: the kernel has no BPF iterator of TCP sockets.
    """
    if mss is None:
        return
    lib.xg_clear_message()
    program = sessions.program_fd("xg_clamp_listeners")
    what = "attach the iterator of listeners ([dataplane] mss)"
    link = checked(what, lib.xg_link_create(program, 0, lib.BPF_TRACE_ITER, 0))
    try:
        walk = checked(what, lib.bpf_iter_create(link))
        try:
            _read_to_the_end(walk)
        finally:
            os.close(walk)
    finally:
        os.close(link)


def _read_to_the_end(walk: int) -> None:
    while True:
        try:
            if not os.read(walk, READ_BYTES):
                return
        except BlockingIOError:  # after a million sockets the kernel takes a breath
            continue
