# SPDX-License-Identifier: BSD-2-Clause
"""The gossip core in a POP in memory: joins, deaths, restarts, questions, loss."""

from __future__ import annotations

import struct

import pytest

from pyxdp_gossip.gossip.events import (
    Drain,
    DuplicateHost,
    Leave,
    MemberState,
    Misdirected,
    Misses,
    ServicesChanged,
    SocketEvents,
    UnknownService,
)
from pyxdp_gossip.gossip.membership import TRANSITIONS, Signal
from pyxdp_gossip.gossip.messages import Batch
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DatagramType
from tests.unit.gossip_pop import HTTP, HTTPS, KEYS, MS, WALL, Host, Pop, event

OPEN, CLOSE, CLAIM = EventKind.OPEN, EventKind.CLOSE, EventKind.CLAIM


def test_a_host_that_hears_nobody_for_a_second_is_synced() -> None:
    pop = Pop()
    host = pop.start(1)
    pop.run(990)
    assert host.synced() == []
    pop.run(20)
    assert host.synced() == [False]


def test_four_hosts_that_start_together_know_each_other_and_are_synced() -> None:
    hosts = Pop().start_all(1, 2, 3, 4)
    for host in hosts:
        assert host.active() == {1, 2, 3, 4}
        assert host.synced() == [False]
        counters = host.core.counters
        assert (counters.batches_missed, counters.shards_retried, counters.stalls) == (0, 0, 0)


def test_an_open_is_seen_everywhere_within_milliseconds_and_a_close_too() -> None:
    pop = Pop()
    first, *_ = pop.start_all(1, 2, 3, 4)
    pop.happens(first, event(OPEN, 7))
    pop.run(2)
    assert list(pop.views(7)) == [1, 1, 1, 1]
    pop.happens(first, event(CLOSE, 7))
    pop.run(3)
    assert list(pop.views(7)) == [None] * 4


def test_an_idle_host_sends_at_once_and_a_busy_one_gathers_for_a_flush_interval() -> None:
    pop = Pop()
    first, _ = pop.start_all(1, 2)
    pop.run(20)  # away from the heartbeats
    core = first.core
    pop.happens(first, event(OPEN, 1))
    assert len(core.datagrams_to_send(pop.now)) == 1
    pop.now += MS // 4
    pop.happens(first, event(OPEN, 2))
    assert core.datagrams_to_send(pop.now) == []
    assert core.next_timer() == pop.now + MS
    assert len(core.datagrams_to_send(pop.now + MS)) == 1


def test_an_open_and_a_close_in_one_flush_send_nothing() -> None:
    pop = Pop()
    first, _ = pop.start_all(1, 2)
    sent = first.core.counters.batches_sent
    pop.happens(first, event(OPEN, 1), event(CLOSE, 1))
    pop.run(5)
    assert first.core.counters.batches_sent == sent


def test_more_events_than_a_batch_holds_become_several_batches() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(first, *(event(OPEN, client) for client in range(2000)))
    pop.run(20)
    assert [second.owner(client) for client in range(2000)] == [1] * 2000
    assert second.core.counters.batches_missed == 0


def test_a_joining_host_gets_all_shards_and_the_others_get_its_own() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(first, *(event(OPEN, client) for client in range(3000)))
    pop.run(50)
    third = pop.start(3)
    pop.happens(third, event(OPEN, 9000))
    pop.run(600)
    assert third.synced() == [False]
    assert [third.owner(client) for client in range(3000)] == [1] * 3000
    assert (first.owner(9000), second.owner(9000)) == (3, 3)


def test_of_a_shard_that_lost_datagrams_only_the_missing_buckets_are_asked_for() -> None:
    pop = Pop()
    first = pop.start(1)
    pop.run(1100)
    pop.happens(first, *(event(OPEN, client) for client in range(3000)))
    pop.run(50)
    lost: list[bytes] = []

    def loses(source: str, target: str, data: bytes) -> bool:
        if data[1] == 3 and len(lost) < 3:
            lost.append(data)
            return True
        return False

    pop.loses = loses
    second = pop.start(2)
    pop.run(1500)
    assert second.synced() == [False]
    counters = second.core.counters
    assert (counters.pulls_cut, counters.shards_retried, counters.shards_received) == (1, 0, 0)
    assert counters.buckets_received == 1
    assert [second.owner(client) for client in range(3000)] == [1] * 3000


def test_a_join_that_cannot_finish_says_partial_and_later_synced() -> None:
    pop = Pop()
    pop.start(1)
    pop.run(1100)
    pop.loses = lambda source, target, data: data[1] == 3
    second = pop.start(2)
    pop.run(10_100)
    assert second.synced() == [True]
    pop.loses = lambda source, target, data: False
    pop.run(4000)
    assert second.synced() == [True, False]


def test_a_crashed_host_is_dead_in_half_a_second_and_its_sessions_are_void() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    pop.run(10)
    second.running = second.up = False
    pop.run(650)
    assert first.states(2)[-2:] == [MemberState.SUSPECT, MemberState.DEAD]
    assert first.owner(5) is None
    assert 2 not in first.active()


def test_a_frozen_agent_is_silent_keeps_its_sessions_and_comes_back() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    pop.run(10)
    second.running = False
    pop.run(20_000)
    assert first.states(2)[-2:] == [MemberState.SUSPECT, MemberState.SILENT]
    assert first.owner(5) == 2
    second.running = True
    second.inbox.clear()
    pop.run(300)
    assert first.states(2)[-1] is MemberState.ALIVE
    assert second.core.counters.stalls == 1
    assert MemberState.SUSPECT not in second.states(1)
    assert first.owner(5) == 2


def test_a_silent_host_that_stops_answering_is_dead() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    second.running = False
    pop.run(2000)
    second.up = False
    pop.run(1000)
    assert first.states(2)[-2:] == [MemberState.SILENT, MemberState.DEAD]


def test_a_newcomer_learns_of_a_silent_host_and_keeps_it_active() -> None:
    pop = Pop()
    _, second = pop.start_all(1, 2)
    second.running = False
    pop.run(1000)
    third = pop.start(3)
    pop.run(1500)
    assert third.states(2) == [MemberState.SUSPECT, MemberState.SILENT]
    assert third.active() == {1, 2, 3}
    assert third.synced() == [False]


def test_a_dead_host_that_is_heard_again_is_asked_for_its_sessions() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    second.up = False
    pop.loses = lambda source, target, data: source == "10.8.0.2"
    pop.run(1000)
    assert first.states(2)[-1] is MemberState.DEAD
    assert first.owner(5) is None
    pop.loses = lambda source, target, data: False
    pop.run(500)
    assert first.states(2)[-1] is MemberState.ALIVE
    assert first.owner(5) == 2


def test_a_restarted_agent_keeps_its_sessions_until_its_shard_is_complete() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5), event(OPEN, 6))
    pop.run(10)
    second.running = False
    pop.run(50)
    again = pop.start(2)
    pop.happens(again, event(OPEN, 5))  # 6 ended meanwhile
    for _ in range(1000):
        pop.run(1)
        assert first.owner(5) == 2
    assert first.owner(6) is None
    assert MemberState.DEAD not in first.states(2)
    assert again.synced() == [False]
    assert not any(isinstance(row, DuplicateHost) for row in again.events)


def test_what_an_earlier_start_said_is_ignored_when_it_comes_after_the_next_one() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.delay = lambda source, target, data: 3000 if source == "10.8.0.2" else 0
    pop.happens(second, event(OPEN, 5))
    pop.run(1)
    pop.delay = lambda source, target, data: 0
    second.running = False
    pop.start(2)
    pop.run(2000)
    assert first.core.counters.old_incarnation == 0
    pop.run(1500)
    assert first.core.counters.old_incarnation > 0
    assert first.owner(5) is None


def test_a_host_that_leaves_is_gone_at_once() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    pop.run(10)
    second.core.handle_event(Leave(), pop.now)
    pop.run(5)
    assert first.states(2)[-1] is MemberState.LEFT
    assert first.owner(5) is None
    pop.run(2000)
    assert first.states(2)[-1] is MemberState.LEFT
    assert second.core.next_timer() is None


def test_a_host_that_left_may_come_again() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    second.core.handle_event(Leave(), pop.now)
    pop.run(5)
    again = pop.start(2)
    pop.happens(again, event(OPEN, 5))
    pop.run(600)
    assert first.states(2)[-1] is MemberState.ALIVE
    assert first.owner(5) == 2


def test_a_draining_host_says_so_and_keeps_its_sessions() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    second.core.handle_event(Drain(), pop.now)
    pop.run(5)
    assert first.states(2)[-1] is MemberState.DRAINING
    assert first.owner(5) == 2


def duplicates(host: Host) -> set[bool]:
    return {row.fatal for row in host.events if isinstance(row, DuplicateHost)}


def test_of_two_hosts_with_one_id_the_younger_stops_and_the_elder_warns() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    younger = pop.start(2, name="10.8.0.22")
    pop.run(300)
    assert duplicates(younger) == {True}
    assert duplicates(second) == {False}
    assert duplicates(first) == set()
    younger.running = False
    pop.run(2000)
    assert first.owner(5) == 2
    assert first.states(2)[-1] is MemberState.ALIVE


def test_a_recorded_datagram_changes_nothing_when_it_is_sent_again() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    pop.run(10)
    pop.happens(second, event(CLOSE, 5))
    pop.run(10)
    before = first.core.counters
    for data in pop.recorded:
        first.core.receive_datagram(data, ("10.8.0.66", 7946), pop.now)
    after = first.core.counters
    assert first.owner(5) is None
    assert after.replayed - before.replayed > 0
    assert after.records_applied == before.records_applied


def test_lost_batches_are_counted_and_a_lost_tail_shows_by_the_heartbeat() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.loses = lambda source, target, data: source == "10.8.0.2"
    for client in range(3):
        pop.happens(second, event(OPEN, client))
        pop.run(3)
    pop.loses = lambda source, target, data: False
    pop.run(150)
    assert first.core.counters.batches_missed == 3
    pop.happens(second, event(OPEN, 9))
    pop.run(5)
    assert first.core.counters.batches_missed == 3
    assert first.owner(9) == 2


def test_services_are_translated_by_the_receiver() -> None:
    pop = Pop()
    first = pop.start(1, services={0: HTTPS, 1: HTTP})
    second = pop.start(2, services={5: HTTP, 9: HTTPS})
    pop.run(1500)
    pop.happens(first, event(OPEN, 7, slot=1))
    pop.run(5)
    assert second.owner(7, slot=5) == 1
    assert second.owner(7, slot=9) is None


def test_an_unknown_service_is_told_and_its_sessions_come_after_a_reload() -> None:
    pop = Pop()
    first = pop.start(1, services={0: HTTPS, 1: HTTP})
    second = pop.start(2, services={0: HTTPS})
    pop.run(1500)
    pop.happens(first, event(OPEN, 7, slot=1))
    pop.run(5)
    assert any(isinstance(row, UnknownService) for row in second.events)
    assert second.core.counters.records_unknown_service == 1
    second.core.handle_event(ServicesChanged({0: HTTPS, 1: HTTP}), pop.now)
    pop.run(100)
    assert second.owner(7, slot=1) == 1


def test_a_reload_at_the_sender_brings_its_new_services_sessions() -> None:
    pop = Pop()
    first = pop.start(1, services={0: HTTPS})
    second = pop.start(2)
    pop.run(1500)
    pop.happens(first, event(OPEN, 7, slot=1))  # before anyone was told what slot 1 is
    pop.run(5)
    first.core.handle_event(ServicesChanged({0: HTTPS, 1: HTTP}), pop.now)
    pop.run(100)
    assert second.owner(7, slot=1) == 1


def test_the_others_hear_what_a_new_service_is_before_its_first_session() -> None:
    pop = Pop()
    first = pop.start(1, services={0: HTTPS})
    second = pop.start(2)
    pop.run(1500)
    first.core.handle_event(ServicesChanged({0: HTTPS, 1: HTTP}), pop.now)
    pop.happens(first, event(OPEN, 7, slot=1))
    pop.run(5)
    assert second.owner(7, slot=1) == 1
    assert second.core.counters.records_unknown_service == 0


def test_a_reload_asks_only_those_again_who_told_of_the_new_service() -> None:
    pop = Pop()
    first = pop.start(1, services={0: HTTPS})
    second = pop.start(2, services={0: HTTPS, 1: HTTP})
    third = pop.start(3, services={0: HTTPS})
    pop.run(1500)
    before = [host.core.counters.shards_sent for host in (second, third)]
    first.core.handle_event(ServicesChanged({0: HTTPS, 1: HTTP}), pop.now)
    pop.run(100)
    after = [host.core.counters.shards_sent for host in (second, third)]
    assert after == [before[0] + 1, before[1]]


def test_a_clock_far_ahead_is_not_followed() -> None:
    pop = Pop()
    first = pop.start(1)
    second = pop.start(2, wall=WALL + 3_600_000_000_000)
    pop.run(1500)
    pop.happens(second, event(OPEN, 5))
    pop.run(5)
    assert first.core.counters.clock_refused == 1
    assert first.owner(5) == 2
    entry = first.table.get(event(OPEN, 5).key)
    assert entry is not None
    assert entry.opened_at < WALL + 3_000_000_000


def test_a_pop_without_keys_and_one_with_keys_do_not_hear_each_other() -> None:
    pop = Pop()
    first = pop.start(1)
    second = pop.start(2, keys=())
    pop.run(1500)
    assert first.active() == {1}
    assert second.active() == {2}
    assert first.core.counters.plain_refused > 0
    assert second.core.counters.sealed_refused > 0


def test_hosts_without_keys_hear_each_other() -> None:
    pop = Pop()
    first, second = pop.start(1, keys=()), pop.start(2, keys=())
    pop.run(1500)
    assert first.active() == second.active() == {1, 2}


def test_a_third_of_all_datagrams_lost_still_joins_everybody() -> None:
    pop = Pop()
    count = 0

    def loses(source: str, target: str, data: bytes) -> bool:
        nonlocal count
        count += 1
        return count % 3 == 0

    pop.loses = loses
    hosts = [pop.start(host) for host in (1, 2, 3)]
    for host in hosts:
        host.up = True
    pop.run(6000)
    for host in hosts:
        assert host.active() == {1, 2, 3}
        assert False in host.synced()


def test_records_that_are_no_whole_number_are_the_callers_mistake() -> None:
    host = Pop().start(1)
    for wrong in (SocketEvents(b"x"), Misses(b"x"), Misdirected(b"x")):
        with pytest.raises(ValueError, match="no multiple of 40"):
            host.core.handle_event(wrong, 0)


def test_garbage_is_counted_and_changes_nothing() -> None:
    host = Pop().start(1)
    for size in range(0, 1500, 7):
        host.core.receive_datagram(bytes(size), ("10.8.0.9", 7946), 0)
    header = struct.pack("!BBHHHQQQ", 1, 1, KEYS[0].id, 0, 2, WALL, 0, 0)
    host.core.receive_datagram(header + bytes(100), ("10.8.0.9", 7946), 0)
    counters = host.core.counters
    assert counters.bad_seal == 1
    assert counters.datagrams_in == 216
    assert host.active() == {1}


def test_records_that_the_codec_cannot_read_are_counted() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)

    broken = bytes.fromhex("10000003010203")
    second.core._outbox.put(None, DatagramType.LOG, Batch(1, WALL), records=broken)
    pop.run(5)
    assert first.core.counters.malformed_records == 1


def test_after_its_timer_a_core_never_wants_to_be_called_at_once() -> None:
    pop = Pop()
    for host in pop.start_all(1, 2, 3):
        host.core.handle_timer(pop.now)
        host.core.datagrams_to_send(pop.now)
        timer = host.core.next_timer()
        assert timer is not None
        assert timer > pop.now


def test_no_transition_brings_back_a_host_that_left_but_a_restart() -> None:
    from_left = {signal for (state, signal) in TRANSITIONS if state is MemberState.LEFT}
    assert from_left == {Signal.RESTARTED}
