# SPDX-License-Identifier: BSD-2-Clause
"""A connection that both ends open at once: the client's SYN and SYN-ACK reach the socket, whatever
a stale entry says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from scapy.layers.inet import TCP

from tests.golden_world import CLIENTS, PEER, PORT, VIPS
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import (
    OUTSIDE,
    TCP_SLOTS,
    HostUnderTest,
    Pair,
    host_under_test,
)
from tests.kernel.live_connection import FAMILIES, Wire, segment, wait_for
from tests.model import Entry

pair = dataplane_fixture.pair

CLIENT_PORT, CLIENT_SEQ = 45677, 1000


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def host(pair: Pair) -> Iterator[HostUnderTest]:
    with host_under_test(pair[0]) as made:
        made.set_flood()
        yield made


def opening(family: int) -> socket.socket:
    """A socket of the service's own address and port that is on its way to the client."""
    made = socket.socket(FAMILIES[family])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((str(VIPS[family]), PORT))
    made.connect_ex((str(CLIENTS[family]), CLIENT_PORT))
    return made


def state(namespace: Any) -> str:
    words = f"ss -Htan sport = :{PORT} and dport = :{CLIENT_PORT}"
    return str(namespace.exec(words)).partition(" ")[0]


def test_both_ends_open_at_once(pair: Pair, host: HostUnderTest, family: int) -> None:
    inside, outside = pair
    outside.exec("nft add table inet silent")  # no reset by the client's own kernel
    outside.exec("nft add chain inet silent out { type filter hook output priority 0 ; }")
    outside.exec(f"nft add rule inet silent out tcp sport {CLIENT_PORT} drop")
    with closing(outside.run(Wire, OUTSIDE)) as wire, inside.run(opening, family):
        ours = wire.receive(lambda frame: TCP in frame and frame[TCP].dport == CLIENT_PORT)[TCP]
        syn = segment(family, CLIENT_PORT, "S", CLIENT_SEQ, 0)
        syn_ack = segment(family, CLIENT_PORT, "SA", CLIENT_SEQ, ours.seq + 1)
        assert state(inside) == "SYN-SENT"
        assert host.run(syn).ending == "passed_syn"
        assert host.run(syn_ack).ending == "passed_known"
        host.put(CLIENTS[family], CLIENT_PORT, TCP_SLOTS[family], Entry(PEER))
        assert host.run(syn_ack).ending == "passed_stale_entry"
        wire.send(syn)  # crossed with ours
        wait_for("SYN-RECV", lambda: state(inside) == "SYN-RECV")
        assert host.run(syn_ack).ending == "passed_stale_entry"
        host.remove(CLIENTS[family], CLIENT_PORT, TCP_SLOTS[family])
        assert host.run(syn_ack).ending == "passed_known"
        assert host.packet_events() == []  # nobody claims what may never open
        wire.send(syn_ack)
        wait_for("ESTAB", lambda: state(inside) == "ESTAB")
    outside.exec("nft delete table inet silent")
