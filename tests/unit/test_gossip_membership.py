# SPDX-License-Identifier: BSD-2-Clause
"""Who is dead: a quorum's word, whatever part of the network fails, and never a slow host's."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from gossip_pop import MS, Host, Pop, event

from pyxdp_gossip.gossip.events import (
    Drain,
    KeysChanged,
    MemberState,
    PathChanged,
    ProbeWanted,
)
from pyxdp_gossip.gossip.health import SCORE_MAX, LocalHealth
from pyxdp_gossip.gossip.messages import Nack
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DATAGRAM_MIN, HEADER, TAG_BYTES, DatagramType, decode_header
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.timing import PRESETS, Timing

OPEN, CLOSE = EventKind.OPEN, EventKind.CLOSE
ALIVE, SUSPECT, SILENT, DEAD = (
    *(MemberState.ALIVE, MemberState.SUSPECT),
    *(MemberState.SILENT, MemberState.DEAD),
)


def cut(pop: Pop, *pairs: tuple[Host, Host]) -> None:
    """Nothing goes from the first to the second host of a pair: neither gossip nor probes."""
    blocked = {(source.address, target.address) for source, target in pairs}
    pop.loses = lambda source, target, _data: (source, target) in blocked
    pop.probe_lost = lambda asker, asked: bool(blocked & {(asker, asked), (asked, asker)})


def both_ways(left: list[Host], right: list[Host]) -> list[tuple[Host, Host]]:
    pairs = list(itertools.product(left, right))
    return pairs + [(target, source) for source, target in pairs]


def crash(host: Host) -> None:
    host.running = host.up = False


# ---- death and its formulas ----


def milliseconds_to(pop: Pop, host: Host, peer: int, state: MemberState, most: int) -> int:
    for ms in range(1, most + 1):
        pop.run(1)
        if host.states(peer)[-1] is state:
            return ms
    raise AssertionError(f"host {peer} is {host.states(peer)[-1]} after {most} ms")


@pytest.mark.parametrize("preset", ["lan", "loopback"])
@pytest.mark.parametrize("phase", range(0, 100, 20))
def test_a_death_is_known_after_the_time_that_the_preset_says(preset: str, phase: int) -> None:
    timing = PRESETS[preset]
    pop = Pop(timing)
    hosts = pop.start_all(1, 2, 3, 4)
    pop.run(phase)
    crash(hosts[3])
    took = milliseconds_to(pop, hosts[0], 4, DEAD, 2000)
    longest = timing.death_ms
    # The last heartbeat lies up to one interval before the crash; the others agree in 3 ms.
    assert longest - timing.heartbeat_ms <= took <= longest + 3
    pop.run(3)
    assert [host.states(4)[-1] for host in hosts[1:3]] == [DEAD, DEAD]


def test_the_presets_formulas_are_those_of_the_docstrings() -> None:
    lan, loopback = PRESETS["lan"], PRESETS["loopback"]
    assert lan.death_ms == 100 * 3 + 50 * 4 == 500
    assert loopback.death_ms == 100 * 5 + 50 * 4 == 700
    assert lan.nack_give_up_ms == 10 * (1 + 2 + 4) + 8 * 10 * (10 - 3) == 630
    assert lan.join_bits_per_s == 1400 * 8 * 8 * 1000 == 89_600_000
    assert lan.repair_bits_per_s == 1400 * 8 * 16 * 1000 == 179_200_000
    assert lan.heartbeats_per_s(100) == 1000
    faster = replace(lan, heartbeat_ms=50, suspect_after=4, probe_attempts=2)
    assert faster.death_ms == 50 * 4 + 50 * 2


def test_one_observer_alone_is_no_quorum() -> None:
    pop = Pop()
    hosts = pop.start_all(1, 2, 3, 4, 5)
    cut(pop, (hosts[4], hosts[0]))  # one way: 1 does not hear 5, and its answers neither
    pop.run(5000)
    assert hosts[0].states(5)[-1] is SUSPECT
    assert hosts[0].active() == {1, 2, 3, 4, 5}
    assert hosts[0].core.counters.accusations_sent > 0
    assert hosts[4].core.counters.refutations > 0
    for other in hosts[1:]:
        assert DEAD not in [state for peer in range(1, 6) for state in other.states(peer)]
    cut(pop)
    pop.run(200)
    assert hosts[0].states(5)[-1] is ALIVE


def test_several_that_die_at_once_are_found_dead_by_those_that_are_left() -> None:
    pop = Pop()
    hosts = pop.start_all(*range(1, 8))
    for host in hosts[2:]:
        crash(host)
    pop.run(700)
    assert [host.active() for host in hosts[:2]] == [{1, 2}, {1, 2}]


def test_the_last_host_of_several_waits_before_it_believes_that_all_are_dead() -> None:
    pop = Pop()
    hosts = pop.start_all(1, 2, 3)
    for host in hosts[1:]:
        crash(host)
    pop.run(5000)
    assert hosts[0].active() == {1, 2, 3}
    pop.run(Timing().dead_alone_ms)
    assert hosts[0].active() == {1}


def test_of_two_hosts_one_believes_that_the_other_is_dead_at_once() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    crash(second)
    pop.run(520)
    assert first.active() == {1}


def test_a_host_that_is_cut_off_keeps_what_it_knows_and_catches_up() -> None:
    pop = Pop()
    hosts = pop.start_all(1, 2, 3, 4)
    for number, host in enumerate(hosts):
        pop.happens(host, *(event(OPEN, 10 * number + one) for one in range(5)))
    pop.run(20)
    cut(pop, *both_ways(hosts[:1], hosts[1:]))
    pop.run(1000)
    pop.happens(hosts[0], event(OPEN, 100), event(CLOSE, 0))
    pop.happens(hosts[1], event(OPEN, 101), event(CLOSE, 10))
    pop.run(1000)
    assert hosts[0].active() == {1, 2, 3, 4}  # it is the one that is alone
    assert hosts[1].active() == {2, 3, 4}  # its sessions are out of the others' reach
    cut(pop)
    pop.run(1500)
    for host in hosts:
        assert host.active() == {1, 2, 3, 4}
        known = {client: host.owner(client) for client in range(102) if host.owner(client)}
        assert known == {
            **dict.fromkeys((1, 2, 3, 4, 100), 1),
            **dict.fromkeys((11, 12, 13, 14, 101), 2),
            **dict.fromkeys(range(20, 25), 3),
            **dict.fromkeys(range(30, 35), 4),
        }


def test_two_halves_of_a_pop_find_each_other_again() -> None:
    pop = Pop()
    hosts = pop.start_all(1, 2, 3, 4)
    pop.happens(hosts[0], event(OPEN, 0))
    pop.happens(hosts[3], event(OPEN, 1))
    pop.run(20)
    cut(pop, *both_ways(hosts[:2], hosts[2:]))
    pop.run(2000)
    assert [host.active() for host in hosts] == [{1, 2}, {1, 2}, {3, 4}, {3, 4}]
    cut(pop)
    pop.run(1500)
    for host in hosts:
        assert (host.active(), host.owner(0), host.owner(1)) == ({1, 2, 3, 4}, 1, 4)


# ---- local health ----


def test_a_late_host_waits_longer_and_a_timely_one_recovers() -> None:
    health = LocalHealth(100 * MS)
    assert health.stretch(300) == 300
    for _ in range(20):
        health.beat(51 * MS)
    assert (health.score, health.stretch(300)) == (SCORE_MAX, 300 * (1 + SCORE_MAX))
    for _ in range(SCORE_MAX):
        health.beat(0)
    assert health.stretch(300) == 300
    health.stalled()
    assert health.stretch(300) == 600


def test_an_agent_that_is_run_only_now_and_then_calls_nobody_dead() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.probe_lost = lambda asker, _asked: asker == first.address  # it reads no answers either
    for _ in range(20):
        first.running = False
        pop.run(280)
        first.inbox.clear()
        first.running = True
        pop.run(1)
    assert DEAD not in first.states(2) + first.states(3)
    assert DEAD not in second.states(1) + third.states(1)


# ---- freshness ----


def test_recorded_datagrams_of_a_host_that_is_gone_do_not_bring_it_to_a_newcomer() -> None:
    pop = Pop()
    _first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 0))
    pop.run(500)
    recorded = [data for data in pop.recorded if decode_header(data).sender == 2]
    del pop.hosts[second.address]
    crash(second)
    pop.run(1000)
    newcomer = pop.start(3)
    for data in recorded:
        newcomer.core.receive_datagram(data, (second.address, 7946), pop.now)
    pop.run(1500)
    assert newcomer.synced() == [False]
    assert newcomer.active() == {1, 3}
    assert newcomer.owner(0) is None
    assert newcomer.states(2) == []
    assert newcomer.core.counters.unproven > 0


def test_recorded_datagrams_of_a_later_start_do_not_end_an_earlier_one() -> None:
    """A start that this host missed altogether is over when its datagrams are played to it."""
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.happens(second, event(OPEN, 0))
    pop.run(20)
    cut(pop, *both_ways([first], [second]))
    again = pop.start(2)
    pop.happens(again, event(OPEN, 1))
    pop.run(300)
    recorded = [data for data in pop.recorded if decode_header(data).salt >> 32 == 4]
    crash(again)
    cut(pop)
    assert recorded
    for data in recorded:
        first.core.receive_datagram(data, (second.address, 7946), pop.now)
    pop.run(50)
    assert (first.owner(0), first.owner(1)) == (2, None)
    assert third.owner(1) == 2


def test_a_hello_is_answered_but_no_shard_goes_to_whoever_did_not_prove_itself() -> None:
    pop = Pop()
    first = pop.start(1)
    pop.run(1100)
    pop.happens(first, *(event(OPEN, client) for client in range(3000)))
    pop.run(50)
    second = pop.start(2)
    pop.loses = lambda source, _target, _data: source == first.address
    pop.run(50)
    before = first.core.counters.datagrams_out
    hellos = [data for data in pop.recorded if decode_header(data).sender == 2]
    crash(second)
    pop.run(10)
    for data in hellos * 10:
        first.core.receive_datagram(data, ("203.0.113.66", 7946), pop.now)
    pop.run(10)
    assert first.core.counters.shards_sent == 0
    assert first.core.counters.datagrams_out - before <= 4  # heartbeats and a dictionary


def test_a_recorded_start_with_a_later_clock_does_not_keep_the_real_one_out() -> None:
    pop = Pop()
    pop._starts = 100
    first = pop.start(1)
    later = pop.start(2)
    pop.loses = lambda *_: True
    pop.run(300)
    recorded = [data for data in pop.recorded if decode_header(data).sender == 2]
    crash(later)
    pop._starts = 10  # its clock went back
    second = pop.start(2)
    pop.loses = lambda *_: False
    first.core.receive_datagram(recorded[0], (second.address, 7946), pop.now)
    pop.run(4000)
    assert first.states(2) == [ALIVE]
    assert first.active() == {1, 2}


def test_probes_cannot_be_answered_by_whoever_counts_them() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    crash(second)
    pop.run(480)
    nonces = [row.nonce for row in first.events if isinstance(row, ProbeWanted)]
    assert len(set(nonces)) == len(nonces) >= 3
    steps = {later - earlier for earlier, later in itertools.pairwise(nonces)}
    assert len(steps) == len(nonces) - 1
    assert not steps & {0, 1}


def test_a_datagram_that_is_played_from_another_address_draws_nothing_there() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(first, *(event(OPEN, client) for client in range(50)))
    pop.run(20)
    kept_back: list[bytes] = []
    pop.loses = lambda source, _target, data: (
        source == second.address and not kept_back.append(data)
    )
    second.core._outbox.put((first.address, 7946), DatagramType.LOG, Nack(((1, 1),)))
    pop.run(150)
    assert len(kept_back) >= 2  # the NACK and a heartbeat
    before = first.core.counters
    for data in kept_back:
        first.core.receive_datagram(data, ("203.0.113.66", 7946), pop.now)
    assert first.core.counters.wrong_source == len(kept_back)
    sent = [target for target, _ in first.core.datagrams_to_send(pop.now) if target is not None]
    assert ("203.0.113.66", 7946) not in sent
    assert first.core.counters.repairs_unicast == before.repairs_unicast


# ---- keys, versions, paths ----

OLD, NEW = Key(1, bytes(range(32))), Key(2, bytes(range(1, 33)))


def test_keys_rotate_on_a_live_group_without_losing_a_batch() -> None:
    pop = Pop()
    hosts = [pop.start(host, keys=(OLD,)) for host in (1, 2, 3)]
    pop.run(1500)
    client = 0
    for ring in ((OLD, NEW), (NEW, OLD), (NEW,)):
        for host in hosts:
            host.core.handle_event(KeysChanged(ring), pop.now)
            for source in hosts:
                pop.happens(source, event(OPEN, client))
                client += 1
                pop.run(2)
    pop.run(5)
    for host in hosts:
        assert [host.owner(one) for one in range(client)] == [one % 3 + 1 for one in range(client)]
        counters = host.core.counters
        assert (counters.unknown_key, counters.bad_seal, counters.batches_missed) == (0, 0, 0)
    late = pop.start(4, keys=(OLD,))
    pop.run(1500)
    assert late.active() == {4}  # the old key opens nothing any more
    assert hosts[0].core.counters.unknown_key > 0


def test_an_empty_ring_is_the_callers_mistake() -> None:
    pop = Pop()
    host = pop.start(1)
    with pytest.raises(ValueError, match="expected 1 or more"):
        host.core.handle_event(KeysChanged(()), pop.now)


def test_datagrams_fit_the_path() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    first.core.handle_event(PathChanged(1232), pop.now)  # the least of IPv6: 1280 bytes
    pop.recorded.clear()
    pop.happens(first, *(event(OPEN, client) for client in range(1000)))
    pop.run(30)
    third = pop.start(3)
    pop.run(1500)
    assert [second.owner(client) for client in range(1000)] == [1] * 1000
    assert [third.owner(client) for client in range(1000)] == [1] * 1000
    sizes = [len(data) for data in pop.recorded if decode_header(data).sender == 1]
    assert 1232 - 8 < max(sizes) <= 1232
    first.core.handle_event(PathChanged(100), pop.now)  # no network is that small
    pop.recorded.clear()
    pop.happens(first, *(event(OPEN, 2000 + client) for client in range(1000)))
    pop.run(30)
    sizes = [len(data) for data in pop.recorded if decode_header(data).sender == 1]
    assert max(sizes) <= DATAGRAM_MIN
    assert max(sizes) > HEADER.size + TAG_BYTES


def test_a_draining_host_that_is_frozen_and_wakes_says_again_that_it_drains() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    second.core.handle_event(Drain(), pop.now)
    pop.run(5)
    second.running = False
    pop.run(2000)
    second.running = True
    pop.run(200)
    assert first.states(2)[-3:] == [SILENT, ALIVE, MemberState.DRAINING]
