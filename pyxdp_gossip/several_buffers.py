# SPDX-License-Identifier: BSD-2-Clause
"""Frames in several buffers of an AF_XDP socket: how many one may have, and why not."""

from __future__ import annotations

from typing import Final

from pyxdp_gossip.device_answers import ask_device

BUFFERS_MAX: Final = 17  # XG_BUFFERS_MAX: MAX_SKB_FRAGS, as kernels are built


def zero_copy_buffers(index: int) -> int:
    """Buffers of one frame that the driver receives and sends in zero-copy mode; 1 in doubt.

    Args:
        index: of the interface.
    """
    answer = ask_device(index)
    if isinstance(answer, str) or answer.zero_copy_buffers is None:
        return 1
    return max(1, min(answer.zero_copy_buffers, BUFFERS_MAX))
