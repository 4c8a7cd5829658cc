# SPDX-License-Identifier: BSD-2-Clause
"""AF_XDP on a real driver that has zero-copy: bound by force, the same bytes in all modes."""

from __future__ import annotations

import pytest

from tests.kernel.xsk_link import FAR, NEAR, End, Pair, end, payload, receive, send

MODES = ("zero-copy", "copy", "skb")
FRAMES = 2000
BURST = 64


def upper(one: End) -> list[int]:
    """The frames that `end` did not give to the kernel."""
    return [n * one.umem.frame_size for n in range(one.umem.frames // 2, one.umem.frames)]


@pytest.mark.core
@pytest.mark.parametrize("mode", ["zero-copy", "auto"])
def test_the_kernel_says_that_the_socket_is_zero_copy(pair: Pair, mode: str) -> None:
    with end(pair.near, NEAR, mode=mode) as near:
        assert near.socket.mode == "zero-copy"  # XDP_OPTIONS; a forced bind failed otherwise
        assert near.program.mode == "native"


@pytest.mark.core
@pytest.mark.parametrize("mode", MODES)
def test_frames_go_round_through_all_four_rings_in_order(pair: Pair, mode: str) -> None:
    with end(pair.near, NEAR, mode=mode) as near, end(pair.far, FAR, mode=mode) as far:
        assert (near.socket.mode, far.socket.mode) == (mode, mode)
        for first in range(0, FRAMES, BURST):
            frames = [payload(n, 60 + n % 1400) for n in range(first, first + BURST)]
            send(near.socket, near.umem, frames, upper(near)[:BURST])
            assert receive(far.socket, far.umem, BURST) == frames
        for one in (near, far):
            counted = one.socket.statistics()
            assert (counted.rx_dropped, counted.rx_ring_full) == (0, 0)
            assert (counted.rx_invalid_descs, counted.tx_invalid_descs) == (0, 0)
