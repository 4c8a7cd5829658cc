# SPDX-License-Identifier: BSD-2-Clause
"""Each row of docs/decision-table.md that needs a kernel, with real sockets."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import TCP

from pyxdp_gossip.session import KernelView
from tests.golden import encapsulated, ethernet, ip, udp
from tests.golden_tunnel import FLOOD_MARK, RELAY_MARK, flooded, reflooded, tunnelled
from tests.golden_world import CLIENTS, FLOOD, OWN_HOST, PEER, PORT, ROUTES, VIPS, State
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import (
    TCP_SLOTS,
    HostUnderTest,
    Pair,
    host_under_test,
)
from tests.kernel.live_connection import (
    FAMILIES,
    Connection,
    HalfOpen,
    connected,
    listen,
    numbers,
    segment,
)
from tests.model import Entry, parse

WINDOW = 65536  # XG_FIT_WINDOW
TIME_WAIT_ACK_WINDOW = 0xFFFF  # XG_TIMEWAIT_WINDOW
TELL_INTERVAL_S = 0.1  # RECENT_HOT_MS

_ports = itertools.count(41000)
pair = dataplane_fixture.pair


@pytest.fixture(scope="module")
def host(pair: Pair) -> Iterator[HostUnderTest]:
    """The host's data path; only test runs reach it, real packets pass it by."""
    with host_under_test(pair[0]) as under_test:
        under_test.set_flood()
        yield under_test


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def live(pair: Pair, family: int) -> Iterator[Connection]:
    """An established connection."""
    with connected(pair, family, next(_ports)) as connection:
        yield connection


def inner_of(frame: bytes) -> bytes:
    """The IP packet of a frame."""
    return frame[14:]


# ---- a full socket ----


def test_an_acknowledgement_inside_the_window_is_known(
    host: HostUnderTest, live: Connection
) -> None:
    end = numbers(live.server).write_seq
    assert host.knows(live.segment("A", ack=end))
    assert host.knows(live.segment("PA", ack=end - WINDOW))


def test_an_acknowledgement_older_than_the_window_is_refused(
    host: HostUnderTest, live: Connection
) -> None:
    end = numbers(live.server).write_seq
    assert not host.knows(live.segment("A", ack=end - WINDOW - 1))
    assert not host.knows(live.segment("A", ack=end - 2**31))


def test_an_acknowledgement_of_what_was_never_written_is_refused(
    host: HostUnderTest, live: Connection
) -> None:
    end = numbers(live.server).write_seq
    assert not host.knows(live.segment("A", ack=end + 1))
    assert not host.knows(live.segment("FA", ack=end + 2**31 - 1))


def test_a_reset_without_acknowledgement_is_known(host: HostUnderTest, live: Connection) -> None:
    assert host.knows(live.segment("R", ack=0))
    assert not host.knows(live.segment("RA", ack=numbers(live.server).write_seq + 1))


def test_data_written_but_not_yet_sent_may_be_acknowledged(
    host: HostUnderTest, live: Connection
) -> None:
    before = numbers(live.server).write_seq
    live.server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while live.server.send(bytes(65536)):
            pass
    end = numbers(live.server).write_seq
    assert (end - before) & 0xFFFFFFFF > 4 * 4096  # far more than the client's window
    assert host.knows(live.segment("A", ack=end))
    assert not host.knows(live.segment("A", ack=end + 1))


def test_a_socket_in_close_wait_is_a_full_socket(host: HostUnderTest, live: Connection) -> None:
    live.client.shutdown(socket.SHUT_WR)
    live.wait_for_state("CLOSE-WAIT")
    real = numbers(live.server)
    assert host.knows(live.segment("A", seq=real.rcv_nxt, ack=real.write_seq))
    assert not host.knows(live.segment("A", seq=real.rcv_nxt, ack=real.write_seq + 1))


def test_another_client_port_is_not_known(host: HostUnderTest, live: Connection) -> None:
    real = numbers(live.server)
    frame = segment(live.family, live.client_port + 1, "A", real.rcv_nxt, real.write_seq)
    assert not host.knows(frame)


# ---- TIME_WAIT ----


def test_the_last_fin_of_a_connection_in_fin_wait_2_is_known(
    host: HostUnderTest, live: Connection
) -> None:
    real = numbers(live.server)
    live.server.close()
    live.wait_for_state("FIN-WAIT-2")
    sent, received = real.write_seq + 1, real.rcv_nxt  # our FIN is acknowledged
    assert host.knows(live.segment("FA", seq=received, ack=sent))
    assert host.knows(live.segment("PA", seq=received, ack=sent))


def in_time_wait(live: Connection) -> tuple[int, int]:
    """Closes the host's end first, then the client's; (snd_nxt, rcv_nxt) of what is left."""
    real = numbers(live.server)
    live.server.close()
    live.wait_for_state("FIN-WAIT-2")
    live.client.close()
    live.wait_for_state("TIME-WAIT")
    return real.write_seq + 1, real.rcv_nxt + 1


def test_a_repeated_last_fin_is_known_in_time_wait(host: HostUnderTest, live: Connection) -> None:
    snd_nxt, rcv_nxt = in_time_wait(live)
    assert host.knows(live.segment("FA", seq=rcv_nxt - 1, ack=snd_nxt))
    assert host.knows(live.segment("A", seq=rcv_nxt, ack=snd_nxt))
    assert host.knows(live.segment("R", seq=rcv_nxt, ack=0))


def test_time_wait_refuses_what_is_far_from_its_numbers(
    host: HostUnderTest, live: Connection
) -> None:
    snd_nxt, rcv_nxt = in_time_wait(live)
    assert host.knows(live.segment("A", seq=rcv_nxt + WINDOW, ack=snd_nxt))
    assert not host.knows(live.segment("A", seq=rcv_nxt + WINDOW + 1, ack=snd_nxt))
    assert host.knows(live.segment("A", seq=rcv_nxt - WINDOW, ack=snd_nxt))
    assert not host.knows(live.segment("A", seq=rcv_nxt - WINDOW - 1, ack=snd_nxt))
    assert not host.knows(live.segment("A", seq=rcv_nxt + 2**31, ack=snd_nxt))
    oldest = snd_nxt - TIME_WAIT_ACK_WINDOW
    assert host.knows(live.segment("A", seq=rcv_nxt, ack=oldest))
    assert not host.knows(live.segment("A", seq=rcv_nxt, ack=oldest - 1))
    assert not host.knows(live.segment("R", seq=rcv_nxt + WINDOW + 1, ack=0))


def test_time_wait_refuses_acknowledgements_of_what_it_never_sent(
    host: HostUnderTest, live: Connection
) -> None:
    snd_nxt, rcv_nxt = in_time_wait(live)
    assert not host.knows(live.segment("A", seq=rcv_nxt, ack=snd_nxt + 1))
    assert not host.knows(live.segment("A", seq=rcv_nxt, ack=snd_nxt + 2**31))


def test_time_wait_gives_no_claim(host: HostUnderTest, live: Connection) -> None:
    snd_nxt, rcv_nxt = in_time_wait(live)
    host.packet_events()
    verdict = host.run(live.segment("FA", seq=rcv_nxt - 1, ack=snd_nxt))
    assert verdict.ending == "passed_known"
    assert host.packet_events() == []


# ---- half-open, listener, SYN cookie ----


@pytest.fixture
def half_open(pair: Pair, family: int) -> Iterator[HalfOpen]:
    """A half-open connection with a socket of its own (no SYN cookie)."""
    pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=0")
    handshake = HalfOpen(pair, family, next(_ports))
    yield handshake
    handshake.close()


def test_the_handshakes_last_segment_is_known(host: HostUnderTest, half_open: HalfOpen) -> None:
    right = half_open.host_isn + 1
    assert host.knows(half_open.segment("A", ack=right))
    assert host.knows(half_open.segment("PA", ack=right))
    assert host.knows(half_open.segment("RA", ack=right))


def test_a_half_open_socket_refuses_any_other_acknowledgement(
    host: HostUnderTest, half_open: HalfOpen
) -> None:
    for ack in (half_open.host_isn, half_open.host_isn + 2, 0):
        assert not host.knows(half_open.segment("A", ack=ack))
        assert not host.knows(half_open.segment("RA", ack=ack))


def test_a_half_open_socket_takes_a_reset_only_with_the_next_sequence_number(
    host: HostUnderTest, half_open: HalfOpen
) -> None:
    isn = half_open.CLIENT_ISN
    assert host.knows(half_open.segment("R", seq=isn + 1, ack=0))
    for seq in (isn, isn + 2, 0):
        assert not host.knows(half_open.segment("R", seq=seq, ack=0))


def test_a_half_open_socket_gives_no_claim(host: HostUnderTest, half_open: HalfOpen) -> None:
    host.packet_events()
    verdict = host.run(half_open.segment("A", ack=half_open.host_isn + 1))
    assert verdict.ending == "passed_known"
    assert host.packet_events() == []


def test_a_listener_alone_knows_no_segment(host: HostUnderTest, pair: Pair, family: int) -> None:
    with pair[0].run(listen, family):
        port = next(_ports)
        for flags in ("A", "PA", "FA", "RA", "R", "SA"):
            frame = segment(family, port, flags, 1, 1)
            assert not host.knows(frame), flags
            assert host.run(frame).ending == "miss_flooded"


@pytest.fixture
def cookie(pair: Pair, family: int) -> Iterator[HalfOpen]:
    """A handshake answered with a SYN cookie: the host keeps no socket for it."""
    pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=2")
    handshake = HalfOpen(pair, family, next(_ports))
    yield handshake
    handshake.close()
    pair[0].exec("sysctl -qw net.ipv4.tcp_syncookies=0")


def test_a_valid_syn_cookie_is_known(host: HostUnderTest, cookie: HalfOpen) -> None:
    frame = cookie.segment("A", ack=cookie.host_isn + 1)
    assert host.knows(frame)
    assert host.run(frame).ending == "passed_known"


def test_a_wrong_syn_cookie_is_refused(host: HostUnderTest, cookie: HalfOpen) -> None:
    right = cookie.host_isn + 1
    assert not host.knows(cookie.segment("A", ack=right ^ 0x01000000))
    assert not host.knows(cookie.segment("A", seq=1, ack=right))
    assert not host.knows(cookie.segment("RA", ack=right))
    assert not host.knows(cookie.segment("SA", ack=right))


# ---- UDP ----


def datagram(family: int, client_port: int) -> bytes:
    """A client's datagram to the VIP."""
    return bytes(ethernet() / ip(family) / udp(State.ABSENT, sport=client_port))


def test_a_connected_udp_socket_is_known_and_an_unconnected_one_is_not(
    host: HostUnderTest, pair: Pair, family: int
) -> None:
    with pair[0].run(socket.socket, FAMILIES[family], socket.SOCK_DGRAM) as server:
        port = next(_ports)
        assert not host.knows(datagram(family, port))
        server.bind((str(VIPS[family]), PORT))
        assert not host.knows(datagram(family, port))
        server.connect((str(CLIENTS[family]), port))
        assert host.knows(datagram(family, port))
        assert not host.knows(datagram(family, port + 1))


# ---- table against kernel ----


def test_a_segment_that_no_table_knows_is_passed_if_the_kernel_knows_it(
    host: HostUnderTest, live: Connection
) -> None:
    host.packet_events()
    frame = live.segment("A")
    assert host.run(frame).ending == "passed_known"
    (event,) = host.packet_events()
    assert (event.kind, event.port) == ("CLAIM", live.client_port)
    assert (event.client, event.slot) == (CLIENTS[live.family], TCP_SLOTS[live.family])


def test_a_segment_that_fits_no_socket_is_flooded_even_beside_a_live_one(
    host: HostUnderTest, live: Connection
) -> None:
    host.packet_events()
    frame = live.segment("A", ack=numbers(live.server).write_seq + 1)
    verdict = host.run(frame)
    assert verdict.ending == "miss_flooded"
    assert verdict.frame == encapsulated(frame, FLOOD, FLOOD_MARK)
    (event,) = host.packet_events()
    packet = TCP(frame[parse(frame).l4 :])
    assert (event.kind, event.seq, event.ack) == ("MISS", packet.seq, packet.ack)


@pytest.fixture
def entry(host: HostUnderTest, live: Connection) -> Iterator[Callable[[Entry], None]]:
    """Writes what the table says about the live connection; gone after the test."""
    where = CLIENTS[live.family], live.client_port, TCP_SLOTS[live.family]
    yield lambda value: host.put(*where, value)
    host.remove(*where)


def test_a_stale_entry_does_not_steal_a_session_that_the_kernel_knows(
    host: HostUnderTest, live: Connection, entry: Callable[[Entry], None]
) -> None:
    entry(Entry(PEER))
    host.packet_events()
    frame = live.segment("PA")
    verdict = host.run(frame)
    assert (verdict.ending, verdict.frame) == ("passed_stale_entry", frame)
    assert [event.kind for event in host.packet_events()] == ["CLAIM"]


def test_a_stray_leaves_although_a_stale_socket_lies_here(
    host: HostUnderTest, live: Connection, entry: Callable[[Entry], None]
) -> None:
    entry(Entry(PEER))
    frame = live.segment("A", ack=numbers(live.server).write_seq + 1)
    verdict = host.run(frame)
    assert verdict.ending == "stray_forwarded"
    assert verdict.frame == encapsulated(frame, ROUTES[PEER])


def test_a_syn_goes_to_its_owner_whatever_this_kernel_knows(
    host: HostUnderTest, live: Connection, entry: Callable[[Entry], None]
) -> None:
    frame = live.segment("S", ack=0)
    assert host.run(frame).ending == "passed_syn"
    entry(Entry(PEER))
    assert host.run(frame).ending == "syn_forwarded"


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_an_own_entry_counts_only_if_the_kernel_agrees(
    host: HostUnderTest, live: Connection, entry: Callable[[Entry], None], alive: bool
) -> None:
    entry(Entry(OWN_HOST))
    host.packet_events()
    try:
        host.set_agent(alive)
        assert host.run(live.segment("A")).ending == "passed_own"
        assert host.packet_events() == []  # nothing to claim
        unknown = live.segment("A", ack=numbers(live.server).write_seq + 1)
        assert host.run(unknown).ending == "miss_flooded"
    finally:
        host.set_agent(True)


def test_a_lingering_own_entry_is_believed_only_if_the_kernel_knows_it(
    host: HostUnderTest, live: Connection, entry: Callable[[Entry], None]
) -> None:
    snd_nxt, rcv_nxt = in_time_wait(live)
    entry(Entry(OWN_HOST, lingering=True))
    last_fin = live.segment("FA", seq=rcv_nxt - 1, ack=snd_nxt)
    assert host.run(last_fin).ending == "passed_own"
    newer = live.segment("A", seq=rcv_nxt + 2**30, ack=snd_nxt - 2**30)
    assert host.run(newer).ending == "miss_flooded"


# ---- through the tunnel ----


def test_a_stray_sent_here_is_delivered_if_the_kernel_knows_it(
    host: HostUnderTest, live: Connection
) -> None:
    frame = live.segment("PA")
    verdict = host.run(tunnelled(inner_of(frame)))
    assert verdict.ending == "delivered_stray"
    assert verdict.frame[14:] == frame[14:]
    assert verdict.frame[:6] == frame[:6]


def test_a_stray_sent_here_of_which_no_socket_knows_is_told_and_flooded_once(
    host: HostUnderTest, family: int
) -> None:
    host.packet_events()
    port = next(_ports)
    inner = inner_of(segment(family, port, "A", 1, 1))
    verdict = host.run(tunnelled(inner))
    assert (verdict.ending, verdict.frame) == ("misdirected_flooded", reflooded(inner))
    (event,) = host.packet_events()
    assert (event.kind, event.host, event.port) == ("MISDIRECTED", PEER, port)
    assert host.run(tunnelled(inner, mark=1)).ending == "misdirected_dropped"


def test_a_stray_sent_here_that_does_not_fit_its_socket_is_flooded_but_not_told(
    host: HostUnderTest, live: Connection
) -> None:
    host.packet_events()
    inner = inner_of(live.segment("A", ack=numbers(live.server).write_seq + 1))
    verdict = host.run(tunnelled(inner))
    assert (verdict.ending, verdict.frame) == ("misdirected_flooded", reflooded(inner))
    assert host.packet_events() == []  # else a forged segment would delete the owner's entry


def test_only_a_session_without_a_socket_is_denied(
    host: HostUnderTest, live: Connection, family: int
) -> None:
    write_seq = numbers(live.server).write_seq
    assert host.view(live.segment("A", ack=write_seq)) is KernelView.FULL
    assert host.view(live.segment("A", ack=write_seq + 1)) is KernelView.IN_DOUBT
    assert host.view(live.segment("R", ack=0)) is KernelView.HALF
    assert host.view(segment(family, next(_ports), "A", 1, 1)) is KernelView.ABSENT


def test_a_flood_is_taken_by_the_kernel_that_knows_it_and_claimed(
    host: HostUnderTest, live: Connection
) -> None:
    host.packet_events()
    frame = live.segment("PA")
    verdict = host.run(flooded(inner_of(frame)))
    assert verdict.ending == "delivered_flood"
    assert verdict.frame[14:] == frame[14:]
    assert [event.kind for event in host.packet_events()] == ["CLAIM"]
    unicast_copy = tunnelled(inner_of(frame), mark=FLOOD_MARK)
    assert host.run(unicast_copy).ending == "delivered_flood"


def test_what_is_relayed_here_is_taken_if_the_kernel_knows_it_and_flooded_else(
    host: HostUnderTest, live: Connection, family: int
) -> None:
    host.packet_events()
    known = inner_of(live.segment("PA"))
    assert host.run(tunnelled(known, mark=RELAY_MARK)).ending == "delivered_flood"
    assert [event.kind for event in host.packet_events()] == ["CLAIM"]
    inner = inner_of(segment(family, next(_ports), "A", 1, 1))
    verdict = host.run(tunnelled(inner, mark=RELAY_MARK))
    assert (verdict.ending, verdict.frame) == ("misdirected_flooded", reflooded(inner))
    assert host.packet_events() == []  # the sender did not take this host for the owner


def test_a_flood_that_fits_no_socket_is_dropped(host: HostUnderTest, live: Connection) -> None:
    inner = inner_of(live.segment("A", ack=numbers(live.server).write_seq + 1))
    assert host.run(flooded(inner)).ending == "flood_unknown"


def test_flooded_udp_is_taken_by_a_connected_socket_only(
    host: HostUnderTest, pair: Pair, family: int
) -> None:
    with pair[0].run(socket.socket, FAMILIES[family], socket.SOCK_DGRAM) as server:
        port = next(_ports)
        server.bind((str(VIPS[family]), PORT))
        inner = inner_of(datagram(family, port))
        assert host.run(flooded(inner)).ending == "flood_unknown"
        server.connect((str(CLIENTS[family]), port))
        assert host.run(flooded(inner)).ending == "delivered_flood"


def test_a_flooded_syn_cookie_is_taken(host: HostUnderTest, cookie: HalfOpen) -> None:
    inner = inner_of(cookie.segment("A", ack=cookie.host_isn + 1))
    assert host.run(flooded(inner)).ending == "delivered_flood"


# ---- events ----


def test_the_agent_is_told_of_one_flow_once_in_a_while(
    host: HostUnderTest, live: Connection
) -> None:
    host.packet_events()
    frame = live.segment("A")
    start = time.monotonic()
    host.run_unchecked([frame] * 1000)
    passed_s = time.monotonic() - start
    assert 1 <= len(host.packet_events()) <= 1 + passed_s / TELL_INTERVAL_S
