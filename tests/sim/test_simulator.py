# SPDX-License-Identifier: BSD-2-Clause
"""The simulator: the same seed is the same run, and each invariant fires when it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from pyxdp_gossip._native import SessionTable
from pyxdp_gossip.cli import cli
from pyxdp_gossip.gossip import newcomers, who_has
from pyxdp_gossip.gossip.records import HOST_UNOWNED, EventKind
from pyxdp_gossip.gossip.sealing import ReplayWindow
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.sim.host import DIGEST_BUCKETS, Host, key_of, record
from pyxdp_gossip.sim.nemesis import Nemesis
from pyxdp_gossip.sim.network import MS
from pyxdp_gossip.sim.pop import REUSE_AFTER, REUSE_SOON, Pop
from pyxdp_gossip.sim.run import simulate
from pyxdp_gossip.sim.watch import WatchedLog
from pyxdp_gossip.timing import Timing


def pop_of(count: int) -> Pop:
    """Hosts that know each other."""
    pop = Pop(Random(1), (Key(1, bytes(32)),))
    for number in range(1, count + 1):
        pop.hosts[number] = Host(number)
        pop.start_agent(pop.hosts[number])
    pop.run_until(1500 * MS)
    assert pop.violations == []
    return pop


def test_the_same_seed_is_the_same_run() -> None:
    first, second = simulate(5, 7, seconds=4.0), simulate(5, 7, seconds=4.0)
    assert first.as_dict() == second.as_dict()
    assert first.as_dict() != simulate(5, 8, seconds=4.0).as_dict()


def test_a_calm_pop_forwards_every_stray_by_its_table() -> None:
    result = simulate(8, 1, seconds=4.0, calm=True)
    assert result.violations == []
    # What is flooded are ends of handshakes, and late packets of what ended.
    assert result.counts["packets_table"] > 5 * result.counts["packets_flood"]
    assert max(result.convergence_ms) < 5


def test_the_command_prints_the_results_keys(tmp_path: Path) -> None:
    path = tmp_path / "sim.json"
    arguments = ["sim", "--hosts", "4", "--seed", "3", "--json", str(path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(path.read_text())
    assert {"hosts", "seed", "virtual_s", "events", "misdelivered", "violations"} <= set(result)
    assert set(result["convergence_ms"]) == {"p50", "p99", "max"}
    assert (result["bytes_per_event"] > 0, result["datagrams"] > 0) == (True, True)


def test_a_violation_prints_the_one_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pop, "check_tables", lambda pop: pop.violated("planted"))
    done = CliRunner().invoke(cli, ["sim", "--hosts", "3", "--seed", "5"])
    assert done.exit_code == 1
    assert "planted" in done.output
    assert "replay: pyxdp-gossip sim --hosts 3 --seed 5 --seconds 4\n" in done.output
    done = CliRunner().invoke(cli, ["sim", "--hosts", "3", "--seed", "5", "--unicast"])
    assert "--seed 5 --seconds 4 --unicast\n" in done.output


# ---- each invariant, broken ----


def test_a_packet_that_another_host_answers_is_a_violation() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.hosts[2].table.put(key_of(1), HOST_UNOWNED)
    pop.packet(1, pop.hosts[2])
    assert "client 1 of host 1 was answered by host 2" in pop.violations[0]
    assert pop.counts["misdelivered"] == 1


def test_a_packet_that_finds_nobody_is_a_violation_unless_the_network_has_it() -> None:
    pop = pop_of(3)
    pop.live[1] = 1  # and yet no socket
    pop.packet(1, pop.hosts[2])
    assert "was not found from host 2" in pop.violations[0]
    pop.violations.clear()
    pop.hosts[1].sockets.add(1)
    pop.network.blocked = {(2, 1)}
    pop.packet(1, pop.hosts[2])
    assert pop.violations == []


def test_a_table_that_differs_from_the_kernels_at_the_end_is_a_violation() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.check_tables()
    assert pop.violations == []
    pop.hosts[3].table.remove(key_of(1))
    pop.check_tables()
    assert "host 3 has client 1 at None" in pop.violations[0]


def test_a_difference_that_never_heals_ends_the_wait() -> None:
    pop = pop_of(3)
    pop.live[1] = 1  # and yet no socket
    before = pop.now
    pop.settle()
    assert pop.now - before >= 3 * pop.timing.death_ms * MS
    pop.check_tables()
    assert len(pop.violations) == 3


class Planted:
    """A codec that does something wrong after each call."""

    def __init__(self, log: Any, wrong: Callable[[], None]) -> None:
        self._log = log
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **rest: Any) -> Any:
            result = getattr(self._log, name)(*arguments, **rest)
            self._wrong()
            return result

        return call


OPEN, CLOSE, LINGER = 0x10, 0x11, 0x12
SESSION = record(EventKind.OPEN, 1)
SECTION = SESSION.address[:4] + SESSION.client_port.to_bytes(2, "big") + b"\0\0"
ALL_BUCKETS = b"\xff" * (DIGEST_BUCKETS // 8)


def say(log: Any, sender: int, kind: int, position: int, *, clock: int = 0) -> None:
    """A host says one thing about the session of client 1."""
    log.apply(
        *(sender, kind, SECTION, bytes(2)),
        clock=clock,
        position=position,
        now_ms=0,
        keep_closed=False,
    )


WAYS: dict[str, Callable[[Any], None]] = {
    "apply": lambda log: say(log, 2, CLOSE, 5),
    "absorb": lambda log: log.absorb(
        record(EventKind.CLOSE, 1).pack(), clock=1, position=1, now_ms=0
    ),
    "prune": lambda log: log.prune(2, ALL_BUCKETS, 9),
    "deny": lambda log: log.deny(2, 4, SESSION.key),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "verb"),
    [
        (lambda table: table.remove(SESSION.key), "changed"),
        (lambda table: table.put(SESSION.key, 2), "changed"),
        (lambda table: table.put(SESSION.key, 1, flags=1), "rewrote"),
    ],
    ids=["it goes", "another gets it", "it lingers"],
)
def test_an_entry_that_changes_without_its_owners_word_is_a_violation(
    way: str, wrong: Callable[[SessionTable], None], verb: str
) -> None:
    pop = pop_of(3)
    host = pop.hosts[3]
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    said: list[str] = []
    assert host.log is not None
    watched = WatchedLog(host.log, host.table, host.id, said.append)
    say(watched, 1, OPEN, 99, clock=1)
    WAYS[way](watched)
    assert said == []
    planted: Any = Planted(host.log, lambda: wrong(host.table))
    watched = WatchedLog(planted, host.table, host.id, said.append)
    watched._seen.add(SESSION.key)
    WAYS[way](watched)
    assert said == [f"host {3 if way == 'absorb' else 2} {verb} an entry of host 1"]


@pytest.mark.parametrize("end", [CLOSE, LINGER])
def test_a_closed_session_that_comes_back_is_a_violation(end: int) -> None:
    pop = pop_of(2)
    host = pop.hosts[2]
    said: list[str] = []
    assert host.log is not None
    planted: Any = Planted(host.log, lambda: host.table.put(SESSION.key, 1, position=8))
    watched = WatchedLog(planted, host.table, host.id, said.append)
    say(watched, 1, end, 9)
    say(watched, 1, end, 7)  # a repaired one does not make the later one forgotten
    say(watched, 1, OPEN, 8, clock=5)
    assert said == ["a session that host 1 closed came back"]


def test_a_session_that_opens_again_is_no_violation() -> None:
    pop = pop_of(2)
    host = pop.hosts[2]
    said: list[str] = []
    assert host.log is not None
    watched = WatchedLog(host.log, host.table, host.id, said.append)
    say(watched, 1, CLOSE, 9)
    say(watched, 1, OPEN, 10, clock=5)
    assert said == []
    assert host.entry(1) == (1, False)


def test_a_replay_that_is_accepted_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplayWindow, "accept", lambda _window, _counter: True)
    pop = pop_of(2)
    pop.deliver(pop.hosts[2], next(data for data in pop.recorded if data[7] == 1), 1)
    pop.run_until(pop.now + 20 * MS)
    assert "a datagram of host 1 was accepted twice" in pop.violations[0]


def test_a_host_that_calls_a_session_unowned_too_early_is_found_by_some_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An asker that takes silence for a denial."""

    def conclude(self: Any, number: int, _roster: Any, _synced: bool, now: int) -> None:
        rnd = self._rounds.pop(number, None)
        for miss in rnd.misses if rnd else ():
            self._mark(miss, now)

    monkeypatch.setattr(who_has.Asker, "conclude", conclude)
    assert any(simulate(6, seed, seconds=4.0).counts.get("misdelivered") for seed in range(12))


def test_a_core_that_believes_whatever_it_hears_first_is_found_by_some_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the challenge, replays of a start that is over bring it back."""
    note = newcomers.Newcomers._note

    def believe(self: Any, header: Any, messages: Any, now: int) -> Any:
        newcomer = note(self, header, messages, now)
        if newcomer is not None:
            newcomer.proven = True
        return newcomer

    monkeypatch.setattr(newcomers.Newcomers, "_note", believe)
    pop = pop_of(3)
    recorded = [data for data in pop.recorded if data[7] == 3]
    pop.leave(pop.hosts[3])
    pop.hosts[3].up = False
    pop.run_until(pop.now + 200 * MS)
    pop.hosts[4] = Host(4)
    pop.start_agent(pop.hosts[4])
    for data in recorded[:50]:
        pop.deliver(pop.hosts[4], data, 3)
    pop.run_until(pop.now + 100 * MS)
    assert pop.hosts[4].owners.is_active(3)


def test_a_large_pop_forms() -> None:
    result = simulate(60, 1, seconds=4.0, calm=True)
    assert result.violations == []
    assert result.counts["opens"] > 0


def test_without_multicast_hosts_that_know_a_few_come_to_know_all() -> None:
    for seed in range(4):
        result = simulate(12, seed, seconds=4.0, unicast=True)
        assert result.violations == []
    calm = [simulate(12, 1, seconds=4.0, calm=True, unicast=way) for way in (False, True)]
    assert calm[1].violations == []
    # What is for all is eleven datagrams; shards and questions are one as before.
    assert calm[1].counts["datagrams"] > 3 * calm[0].counts["datagrams"]


def test_without_multicast_a_host_that_follows_no_members_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pop, "_follow", lambda *_: None)
    assert simulate(12, 1, seconds=4.0, calm=True, unicast=True).violations != []


def test_a_host_that_refuses_packets_at_the_end_is_a_violation() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.check_packets()
    assert pop.violations == []
    pop.hosts[1].owners.deactivate(2)
    pop.check_packets()
    assert pop.violations == [f"{pop.now / MS:.3f} ms: client 1 of host 1 is lost at host 2"]


def test_a_flood_that_a_table_should_have_spared_is_a_violation() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.hosts[2].table.remove(key_of(1))
    pop.check_packets()
    assert "was flooded" in pop.violations[0]


def test_an_agent_that_keeps_more_than_it_may_is_a_violation() -> None:
    pop = pop_of(2)
    core = pop.hosts[1].core
    assert core is not None
    for member in core._roster:
        member.batches.missing.update(range(1 << 40, (1 << 40) + 5000))
    pop._check_bounds(pop.hosts[1])
    assert "host 1 waits for more batches than anybody keeps" in pop.violations[0]


# ---- what the simulated kernels and hosts do ----


def test_a_mark_counts_only_while_the_agent_lives_that_would_end_it() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.hosts[2].frozen = True
    pop.hosts[2].table.put(key_of(1), HOST_UNOWNED)
    pop.run_until(pop.now + 1100 * MS)
    pop.packet(1, pop.hosts[2])
    assert pop.violations == []
    assert pop.reached == 1
    assert pop.counts["packets_flood"] == 1


def test_a_handshake_may_end_at_another_host() -> None:
    pop = pop_of(3)
    pop.begin(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    assert [host.entry(1) for host in pop.hosts.values()] == [None, None, None]
    pop.acknowledge(1, pop.hosts[2])
    pop.run_until(pop.now + 20 * MS)
    assert pop.counts["packets_flood"] == 1
    assert [host.entry(1) for host in pop.hosts.values()] == [(1, False)] * 3


@pytest.mark.parametrize("half_open", [False, True])
def test_nobody_answers_for_a_socket_whose_agent_was_killed(half_open: bool) -> None:
    """Its host cannot deny it, so no other host may mark it."""
    pop = pop_of(3)
    pop.hosts[1].kill_agent()
    (pop.begin if half_open else pop.open)(1, pop.hosts[1])
    for _ in range(20):
        pop.packet(1, pop.hosts[2])
        pop.run_until(pop.now + 100 * MS)
    assert pop.violations == []
    assert pop.counts["packets_unowned"] == 0


def test_a_port_is_used_again_at_once_unless_somebody_may_have_asked_for_it() -> None:
    pop = pop_of(3)
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.close(1, linger=False)
    assert pop.free_at[1] == pop.now + REUSE_SOON
    pop.run_until(pop.now + 20 * MS)
    pop.packet(1, pop.hosts[2])  # a late one: it is a miss
    assert pop.free_at[1] == pop.now + REUSE_AFTER
    assert pop.free_at[1] > pop.now + who_has_and_mark_ms(pop.timing) * MS


def who_has_and_mark_ms(timing: Timing) -> int:
    """How long a miss may make a host answer for a session."""
    return timing.who_has_timeout_ms + timing.unowned_ms


def test_the_result_has_the_counters_of_cores_that_were_killed_too() -> None:
    pop = pop_of(2)
    before = pop.core_counts()["datagrams_in"]
    pop.hosts[1].kill_agent()
    assert pop.core_counts()["datagrams_in"] == before > 0


def test_answers_that_waited_in_a_frozen_agent_mark_nothing() -> None:
    """They are from before it froze; since then somebody may have opened the session."""
    pop = pop_of(3)
    asker = pop.hosts[2]
    pop.packet(1, asker)  # of a session that ended
    while not pop.counts["asked"]:
        pop.run_until(pop.now + MS // 10)
    asker.frozen = True
    pop.run_until(pop.now + 5000 * MS)
    pop.network.blocked = {(1, 2)}  # as if its socket's buffer were full
    pop.open(1, pop.hosts[1])
    pop.run_until(pop.now + 20 * MS)
    pop.thaw(asker)
    pop.run_until(pop.now + 5 * MS)
    pop.packet(1, asker)
    assert pop.violations == []


def test_who_missed_a_restart_and_the_leave_after_it_lets_the_host_go() -> None:
    pop = pop_of(5)
    gone = pop.hosts[1]
    pop.open(1, gone)
    pop.run_until(pop.now + 20 * MS)
    pop.network.blocked = {(1, 3)}
    gone.kill_agent()
    pop.start_agent(gone)
    pop.run_until(pop.now + 200 * MS)
    pop.close(1, linger=False)
    pop.leave(gone)
    gone.up = False
    pop.run_until(pop.now + 50 * MS)
    pop.network.heal()
    assert pop.hosts[3].owners.is_active(1)
    pop.run_until(pop.now + 2000 * MS)
    assert not pop.hosts[3].owners.is_active(1)
    pop.check_tables()
    assert pop.violations == []


def test_hosts_that_are_cut_off_from_one_do_not_answer_for_its_sessions() -> None:
    """To the others it is dead; to the router it is not."""
    pop = pop_of(6)
    pop.open(1, pop.hosts[6])
    pop.run_until(pop.now + 50 * MS)
    pop.network.blocked = {pair for one in range(1, 6) for pair in ((one, 6), (6, one))}
    for _ in range(20):
        pop.packet(1, pop.hosts[4])
        pop.run_until(pop.now + 100 * MS)
    assert not pop.hosts[4].owners.is_active(6)
    pop.network.heal()
    pop.packet(1, pop.hosts[4])
    assert pop.violations == []


def test_rotations_leave_every_host_with_the_newest_key() -> None:
    pop = pop_of(4)
    nemesis = Nemesis(pop, pop.now + 2000 * MS)
    pop.hosts[3].frozen = True
    nemesis.rotate()
    nemesis.rotate()  # too soon: it would cut hosts off
    pop.run_until(pop.now + 300 * MS)
    nemesis.heal()
    pop.run_until(pop.now + 300 * MS)
    pop.open(1, pop.hosts[3])
    pop.run_until(pop.now + 50 * MS)
    assert [host.entry(1) for host in pop.hosts.values()] == [(3, False)] * 4
    assert len(pop.keys) == 1
