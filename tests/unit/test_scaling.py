# SPDX-License-Identifier: BSD-2-Clause
"""bench/scaling_formulas.py against real gossip cores in virtual time: counts, no clock. Tolerances
are what chance and coinciding heartbeats make of a second; the seeds are fixed."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import report, result_file, scaling_page
from bench.__main__ import main
from bench.scaling import DEVIATION_MOST, Options, pops, traffic
from bench.scaling_formulas import (
    BATCH_BYTES,
    BEAT_BYTES,
    COLD_BYTES,
    FULL,
    PENDING,
    Costs,
    Pop,
    batches_a_s,
    cpu_share,
    cpu_shares,
    joins_s,
    largest,
    list_datagrams,
    log_flow,
    received_flow,
    repair,
    said_flow,
    sections_a_batch,
    sent_flow,
    shard_datagrams,
    table_bytes,
    tails_a_s,
    timing_of,
    window_ms,
)
from bench.scaling_sim import Case, computed, deviation_percent, simulated
from pyxdp_gossip._native import SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.sim.run import simulate
from pyxdp_gossip.timing import Timing
from tests.unit.gossip_pop import Pop as RealPop
from tests.unit.gossip_pop import event

REST_PERCENT = 0.001  # nothing is random
LOADED_PERCENT = 3.0
LOSSY_PERCENT = 6.0
COSTS = Costs(
    receive=1, open=5, open_byte=0.001, seal=5, seal_byte=0.001, batch=20, record=0.2, beat=15,
    say=30, tell=0.3, send=2, turn=10, truesize=832, member_bytes=12_000,
)  # fmt: skip
TARGET = Pop(1000, 100_000_000, 1e6)


# ---- against the cores ----


@pytest.mark.parametrize("hosts", [5, 20])
@pytest.mark.parametrize("unicast", [False, True])
def test_a_pop_at_rest_says_exactly_what_the_formulas_say(hosts: int, unicast: bool) -> None:
    case = Case(hosts, 0.0, unicast=unicast)
    counted = simulated(case)
    sent, received = computed(case, counted)
    assert deviation_percent(counted.sent, sent) < REST_PERCENT
    assert deviation_percent(counted.received, received) < REST_PERCENT
    assert counted.sent.datagrams_a_s > 10


@pytest.mark.parametrize(
    "case",
    [
        Case(5, 200.0),
        Case(5, 20.0, seconds=3),
        Case(5, 60.0, unicast=True, seconds=2),
        Case(20, 40.0),
        Case(20, 60.0, busy=5),
        Case(5, 400.0, flush_ms=10),
    ],
    ids=lambda case: f"{case.hosts}-{case.events_a_s:g}-{case.flush_ms}-{case.busy}",
)
def test_a_loaded_pop_sends_and_gets_what_the_formulas_say(case: Case) -> None:
    counted = simulated(case)
    sent, received = computed(case, counted)
    assert counted.cores["events_absorbed"] > 0
    assert deviation_percent(counted.sent, sent) < LOADED_PERCENT
    assert deviation_percent(counted.received, received) < LOADED_PERCENT


def test_loss_adds_what_the_formulas_say() -> None:
    case = Case(10, 200.0, loss=0.05)
    counted = simulated(case)
    sent, received = computed(case, counted)
    assert deviation_percent(counted.sent, sent) < LOSSY_PERCENT
    assert deviation_percent(counted.received, received) < LOSSY_PERCENT
    added = deviation_percent(counted.sent, computed(replace(case, loss=0.0), counted)[0])
    assert added > 10, "else this test would not see whether repair is counted at all"


def test_a_batch_has_the_length_and_the_heartbeats_that_the_formulas_say() -> None:
    """One record at an idle host: one batch at once, and two heartbeats that show it."""
    pop = RealPop()
    first, _second = pop.start_all(1, 2)
    del pop.recorded[:]
    before = first.core.counters
    pop.happens(first, event(EventKind.OPEN, 1))
    pop.run(50)
    after = first.core.counters
    batches = [data for data in pop.recorded if data[1] & 0x7F == 1 and len(data) != BEAT_BYTES]
    assert [len(data) for data in batches] == [BATCH_BYTES + 4 + 8]
    slow = 1e-3  # records a second: each is alone
    assert batches_a_s(slow, 1) == pytest.approx(slow)
    assert sections_a_batch(slow, 1) == pytest.approx(1)
    assert after.batches_sent - before.batches_sent == 1
    assert tails_a_s(slow, Timing()) / batches_a_s(slow, 1) == pytest.approx(2, rel=1e-3)


def test_full_batches_hold_what_the_formulas_say() -> None:
    pop = RealPop()
    first = pop.start(1)
    pop.run(1500)
    records = [event(EventKind.OPEN, client) for client in range(2 * PENDING)]
    before = first.core.counters.batches_sent
    pop.happens(first, *records)
    pop.run(10)
    assert first.core.counters.batches_sent - before == 4
    assert batches_a_s(2 * PENDING * 1000, 1) == pytest.approx(4000)


def test_a_joining_host_gets_as_many_lists_as_the_formulas_say() -> None:
    """Lists of members: of 45 others two datagrams each, of 5 one."""
    for hosts in (5, 45):
        pop = RealPop()
        pop.start_all(*range(1, hosts))
        sizes = [len(data) for data in pop.recorded]
        del pop.recorded[:]
        assert sizes
        pop.start(hosts)
        pop.run(400)
        welcomed = sum(len(data) > 32 * min(hosts - 2, 6) + 100 for data in pop.recorded)
        least = list_datagrams(hosts)
        assert least == (hosts - 1) * math.ceil((hosts - 2) / 39)
        assert welcomed >= least / 2, "a core that sends no lists would make the formula wrong"


def test_hosts_that_met_before_say_what_hosts_that_joined_say() -> None:
    """In the simulator: the same beats, and no more; no join, no question about a member."""
    met = simulate(6, 3, calm=True, met=True, seconds=4.0)
    joined = simulate(6, 3, calm=True, seconds=4.0)
    assert met.violations == joined.violations == []
    assert met.core_counts["shards_sent"] == 0 < joined.core_counts["shards_sent"]
    assert met.core_counts["digests_differ"] == met.core_counts["unproven"] == 0


# ---- the table's memory ----


@pytest.mark.parametrize("sessions", [1000, 100_000, 1_000_000])
def test_the_tables_bytes_are_those_of_the_table(sessions: int) -> None:
    buckets = buckets_for(sessions)
    shared = SessionTable.required_bytes(4, buckets)
    header = shared - buckets * 64
    assert 0 < header <= 4096
    assert table_bytes(sessions) == shared - header + buckets * 4 * COLD_BYTES


# ---- what must hold of the formulas alone ----


def test_batches_are_a_renewal_process() -> None:
    """A plain simulation of records and one flush interval, without a core."""
    generator = random.Random(1)
    rate, flush = 0.8, 1.0  # a millisecond
    at, batches, records, sections = 0.0, 0, 0, 0
    while batches < 40_000:
        pause = generator.expovariate(rate)
        kinds = {generator.random() < 0.5}
        records += 1
        at += pause
        if pause < flush:
            end = at + flush
            while (following := at + generator.expovariate(rate)) < end:
                at = following
                records += 1
                kinds.add(generator.random() < 0.5)
            at = end
        batches += 1
        sections += len(kinds)
    assert batches_a_s(rate * 1000, flush) == pytest.approx(batches / at * 1000, rel=0.01)
    assert records / at == pytest.approx(rate, rel=0.01)
    assert sections_a_batch(rate * 1000, flush) == pytest.approx(sections / batches, rel=0.01)


def test_without_multicast_a_host_sends_what_it_gets() -> None:
    alone = replace(TARGET, unicast=True)
    timing = Timing()
    assert sent_flow(alone, timing) == received_flow(alone, timing)
    assert received_flow(alone, timing) == received_flow(TARGET, timing)
    assert sent_flow(TARGET, timing) == said_flow(TARGET, timing)


def test_repair_is_nothing_without_loss_and_multicast_among_many() -> None:
    timing = Timing()
    assert repair(TARGET, timing).nacks == repair(TARGET, timing).multicast == 0
    few, many = (repair(Pop(hosts, 0, 1000.0 * hosts, loss=0.01), timing) for hosts in (10, 1000))
    assert few.unicast > 100 * few.multicast
    assert many.multicast > 100 * many.unicast
    # Who is lacking a batch asks for it once, and once more as often as the answer is lost.
    assert few.nacks == pytest.approx(batches_a_s(2000, 1) * 9 * 0.01 / 0.99)


def test_longer_flushes_cost_less_and_take_longer() -> None:
    pop = Pop(30, 3_000_000, 30_000)
    shares = [cpu_share(pop, timing_of(flush), COSTS) for flush in (1, 2, 5, 10, 50)]
    assert shares == sorted(shares, reverse=True)
    windows = [window_ms(pop, timing_of(flush), COSTS, 0.1) for flush in (1, 2, 5, 10, 50)]
    assert all(one is not None for one in windows)
    assert windows == sorted(one for one in windows if one is not None)


def test_who_cannot_keep_up_has_no_window_and_never_joins() -> None:
    timing = Timing()
    assert cpu_share(TARGET, timing, COSTS) > 1
    assert window_ms(TARGET, timing, COSTS, 0.1) is None
    assert joins_s(TARGET, timing, COSTS, 1e10)["receiver's core"] == math.inf
    assert max(joins_s(replace(TARGET, opens_a_s=0), timing, COSTS, 1e10).values()) < 100


def test_parts_add_up_and_the_link_sees_frames() -> None:
    timing = Timing()
    parts = cpu_shares(TARGET, timing, COSTS)
    assert sum(parts.values()) == pytest.approx(cpu_share(TARGET, timing, COSTS))
    flow = log_flow(2000, 1)
    assert flow.link_bits_a_s == 8 * (flow.bytes_a_s + 42 * flow.datagrams_a_s)
    assert shard_datagrams(0) == 1
    assert shard_datagrams(FULL + 1) == 3


def test_the_largest_that_fits() -> None:
    assert largest(lambda number: number * number <= 50, 0, 100) == 7
    assert largest(lambda number: number < 0, 5, 9) == 4
    assert largest(lambda number: True, 5, 9) == 9


# ---- the command and the page ----


def test_the_command_measures_and_the_page_holds_its_figures(tmp_path: Path) -> None:
    results = tmp_path / "results"
    argv = ["scaling", "--quick", "--json", str(results / "scaling.json")]
    done = CliRunner().invoke(main, argv)
    assert done.exit_code == 0, done.output
    report.write(results, tmp_path)
    page = (tmp_path / scaling_page.PAGE).read_text()
    result = result_file.read(results / "scaling.json")
    assert result.command in page
    for row in result.rows:
        assert scaling_page.word(row.get("value")) in page
    assert "scaling" not in (tmp_path / report.PAGE).read_text()


def test_a_wrong_list_of_sizes_is_one_line() -> None:
    done = CliRunner().invoke(main, ["scaling", "--simulate", "20,x"])
    assert done.exit_code == 2
    assert "is no list of" in done.output


def section(title: str) -> list[list[str]]:
    """The rows of a table of this repository's page."""
    text = (report.DOCS / scaling_page.PAGE).read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[1:]]


def test_the_page_has_the_traffic_that_the_formulas_give_now() -> None:
    """It depends on no machine, so that a page of older formulas is seen without its result."""
    rows = section("Datagrams and bytes a second")
    expected = []
    for pop, flush_ms in pops(Options()):
        made = traffic(pop, flush_ms, COSTS)
        keys = {**scaling_page.BY_SIZE, **scaling_page.TRAFFIC}.values()
        expected.append([scaling_page.word(made[key]) for key in keys])
    assert rows == expected, "run `make scaling`"


def test_what_was_simulated_with_many_hosts_follows_the_formulas() -> None:
    rows = section("The simulator beside the formulas")
    at = list(scaling_page.SIMULATED).index("largest deviation, %")
    assert max(int(row[0].replace(",", "")) for row in rows) >= 100
    assert all(float(row[at]) <= DEVIATION_MOST for row in rows), rows
