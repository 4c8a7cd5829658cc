# SPDX-License-Identifier: BSD-2-Clause
"""What [dataplane] mss means for each address family, and where it lies in the maps."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import pytest

from pyxdp_gossip.dataplane_settings import (
    NO_TEMPLATE,
    DataplaneSettings,
    announced_mss,
    pack_config,
)
from pyxdp_gossip.session import Service

MSS: Final = struct.Struct("<HH4x")  # the end of struct xg_config
LEAST, MOST = 88, 32767  # TCP_MIN_MSS and MAX_TCP_WINDOW of the kernel


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [
        (1500, (1416, 1396)),
        (1544, (1460, 1440)),
        (9000, (8916, 8896)),
        (65535, (MOST, MOST)),
        (100, (LEAST + 20, LEAST)),
    ],
)
def test_auto_is_what_fits_the_mtu_with_the_outer_headers(
    mtu: int, expected: tuple[int, int]
) -> None:
    assert announced_mss("auto", mtu, 44) == expected


def test_a_number_is_for_both_families_and_none_is_no_limit() -> None:
    assert announced_mss(1200, 1500, 44) == (1200, 1200)
    assert announced_mss(None, 1500, 44) == (0, 0)


def test_it_is_told_to_the_programs_at_the_end_of_their_configuration() -> None:
    told = DataplaneSettings(
        host=3,
        interface="eth0",
        address=IPv4Address("10.8.0.13"),
        flood_group=None,
        tunnel_port=6080,
        services={Service(IPv4Address("198.51.100.1"), 443, "tcp"): 0},
        sessions_v4=1000,
        sessions_v6=1000,
        mode="auto",
        pins=Path("pins"),
        cgroup=Path("cgroup"),
        flood_rate_pps=0,
        flood_new_rate_pps=0,
        too_big_rate_pps=1000,
        mss="auto",
    )
    packed = pack_config(told, 7, NO_TEMPLATE, bytes(6), (), 1500)
    assert MSS.unpack(packed[-MSS.size :]) == (1416, 1396)
    # heartbeat, network namespace, and the third budget's interval in ns
    assert struct.unpack_from("<QQQQQQ", packed) == (0, 7, 0, 0, 1_000_000, 0)
