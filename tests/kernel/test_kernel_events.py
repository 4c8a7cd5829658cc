# SPDX-License-Identifier: BSD-2-Clause
"""What the agent hears of its kernel, in which order, and what it finds out after a loss."""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from pyxdp_gossip import kernel_events, netlink
from pyxdp_gossip._native import LINGER, OwnershipLog
from pyxdp_gossip.bpf_object import possible_cpus
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.gossip.events import IncomingEvent, Misdirected, Misses, SocketEvents
from pyxdp_gossip.gossip.records import OPEN_KINDS, EventKind
from pyxdp_gossip.kernel_events import EVENTS_A_READ, READS_MAX, RESYNC_EVERY_NS, KernelEvents
from pyxdp_gossip.stats import NAMES
from tests.golden_world import CLIENTS, OWN_HOST, PEER, PORT, VIPS
from tests.kernel.conftest import connect as connect_link
from tests.kernel.dataplane_fixture import (
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
    unpacked,
)
from tests.kernel.fake_kernel import NOW, SERVICES, SLOTS, FakeKernel, record
from tests.kernel.live_connection import connected, wait_for
from tests.model import Entry

Pair = tuple[Any, Any]
UDP_SLOT = 1
ABORT = struct.pack("ii", 1, 0)  # of SO_LINGER: close() resets the connection
_ports = itertools.count(43000)


def told(events: list[IncomingEvent]) -> list[tuple[str, int]]:
    """(kind, client port) of all records, in the order in which the core hears them."""
    return [(event.kind, event.port) for one in events for event in unpacked(one.records)]


# ---- with rings and sockets of the test's own making ----


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(netlink, "DestroyListener", lambda services: fake)
    monkeypatch.setattr(netlink, "established_sockets", fake.established_sockets)
    monkeypatch.setattr(kernel_events.time, "monotonic_ns", fake.monotonic_ns)
    return fake


@pytest.fixture
def events(kernel: FakeKernel) -> KernelEvents:
    return KernelEvents(kernel, kernel.log, SERVICES)  # type: ignore[arg-type]


def read(events: KernelEvents) -> list[IncomingEvent]:
    return list(events.read(NOW))


def resync(events: KernelEvents, kernel: FakeKernel) -> list[tuple[str, int]] | None:
    """What a resync yields now; None: none was due."""
    dumps = kernel.dumps
    found = list(events.resync_if_due(kernel.clock))
    return None if kernel.dumps == dumps else told(found)


def test_all_three_descriptors_are_watched_and_only_its_own_is_closed(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    assert events.filenos() == (101, 102, 103)
    events.close()
    assert kernel.is_closed


def test_nothing_is_told_when_nothing_came(events: KernelEvents) -> None:
    assert read(events) == []


def test_a_claim_is_told_before_the_end_of_its_socket(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.packet_events.waiting = [record(EventKind.CLAIM, 1)]
    kernel.socket_events.waiting = [record(EventKind.OPEN, 1), record(EventKind.CLOSE, 1)]
    assert told(read(events)) == [("CLAIM", 1), ("OPEN", 1), ("CLOSE", 1)]


@pytest.mark.parametrize("ring", ["socket_events", "packet_events"])
def test_a_claim_and_an_end_that_come_between_two_reads_are_told_in_order(
    events: KernelEvents, kernel: FakeKernel, ring: str
) -> None:
    """The packet and then the socket's end, just before either ring is read."""
    read_next = getattr(kernel, ring)

    def meanwhile() -> None:
        read_next.before_read = lambda: None
        kernel.packet_events.waiting.append(record(EventKind.CLAIM, 1))
        kernel.socket_events.waiting.append(record(EventKind.CLOSE, 1))

    read_next.before_read = meanwhile
    assert told(read(events) + read(events)) == [("CLAIM", 1), ("CLOSE", 1)]


def test_packets_events_go_to_the_core_by_their_kind(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kinds = (EventKind.MISS, EventKind.CLAIM, EventKind.MISDIRECTED)
    kernel.packet_events.waiting = [
        record(kind, 10 * kind + number) for number in (1, 2) for kind in kinds
    ]
    assert read(events) == [
        SocketEvents(record(EventKind.CLAIM, 41) + record(EventKind.CLAIM, 42)),
        Misses(record(EventKind.MISS, 51) + record(EventKind.MISS, 52)),
        Misdirected(record(EventKind.MISDIRECTED, 61) + record(EventKind.MISDIRECTED, 62)),
    ]


def test_a_turn_takes_a_bounded_part_of_a_storm_of_packets_and_the_next_the_rest(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    most, rest = READS_MAX * EVENTS_A_READ, 7
    kernel.packet_events.waiting = [record(EventKind.MISS, 1)] * (most + rest)
    counts = [len(told(read(events))) for _ in range(3)]
    assert counts == [most, rest, 0]


def test_a_destroyed_socket_is_told_once_if_it_was_there_before_the_sockops_program(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.sockets = [record(EventKind.OPEN, port) for port in (1, 2)]
    assert told([events.begin(NOW)]) == [("OPEN", 1), ("OPEN", 2)]
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, port) for port in (1, 3)]
    assert told(read(events)) == [("CLOSE_LINGER", 1)]
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, port) for port in (1, 2)]
    assert told(read(events)) == [("CLOSE_LINGER", 2)]


def test_it_hears_of_destroyed_sockets_only_while_that_says_something_new(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.sockets = [record(EventKind.OPEN, 1)]
    events.begin(NOW)
    assert kernel.listening
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, 1)]
    read(events)
    assert not kernel.listening
    kernel.sockets = [record(EventKind.OPEN, 2, slot=4)]
    events.change_services({**SERVICES, (VIPS[4], 444): 4}, NOW)
    assert kernel.listening
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, 2, slot=4)]
    assert told(read(events)) == [("CLOSE_LINGER", 2)]
    assert not kernel.listening


def test_a_destroyed_socket_whose_client_has_come_again_is_not_told(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.sockets = [record(EventKind.OPEN, 1)]
    events.begin(NOW)
    kernel.socket_events.waiting = [record(EventKind.OPEN, 1)]
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, 1)]
    assert told(read(events)) == [("OPEN", 1)]


def test_the_same_client_port_at_another_service_is_another_session(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.sockets = [record(EventKind.OPEN, 1)]
    events.begin(NOW)
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, 1, slot=4)]
    assert read(events) == []


def test_the_beginning_tells_what_the_tables_miss_in_both_directions(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.own(1)
    kernel.own(2)
    kernel.sockets = [record(EventKind.OPEN, port) for port in (2, 3)]
    assert told([events.begin(NOW)]) == [("OPEN", 3), ("CLOSE", 1)]


# ---- resync ----


def test_without_a_loss_there_is_no_resync(events: KernelEvents, kernel: FakeKernel) -> None:
    assert resync(events, kernel) is None


def test_each_kind_of_loss_is_answered_by_one_resync(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    def lose_records() -> None:
        kernel.lost += 3

    def lose_notifications() -> None:
        kernel.overflows += 1

    for lose in (lose_records, lose_notifications, lose_records):
        lose()
        kernel.clock += RESYNC_EVERY_NS
        assert resync(events, kernel) == []
        kernel.clock += RESYNC_EVERY_NS
        assert resync(events, kernel) is None


def test_an_aborted_socket_without_a_name_matters_only_beside_sockets_from_before(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.unnamed = 1
    assert resync(events, kernel) is None
    kernel.sockets = [record(EventKind.OPEN, 1)]
    events.begin(NOW)
    kernel.own(1)
    kernel.sockets = []
    kernel.unnamed = 2
    assert resync(events, kernel) == [("CLOSE", 1)]


def test_losses_that_were_there_before_the_agent_are_none_of_its(kernel: FakeKernel) -> None:
    kernel.lost = 9
    events = KernelEvents(kernel, kernel.log, SERVICES)  # type: ignore[arg-type]
    assert resync(events, kernel) is None


def test_a_resync_tells_what_is_missing_and_what_is_too_much(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.own(1)
    kernel.own(2)
    kernel.own(3, flags=LINGER)
    kernel.own(4, flags=LINGER)
    kernel.sockets = [record(EventKind.OPEN, port) for port in (2, 3, 5)]
    kernel.lost = 1
    assert resync(events, kernel) == [("OPEN", 3), ("OPEN", 5), ("CLOSE", 1)]


def test_a_resync_leaves_sessions_alone_that_no_kernel_socket_shows(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.own(1, slot=UDP_SLOT)
    kernel.own(2)
    kernel.lost = 1
    assert resync(events, kernel) == [("CLOSE", 2)]


def test_a_resync_ends_a_claim_that_lost_against_another_hosts(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    """It is in no table, and whoever has it as this host's would have it for ever."""
    log, rival = kernel.log, CLIENTS[4].packed + (1).to_bytes(2, "big") + bytes(2)
    kernel.owners.activate(PEER)
    for host in (OWN_HOST, PEER):
        log.begin_owner(host, host)
    log.absorb(record(EventKind.OPEN, 1), clock=5, position=1, now_ms=0)
    slots = SLOTS[4].to_bytes(2, sys.byteorder)
    log.apply(PEER, OPEN_KINDS[4], rival, slots, clock=9, position=1, now_ms=0)
    assert (log.statements, log.digest(OWN_HOST)[1]) == (1, 1)
    kernel.sockets = [record(EventKind.OPEN, 1)]
    kernel.lost = 1
    assert resync(events, kernel) == []  # there is a socket, and it was claimed
    kernel.sockets = []
    kernel.lost = 2
    kernel.clock += RESYNC_EVERY_NS
    (found,) = events.resync_if_due(kernel.clock)
    assert told([found]) == [("CLOSE", 1)]
    log.absorb(found.records, clock=0, position=2, now_ms=0)
    assert (log.statements, log.digest(OWN_HOST)[1]) == (0, 0)


NEW_SLOT = 3
FURTHER = {**SERVICES, (VIPS[4], PORT + 1): NEW_SLOT}


def test_a_further_service_brings_its_sockets_and_later_their_ends(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.own(1)
    kernel.sockets = [record(EventKind.OPEN, 1), record(EventKind.OPEN, 2, NEW_SLOT)]
    kernel.sockets.append(record(EventKind.OPEN, 3, NEW_SLOT))
    found = events.change_services(FURTHER, NOW)
    assert (told([found]), kernel.listens_to) == ([("OPEN", 2), ("OPEN", 3)], FURTHER)
    kernel.socket_events.waiting = [record(EventKind.OPEN, 3, NEW_SLOT)]  # the program tells of it
    kernel.destroyed = [record(EventKind.CLOSE_LINGER, port, NEW_SLOT) for port in (2, 3)]
    kernel.destroyed.append(record(EventKind.CLOSE_LINGER, 1))
    assert told(read(events)) == [("OPEN", 3), ("CLOSE_LINGER", 2)]
    assert resync(events, kernel) is None


def test_what_was_lost_while_a_service_came_is_looked_for(
    events: KernelEvents, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(services: Any, now: int) -> bytes:
        kernel.lost += 1
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(netlink, "established_sockets", lose)
        events.change_services(FURTHER, NOW)
    assert resync(events, kernel) == []
    assert resync(events, kernel) is None


def test_a_kernel_that_refuses_to_tell_of_a_further_service_is_asked_again(
    events: KernelEvents, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(services: Any, now: int) -> bytes:
        raise HostError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(netlink, "established_sockets", refuse)
        with pytest.raises(HostError):
            events.change_services(FURTHER, NOW)
    kernel.sockets = [record(EventKind.OPEN, 2, NEW_SLOT)]
    assert resync(events, kernel) == [("OPEN", 2)]


def test_resyncs_are_a_second_apart_and_a_loss_meanwhile_is_not_forgotten(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.lost = 1
    assert resync(events, kernel) == []
    kernel.lost = 2
    kernel.clock += RESYNC_EVERY_NS - 1
    assert resync(events, kernel) is None
    kernel.clock += 1
    assert resync(events, kernel) == []
    assert kernel.dumps == 2


def test_long_resyncs_take_at_most_a_tenth_of_the_time(
    events: KernelEvents, kernel: FakeKernel
) -> None:
    kernel.dump_ns = 700_000_000
    began = kernel.clock
    kernel.lost = 1
    assert resync(events, kernel) == []
    kernel.lost = 2
    kernel.clock = began + 10 * kernel.dump_ns - 1
    assert resync(events, kernel) is None
    kernel.clock += 1
    assert resync(events, kernel) == []


# ---- with real programs and sockets ----


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The host's namespace and the client's."""
    with own_namespaces() as make:
        yield make_pair(make, connect_link)


@contextmanager
def followed(host: HostUnderTest) -> Iterator[KernelEvents]:
    """The sockops program attached, and all that it tells from here on."""
    host.namespace.run(host.plane.attach_sessions)
    log = OwnershipLog(host.plane.table4, host.plane.table6, OWN_HOST)
    made = host.namespace.run(KernelEvents, host.plane, log, SERVICES)
    with closing(made):
        yield made


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def heard(
    host: HostUnderTest, events: KernelEvents, wanted: list[tuple[str, int]], *quiet: int
) -> None:
    """Waits until so much was told of these client ports, and of the `quiet` ones, and compares."""
    found: list[tuple[str, int]] = []
    ports = {port for _, port in wanted} | set(quiet)

    def arrived() -> bool:
        events_now = host.namespace.run(lambda: list(events.read(time.monotonic_ns())))
        found.extend(event for event in told(events_now) if event[1] in ports)
        return len(found) >= len(wanted)

    wait_for(f"{wanted}, heard {found}", arrived)
    assert found == wanted


def begun(host: HostUnderTest, events: KernelEvents) -> list[tuple[str, int]]:
    return told([host.namespace.run(events.begin, time.monotonic_ns())])


def test_a_packets_claim_is_heard_before_the_reset_of_its_socket(pair: Pair, family: int) -> None:
    port = next(_ports)
    with (
        host_under_test(pair[0]) as host,
        followed(host) as events,
        connected(pair, family, port) as live,
    ):
        heard(host, events, [("OPEN", port)])
        host.put(CLIENTS[family], port, SLOTS[family], Entry(PEER))
        assert host.run(live.segment("A")).ending == "passed_stale_entry"
        live.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        live.client.close()
        wait_for("the reset", lambda: live.state() == "")
        heard(host, events, [("CLAIM", port), ("CLOSE", port)])


def test_a_socket_from_before_is_told_at_the_beginning_and_when_it_ends(
    pair: Pair, family: int
) -> None:
    port = next(_ports)
    with (
        host_under_test(pair[0]) as host,
        connected(pair, family, port) as live,
        followed(host) as events,
    ):
        assert ("OPEN", port) in begun(host, events)
        live.client.close()
        live.wait_for_state("CLOSE-WAIT")
        live.server.close()
        heard(host, events, [("CLOSE_LINGER", port)])


def test_a_socket_that_the_sockops_program_saw_is_told_by_it_alone(pair: Pair, family: int) -> None:
    before, after = next(_ports), next(_ports)
    with (
        host_under_test(pair[0]) as host,
        connected(pair, family, before) as old,
        followed(host) as events,
    ):
        begun(host, events)
        old.listener.close()
        with connected(pair, family, after) as live:
            live.client.close()
            live.wait_for_state("CLOSE-WAIT")
            live.server.close()
            wait_for("its end", lambda: live.state() == "")
        heard(host, events, [("OPEN", after), ("CLOSE", after)])
        old.client.close()
        old.wait_for_state("CLOSE-WAIT")
        old.server.close()
        heard(host, events, [("CLOSE_LINGER", before)], after)


def test_a_session_that_was_aborted_without_a_name_is_closed_by_the_resync(
    pair: Pair, family: int
) -> None:
    port = next(_ports)
    with (
        host_under_test(pair[0]) as host,
        connected(pair, family, port) as live,
        followed(host) as events,
    ):
        assert ("OPEN", port) in begun(host, events)
        host.put(CLIENTS[family], port, SLOTS[family], Entry(OWN_HOST))
        live.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        live.server.close()
        found: list[tuple[str, int]] = []

        def is_closed() -> bool:
            now = time.monotonic_ns()
            host.namespace.run(lambda: list(events.read(now)))
            more = host.namespace.run(lambda: list(events.resync_if_due(now)))
            found.extend(told(more))
            return ("CLOSE", port) in found

        wait_for("the resync", is_closed)


def count_as_lost(host: HostUnderTest) -> None:
    """What the sockops program does when its ring is full: it counts, and says nothing."""
    values = [0] * len(NAMES) * possible_cpus()
    values[NAMES.index("socket_events_lost")] = 1
    host.plane._maps["counters"].update(bytes(4), struct.pack(f"<{len(values)}Q", *values))


def test_a_session_whose_event_was_lost_is_found_by_the_resync(pair: Pair, family: int) -> None:
    port = next(_ports)
    with (
        host_under_test(pair[0]) as host,
        followed(host) as events,
        connected(pair, family, port),
    ):
        wait_for("the event", lambda: bool(host.socket_events()))  # and it is gone
        count_as_lost(host)
        found = host.namespace.run(lambda: list(events.resync_if_due(time.monotonic_ns())))
        assert ("OPEN", port) in told(found)
