# SPDX-License-Identifier: BSD-2-Clause
"""Strays between two kernels: known by real gossip, sent by zero-copy loops, each accounted for."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.vm.pair.world import Change, Pair, wait_for

CONNECTIONS = 8


@contextmanager
def connections(pop: Pair, count: int, mss: int = 0) -> Iterator[list[socket.socket]]:
    """Connections that B accepted and of which A knows."""
    before = [host.counters()["table"]["v4"] for host in pop.hosts]
    pop.route(pop.b)
    with ExitStack() as stack:
        made = [stack.enter_context(pop.connect(mss)) for _ in range(count)]
        for host, known in zip(pop.hosts, before, strict=True):
            wait_for(
                lambda host=host, known=known: host.counters()["table"]["v4"] == known + count,
                f"host {host.number} to know all connections",
            )
        yield made


def ask(connection: socket.socket, content: bytes) -> None:
    """The server got this, each byte in its place."""
    connection.sendall(struct.pack("!I", len(content)) + content)
    answer = connection.recv(hashlib.sha256().digest_size, socket.MSG_WAITALL)
    assert answer == hashlib.sha256(content).digest()


def test_debug(pop: Pair) -> None:
    with connections(pop, CONNECTIONS, 256) as made:
        changes = [Change(host) for host in pop.hosts]
        pop.route(pop.a)
        for number, one in enumerate(made):
            ask(one, random.Random(number).randbytes(100_000))
        for change in changes:
            change.look()
            print({k: v for k, v in change.program.items() if v})
            print({k: v for k, v in change.driver.items() if v})
            print(change.sent(), change.tunnelled(), change.ended())
        for host in pop.hosts:
            print(host.ask("xdp_sockets"), pop.tap_drops(host))
            print(host.run("ethtool -l xg0"))
    assert 0
