# SPDX-License-Identifier: BSD-2-Clause
"""Repair: what was lost, overtaken or never asked for is there in the end, soon, and bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gossip_pop import MS, Host, Pop, event

from pyxdp_gossip.gossip import own_log
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.gossip.messages import Nack
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.repair import BATCHES_A_NACK, ranges_of
from pyxdp_gossip.gossip.sequence import MISSING_MAX, Arrival, BatchSequence
from pyxdp_gossip.gossip.wire import (
    HEADER,
    RANGES_IN_SECTION,
    SECTION,
    TAG_BYTES,
    DatagramType,
    decode_header,
)

OPEN, CLOSE = EventKind.OPEN, EventKind.CLOSE
LOG = DatagramType.LOG
Loses = Callable[[str, str, bytes], bool]


BEAT_BYTES = HEADER.size + SECTION.size + 48 + TAG_BYTES  # a datagram of a heartbeat alone


def loses_next(kind: DatagramType, count: int, target: Host | None = None) -> Loses:
    """Loses the next `count` datagrams of a type on their way to a host, or to anyone."""
    left = [count]

    def loses(_source: str, name: str, data: bytes) -> bool:
        lost = data[1] == kind and left[0] > 0 and (target is None or target.address == name)
        left[0] -= lost
        return lost

    return loses


def owners(host: Host, clients: int) -> list[int | None]:
    return [host.owner(client) for client in range(clients)]


def test_a_lost_batch_is_there_a_few_milliseconds_later() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.loses = loses_next(LOG, 1, third)
    pop.happens(first, event(OPEN, 0))
    pop.run(2)
    pop.happens(first, event(OPEN, 1))
    pop.run(1)
    assert (third.owner(0), third.owner(1), second.owner(0)) == (None, 1, 1)
    pop.run(8)
    assert owners(third, 2) == [1, 1]
    counters = third.core.counters
    assert (counters.batches_missed, counters.batches_late, counters.batches_asked) == (1, 1, 1)
    assert first.core.counters.repairs_unicast == 1
    assert second.core.counters.batches_repeated == 0  # nobody else was bothered


def test_a_lost_tail_shows_long_before_the_next_heartbeat() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.loses = loses_next(LOG, 1)
    pop.happens(first, event(OPEN, 0))
    pop.run(15)
    assert second.owner(0) == 1


def test_what_many_hosts_miss_is_sent_again_once_to_all() -> None:
    pop = Pop()
    hosts = pop.start_all(*range(1, 7))
    pop.loses = loses_next(LOG, 5)  # the batch, at each of the others
    pop.happens(hosts[0], event(OPEN, 0))
    pop.run(20)
    assert [host.owner(0) for host in hosts] == [1] * 6
    counters = hosts[0].core.counters
    assert (counters.repairs_multicast, counters.repairs_unicast) == (1, 0)


def test_a_lost_nack_and_a_lost_repair_are_repeated() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    sent = {first.address: 0, second.address: 0}

    def loses(source: str, _target: str, data: bytes) -> bool:
        """The batch but not the beat behind it; the first NACK; the repair after the second."""
        if data[1] != LOG or len(data) == BEAT_BYTES:
            return False
        sent[source] += 1
        return sent[source] <= (2 if source == first.address else 1)

    pop.loses = loses
    pop.happens(first, event(OPEN, 0))
    pop.run(120)
    assert second.owner(0) == 1
    assert sent == {first.address: 3, second.address: 3}


def test_a_third_of_all_datagrams_lost_for_a_while_leaves_no_trace() -> None:
    pop = Pop()
    hosts = pop.start_all(1, 2, 3)
    count = [0]

    def loses(_source: str, _target: str, _data: bytes) -> bool:
        count[0] += 1
        return count[0] * 7 % 10 < 3

    pop.loses = loses
    for client in range(400):
        pop.happens(hosts[client % 3], event(OPEN, client))
        if client % 5 == 0:
            pop.happens(hosts[client % 3], event(CLOSE, client))
        pop.run(2)
    pop.loses = lambda *_: False
    pop.run(500)
    truth = [None if client % 5 == 0 else client % 3 + 1 for client in range(400)]
    for host in hosts:
        assert owners(host, 400) == truth
        assert host.states(1).count("dead") == 0


def test_a_close_that_overtakes_its_open_ends_the_session_all_the_same() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    late = [True]

    def delay(_source: str, target: str, data: bytes) -> int:
        """The next batch comes 3 ms late to one host."""
        slow = late[0] and data[1] == LOG and target == third.address
        late[0] = late[0] and not slow
        return 3 if slow else 0

    pop.delay = delay
    pop.happens(first, event(OPEN, 0))
    pop.run(2)
    pop.happens(first, event(CLOSE, 0), event(OPEN, 1))
    pop.run(1)
    assert (second.owner(0), third.owner(0), third.owner(1)) == (None, None, 1)
    pop.run(20)
    assert (second.owner(0), third.owner(0), third.owner(1)) == (None, None, 1)
    assert third.core.counters.batches_late == 1


def test_batches_that_are_no_longer_kept_are_found_by_their_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_log, "KEPT_BATCHES", 4)
    pop = Pop()
    first, _second, third = pop.start_all(1, 2, 3)
    pop.happens(first, *(event(OPEN, client) for client in range(300)))
    pop.run(20)
    pop.loses = lambda _source, target, _data: target == third.address
    for client in range(300, 340):
        pop.happens(first, event(OPEN, client), event(CLOSE, client - 300))
        pop.run(2)
    pop.loses = lambda *_: False
    pop.run(400)
    assert owners(third, 340) == [None] * 40 + [1] * 300
    counters = third.core.counters
    assert counters.batches_given_up > 0
    assert counters.entries_pruned == 36  # the last four batches were sent again
    assert 0 < counters.buckets_pulled <= 80  # and not the whole shard
    assert counters.shards_received == 2


def test_a_frozen_agent_that_wakes_asks_for_what_it_missed_and_nobody_is_dead() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.happens(first, event(OPEN, 0), event(OPEN, 1))
    pop.happens(third, event(OPEN, 2))
    pop.run(20)
    third.running = False
    for minute in range(60):
        pop.happens(first, event(OPEN, 10 + minute))
        pop.run(1000)
        third.inbox.clear()  # its socket's buffer is long full
    pop.happens(first, event(CLOSE, 0))
    pop.run(20)
    assert second.states(3)[-1].value == "silent"
    third.running = True
    pop.run(400)
    assert [third.owner(client) for client in (0, 1, 2, 10, 69)] == [None, 1, 3, 1, 1]
    assert (first.owner(2), second.owner(2)) == (3, 3)
    for host in (first, second, third):
        states = {row.value for peer in (1, 2, 3) for row in host.states(peer)}
        assert "dead" not in states
        assert host.active() == {1, 2, 3}


def test_one_of_eight_that_is_frozen_for_a_minute_loses_nothing_and_catches_up() -> None:
    pop = Pop()
    hosts = pop.start_all(*range(1, 9))
    sleeper, others = hosts[0], hosts[1:]
    for number, host in enumerate(hosts):
        pop.happens(host, *(event(OPEN, 10 * number + client) for client in range(4)))
    pop.run(20)
    owners = {10 * number + client: number + 1 for number in range(8) for client in range(4)}
    sleeper.running = False
    while_asleep = [event(CLOSE, 0), event(OPEN, 8)]  # its kernel goes on; its agent reads it later
    for second in range(60):
        host = others[second % 7]
        pop.happens(host, event(OPEN, 100 + second))
        owners[100 + second] = hosts.index(host) + 1
        pop.run(1000)
        sleeper.inbox.clear()  # its socket's buffer is long full
    pop.happens(others[0], event(CLOSE, 10))
    pop.run(20)
    for host in others:
        assert host.states(1)[-1] is MemberState.SILENT
        assert [host.owner(client) for client in range(4)] == [1] * 4
    sleeper.running = True
    pop.happens(sleeper, *while_asleep)
    pop.run(500)
    del owners[0], owners[10]
    owners[8] = 1
    for host in hosts:
        shown = {client: host.owner(client) for client in range(200)}
        assert {client: owner for client, owner in shown.items() if owner} == owners
        assert host.active() == set(range(1, 9))
        states = {state for peer in range(1, 9) for state in host.states(peer)}
        assert MemberState.DEAD not in states
        assert [host.states(peer)[-1] for peer in range(1, 9) if host.states(peer)] == (
            [MemberState.ALIVE] * 7
        )
    assert [host.core.counters.accusations_sent for host in hosts] == [0] * 8


def test_a_host_asks_for_its_own_rate_however_much_is_missing() -> None:
    ranges = ranges_of(set(range(10_000)))
    assert ranges == ((0, BATCHES_A_NACK),)
    scattered = ranges_of(set(range(0, 10_000, 2)))
    assert len(scattered) == RANGES_IN_SECTION
    assert scattered[:2] == ((0, 1), (2, 1))


def test_a_nack_for_everything_many_times_is_answered_once() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    for client in range(50):
        pop.happens(first, event(OPEN, client))
        pop.run(2)
    before = first.core.counters.datagrams_out
    flood = Nack(((1, 4096),) * RANGES_IN_SECTION)
    for _ in range(20):
        second.core._outbox.put((first.address, 7946), LOG, flood)
    pop.run(10)
    assert first.core.counters.repairs_unicast == 50
    assert first.core.counters.datagrams_out - before < 60


def test_sequences_know_what_is_missing_in_any_order() -> None:
    batches = BatchSequence()
    assert batches.arrive(5) == (Arrival.NEXT, 0)
    assert batches.arrive(5) == (Arrival.REPEATED, 0)
    assert batches.arrive(9) == (Arrival.NEXT, 3)
    assert batches.missing == {6, 7, 8}
    assert batches.arrive(7) == (Arrival.LATE, 0)
    assert batches.arrive(7) == (Arrival.REPEATED, 0)
    assert batches.arrive(4) == (Arrival.REPEATED, 0)
    assert batches.reach(11) == 2
    assert batches.missing == {6, 8, 10, 11}
    assert batches.give_up(9) == 2
    assert (batches.missing, batches.behind) == ({10, 11}, True)


def test_a_sequence_is_bounded_whatever_is_said() -> None:
    batches = BatchSequence()
    batches.reach(1)
    batches.reach(1 << 60)
    assert len(batches.missing) == MISSING_MAX
    assert batches.behind
    batches.reach((1 << 60) + 10)
    assert len(batches.missing) == MISSING_MAX
    assert min(batches.missing) == (1 << 60) + 10 - MISSING_MAX + 1


def test_after_its_start_a_host_sends_a_handful_of_datagrams_a_second_at_rest() -> None:
    pop = Pop()
    first, _second = pop.start_all(1, 2)
    before = len([data for data in pop.recorded if decode_header(data).sender == 1])
    pop.run(1000)
    after = len([data for data in pop.recorded if decode_header(data).sender == 1])
    assert after - before == 11  # ten heartbeats, one dictionary
    assert first.core.next_timer() is not None
    assert pop.now % MS == 0


@pytest.mark.parametrize("healed_by", ["a flood's claim", "the new shard"])
def test_what_a_rival_displaced_of_an_earlier_start_comes_back_with_the_new_one(
    healed_by: str,
) -> None:
    """ADR 8: an entry of the start before is not kept beside the table, and need not be."""
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.happens(first, event(OPEN, 0))
    pop.run(5)
    pop.loses = lambda source, target, _data: (source, target) == (first.address, third.address)
    again = pop.start(1)
    pop.happens(again, event(OPEN, 0))
    pop.run(20)  # the batch that says so is lost, and so are the shards from here on
    pop.loses = lambda source, target, data: (
        data[1] == DatagramType.SNAPSHOT and (source, target) == (first.address, third.address)
    )
    pop.run(400)
    assert third.core.counters.batches_missed == 0
    assert third.owner(0) == 1  # by the start before
    pop.happens(second, event(OPEN, 0))
    pop.run(5)
    pop.happens(second, event(CLOSE, 0))
    pop.run(5)
    assert (again.owner(0), second.owner(0), third.owner(0)) == (1, 1, None)
    if healed_by == "the new shard":
        pop.loses = lambda *_: False
        pop.run(1000)
    else:
        pop.happens(again, event(EventKind.CLAIM, 0))
        pop.run(5)
    assert owners(third, 1) == [1]
