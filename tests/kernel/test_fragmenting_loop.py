# SPDX-License-Identifier: BSD-2-Clause
"""What is too big and has no DF, by the program alone and over a link with the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, defragment, fragment
from scapy.packet import Raw

from pyxdp_gossip.explanation import Explanation
from pyxdp_gossip.live_snapshot import live_snapshot
from pyxdp_gossip.stats import ENDINGS
from tests.box.traffic import wait_for
from tests.golden import encapsulated, ethernet, ip, tcp, udp
from tests.golden_formats import FLAVOURS, Flavour, flavoured_world
from tests.golden_fragmenting import cut_rows
from tests.golden_tunnel import tunnelled
from tests.golden_world import (
    FLOOD,
    OWN_MAC,
    PEER,
    ROUTES,
    SMALL_MTU,
    SMALL_MTU_PEER,
    VLAN_PEER,
    State,
    golden_world,
)
from tests.kernel import dataplane_fixture
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    Pair,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.test_golden_loop import MTU as LINKED_MTU
from tests.kernel.test_golden_loop import Link, linked
from tests.kernel.wire import wire
from tests.model import run
from tests.unit.test_golden_formats import name_of

pair = dataplane_fixture.pair
INNER = 14 + 20 + 8 + 16  # of an outer packet without a tag


@pytest.fixture(scope="module", params=["copy", "skb"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    """One link for all rows, with the loop in one of the modes that a veth has."""
    with linked(request.param) as made:
        made.host.set_flood()
        made.host.set_agent(True)
        yield made


def send(link: Link, *frames: bytes) -> dict[str, int]:
    """Frames over the link, one by one; what rose, once each has ended."""
    before = link.host.plane.statistics()
    for number, frame in enumerate(frames, 1):
        link.far.send(frame)
        wait_for(
            f"{number} frames end",
            lambda due=number: link.host.plane.statistics().since(before).frames >= due,
        )
    risen = link.host.plane.statistics().since(before)
    return {name: count for name, count in risen.counters.items() if count}


def endings(risen: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in risen.items() if name in ENDINGS}


def test_the_program_alone_tells_the_sender_and_so_it_is_explained(pair: Pair) -> None:
    with host_under_test(pair[0]) as host:
        host.set_flood()
        verdicts = host.run_all([row.frame for row in cut_rows()])
        host.namespace.run(host.plane.attach_packets)

        def explained() -> list[Explanation]:
            with live_snapshot(host.plane.settings.pins) as live:
                return [live.explain(row.frame) for row in cut_rows()]

        told = host.namespace.run(explained)
    for row, verdict, said in zip(cut_rows(), verdicts, told, strict=True):
        assert (verdict.ending, verdict.frame) == ("too_big_answered", row.answer), row.description
        assert (said.ending, said.output) == ("too_big_answered", row.answer), row.description


def test_with_a_loop_each_golden_packet_leaves_in_its_fragments(link: Link) -> None:
    for row in cut_rows():
        risen = send(link, row.frame)
        assert endings(risen) == {"fragmented": 1}, row.description
        assert risen["fragments_sent"] == len(row.outputs)
        assert risen["handed_over"] == 1
        found = [link.far.receive_tunnelled(OWN_MAC) for _ in row.outputs[:1]]
        found += [receive_later(link) for _ in row.outputs[1:]]
        assert found == list(row.outputs), row.description


def receive_later(link: Link) -> bytes:
    """The next frame of this host that its kernel did not send by itself."""
    while True:
        frame = link.far.receive()
        assert frame is not None, "no frame came"
        is_kernels = frame[0] & 1 and frame[:6] != FLOOD.destination_mac  # IGMP, MLD
        if frame[6:12] == OWN_MAC and not is_kernels:
            return frame


def client_fragments(size: int, mtu: int, state: State) -> list[bytes]:
    """A datagram as a client with this MTU sends it: its fragments, from Ethernet on."""
    whole = ip(4, id=77) / udp(state) / Raw(bytes(at % 251 for at in range(size)))
    return [bytes(ethernet() / one) for one in fragment(IP(bytes(whole)), mtu - 20)]


def test_fragments_of_a_client_are_fragmented_again_and_none_overtakes_the_first(
    link: Link,
) -> None:
    frames = client_fragments(4000, SMALL_MTU, State.SMALL_PATH)
    assert [len(frame) - 14 for frame in frames] == [1500, 1500, 1068]
    world = replace(golden_world(), sent=[], fragments={})
    expected = []
    for frame in frames:
        world.sent = []
        ending, output = run(world, frame)
        expected += world.sent if ending == "fragmented" else [output]
    risen = send(link, *frames)
    assert endings(risen) == {"fragmented": 2, "fragment_forwarded": 1}
    assert risen["handed_over"] == 3  # the last one fits, but must not overtake the first
    found = [receive_later(link) for _ in expected]
    assert found == expected
    assert len({frame[34:36] for frame in found}) == 1, "all take one way"
    ((whole, *_),) = defragment([IP(frame[INNER:]) for frame in found])
    sent = ip(4, id=77) / udp(State.SMALL_PATH) / Raw(bytes(at % 251 for at in range(4000)))
    assert bytes(whole.payload) == bytes(IP(bytes(sent)).payload)


def test_a_flood_and_each_copy_of_it_is_fragmented(link: Link) -> None:
    frame = bytes(ethernet() / ip(4, id=9) / tcp(State.ABSENT) / Raw(bytes(1600)))
    hosts = [PEER, SMALL_MTU_PEER, VLAN_PEER]
    link.host.namespace.run(link.host.plane.set_flood_copies, hosts)
    try:
        risen = send(link, frame)
        assert endings(risen) == {"fragmented": 1}
        assert (risen["flood_copies"], risen["fragments_sent"]) == (3, 8)
        ways = [FLOOD, *(ROUTES[host] for host in sorted(hosts))]
        for route in ways:
            inner = [receive_later(link)[INNER + 4 * bool(route.vlan) :] for _ in range(2)]
            ((whole, *_),) = defragment([IP(one) for one in inner])
            assert bytes(whole.payload) == frame[34:]
    finally:
        link.host.namespace.run(link.host.plane.set_flood_copies, [])


def test_a_copy_alone_may_be_too_big(link: Link) -> None:
    frame = bytes(ethernet() / ip(4, id=9) / tcp(State.ABSENT) / Raw(bytes(1450)))
    link.host.namespace.run(link.host.plane.set_flood_copies, [SMALL_MTU_PEER])
    try:
        risen = send(link, frame)
        assert endings(risen) == {"miss_flooded": 1}
        assert (risen["flood_copies"], risen["fragments_sent"]) == (1, 2)
        assert receive_later(link) == encapsulated(frame, FLOOD, 0x80)
        inner = [receive_later(link)[INNER:] for _ in range(2)]
        ((whole, *_),) = defragment([IP(one) for one in inner])
        assert bytes(whole.payload) == frame[34:]
    finally:
        link.host.namespace.run(link.host.plane.set_flood_copies, [])


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_in_each_tunnel_format_the_fragments_are_those_of_the_model(flavour: Flavour) -> None:
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.ip(f"link set {device} mtu {LINKED_MTU}")
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        inside.exec(f"sysctl -qw net.ipv6.conf.{DEVICE}.disable_ipv6=0")
        world = flavoured_world(flavour)
        with (
            host_under_test(inside, world, plane="xsk", mode="copy") as made,
            wire(outside, OUTSIDE) as far,
        ):
            made.set_flood()
            inside.run(made.plane.attach_packets)
            link = Link(made, far)
            for size in (1599, 1600):  # an odd length has a checksum too
                frame = bytes(ethernet() / ip(4, id=9) / udp(State.OTHER) / Raw(bytes(size)))
                modelled = replace(world, sent=[])
                assert run(modelled, frame)[0] == "fragmented"
                assert endings(send(link, frame)) == {"fragmented": 1}
                assert [receive_later(link) for _ in range(2)] == modelled.sent
            later = client_fragments(4000, 1600, State.OTHER)
            modelled = replace(world, sent=[], fragments={})
            assert [run(modelled, one)[0] for one in later[:2]] == ["fragmented"] * 2
            assert endings(send(link, *later[:2])) == {"fragmented": 2}
            assert [receive_later(link) for _ in range(4)] == modelled.sent


@pytest.mark.parametrize("size", [1, 8, 40])
def test_a_later_fragment_of_any_size_is_delivered(pair: Pair, size: int) -> None:
    first, *_ = (bytes(IP(frame[14:])) for frame in client_fragments(3000, 1456, State.OWN))
    last = ip(4, id=77, frag=179, proto=17) / Raw(bytes(size))
    with host_under_test(pair[0]) as host:
        host.remembers_fragments = True
        found = host.run_all([bytes(tunnelled(IP(first))), bytes(tunnelled(last))])
    assert [one.ending for one in found] == ["delivered_udp", "delivered_fragment"]
    assert found[1].frame[14:] == bytes(last)
