# SPDX-License-Identifier: BSD-2-Clause
"""Fragments in sequence through the XDP program: the later ones follow the first one."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.l2 import Dot1Q
from scapy.packet import Raw

from tests.golden import encapsulated, ethernet, ip, tcp, udp
from tests.golden_odd import first_header, later_header
from tests.golden_tunnel import flooded, stripped, tunnelled
from tests.golden_world import PEER, ROUTES, State, golden_world
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import HostUnderTest, Pair, host_under_test
from tests.kernel.live_connection import Connection, connected, numbers
from tests.model import World, entropy_port, parse, run

pair = dataplane_fixture.pair

UDP, TCP = 17, 6
FRAGMENTS_NS = 2_000_000_000  # of csrc/bpf/fragments.h
FRAGMENTS = 4096
DATA = Raw(b"first data")
ENTROPY = slice(34, 36)  # of a frame with outer headers and no tag: the outer source port


@pytest.fixture(scope="module")
def data_path(pair: Pair) -> Iterator[HostUnderTest]:
    """One that remembers first fragments from frame to frame."""
    with host_under_test(pair[0]) as under_test:
        under_test.set_flood()
        under_test.remembers_fragments = True
        yield under_test


@pytest.fixture
def host(data_path: HostUnderTest) -> HostUnderTest:
    """The same with an empty memory."""
    data_path.forget_fragments()
    return data_path


@pytest.fixture
def world() -> World:
    """The model's, which remembers likewise."""
    return replace(golden_world(), fragments={})


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def transport(state: State, protocol: int, flags: str = "A") -> Any:
    return tcp(state, flags) if protocol == TCP else udp(state)


def first_of(family: int, state: State, protocol: int, number: int = 1, flags: str = "A") -> bytes:
    """A client's first fragment, from Ethernet on."""
    header = first_header(family, protocol, number=number)
    return bytes(ethernet() / header / transport(state, protocol, flags) / DATA)


def later_of(family: int, protocol: int, number: int = 1) -> bytes:
    """A later fragment of the same packet."""
    return bytes(ethernet() / later_header(family, protocol, number=number) / Raw(bytes(40)))


def endings(host: HostUnderTest, world: World, *frames: bytes) -> list[str]:
    """What the program made of frames, in order; the model says the same, byte for byte."""
    found = []
    for frame, verdict in zip(frames, host.run_all(list(frames)), strict=True):
        ending, output = run(world, frame)
        assert verdict.ending == ending
        assert verdict.action == "drop" or verdict.frame == output
        found.append(ending)
    return found


def remembered(host: HostUnderTest) -> dict[bytes, bytes]:
    """What the program knows of first fragments."""
    memory = host.plane._maps["fragments"]
    return {key: memory.lookup(key) or b"" for key in memory.each_key()}


def make_old(host: HostUnderTest, by_ns: int) -> None:
    """All first fragments came so much earlier."""
    memory = host.plane._maps["fragments"]
    for key, value in remembered(host).items():
        (at_ns,) = struct.unpack_from("=Q", value)
        memory.update(key, struct.pack("=Q", at_ns - by_ns) + value[8:])


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize(
    ("state", "ending"),
    [
        (State.OTHER, "stray_forwarded"),
        (State.OTHER_VLAN, "stray_forwarded"),
        (State.NO_TEMPLATE, "miss_flooded"),
    ],
)
def test_later_fragments_are_sent_where_the_first_one_was(
    host: HostUnderTest, world: World, family: int, state: State, ending: str, protocol: int
) -> None:
    first, later = first_of(family, state, protocol), later_of(family, protocol)
    assert endings(host, world, first, later, later) == [ending, *["fragment_forwarded"] * 2]


def test_a_later_fragment_gets_the_outer_headers_of_its_session(
    host: HostUnderTest, family: int
) -> None:
    first, later = first_of(family, State.OTHER, UDP), later_of(family, UDP)
    sent = [one.frame for one in host.run_all([first, later])]
    whole = bytes(ethernet() / ip(family) / udp(State.OTHER))
    assert [frame[ENTROPY] for frame in sent] == [struct.pack("!H", entropy_port(parse(whole)))] * 2
    assert sent[0] == encapsulated(first, ROUTES[PEER])
    assert sent[1][58:] == later[14:]


@pytest.mark.parametrize(
    ("state", "protocol", "flags", "ending"),
    [
        (State.ABSENT, UDP, "", "passed_udp_new"),
        (State.OWN, UDP, "", "passed_own"),
        (State.ABSENT, TCP, "S", "passed_syn"),
        (State.UNOWNED_MARK, TCP, "A", "passed_unowned"),
    ],
)
def test_later_fragments_of_what_was_passed_are_passed(
    host: HostUnderTest, world: World, family: int, state: State, protocol: int, flags: str,
    ending: str,
) -> None:  # fmt: skip
    first = first_of(family, state, protocol, flags=flags)
    later = later_of(family, protocol)
    assert endings(host, world, first, later) == [ending, "passed_fragment"]


def test_a_packet_to_a_port_of_a_vip_that_is_no_service_stays_whole(
    host: HostUnderTest, world: World, family: int
) -> None:
    first = bytes(ethernet() / first_header(family, UDP, number=1) / udp(State.OTHER, dport=9))
    frames = first, later_of(family, UDP)
    assert endings(host, world, *frames) == ["passed_no_service", "passed_fragment"]


def test_a_later_fragment_before_its_first_one_is_unknown(
    host: HostUnderTest, world: World, family: int
) -> None:
    first, later = first_of(family, State.OTHER, UDP), later_of(family, UDP)
    assert endings(host, world, later, first, later) == [
        "fragment_unknown", "stray_forwarded", "fragment_forwarded",
    ]  # fmt: skip


def test_the_identification_tells_packets_apart(
    host: HostUnderTest, world: World, family: int
) -> None:
    frames = [first_of(family, State.OTHER, UDP, 1), first_of(family, State.ABSENT, UDP, 2)]
    frames += [later_of(family, UDP, number) for number in (1, 2, 3)]
    assert endings(host, world, *frames) == [
        "stray_forwarded", "passed_udp_new", "fragment_forwarded", "passed_fragment",
        "fragment_unknown",
    ]  # fmt: skip


def test_of_ipv4_the_protocol_tells_packets_apart_too(host: HostUnderTest, world: World) -> None:
    frames = first_of(4, State.OTHER, UDP), later_of(4, TCP), later_of(4, UDP)
    assert endings(host, world, *frames)[1:] == ["fragment_unknown", "fragment_forwarded"]
    frames = first_of(6, State.OTHER, UDP), later_of(6, TCP)
    assert endings(host, world, *frames)[1:] == ["fragment_forwarded"]


def test_a_first_fragment_is_forgotten_after_its_time(host: HostUnderTest, family: int) -> None:
    later = later_of(family, UDP)
    host.run(first_of(family, State.OTHER, UDP))
    make_old(host, FRAGMENTS_NS // 4)
    assert host.run(later).ending == "fragment_forwarded"
    make_old(host, FRAGMENTS_NS)
    assert host.run(later).ending == "fragment_unknown"
    host.run(first_of(family, State.OTHER, UDP))
    assert host.run(later).ending == "fragment_forwarded"


def test_the_memory_is_bounded_and_the_newest_stay(host: HostUnderTest) -> None:
    frames = [first_of(4, State.OTHER, UDP, number) for number in range(1, 2 * FRAGMENTS)]
    host.run_unchecked(frames)
    assert 0 < len(remembered(host)) <= FRAGMENTS
    assert host.run(later_of(4, UDP, 2 * FRAGMENTS - 1)).ending == "fragment_forwarded"
    assert host.run(later_of(4, UDP, 1)).ending == "fragment_unknown"


def test_what_is_no_vips_is_not_remembered(host: HostUnderTest, family: int) -> None:
    other = first_header(family, UDP, other=True)
    assert host.run(bytes(ethernet() / other / udp(State.OTHER))).ending == "passed_no_service"
    assert host.run(bytes(ethernet() / ip(family) / udp(State.OTHER))).ending == "stray_forwarded"
    assert remembered(host) == {}


def test_a_first_fragment_that_is_dropped_leaves_no_trace(
    host: HostUnderTest, world: World, family: int
) -> None:
    first, later = first_of(family, State.OTHER, TCP, flags=""), later_of(family, TCP)
    assert endings(host, world, first, later) == ["dropped_no_flags", "fragment_unknown"]
    big = bytes(ethernet() / first_header(family, UDP, number=2) / udp(State.OTHER)
                / Raw(bytes(1600)))  # fmt: skip
    later = later_of(family, UDP, 2)
    assert endings(host, world, big, later) == ["too_big_answered", "fragment_unknown"]


def test_an_atomic_fragment_is_a_whole_packet(host: HostUnderTest) -> None:
    header = ip(6) / later_header(6, UDP).payload
    header.payload.offset = 0
    verdict = host.run(bytes(ethernet() / header / udp(State.OTHER)))
    assert verdict.ending == "stray_forwarded"
    assert remembered(host) == {}


def test_tags_and_tos_of_a_later_fragment_are_its_own(
    host: HostUnderTest, world: World, family: int
) -> None:
    first = first_of(family, State.OTHER, UDP)
    header = later_header(family, UDP, number=1)
    if family == 4:
        header.tos = 0xB9
    else:
        header.tc = 0xB9
    later = bytes(ethernet(Dot1Q(vlan=5)) / header / Raw(bytes(40)))
    assert endings(host, world, first, later)[1:] == ["fragment_forwarded"]


def frame_of_any(source: random.Random) -> bytes:
    """A first or later fragment of one of few packets, straight or through the tunnel."""
    family, number = source.choice((4, 6)), source.randint(1, 2)
    protocol = source.choice((TCP, UDP))
    if source.random() < 0.5:
        state = source.choice((State.ABSENT, State.OTHER, State.OWN, State.NO_TEMPLATE))
        flags = source.choice(("A", "S"))
        packet = first_header(family, protocol, number=number) / transport(state, protocol, flags)
    else:
        packet = later_header(family, protocol, number=number)
    packet = packet / Raw(bytes(40))
    way = source.choice((None, None, tunnelled, flooded))
    return bytes(way(packet) if way else ethernet() / packet)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_fragments_ends_as_in_the_model(
    host: HostUnderTest, world: World, seed: int
) -> None:
    source = random.Random(seed)
    endings(host, world, *(frame_of_any(source) for _ in range(30)))


# ---- budgets ----


def test_a_flooded_later_fragment_pays_from_the_budget(pair: Pair) -> None:
    """One token an hour for flows never seen before, and a burst of a few."""
    changes = {"flood_rate_pps": 1_000_000, "flood_new_rate_pps": 1}
    with host_under_test(pair[0], **changes) as host:
        host.set_flood()
        host.remembers_fragments = True
        first, later = first_of(4, State.ABSENT, TCP), later_of(4, TCP)
        found = [one.ending for one in host.run_all([first, *[later] * 50])]
        assert found[0] == "miss_flooded"
        assert set(found[1:]) <= {"fragment_forwarded", "fragment_over_budget"}
        assert found[-1] == "fragment_over_budget"
        follows = [first_of(4, State.OTHER, TCP, 2), *[later_of(4, TCP, 2)] * 50]
        found = [one.ending for one in host.run_all(follows)]
        assert set(found[1:]) == {"fragment_forwarded"}, "to the owner: no flood, no budget"


# ---- through the tunnel ----


def inner(what: Any) -> Any:
    """A fragment without Ethernet."""
    return what / Raw(bytes(40))


def test_later_fragments_sent_here_follow_the_first_one(
    host: HostUnderTest, world: World, family: int
) -> None:
    first = inner(first_header(family, UDP, number=1) / udp(State.OWN))
    later = inner(later_header(family, UDP, number=1))
    found = endings(host, world, tunnelled(later), tunnelled(first), tunnelled(later),
                    flooded(later))  # fmt: skip
    assert found == ["fragment_refused", "delivered_udp", *["delivered_fragment"] * 2]
    assert host.run(tunnelled(later)).frame == stripped(later)


def test_later_fragments_of_what_was_not_delivered_are_dropped(
    host: HostUnderTest, world: World, family: int
) -> None:
    first = inner(first_header(family, TCP, number=1) / tcp(State.OWN))
    later = inner(later_header(family, TCP, number=1))
    found = endings(host, world, flooded(first), flooded(later), tunnelled(first),
                    tunnelled(later))  # fmt: skip
    assert found == ["flood_unknown", "fragment_refused", "misdirected_flooded",
                     "fragment_refused"]  # fmt: skip


def test_what_was_sent_on_is_not_delivered_here(
    host: HostUnderTest, world: World, family: int
) -> None:
    later = inner(later_header(family, UDP, number=1))
    frames = first_of(family, State.OTHER, UDP), tunnelled(later)
    assert endings(host, world, *frames) == ["stray_forwarded", "fragment_refused"]


@pytest.fixture
def live(pair: Pair, family: int) -> Iterator[Connection]:
    with connected(pair, family, 43000 + family) as connection:
        yield connection


def segment_first(live: Connection) -> Any:
    """A first fragment of the next segment of a live connection, without Ethernet."""
    real = numbers(live.server)
    header = tcp(State.ABSENT, sport=live.client_port)
    header.seq, header.ack = real.rcv_nxt, real.write_seq
    return first_header(live.family, TCP, number=1) / header / Raw(bytes(40))


def test_a_flooded_packet_in_fragments_is_taken_by_the_kernel_that_knows_it(
    host: HostUnderTest, live: Connection
) -> None:
    first = segment_first(live)
    later = inner(later_header(live.family, TCP, number=1))
    verdicts = host.run_all([flooded(first), flooded(later)])
    assert [one.ending for one in verdicts] == ["delivered_flood", "delivered_fragment"]
    assert [one.frame for one in verdicts] == [stripped(first), stripped(later)]


def test_fragments_of_a_session_whose_socket_is_here_are_passed(
    host: HostUnderTest, live: Connection
) -> None:
    frames = [bytes(ethernet() / segment_first(live)), later_of(live.family, TCP)]
    assert [one.ending for one in host.run_all(frames)] == ["passed_known", "passed_fragment"]
