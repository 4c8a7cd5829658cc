# SPDX-License-Identifier: BSD-2-Clause
"""A joining host asks for shards in turns: what is on its way always fits into its socket."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pyxdp_gossip.gossip import join
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.gossip.records import EventKind
from tests.unit.gossip_pop import MS, Host, Pop, event

SESSIONS = 1200  # eight datagrams: less than what is sent in one burst
NEWCOMER = "10.8.0.9"
SNAPSHOT = 3  # type of a shard's datagrams
SOCKET = 40  # milliseconds that a datagram waits in it


def filled(*ids: int) -> tuple[Pop, list[Host]]:
    """Hosts that have sessions, and know each other's."""
    pop = Pop()
    hosts = pop.start_all(*ids)
    for number, host in enumerate(hosts):
        clients = range(number * SESSIONS, (number + 1) * SESSIONS)
        pop.happens(host, *(event(EventKind.OPEN, client) for client in clients))
    pop.run(200)
    return pop, hosts


def slow_newcomer(pop: Pop) -> tuple[Host, dict[str, int]]:
    """Host 9 starts to join, behind a full socket; and when whose shard's first datagram left."""
    begins: dict[str, int] = {}

    def delay(source: str, target: str, data: bytes) -> int:
        if target != NEWCOMER or data[1] & 0x7F != SNAPSHOT:
            return 0
        begins.setdefault(source, pop.now // MS)
        return SOCKET

    pop.delay = delay
    return pop.start(9), begins


def pauses(begins: dict[str, int]) -> list[int]:
    """Milliseconds between one shard's begin and the next one's."""
    return [later - earlier for earlier, later in pairwise(begins.values())]


def knows_all(newcomer: Host, hosts: int) -> bool:
    owners = [newcomer.owner(client) for client in range(hosts * SESSIONS)]
    return owners == [1 + client // SESSIONS for client in range(hosts * SESSIONS)]


def joins_four() -> tuple[Host, list[int]]:
    """A slow newcomer that has all of four hosts' sessions, and the pauses between their shards."""
    pop, _hosts = filled(1, 2, 3, 4)
    newcomer, begins = slow_newcomer(pop)
    pop.run(1000)
    assert newcomer.synced() == [False]
    assert knows_all(newcomer, 4)
    assert len(begins) == 4
    return newcomer, pauses(begins)


def test_shards_that_do_not_fit_together_come_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join, "ON_THEIR_WAY_MAX", 10)
    newcomer, between = joins_four()
    assert all(pause >= SOCKET for pause in between)
    counters = newcomer.core.counters
    assert (counters.shards_received, counters.shards_retried, counters.pulls_cut) == (4, 0, 0)


def test_shards_that_fit_come_together() -> None:
    _newcomer, between = joins_four()
    assert all(pause < SOCKET for pause in between)


def test_a_shard_is_asked_for_while_the_end_of_another_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came makes room, not only what is complete."""
    monkeypatch.setattr(join, "ON_THEIR_WAY_MAX", 12)
    pop, _hosts = filled(1, 2)
    newcomer, begins = slow_newcomer(pop)
    pop.loses = lambda source, target, data: (
        target == NEWCOMER and data[1] & 0x7F == SNAPSHOT and len(data) < 100  # the ends
    )
    pop.run(250)
    assert set(begins) == {"10.8.0.1", "10.8.0.2"}
    assert newcomer.core.counters.shards_received == 0


def test_a_shard_behind_the_others_is_not_asked_for_again() -> None:
    """What waits in the socket is not lost: as long as shards come, its turn will."""
    pop, _hosts = filled(1, 2, 3, 4)
    late = {"10.8.0.1": 250, "10.8.0.2": 500, "10.8.0.3": 750, "10.8.0.4": 1000}
    pop.delay = lambda source, target, data: (
        late[source] if target == NEWCOMER and data[1] & 0x7F == SNAPSHOT else 0
    )
    newcomer = pop.start(9)
    pop.run(1500)
    assert newcomer.synced() == [False]
    assert newcomer.core.counters.shards_retried == 0


def test_one_that_dies_before_its_turn_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ON_THEIR_WAY_MAX", 1)
    pop, hosts = filled(1, 2, 3)
    newcomer, begins = slow_newcomer(pop)
    while not begins:
        pop.run_step()
    dying = next(host for host in hosts if host.address not in begins)
    dying.running = dying.up = False
    pop.run(2000)
    assert newcomer.synced() == [False]
    assert newcomer.states(hosts.index(dying) + 1)[-1] is MemberState.DEAD


def test_one_whose_shard_does_not_arrive_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ON_THEIR_WAY_MAX", 1)
    pop, _hosts = filled(1, 2, 3, 4)
    newcomer, _begins = slow_newcomer(pop)
    pop.loses = lambda source, _target, data: (
        source == "10.8.0.2" and data[1] & 0x7F == SNAPSHOT
    )  # too long for a link, say
    pop.run(2000)
    assert newcomer.core.counters.shards_received == 3
    pop.loses = lambda _source, _target, _data: False
    pop.run(2500)
    assert newcomer.synced() == [False]
    assert knows_all(newcomer, 4)


def test_one_that_falls_silent_before_its_turn_is_asked_when_it_talks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join, "ON_THEIR_WAY_MAX", 1)
    pop, hosts = filled(1, 2, 3)
    newcomer, begins = slow_newcomer(pop)
    while not begins:
        pop.run_step()
    frozen = next(host for host in hosts if host.address not in begins)
    frozen.running = False  # and its data path answers probes
    pop.run(2000)
    assert newcomer.synced() == [False]
    assert frozen.address not in begins
    frozen.running = True
    pop.run(1000)
    assert knows_all(newcomer, 3)
