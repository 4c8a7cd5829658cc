# SPDX-License-Identifier: BSD-2-Clause
"""A POP whose MTU is 1500 throughout: what does not fit with the outer headers finishes still."""

from __future__ import annotations

import fcntl
import hashlib
import sys
import termios
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, Final

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.processes import Process, is_listening
from tests.box import bulk
from tests.box.bulk import BULK_BYTES, READY, content, receive
from tests.box.pop import AGENTS, NO_AGENT, Pop, nothing_misdelivered
from tests.box.traffic import Connection, lost, session_of, wait_for

MakeBox = Callable[..., Box]

OWNER, OTHER = 1, 2
MTU: Final = 1500
LEAST_STRAYS: Final = BULK_BYTES // MTU
DEAF: Final = {  # the client's kernel does not hear of the path's MTU
    4: "icmp type destination-unreachable",
    6: "icmpv6 type packet-too-big",
}


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def start_server(box: Box, host: int) -> Process:
    """The bulk server of a host, for both VIPs."""
    argv = [sys.executable, bulk.__file__, names.VIP4, names.VIP6, str(names.VIP_PORT)]
    return box.start_on_host(host, "bulk", argv)


@pytest.fixture
def make_pop(make_box: MakeBox) -> Callable[..., Pop]:
    """Two hosts with a bulk server each; the settings are the agents' [dataplane]."""

    def make(mode: str = AGENTS, **dataplane: Any) -> Pop:
        box = make_box(hosts=2, proxy="none", mtu=MTU)
        servers = [start_server(box, host) for host in box.host_ids]
        for server in servers:
            wait_for("the server listens", partial(is_listening, server.pid, names.VIP_PORT))
        return Pop(box, mode, {"dataplane": dataplane} if mode == AGENTS else None)

    return make


def stray_connection(pop: Pop, family: int, kind: bytes) -> Connection:
    """A connection to the bulk server of the owner, whose packets then go to the other host."""
    pop.box.set_next_hops([OWNER])
    connection = Connection(pop.box, family).connect()
    connection.socket.sendall(kind)
    assert receive(connection.socket, len(READY)) == READY
    pop.wait_owner(session_of(connection.port, family), OWNER)
    pop.box.set_next_hops([OTHER])
    return connection


def upload(connection: Connection) -> None:
    """The whole content to the owner, which says what it got."""
    data = content()
    connection.socket.sendall(data)
    assert receive(connection.socket, 32) == hashlib.sha256(data).digest()


def unacknowledged(connection: Connection) -> int:
    """Bytes that were sent and that the owner has not acknowledged."""
    room = fcntl.ioctl(connection.socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(room, sys.byteorder)


@pytest.mark.parametrize("plane", ["xsk", "xdp"])
def test_an_upload_and_a_download_of_10_mb_finish_through_a_stray_path(
    make_pop: Callable[..., Pop], family: int, plane: str
) -> None:
    pop = make_pop(plane=plane)
    with nothing_misdelivered(pop.box):
        with closing(stray_connection(pop, family, b"U")) as connection:
            upload(connection)
            told = pop.count(OTHER, "too_big_answered")
            assert told > 0
            assert pop.count(OTHER, "stray_forwarded") > LEAST_STRAYS
            assert (pop.count(OTHER, "handed_over") > 0) == (plane == "xsk")
        before = pop.count(OTHER, "stray_forwarded")
        with closing(stray_connection(pop, family, b"D")) as connection:
            connection.socket.sendall(b".")
            assert receive(connection.socket, BULK_BYTES) == content()
        assert pop.count(OTHER, "stray_forwarded") > before
    # a client that was told once sends what fits: the loss is a window's at most
    assert told < LEAST_STRAYS / 10


def test_an_upload_finishes_while_its_packets_are_flooded(
    make_pop: Callable[..., Pop], family: int
) -> None:
    pop = make_pop(NO_AGENT)
    with (
        nothing_misdelivered(pop.box),
        closing(stray_connection(pop, family, b"U")) as connection,
    ):
        upload(connection)
    assert pop.count(OTHER, "too_big_answered") > 0
    assert pop.count(OTHER, "miss_flooded") > LEAST_STRAYS


def test_a_client_that_does_not_hear_it_is_told_again_and_goes_on_once_it_hears(
    make_pop: Callable[..., Pop], family: int
) -> None:
    pop = make_pop(plane="xdp")
    data = content()
    first = data[:1420]  # with IP and TCP headers: fits the client's link, not the stray path
    with closing(stray_connection(pop, family, b"U")) as connection:
        with lost(pop.box, pop.box.client_namespace(1), "input", DEAF[family]):
            connection.socket.sendall(first)
            wait_for("it is told thrice", lambda: pop.count(OTHER, "too_big_answered") >= 3)
            assert unacknowledged(connection) == len(first)
        connection.socket.sendall(data[len(first) :])
        assert receive(connection.socket, 32) == hashlib.sha256(data).digest()


def test_with_a_limit_of_segments_nobody_need_be_told(
    make_pop: Callable[..., Pop], family: int
) -> None:
    pop = make_pop(plane="xsk", mss="auto")
    with closing(stray_connection(pop, family, b"U")) as connection:
        upload(connection)
    assert pop.count(OTHER, "too_big_answered", "too_big") == 0
    assert pop.count(OTHER, "stray_forwarded") > LEAST_STRAYS
