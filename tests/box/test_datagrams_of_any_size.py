# SPDX-License-Identifier: BSD-2-Clause
"""A POP whose MTU is 1500 throughout: datagrams without DF reach the owner's socket whole.

The kernels at both ends make the fragments and put them together.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from pyxdp_gossip._native import pack_key4
from pyxdp_gossip.popbox import Box, names
from tests.box.pop import AGENTS, Pop
from tests.box.test_odd_packets import udp_socket
from tests.box.test_too_big import MTU
from tests.box.traffic import VIPS, session_of, wait_for

MakeBox = Callable[..., Box]

OWNER, OTHER = 1, 2
UDP_SLOT: Final = 0
# just below and above what fits, and above what the client's link takes in one, two and three
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # linux/in.h; not in the socket module
SIZES: Final = (1400, 1428, 1429, 1472, 1473, 2000, 2952, 2953, 4000)


@pytest.fixture
def make_pop(make_box: MakeBox) -> Callable[[str], Pop]:
    """Two hosts with agents, and a service of UDP."""

    def make(plane: str) -> Pop:
        service = [{"vip": VIPS[4], "port": names.VIP_PORT, "protocol": "udp"}]
        settings = {"dataplane": {"plane": plane}, "service": service}
        return Pop(make_box(hosts=2, proxy="none", mtu=MTU), AGENTS, settings)

    return make


def claim(pop: Pop, client: socket.socket) -> None:
    """The owner's, in the tables of all hosts."""
    session = session_of(client.getsockname()[1], 4)
    key = pack_key4(session.client.packed, session.client_port, UDP_SLOT)
    for host in pop.box.host_ids:
        pop.maps(host).lie(4, lambda table: table.put(key, OWNER))


def ends(pop: Pop) -> tuple[socket.socket, socket.socket]:
    """The client's socket, without DF, and the owner's."""
    client = udp_socket(pop.box.client_namespace(1), 4, "", 0)
    client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    server = udp_socket(pop.box.host_namespace(OWNER), 4, VIPS[4], names.VIP_PORT)
    pop.box.set_next_hops([OTHER])
    return client, server


def test_datagrams_without_df_of_any_size_arrive_whole(make_pop: Callable[[str], Pop]) -> None:
    pop = make_pop("xsk")
    client, server = ends(pop)
    with client, server:
        claim(pop, client)
        for size in SIZES:
            payload = random.Random(size).randbytes(size)
            client.sendto(payload, (VIPS[4], names.VIP_PORT))
            assert server.recv(65536) == payload, size
    assert pop.count(OTHER, "fragmented") >= len(SIZES) - 2
    assert pop.count(OTHER, "fragments_sent") >= 2 * pop.count(OTHER, "fragmented")
    assert pop.count(OTHER, "too_big", "too_big_answered", "fragment_no_frames") == 0
    assert pop.count(OWNER, "fragment_refused") == 0


def test_without_a_loop_the_client_is_told_and_fragments_by_itself(
    make_pop: Callable[[str], Pop],
) -> None:
    pop = make_pop("xdp")
    client, server = ends(pop)
    with client, server:
        claim(pop, client)
        client.sendto(bytes(4000), (VIPS[4], names.VIP_PORT))
        wait_for("it is told", partial(pop.count, OTHER, "too_big_answered"))
        payload = random.Random(1).randbytes(4000)
        server.settimeout(1.0)

        def arrives() -> bool:
            client.sendto(payload, (VIPS[4], names.VIP_PORT))
            try:
                return server.recv(65536) == payload
            except TimeoutError:
                return False

        wait_for("a datagram arrives", arrives)
    assert pop.count(OTHER, "too_big_answered") == 1
    assert pop.count(OTHER, "fragmented") == 0
