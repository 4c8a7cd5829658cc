# SPDX-License-Identifier: BSD-2-Clause
"""A TCP client that forbids no fragments, in a POP whose MTU is 1500 throughout: 10 MB finish."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from pyxdp_gossip.popbox import Box
from tests.box import test_too_big
from tests.box.bulk import content, receive
from tests.box.pop import Pop, nothing_misdelivered
from tests.box.test_datagrams_of_any_size import IP_MTU_DISCOVER, IP_PMTUDISC_DONT
from tests.box.test_too_big import LEAST_STRAYS, OTHER, OWNER, stray_connection

MakeBox = Callable[..., Box]
make_pop = test_too_big.make_pop


@pytest.mark.parametrize("plane", ["xsk", "xdp"])
def test_an_upload_without_df_finishes_through_a_stray_path(
    make_pop: Callable[..., Pop], plane: str
) -> None:
    pop, data = make_pop(plane=plane), content()
    with (
        nothing_misdelivered(pop.box),
        closing(stray_connection(pop, 4, b"U")) as connection,
    ):
        connection.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        connection.socket.sendall(data)
        assert receive(connection.socket, 32) == hashlib.sha256(data).digest()
    if plane == "xdp":  # without a loop nobody fragments: the client is told
        assert pop.count(OTHER, "too_big_answered") > 0
        assert pop.count(OTHER, "fragmented") == 0
        return
    # the program answers while a loop that got no time on a busy machine is behind
    assert pop.count(OTHER, "too_big_answered", "too_big") <= pop.count(OTHER, "loop_behind")
    assert pop.count(OTHER, "fragmented") > LEAST_STRAYS / 2
    assert pop.count(OTHER, "fragments_sent") >= 2 * pop.count(OTHER, "fragmented")
    assert pop.count(OWNER, "delivered_fragment") + pop.count(OWNER, "delivered_stray") > 0
