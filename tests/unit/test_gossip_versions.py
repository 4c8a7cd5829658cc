# SPDX-License-Identifier: BSD-2-Clause
"""Versions of the wire format: what is spoken, who is refused, and upgrades that lose nothing."""

from __future__ import annotations

import itertools

import pytest
from gossip_pop import KEYS, WALL, Host, Pop, event

from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.events import IncompatibleHost, MemberState
from pyxdp_gossip.gossip.messages import OURS, Leaving, Versions
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.versions import pick_version
from pyxdp_gossip.gossip.wire import DatagramType, decode_header, encode_message, encode_section

OPEN = EventKind.OPEN
V11, V12, V22, V33 = Versions(1, 1), Versions(1, 2), Versions(2, 2), Versions(3, 3)


def named(host: Host) -> list[tuple[int, str, str]]:
    return [
        (row.host, str(row.theirs), str(row.ours))
        for row in host.events
        if isinstance(row, IncompatibleHost)
    ]


def spoken(pop: Pop, host: int) -> set[int]:
    """The versions of a host's datagrams within the last 300 ms."""
    pop.recorded.clear()
    pop.run(300)
    headers = map(decode_header, pop.recorded)
    return {header.version for header in headers if header.sender == host}


# ---- the choice ----


@pytest.mark.parametrize(
    ("own", "others", "chosen"),
    [
        (V12, [], 1),  # nobody was heard yet
        (V22, [], 2),
        (V12, [V12], 2),
        (V12, [V22], 2),
        (V12, [V11], 1),
        (V12, [V12, V11, V12], 1),
        (V12, [V12, None], 1),
        (V12, [V22, None], 2),
        (Versions(1, 9), [Versions(2, 7), Versions(3, 8)], 7),
        (V12, [V11, V22], 2),  # one of them cannot read it, whatever is chosen
        (V12, [V11, V22, V11], 1),
        (V11, [V22], 1),
    ],
)
def test_the_highest_version_is_spoken_that_all_read(
    own: Versions, others: list[Versions | None], chosen: int
) -> None:
    for order in itertools.permutations(others):
        assert pick_version(own, order) == chosen


def test_versions_are_one_or_more_bytes_in_order() -> None:
    for lowest, highest in ((0, 1), (2, 1), (1, 256)):
        with pytest.raises(ValueError, match="expected 1 <= lowest <= highest <= 255"):
            Versions(lowest, highest)
    assert (V12 & V22, V11 & V22, V12 & V12) == (V22, None, V12)


def test_a_host_of_one_version_writes_what_it_wrote_before_versions_were_told() -> None:
    assert OURS == V11
    data = Envelope(1, WALL, 1, keys=KEYS).seal(DatagramType.LOG, b"")
    assert data[0] == 1
    pop = Pop()
    pop.start_all(1, 2)
    assert spoken(pop, 1) == {1}


# ---- pairs ----


@pytest.mark.parametrize(
    ("first", "second", "version"),
    [(V11, V11, 1), (V11, V12, 1), (V12, V11, 1), (V12, V12, 2), (V12, V22, 2), (V22, V12, 2)],
    ids=str,
)
def test_two_hosts_that_share_a_version_speak_the_highest_one(
    first: Versions, second: Versions, version: int
) -> None:
    pop = Pop()
    hosts = [pop.start(1, versions=first), pop.start(2, versions=second)]
    pop.run(1500)
    for number, host in enumerate(hosts):
        pop.happens(host, event(OPEN, number))
    pop.run(20)
    for host in hosts:
        assert host.synced() == [False]
        assert [host.owner(client) for client in (0, 1)] == [1, 2]
        assert named(host) == []
    assert spoken(pop, 1) == spoken(pop, 2) == {version}


def test_hosts_without_a_common_version_are_named_once_refused_and_partial() -> None:
    pop = Pop()
    first = pop.start(1, versions=V11)
    pop.run(1500)
    pop.happens(first, event(OPEN, 1))
    second = pop.start(2, versions=V22)
    pop.happens(second, event(OPEN, 2))
    pop.run(5000)
    assert named(first) == [(2, "2..2", "1..1")]
    assert named(second) == [(1, "1..1", "2..2")]
    assert second.synced() == []  # it is not alone
    pop.run(6000)
    assert (first.synced(), second.synced()) == ([False], [True])
    for host, other in ((first, 2), (second, 1)):
        assert len(named(host)) == 1
        assert host.core.counters.unknown_version > 50
        assert host.states(other) == []
        assert host.owner(other) is None
    text = str(next(row for row in first.events if isinstance(row, IncompatibleHost)))
    assert text.startswith("host 2 at 10.8.0.2 speaks version 2..2 of the gossip, this one 1..1:")
    assert "\n" not in text


def test_a_newcomer_that_reads_less_than_the_members_share_is_not_taken_in() -> None:
    pop = Pop()
    elders = [pop.start(1, versions=V11), pop.start(2, versions=V12)]
    pop.run(1500)
    newcomer = pop.start(3, versions=V22)
    pop.happens(newcomer, event(OPEN, 3))
    pop.run(12_000)
    for elder in elders:
        assert named(elder) == [(3, "2..2", str(elder.core._envelope.versions))]
        assert elder.active() == {1, 2}
        assert elder.owner(3) is None
    assert elders[1].core.counters.incompatible_host > 0
    assert spoken(pop, 2) == {1}
    assert newcomer.synced() == [True]
    assert newcomer.active() == {3}
    assert {host for host, _, _ in named(newcomer)} == {1, 2}


def test_an_agent_that_comes_back_incompatible_is_silent_and_its_sessions_stay() -> None:
    pop = Pop()
    first, second = pop.start(1, versions=V11), pop.start(2, versions=V11)
    pop.run(1500)
    pop.happens(second, event(OPEN, 2))
    pop.run(20)
    pop.start(2, versions=V33, adopted=second)
    pop.run(3000)
    assert first.states(2)[-1] is MemberState.SILENT
    assert first.owner(2) == 2
    assert named(first) == [(2, "3..3", "1..1")]
    again = pop.start(2, versions=V12, adopted=pop.hosts["10.8.0.2"])
    pop.happens(again, event(OPEN, 2))
    pop.run(1000)
    assert first.states(2)[-1] is MemberState.ALIVE
    assert (first.owner(2), first.active()) == (2, {1, 2})


def test_only_authentic_datagrams_name_a_host() -> None:
    pop = Pop()
    first, _second = pop.start_all(1, 2)
    genuine = Envelope(9, WALL, 5, keys=KEYS, versions=V22)
    for _ in range(40):
        data = genuine.seal(DatagramType.LOG, b"", 2)
        forged = data[:-1] + bytes([data[-1] ^ 1])
        first.core.receive_datagram(forged, ("10.8.0.9", 7946), pop.now)
        pop.run(50)
    assert first.core.counters.bad_seal == 40
    assert named(first) == []
    for _ in range(40):
        data = genuine.seal(DatagramType.LOG, b"", 2)
        first.core.receive_datagram(data, ("10.8.0.9", 7946), pop.now)
        pop.run(50)
    assert (first.core.counters.unknown_version, named(first)) == (40, [(9, "2..2", "1..1")])


def test_a_datagram_of_another_version_is_not_half_read() -> None:
    sender, reader = Envelope(9, WALL, 5, keys=KEYS), Envelope(1, WALL, 1, keys=KEYS)
    for version in (2, 255):
        data = sender.seal(DatagramType.LOG, encode_message(Leaving()), version)
        with pytest.raises(PeerError, match="unknown_version"):
            reader.read(data)
    read = sender.seal(DatagramType.LOG, encode_message(Leaving()), 1)
    assert reader.read(read)[1] == [Leaving()]


def test_a_section_of_a_later_version_is_skipped_counted_and_what_follows_is_read() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    later = encode_section(0x7E, b"of a later version") + encode_message(Leaving())
    second.core._outbox.put_payload(None, DatagramType.LOG, later)
    pop.run(5)
    assert first.core.counters.unknown_section == 1
    assert first.states(2)[-1] is MemberState.LEFT


# ---- rolling upgrades ----


class Upgrade:
    """Five hosts whose agents restart one after the other, while sessions open on all of them."""

    def __init__(self) -> None:
        self.pop = Pop()
        self.owners: dict[int, int] = {}
        for host in range(1, 6):
            self.pop.start(host, versions=V11)
        self.pop.run(1500)

    def host(self, number: int) -> Host:
        return self.pop.hosts[f"10.8.0.{number}"]

    def pass_time(self, ms: int) -> None:
        """A session opens each millisecond, at the hosts in turn."""
        for _ in range(ms):
            client = len(self.owners)
            number = client % 5 + 1
            self.owners[client] = number
            if self.host(number).running:
                self.pop.happens(self.host(number), event(OPEN, client))
            self.pop.run(1)

    def restart(self, number: int, versions: Versions) -> None:
        """As SIGHUP and a new release: for 200 ms no agent runs, its sockets are read after."""
        before = self.host(number)
        before.running = False
        self.pass_time(200)
        after = self.pop.start(number, versions=versions, adopted=before)
        mine = [client for client, owner in self.owners.items() if owner == number]
        self.pop.happens(after, *(event(OPEN, client) for client in mine))
        self.pass_time(600)

    def check(self) -> None:
        """Every table equals the sockets, without waiting for digests or a pull."""
        self.pop.run(5)
        for number in range(1, 6):
            host = self.host(number)
            held = {client: host.owner(client) for client in self.owners}
            assert held == self.owners, number
            assert host.active() == {1, 2, 3, 4, 5}
            assert named(host) == []


def test_a_rolling_upgrade_and_its_way_back_lose_no_record() -> None:
    upgrade = Upgrade()
    for versions in (V12, V11):
        for number in range(1, 6):
            upgrade.restart(number, versions)
            upgrade.check()
            done = versions is V12 and number == 5
            for host in range(1, 6):
                assert spoken(upgrade.pop, host) == {2 if done else 1}
    assert sum(upgrade.host(host).core.counters.batches_given_up for host in range(1, 6)) == 0


def test_from_both_versions_a_pop_goes_on_to_the_second_alone() -> None:
    upgrade = Upgrade()
    for versions in (V12, V22):
        for number in range(1, 6):
            upgrade.restart(number, versions)
            upgrade.check()
    assert spoken(upgrade.pop, 3) == {2}
