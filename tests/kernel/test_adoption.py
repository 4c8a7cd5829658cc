# SPDX-License-Identifier: BSD-2-Clause
"""A data path that goes on with the pinned maps of the one before, or says why it does not."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from pyxdp_gossip._native import QUEUE_BYTES, UNOWNED
from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.pins import MAPS, STAMP, AdoptedHost
from tests.golden import ethernet, ip, tcp
from tests.golden_world import (
    CLIENTS,
    DEAD_PEER,
    FLOOD,
    FLOOD_GROUP,
    OWN_HOST,
    PEER,
    PEERS,
    ROUTES,
    SERVICES,
    SMALL_MTU_PEER,
    TUNNEL_PORT,
    VLAN_PEER,
    State,
    session_key,
    underlay,
)
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import (
    OUTSIDE,
    HostUnderTest,
    cookies,
    host_under_test,
    make_pair,
)
from tests.model import Entry
from tests.templates_of_routes import template

Maker = Callable[[str], Namespace]
NOT_ADOPTED = {"socket_events", "packet_events", "trusted", "fragments"}
"""For an agent that is gone, the kernel's word of one tick (ADR 7), and what lives two seconds."""
UNCHANGED = (State.OTHER, State.OTHER_LINGERING, State.ABSENT)
"""What the table says of sessions with which a restart has nothing to do."""


def frame(family: int, state: State) -> bytes:
    """A segment of a session of which the golden table says this."""
    return bytes(ethernet() / ip(family) / tcp(state))


def key(state: State) -> bytes:
    """Its key in the IPv4 table."""
    return session_key(CLIENTS[4], state.client_port, SERVICES[4, "tcp", 443])


@pytest.fixture
def host(netns: Maker, veth: Callable[..., None]) -> Iterator[HostUnderTest]:
    """A data path at work, with the golden world in it."""
    inside, outside = make_pair(netns, veth)
    outside.ip(f"link set {OUTSIDE} down")  # no frames but the tests'
    with host_under_test(inside) as made:
        made.set_flood()
        inside.run(made.plane.attach_packets)
        try:
            yield made
        finally:
            inside.run(made.plane.adopt_predecessor)  # what the last one left at work goes as well


@contextmanager
def opened(before: HostUnderTest, **changes: Any) -> Iterator[HostUnderTest]:
    """The next data path on the same pins; nothing was told to it yet.

    Args:
        changes: of DataplaneSettings.
    """
    plane = Dataplane(replace(before.plane.settings, **changes))
    after = HostUnderTest(before.namespace, plane)
    try:
        before.namespace.run(plane.open)
        yield after
    finally:
        before.namespace.run(plane.detach)
        plane.close()


@contextmanager
def successor(before: HostUnderTest, **changes: Any) -> Iterator[HostUnderTest]:
    """The same after an end that leaves everything at work."""
    before.namespace.run(before.plane.abandon)
    before.plane.close()
    with opened(before, **changes) as after:
        yield after


def pinned(host: HostUnderTest, name: str) -> Path:
    """Where a map is pinned."""
    return host.plane.settings.pins / "maps" / name


# ---- adopted ----


def test_what_other_hosts_own_is_forwarded_at_once_with_the_same_bytes(
    host: HostUnderTest,
) -> None:
    frames = [frame(family, state) for family in (4, 6) for state in UNCHANGED]
    verdicts = host.run_all(frames)
    assert [one.ending for one in verdicts[:3]] == ["stray_forwarded"] * 2 + ["miss_flooded"]
    with successor(host) as after:
        assert (after.plane.adopted, after.plane.rebuilt_because) == (True, "")
        assert after.run_all(frames) == verdicts
        after.namespace.run(after.plane.attach_packets)
        assert after.run_all(frames) == verdicts
        index = after.plane.owners.state(PEER)[2]
        known = AdoptedHost(PEER, underlay(PEER), TUNNEL_PORT, index)
        assert after.plane.adopted_hosts == [known]
        with successor(after) as third:
            assert third.plane.adopted_hosts == [known]
            assert third.run_all(frames) == verdicts


def test_a_group_that_is_given_up_is_sent_to_no_more(host: HostUnderTest) -> None:
    miss = frame(4, State.ABSENT)
    assert host.run(miss).ending == "miss_flooded"
    with successor(host, flood_group=None) as after:
        assert after.plane.adopted
        for _ in range(2):
            relayed = after.run(miss)
            assert (relayed.ending, Ether(relayed.frame)[IP].dst) == (
                "miss_relayed",
                str(underlay(PEER)),
            )
            after.namespace.run(after.plane.attach_packets)
        with successor(after, flood_group=FLOOD_GROUP) as third:
            third.set_flood()
            assert third.run(miss).ending == "miss_flooded"


def test_entries_of_an_owner_whose_shard_was_on_its_way_are_all_kept(host: HostUnderTest) -> None:
    host.plane.owners.new_epoch(PEER)
    host.put(CLIENTS[4], 40001, 0, Entry(PEER))
    with successor(host) as after:
        owners, table = after.plane.owners, after.plane.table4
        newer = session_key(CLIENTS[4], 40001, 0)
        epoch = owners.state(PEER)[0]
        for one in (key(State.OTHER), newer):
            entry = table.get(one)
            assert entry is not None
            assert (entry.owner, entry.epoch, entry.opened_at) == (PEER, epoch, 0)
        owners.new_epoch(PEER)  # as for any restarted host: all of them are of the epoch before
        assert table.get(key(State.OTHER)) is not None
        owners.drop_previous(PEER)
        assert [table.get(key(State.OTHER)), table.get(newer)] == [None, None]


def test_void_entries_do_not_come_to_life_when_the_epoch_comes_round(host: HostUnderTest) -> None:
    for _ in range(200):
        host.plane.owners.void(PEER)
    with successor(host) as after:
        assert after.plane.owners.state(PEER)[0] == 200
        for _ in range(56):
            after.plane.owners.void(PEER)
        assert after.plane.owners.state(PEER)[0] == 0
        assert after.plane.table4.get(key(State.OTHER)) is None


def test_own_entries_are_void_so_that_every_socket_is_claimed_anew(host: HostUnderTest) -> None:
    with successor(host) as after:
        assert after.plane.owners.is_active(OWN_HOST)
        for state in (State.OWN, State.OWN_LINGERING):
            assert after.plane.table4.get(key(state)) is None
            assert after.run(frame(4, state)).ending == "miss_flooded", "the kernel was asked"


def test_marks_unowned_are_gone(host: HostUnderTest) -> None:
    entry = host.plane.table4.get(key(State.UNOWNED_MARK))
    assert entry is not None
    assert entry.owner == UNOWNED
    with successor(host) as after:
        assert after.plane.table4.get(key(State.UNOWNED_MARK)) is None
        assert after.run(frame(4, State.UNOWNED_MARK)).ending == "miss_flooded"


def test_what_lingers_lingers_on(host: HostUnderTest) -> None:
    with successor(host) as after:
        table = after.plane.table4
        entry = table.get(key(State.OTHER_LINGERING))
        assert entry is not None
        begin = entry.changed_at_ms
        table.sweep(table.capacity, begin + 59_999, linger_ms=60_000, unowned_ms=1000)
        assert table.get(key(State.OTHER_LINGERING)) is not None
        table.sweep(table.capacity, begin + 60_000, linger_ms=60_000, unowned_ms=1000)
        assert table.get(key(State.OTHER_LINGERING)) is None
        assert table.get(key(State.OTHER)) is not None


def test_hosts_of_which_only_half_was_written_leave_no_trace(host: HostUnderTest) -> None:
    # VLAN_PEER and SMALL_MTU_PEER are active, and without an address; DEAD_PEER has only that.
    with successor(host) as after:
        owners = after.plane.owners
        assert [one for one in range(100) if owners.is_active(one)] == [OWN_HOST, PEER]
        assert {owners.state(one)[2] for one in (VLAN_PEER, SMALL_MTU_PEER, DEAD_PEER)} == {0xFFFF}
        (only,) = after.plane._maps["peers"].each_key()
        assert only[12:] == underlay(PEER).packed


def test_statistics_go_on_counting(host: HostUnderTest) -> None:
    for _ in range(3):
        host.run(frame(4, State.OTHER))
    before = host.plane.statistics()
    assert before["stray_forwarded"] == 3
    with successor(host) as after:
        assert after.plane.statistics() == before
        after.run(frame(4, State.OTHER))
        assert after.plane.statistics()["stray_forwarded"] == before["stray_forwarded"] + 1


def test_places_of_templates_in_use_are_not_written_again(host: HostUnderTest) -> None:
    expected = host.run(frame(4, State.OTHER))
    flooded = host.run(frame(4, State.ABSENT))
    with successor(host) as after:
        for number in range(1100):
            template_bytes = template(replace(FLOOD, cookie=struct.pack("!Q", number)))
            after.namespace.run(after.plane.set_flood_template, template_bytes)
            assert after.plane.owners.state(PEER)[2] != after.plane._flood_place
        assert after.run(frame(4, State.OTHER)) == expected
        assert after.run(frame(4, State.ABSENT)).frame != flooded.frame
        for _ in range(1100):
            after.plane.set_template(PEER, template(ROUTES[PEER]))
        assert after.run(frame(4, State.OTHER)) == expected


def test_a_peer_goes_from_its_address_when_the_new_agent_says_so(host: HostUnderTest) -> None:
    with successor(host) as after:
        plane = after.plane
        plane.set_peer(PEER, underlay(20), cookies(PEERS[underlay(PEER)]))
        (only,) = plane._maps["peers"].each_key()
        assert only[12:] == underlay(20).packed
        plane.drop_peer(PEER)
        assert list(plane._maps["peers"].each_key()) == []


def test_frames_that_a_dead_loop_left_are_lost_and_its_credit_ends(host: HostUnderTest) -> None:
    queue = host.plane._queues[5 * QUEUE_BYTES : 6 * QUEUE_BYTES].cast("Q")
    queue[0], queue[8], queue[9] = 7, 100, 4  # redirected, credit, consumed
    del queue
    before = host.plane.statistics()
    with successor(host) as after:
        after.namespace.run(after.plane.attach_packets)
        words = after.plane._queues[5 * QUEUE_BYTES : 6 * QUEUE_BYTES].cast("Q")
        assert (words[0], words[8], words[9]) == (7, 0, 7)
        assert after.plane.statistics().since(before)["loop_lost"] == 3
        assert after.plane.statistics()["handed_over"] == before["handed_over"] == 7
        del words


def test_all_maps_but_those_of_the_moment_are_pinned(host: HostUnderTest) -> None:
    names = {name for name in host.plane._maps if "." not in name}
    assert names == set(MAPS) | NOT_ADOPTED
    assert {path.name for path in pinned(host, "").iterdir()} == set(MAPS)


# ---- rebuilt ----


def set_stamp(field: int, value: int) -> Callable[[HostUnderTest], None]:
    """Puts another number into the stamp."""

    def change(host: HostUnderTest) -> None:
        stamp = host.plane._maps["stamp"]
        fields = list(STAMP.unpack(stamp.lookup(bytes(4)) or b""))
        fields[field] = value
        stamp.update(bytes(4), STAMP.pack(*fields))

    return change


def damage_table(family: int) -> Callable[[HostUnderTest], None]:
    """Overwrites the magic number of a table's header."""

    def change(host: HostUnderTest) -> None:
        memoryview(host.plane._maps[f"sessions{family}"].memory())[:4] = b"lost"

    return change


def unpin(name: str) -> Callable[[HostUnderTest], None]:
    """Takes one pin away."""
    return lambda host: pinned(host, name).unlink()


def unpin_all(host: HostUnderTest) -> None:
    """As an agent did that pinned its links only."""
    for name in MAPS:
        pinned(host, name).unlink()
    pinned(host, "").rmdir()


def repin(name: str, other: str) -> Callable[[HostUnderTest], None]:
    """Another map in the place of one."""
    return lambda host: host.plane._maps[other].pin(pinned(host, name))


def damage_owner(host: HostUnderTest) -> None:
    """A template that cannot be."""
    host.plane.owners.set_template(PEER, 1024)


def damage_peer(host: HostUnderTest) -> None:
    """An address that is no IPv4 one."""
    host.plane._maps["peers"].update(bytes(15) + b"\1", bytes(48))


DAMAGES = {
    "stamp of zeros": (set_stamp(0, 0), "the pinned maps were never at work"),
    "no stamp": (set_stamp(0, 1), "the stamp of the pinned maps is none"),
    "layout": (set_stamp(1, 1), "the pinned maps have the layout of another version"),
    "services": (set_stamp(2, 1), "the services or their order changed"),
    "buckets of IPv4": (set_stamp(3, 1), "the size of the session table changed"),
    "buckets of IPv6": (set_stamp(4, 1), "the size of the session table changed"),
    "host": (set_stamp(5, 9), "the pinned maps are those of host 9"),
    "IPv4 table": (damage_table(4), "the pinned map sessions4 is damaged"),
    "IPv6 table": (damage_table(6), "the pinned map sessions6 is damaged"),
    "a pin": (unpin("owners"), "no pin of the map owners: No such file or directory"),
    "the stamp's pin": (unpin("stamp"), "no pin of the map stamp: No such file or directory"),
    "all pins": (unpin_all, "no pin of the map sessions4: No such file or directory"),
    "another map": (repin("config", "owners"), "the pinned map config has another shape"),
    "another map as stamp": (repin("stamp", "config"), "the stamp of the pinned maps is none"),
    "an owner's template": (damage_owner, "the pinned map owners is damaged"),
    "a peer's address": (damage_peer, "the pinned map peers is of another underlay"),
}


def assert_rebuilt(after: HostUnderTest, why: str) -> None:
    """Everything is new, is pinned, and works; the next one goes on with it."""
    plane = after.plane
    assert (plane.adopted, plane.rebuilt_because, plane.adopted_hosts) == (False, why, [])
    assert (len(plane.table4), len(plane.table6)) == (0, 0)
    assert list(plane._maps["peers"].each_key()) == []
    assert plane.statistics()["stray_forwarded"] == 0
    after.set_flood()
    plane.owners.activate(PEER)
    plane.set_template(PEER, template(ROUTES[PEER]))
    plane.set_peer(PEER, underlay(PEER), cookies(PEERS[underlay(PEER)]))
    after.put(CLIENTS[4], State.OTHER.client_port, 0, Entry(PEER))
    after.namespace.run(plane.attach_packets)
    expected = after.run(frame(4, State.OTHER))
    assert expected.ending == "stray_forwarded"
    with successor(after) as third:
        assert third.plane.adopted
        assert third.run(frame(4, State.OTHER)) == expected


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_wrong_with_the_pins_everything_is_rebuilt(
    host: HostUnderTest, damage: str
) -> None:
    change, why = DAMAGES[damage]
    host.run(frame(4, State.OTHER))
    change(host)
    with successor(host) as after:
        assert_rebuilt(after, why)


SETTINGS = {
    "sessions_v4": ({"sessions_v4": 5000}, "the size of the session table changed"),
    "sessions_v6": ({"sessions_v6": 5000}, "the size of the session table changed"),
    "host": ({"host": 9}, f"the pinned maps are those of host {OWN_HOST}"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_settings_need_other_maps(host: HostUnderTest, name: str) -> None:
    changes, why = SETTINGS[name]
    with successor(host, **changes) as after:
        assert_rebuilt(after, why)


def test_services_in_another_order_are_others(host: HostUnderTest) -> None:
    services = dict(host.plane.settings.services)
    first, second, *rest = services
    swapped = {**services, first: services[second], second: services[first]}
    shuffled = {one: services[one] for one in (second, *rest, first)}
    with successor(host, services=shuffled) as after:
        assert after.plane.adopted, "the slots are the same"
        with successor(after, services=swapped) as third:
            assert third.plane.rebuilt_because == "the services or their order changed"


def test_maps_that_were_never_at_work_are_not_adopted(host: HostUnderTest) -> None:
    with successor(host, sessions_v4=5000) as after:
        after.plane.close()  # it dies before it attaches anything
        with opened(after) as third:
            assert third.plane.rebuilt_because == "the pinned maps were never at work"


# ---- what is left behind ----


def test_a_start_that_fails_leaves_the_maps_to_the_next(host: HostUnderTest) -> None:
    expected = host.run(frame(4, State.OTHER))
    with successor(host):
        """It goes again before it has attached anything."""
    assert pinned(host, "stamp").exists()
    with opened(host) as after:
        assert after.plane.adopted
        assert after.run(frame(4, State.OTHER)) == expected
        after.namespace.run(after.plane.attach_packets)
    assert not host.plane.settings.pins.exists()


def test_detaching_removes_every_pin(host: HostUnderTest) -> None:
    pins = host.plane.settings.pins
    assert (pins / "maps").exists()
    host.namespace.run(host.plane.detach)
    assert not pins.exists()
    with opened(host) as after:
        assert (after.plane.adopted, after.plane.rebuilt_because) == (False, "")
        assert len(after.plane.table4) == 0
    assert not pins.exists()


def test_a_pin_of_something_else_is_no_map(host: HostUnderTest) -> None:
    link = BpfMap.pinned(host.plane.settings.pins / "xdp")
    try:
        assert (link.key_size, link.value_size) != (4, STAMP.size)
    finally:
        os.close(link.fd)
