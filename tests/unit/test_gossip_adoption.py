# SPDX-License-Identifier: BSD-2-Clause
"""The core over adopted tables: what it knew of other hosts counts until they say it anew."""

from __future__ import annotations

from pyxdp_gossip.gossip.events import Leave, MemberState
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DatagramType
from tests.unit.gossip_pop import Host, Pop, event

OPEN, CLOSE = EventKind.OPEN, EventKind.CLOSE
KEPT, ENDED, OWN = 5, 6, 7
"""Sessions: of host 2 throughout; of host 2 until host 1 is away; of host 1."""


def pop_without_first() -> tuple[Pop, Host, Host]:
    """Hosts 1, 2 and 3, of which 1 was killed a moment ago."""
    pop = Pop()
    first, second, _ = pop.start_all(1, 2, 3)
    pop.happens(second, event(OPEN, KEPT), event(OPEN, ENDED))
    pop.happens(first, event(OPEN, OWN))
    pop.run(10)
    assert [first.owner(one) for one in (KEPT, ENDED, OWN)] == [2, 2, 1]
    first.running = False
    return pop, first, second


def run_keeping(pop: Pop, host: Host, ms: int) -> None:
    """Lets time pass; there is no moment in which the host does not know who has KEPT."""
    for _ in range(ms):
        pop.run(1)
        assert host.owner(KEPT) == 2


def test_entries_count_from_the_start_and_go_when_their_owners_shard_is_without_them() -> None:
    pop, first, second = pop_without_first()
    pop.happens(second, event(CLOSE, ENDED))
    pop.run(50)
    again = pop.start(1, adopted=first)
    assert [again.owner(one) for one in (KEPT, ENDED, OWN)] == [2, 2, None]
    pop.happens(again, event(OPEN, OWN))
    run_keeping(pop, again, 1500)
    assert [again.owner(one) for one in (KEPT, ENDED, OWN)] == [2, None, 1]
    assert again.states(2) == [MemberState.SUSPECT, MemberState.ALIVE]
    assert again.synced() == [False]
    assert second.owner(OWN) == 1


def test_entries_of_frozen_agents_outlive_the_join_and_are_compared_once_they_run_again() -> None:
    pop, first, second = pop_without_first()
    third = pop.hosts["10.8.0.3"]
    pop.happens(second, event(CLOSE, ENDED))
    second.running = third.running = False
    again = pop.start(1, adopted=first)
    run_keeping(pop, again, 3000)
    assert again.synced() == [False], "nobody talks: the host is alone"
    assert again.owner(ENDED) == 2
    assert again.states(2) == [MemberState.SUSPECT, MemberState.SILENT]
    second.running = third.running = True
    run_keeping(pop, again, 1000)
    assert again.owner(ENDED) is None
    assert again.states(2)[-1] is MemberState.ALIVE
    assert again.active() == {1, 2, 3}


def test_entries_of_a_host_that_died_meanwhile_go_as_those_of_any_dead_one() -> None:
    pop, first, second = pop_without_first()
    second.running = second.up = False
    again = pop.start(1, adopted=first)
    pop.run(1000)
    assert again.states(2) == [MemberState.SUSPECT, MemberState.DEAD]
    assert again.owner(KEPT) is None
    assert again.active() == {1, 3}


def test_entries_of_a_host_that_left_meanwhile_go_too() -> None:
    pop, first, second = pop_without_first()
    second.core.handle_event(Leave(), pop.now)
    pop.run(5)
    second.up = False
    again = pop.start(1, adopted=first)
    pop.run(1000)
    assert again.states(2) == [MemberState.SUSPECT, MemberState.DEAD]
    assert again.owner(KEPT) is None
    assert again.active() == {1, 3}


def test_entries_of_a_host_that_restarted_meanwhile_count_until_its_own_shard_came() -> None:
    pop, first, second = pop_without_first()
    second.running = False
    pop.run(50)
    anew = pop.start(2)
    pop.happens(anew, event(OPEN, KEPT))
    again = pop.start(1, adopted=first)
    run_keeping(pop, again, 1500)
    assert again.owner(ENDED) is None


def test_a_close_in_its_owners_log_counts_whatever_the_position() -> None:
    pop, first, second = pop_without_first()
    second.core._own_log.number = 1 << 31  # seems older than an adopted entry's 0
    again = pop.start(1, adopted=first)
    pop.loses = lambda source, target, data: data[1] == DatagramType.SNAPSHOT
    pop.run(200)
    assert again.states(2)[-1] is MemberState.ALIVE
    assert again.owner(ENDED) == 2, "no shard came"
    pop.happens(second, event(CLOSE, ENDED))
    run_keeping(pop, again, 5)
    assert again.owner(ENDED) is None


def test_whoever_claims_an_adopted_entrys_session_has_it() -> None:
    pop, first, second = pop_without_first()
    third = pop.hosts["10.8.0.3"]
    second.running = False
    pop.happens(third, event(OPEN, ENDED))
    pop.run(10)
    again = pop.start(1, adopted=first)
    assert again.owner(ENDED) == 2
    run_keeping(pop, again, 500)
    assert again.owner(ENDED) == 3


def test_a_second_restart_before_any_shard_came_loses_nothing() -> None:
    pop, first, second = pop_without_first()
    pop.happens(second, event(CLOSE, ENDED))
    pop.loses = lambda source, target, data: data[1] == DatagramType.SNAPSHOT
    again = pop.start(1, adopted=first)
    run_keeping(pop, again, 300)
    pop.happens(second, event(OPEN, 9))
    run_keeping(pop, again, 10)
    third_start = pop.start(1, adopted=again)
    assert [third_start.owner(one) for one in (KEPT, ENDED, 9)] == [2, 2, 2]
    run_keeping(pop, third_start, 300)
    pop.loses = lambda source, target, data: False
    run_keeping(pop, third_start, 5000)
    assert [third_start.owner(one) for one in (KEPT, ENDED, 9)] == [2, None, 2]
