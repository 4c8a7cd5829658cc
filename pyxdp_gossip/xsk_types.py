# SPDX-License-Identifier: BSD-2-Clause
"""What an AF_XDP socket tells: the kernel's counters, and where its rings lie."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class XskStatistics:
    """What the kernel counted for one socket since it was made.

    Source: struct xdp_statistics of linux/if_xdp.h.
    """

    rx_dropped: int
    """Frames that were dropped: too large for a frame of the Umem, or none to receive into."""
    rx_invalid_descs: int
    """Addresses on the fill ring that lie outside the Umem."""
    tx_invalid_descs: int
    """Descriptors on the TX ring that the kernel refused."""
    rx_ring_full: int
    """Frames that were dropped because the RX ring was full."""
    rx_fill_ring_empty: int
    """How often the kernel found no frame on the fill ring."""
    tx_ring_empty: int
    """How often the kernel looked for a frame to send and found none."""


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where libxdp's four ring structs of a socket lie in this process."""

    fill: int
    completion: int
    rx: int
    tx: int
