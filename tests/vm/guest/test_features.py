# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel answers of a driver that has zero-copy: its word, and a forced bind."""

from __future__ import annotations

import pytest

from pyxdp_gossip.features import Features, features
from tests.kernel.xsk_link import NEAR, Pair


def ask(bind: bool) -> Features:
    return features(NEAR, bind=bind)


@pytest.mark.core
@pytest.mark.parametrize("bind", [False, True], ids=["netdev", "bind"])
def test_virtio_net_has_zero_copy_and_auto_says_why_it_takes_copy(pair: Pair, bind: bool) -> None:
    found = pair.near.run(ask, bind)
    assert found.driver == "virtio_net"
    assert found["native-xdp"].state == found["multi-buffer"].state == "yes"
    assert found["af-xdp-zero-copy"].state == "yes"
    assert found["zero-copy-multi-buffer"].detail == "one buffer a frame"
    assert found["copy-multi-buffer"].state == "yes"
    assert ("bind was taken" in found["af-xdp-zero-copy"].detail) == bind
    assert (found.auto, "virtio_net" in found.auto_because) == ("copy", True)
    assert "xdp" not in pair.near.ip(f"link show dev {NEAR}")
