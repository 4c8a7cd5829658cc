# SPDX-License-Identifier: BSD-2-Clause
"""Which mode the AF_XDP sockets are asked for."""

from __future__ import annotations

import pytest

from pyxdp_gossip.dataplane_settings import xsk_mode


@pytest.mark.parametrize(
    ("mode", "attached", "driver", "asked"),
    [
        ("auto", "native", "ice", "auto"),
        ("native", "native", None, "auto"),
        ("auto", "native", "virtio_net", "copy"),
        ("native", "native", "virtio_net", "copy"),
        ("zero-copy", "native", "virtio_net", "zero-copy"),
        ("copy", "native", "ice", "copy"),
        ("auto", "skb", "virtio_net", "skb"),
    ],
)
def test_what_is_asked_for(mode: str, attached: str, driver: str | None, asked: str) -> None:
    assert xsk_mode(mode, attached, driver) == asked
