# SPDX-License-Identifier: BSD-2-Clause
"""A POP of any size on paper: traffic, CPU, memory, window and joins of a host, from unit costs
that are measured, and a few sizes in the simulator beside what the formulas say of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from math import isfinite
from typing import Final

import click

from bench import machine
from bench.gossip_figures import Row, row
from bench.scaling_costs import FULL_EFFORT, QUICK, Effort, costs_of, measure
from bench.scaling_formulas import (
    HOSTS_MOST,
    Costs,
    Directory,
    Pop,
    cpu_share,
    cpu_shares,
    directory_flow,
    directory_share,
    joins_s,
    largest,
    list_datagrams,
    memory_bytes,
    received_flow,
    repair,
    repaired_ms,
    sent_flow,
    stall_ms,
    table_bytes,
    timing_of,
    window_ms,
)
from bench.scaling_sim import EVERYBODY, Case, computed, deviation_percent, simulated
from pyxdp_gossip.config import SESSIONS_MAX
from pyxdp_gossip.gossip_socket import RECEIVE_BUFFER

NAME: Final = "scaling"
HOSTS: Final = (10, 30, 100, 300, 1000)
FLUSHES_MS: Final = (1, 2, 5, 10, 20, 50, 100)
USUAL_MS, PATIENT_MS = 1, 50
NETWORK_MS: Final = 0.1
LINK_BITS_A_S: Final = 25e9
LOSS: Final = 0.01
BUFFER_BYTES: Final = (
    2 * RECEIVE_BUFFER
)  # the kernel counts its own use, and doubles what it is told
MEMORY_BYTES: Final = 64 << 30
OPENS_MOST: Final = 100_000_000_000
HOSTS_TRIED: Final = 100_000
MBIT: Final = 1e6
GB: Final = 1e9
SIMULATED_BEAT_MS: Final = 250
SIMULATED_EVENTS_A_S: Final = 50.0
SIMULATED_BUSY: Final = 8
DEVIATION_MOST: Final = 3.0  # percent: chance, and heartbeats that fall together
UNITS: Final = {"member_bytes": "bytes", "truesize": "bytes"}
SIMULATE: Final = "20,50,100,200"


@dataclass(frozen=True, slots=True)
class Options:
    """The POP that is asked for, and what is measured and simulated."""

    hosts: int = 1000
    sessions: int = 100_000_000
    opens: int = 1_000_000
    simulate: Sequence[int] = ()
    effort: Effort = FULL_EFFORT

    @property
    def pop(self) -> Pop:
        """As the formulas want it."""
        return Pop(self.hosts, self.sessions, self.opens)

    def of_size(self, hosts: int) -> Pop:
        """Another size with as many sessions and opens a host."""
        share = hosts / self.hosts
        return Pop(hosts, round(self.sessions * share), self.opens * share)


def named(pop: Pop, flush_ms: int) -> Row:
    """What says of which POP a row is."""
    return {
        "hosts": pop.hosts,
        "sessions": pop.sessions,
        "asked_a_s": round(pop.opens_a_s),
        "mode": "unicast" if pop.unicast else "multicast",
        "flush": f"{flush_ms} ms",
    }


def finite(value: float, digits: int = 3) -> float | None:
    """None for what has no end."""
    return round(value, digits) if isfinite(value) else None


# ---- one row of a POP ----


def traffic(pop: Pop, flush_ms: int, _costs: Costs) -> Row:
    """Datagrams and bits of one host."""
    sent, received = (flow(pop, timing_of(flush_ms)) for flow in (sent_flow, received_flow))
    return row(
        "traffic", round(received.datagrams_a_s), "datagrams in a s", "", **named(pop, flush_ms),
        records_in_a_s=round(pop.records_a_s * pop.others),
        sent_a_s=round(sent.datagrams_a_s),
        in_mbit=round(received.link_bits_a_s / MBIT, 2),
        out_mbit=round(sent.link_bits_a_s / MBIT, 2),
    )  # fmt: skip


def cpu(pop: Pop, flush_ms: int, costs: Costs) -> Row:
    """Share of one core, by part, in percent."""
    parts = cpu_shares(pop, timing_of(flush_ms), costs)
    return row(
        "cpu", 100 * sum(parts.values()), "% of a core", "<= 100", **named(pop, flush_ms),
        **{name: round(100 * share, 2) for name, share in parts.items()},
        first=max(parts, key=parts.__getitem__),
    )  # fmt: skip


def window(pop: Pop, flush_ms: int, costs: Costs) -> Row:
    """From an open to its place in all tables; and how long an agent may not run."""
    timing = timing_of(flush_ms)
    times = window_ms(pop, timing, costs, NETWORK_MS)
    return row(
        "window", None if times is None else times[1], "ms at most", "", **named(pop, flush_ms),
        mean_ms=None if times is None else round(times[0], 3),
        repaired_ms=round(repaired_ms(timing, 2 * NETWORK_MS), 3),
        stall_ms=finite(stall_ms(pop, timing, costs, BUFFER_BYTES), 1),
    )  # fmt: skip


def lossy(pop: Pop, flush_ms: int, costs: Costs) -> Row:
    """What a hundredth of all datagrams lost adds."""
    timing, losing = timing_of(flush_ms), replace(pop, loss=LOSS)
    counts = repair(losing, timing)
    more = received_flow(losing, timing).datagrams_a_s / received_flow(pop, timing).datagrams_a_s
    return row(
        "repair", (more - 1) * 100, "% more datagrams in", "", **named(pop, flush_ms),
        percent=round(LOSS * 100),
        nacks_a_s=round(counts.nacks, 1),
        again_to_one_a_s=round(counts.unicast, 1),
        again_to_all_a_s=round(counts.multicast, 1),
        cpu_percent=round(100 * cpu_share(losing, timing, costs), 1),
    )  # fmt: skip


def memory(pop: Pop, flush_ms: int, costs: Costs) -> Row:
    """Of one host."""
    parts = memory_bytes(pop, costs)
    return row(
        "memory", sum(parts.values()) / GB, "GB", "", **named(pop, flush_ms),
        **{f"{name} MB": round(value / 1e6, 1) for name, value in parts.items()},
    )  # fmt: skip


def join(pop: Pop, flush_ms: int, costs: Costs) -> Row:
    """How long one more host takes to know all sessions, while the others go on."""
    bounds = joins_s(pop, timing_of(flush_ms), costs, LINK_BITS_A_S)
    lists = list_datagrams(pop.hosts)
    return row(
        "join", finite(max(bounds.values())), "s", "<= 10", **named(pop, flush_ms),
        **{f"{name} s": finite(value) for name, value in bounds.items()},
        first=max(bounds, key=bounds.__getitem__),
        lists=lists, lists_if_all_start=lists * pop.hosts,
    )  # fmt: skip


# ---- limits ----


def limits(options: Options, costs: Costs) -> Iterator[Row]:
    """The largest size for which each of the means of one host is enough."""
    pop = options.pop

    def one(case: str, value: int, unit: str, flush_ms: int) -> Row:
        return row("limit", value, unit, "", case=case, flush=f"{flush_ms} ms")

    def keeps_up(make: Callable[[int], Pop], flush_ms: int, number: int) -> bool:
        return cpu_share(make(number), timing_of(flush_ms), costs) <= 1

    for flush_ms in FLUSHES_MS:
        fits = partial(keeps_up, lambda opens: replace(pop, opens_a_s=opens), flush_ms)
        yield one("core, hosts as asked", largest(fits, 0, OPENS_MOST), "opens a s", flush_ms)
        fits = partial(keeps_up, options.of_size, flush_ms)
        yield one("core, load a host as asked", largest(fits, 2, HOSTS_TRIED), "hosts", flush_ms)
    rest = partial(keeps_up, lambda hosts: Pop(hosts, 0, 0.0), USUAL_MS)
    yield one("core, at rest", largest(rest, 2, HOSTS_TRIED), "hosts", USUAL_MS)
    yield one("members that a host follows", HOSTS_MOST, "hosts", USUAL_MS)
    for flush_ms in (USUAL_MS, PATIENT_MS):

        def carries(opens: int, flush_ms: int = flush_ms) -> bool:
            asked = replace(pop, opens_a_s=opens)
            return received_flow(asked, timing_of(flush_ms)).link_bits_a_s <= LINK_BITS_A_S

        yield one("link of 25 Gbit/s, hosts as asked", largest(carries, 0, OPENS_MOST),
                  "opens a s", flush_ms)  # fmt: skip
    has_room = lambda sessions: table_bytes(sessions) <= MEMORY_BYTES  # noqa: E731
    room = largest(has_room, 1, SESSIONS_MAX)
    yield one("memory of 64 GiB", room, "sessions", USUAL_MS)
    idle = Pop(pop.hosts, 0, 0.0)

    def joins(sessions: int) -> bool:
        asked = replace(idle, sessions=sessions)
        return max(joins_s(asked, timing_of(USUAL_MS), costs, LINK_BITS_A_S).values()) <= 10

    yield one("join within its 10 s, nothing else going on", largest(joins, 1, SESSIONS_MAX),
              "sessions", USUAL_MS)  # fmt: skip


# ---- the directory that is not built ----


def directories(options: Options, costs: Costs) -> Iterator[Row]:
    """A home-node directory beside full replication, at the same load a host."""
    directory = Directory()
    timing, patient = timing_of(USUAL_MS), timing_of(PATIENT_MS)

    def full_at(flush_ms: int, hosts: int) -> float:
        return cpu_share(options.of_size(hosts), timing_of(flush_ms), costs)

    def home(hosts: int) -> float:
        return directory_share(options.of_size(hosts), timing, costs, directory)

    def is_cheaper(flush_ms: int, hosts: int) -> bool:
        return full_at(flush_ms, hosts) <= home(hosts)

    for hosts in HOSTS:
        pop = options.of_size(hosts)
        kept = round((directory.copies + 1) * pop.sessions / hosts)
        yield row(
            "directory", 100 * home(hosts), "% of a core", "", hosts=hosts,
            asked_a_s=round(pop.opens_a_s),
            replication=round(100 * cpu_share(pop, timing, costs), 1),
            replication_patient=round(100 * cpu_share(pop, patient, costs), 1),
            log_datagrams_a_s=round(directory_flow(pop, timing, directory).datagrams_a_s),
            sessions_kept=kept, table_mb=round(table_bytes(kept) / 1e6, 1),
            replication_table_mb=round(table_bytes(pop.sessions) / 1e6, 1),
        )  # fmt: skip
    for flush_ms in (USUAL_MS, PATIENT_MS):
        cheaper = largest(partial(is_cheaper, flush_ms), 3, HOSTS_TRIED)
        found = cheaper + 1 if cheaper < HOSTS_TRIED else None
        yield row("crossing", found, "hosts", "", case="the directory costs less CPU",
                  flush=f"{flush_ms} ms")  # fmt: skip


# ---- all of it ----


def case_of(hosts: int, seed: int) -> Case:
    """A size in the simulator: some hosts are busy, a few where there are many."""
    busy = EVERYBODY if hosts <= SIMULATED_BUSY else min(SIMULATED_BUSY, max(2, 1600 // hosts))
    return Case(hosts, SIMULATED_EVENTS_A_S, busy=busy, heartbeat_ms=SIMULATED_BEAT_MS, seed=seed)


def simulated_row(case: Case) -> Row:
    """What the simulator counted, and what the formulas say."""
    counted = simulated(case)
    sent, received = computed(case, counted)
    return row(
        "simulated", round(counted.received.datagrams_a_s, 1), "datagrams in a s",
        f"deviation <= {DEVIATION_MOST:g} %",
        hosts=case.hosts, busy=case.busy_hosts,
        computed=round(received.datagrams_a_s, 1),
        bytes_in=round(counted.received.bytes_a_s), computed_bytes=round(received.bytes_a_s),
        sent_a_s=round(counted.sent.datagrams_a_s, 2),
        computed_sent=round(sent.datagrams_a_s, 2),
        deviation_percent=round(max(deviation_percent(counted.received, received),
                                    deviation_percent(counted.sent, sent)), 2),
        window_most_ms=counted.window_ms,
    )  # fmt: skip


def pops(options: Options) -> Iterator[tuple[Pop, int]]:
    """Sizes with the load of one host as asked; without multicast; and other flush intervals."""
    sizes = [options.of_size(hosts) for hosts in HOSTS if hosts != options.hosts]
    for pop in (*sizes, options.pop):
        yield pop, USUAL_MS
        yield replace(pop, unicast=True), USUAL_MS
    for flush_ms in FLUSHES_MS[1:]:
        yield options.pop, flush_ms


def run(seed: int, options: Options) -> list[Row]:
    """All rows."""
    samples = measure(options.effort)
    costs = costs_of(samples)
    rows = [
        row("measured", None, "", "", note=f"Measured on {date.today().isoformat()}."),
        *(unit_cost(name, values) for name, values in samples.items()),
        *on_paper(options, costs),
    ]
    for hosts in options.simulate:
        sys.stderr.write(f"scaling: {hosts} hosts in the simulator ...\n")
        rows.append(simulated_row(case_of(hosts, seed)))
    return rows


def unit_cost(name: str, values: list[float]) -> Row:
    """A field of `Costs`, as it was measured."""
    each_byte = name.endswith("_byte")
    unit = "ns" if each_byte else UNITS.get(name, "us")
    shown = [value * 1000 for value in values] if each_byte else values
    return {
        "what": "unit cost", "case": name, "unit": unit, "target": "", **machine.summary(shown)
    }  # fmt: skip


def on_paper(options: Options, costs: Costs) -> list[Row]:
    """All rows that the formulas give."""
    rows: list[Row] = []
    for part in (traffic, cpu, window, lossy, memory, join):
        rows += [part(pop, flush_ms, costs) for pop, flush_ms in pops(options)]
    rows += limits(options, costs)
    rows += directories(options, costs)
    return rows


OPTIONS: Final[tuple[click.Parameter, ...]] = (
    click.Option(["--hosts"], default=1000, show_default=True, type=click.IntRange(3, 65_000)),
    click.Option(["--sessions"], default=100_000_000, show_default=True, type=click.IntRange(1)),
    click.Option(["--opens"], default=1_000_000, show_default=True, type=click.IntRange(0)),
    click.Option(["--simulate"], default=SIMULATE, show_default=True,
                 help="Sizes to simulate; 1000 takes ten minutes and 5 GB."),
    click.Option(["--quick"], is_flag=True, help="The smallest measurement; nothing simulated."),
)  # fmt: skip


def run_command(
    seed: int, hosts: int, sessions: int, opens: int, simulate: str, quick: bool
) -> list[Row]:
    """The rows, by the options of the command line."""
    words = [] if quick else simulate.split(",")
    if not all(word.isdecimal() and 2 <= int(word) <= HOSTS_MOST for word in words):
        raise click.BadParameter(f"{simulate!r} is no list of 2..{HOSTS_MOST}, like 20,50")
    effort = QUICK if quick else FULL_EFFORT
    sizes = tuple(map(int, words))
    return run(seed, Options(hosts, sessions, opens, sizes, effort))
