# SPDX-License-Identifier: BSD-2-Clause
"""The oldest kernel that the project promises: its verifier takes every BPF object, and the data
path does there, on virtio-net and by itself, what the golden packets say.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from pyxdp_gossip.bpf_object import OBJECT_DIR, BpfObject
from tests.formats_world import flavoured_world
from tests.golden_world import CLIENTS, PORT, VIPS
from tests.kernel.conftest import Namespace, connect
from tests.kernel.dataplane_fixture import (
    Event,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.wire import WAIT_S
from tests.kernel.xsk_link import until
from tests.model_formats import FLAVOURS, GUE_IPV4, Flavour
from tests.vm.guest.host_link import Ends, Link, linked
from tests.vm.rows import Row, golden_rows, more_rows, rows_of

OBJECTS = sorted(path.name.removesuffix(".bpf.o") for path in OBJECT_DIR.glob("*.bpf.o"))
PROGRAMS = {
    "redirect": ("xg_redirect", "xg_question", "xg_host_type"),
    "sessions": ("xg_sessions",),
    "observer": ("observe", "clear_hash"),
    "xsk_all": ("xg_to_socket",),
}
ETHERNET_BYTES = 14
NEW = ("delivered_syn", "delivered_udp", "passed_syn", "passed_udp_new", "stray_forwarded")


@pytest.mark.core
def test_this_is_linux_6_1() -> None:
    assert os.uname().release.startswith("6.1.")


@pytest.mark.core
@pytest.mark.parametrize("name", OBJECTS)
def test_the_verifier_takes_every_program_of(name: str) -> None:
    with closing(BpfObject(name)) as loaded:
        for program in PROGRAMS[name]:
            assert loaded.program_fd(program) >= 0


def check(host: HostUnderTest, rows: Sequence[Row]) -> None:
    """Each golden packet through BPF_PROG_TEST_RUN ends as its row says, with the row's bytes."""
    differences = []
    rows = [row for row in rows if len(row.frame) >= ETHERNET_BYTES]
    assert rows
    for row, verdict in zip(rows, host.run_all([row.frame for row in rows]), strict=True):
        if verdict.ending != row.ending:
            differences.append(f"{row.description}: {row.ending}, here {verdict.ending}")
        elif verdict.action != "drop" and verdict.frame != row.output:
            differences.append(f"{row.description}: {verdict.frame.hex()}")
    assert differences == []


@pytest.mark.core
def test_the_golden_packets_end_as_they_must(host_link: Ends) -> None:
    rows = [*golden_rows(), *more_rows()]
    with host_under_test(host_link[0]) as host:
        host.set_flood()
        for alive in (True, False):
            host.set_agent(alive)
            check(host, [row for row in rows if row.agent_alive == alive])


def name_of(flavour: Flavour) -> str:
    """For pytest."""
    return f"{flavour.name}-IPv{flavour.version}" + ("-checksum" if flavour.checksum else "")


@pytest.mark.parametrize("flavour", [one for one in FLAVOURS if one != GUE_IPV4], ids=name_of)
def test_so_do_those_of_each_format(host_link: Ends, flavour: Flavour) -> None:
    with host_under_test(host_link[0], flavoured_world(flavour)) as host:
        host.set_flood()
        check(host, rows_of(flavour))


def test_the_sockets_are_told() -> None:
    """The sockops program: a connection to a service opens, and closes; over XDP on a veth."""
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        with host_under_test(inside) as host:
            inside.run(host.plane.attach_sessions)
            assert inside.run(host.plane.attach_packets) == "native"
            told, port = sockets_told(host, inside, outside)
    assert [(one.kind.split("_")[0], one.client, one.port) for one in told] == [
        ("OPEN", CLIENTS[4], port),
        ("CLOSE", CLIENTS[4], port),
    ]


def sockets_told(
    host: HostUnderTest, inside: Namespace, outside: Namespace
) -> tuple[list[Event], int]:
    """What is told of one connection, and its client's port."""
    service = str(VIPS[4]), PORT
    source = str(CLIENTS[4]), 0
    told: list[Event] = []

    def all_told() -> bool:
        told.extend(host.socket_events())
        return len(told) >= 2

    with inside.run(socket.create_server, service) as listener:
        listener.settimeout(WAIT_S)
        with outside.run(lambda: socket.create_connection(service, WAIT_S, source)):
            accepted, (_, port) = listener.accept()
            accepted.close()
        until(all_told)
    return told, port


@pytest.fixture(scope="module", params=["xdp", "copy"])
def link(host_link: Ends, request: pytest.FixtureRequest) -> Iterator[Link]:
    """The data path on virtio-net, forwarding by itself or by its loop."""
    with linked(host_link, request.param) as made:
        assert made.host.plane.mode == "native"
        yield made


def test_over_the_wire_too(link: Link) -> None:
    rows = [row for row in golden_rows() if row.agent_alive and row.ending in NEW]
    for row in rows:
        link.check(row)
    assert {row.ending for row in rows} >= {"stray_forwarded", "delivered_syn", "delivered_udp"}
