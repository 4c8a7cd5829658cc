# SPDX-License-Identifier: BSD-2-Clause
"""From accept() on one host to a hit in the tables of all others, with and without losses."""

from __future__ import annotations

import time
from typing import Final

from bench.gossip_figures import SHARES, Effort, Row, at_share, percentiles, row
from bench.gossip_opener import NS_PER_MS, Opener
from bench.gossip_pop import POLL_S, GossipPop, pop_of
from bench.gossip_watch import Seen, Watch

KEPT: Final = 8000  # open at once: two descriptors each, of 20,000
SAMPLED_A_S: Final = 1000  # sessions watched: the watcher takes a tenth of a core
LOOK_PAUSE_S: Final = 0.0002
SINGLE_PAUSE_S: Final = 0.00005
SINGLE_RATE: Final = 8  # a second: to the gossip each is the first event of an idle host
HOW: Final = (
    "latency, loss: real connections to a real listener, over the host's loopback; the time before "
    "accept() until find_burst() hits in the pinned table of the last other host, seen by a "
    "process that looks every poll_p50 ms; host_*: of any other host; window_p99: the median over "
    "100 ms windows of a window's p99, which a machine that stands still now and then does not "
    "change. All agents share this machine's cores with the watcher and the opener, which comes "
    "first (SCHED_FIFO): opener_late_p99 ms is the machine's own delay, and slowed_p999 how often "
    "over its time a piece of arithmetic took that has no memory to wait for."
)
WINDOW_NS: Final = 100_000_000
SLOWER: Final = 10
MISSING_WAIT_S: Final = 30.0  # a machine under load, whose agents have to catch up first
MANY_LOSSES: Final = 30
SOME_LOSS: Final = 1


def watch(
    pop: GossipPop, openers: list[Opener], *, sampled_a_s: int, pause_s: float, rate: int
) -> Seen:
    """Starts the openers and watches their sessions to the end."""
    views = [pop.view(host) for host in pop.box.live_hosts()]
    watcher = Watch(views, openers, max(1, rate // sampled_a_s), pause_s)
    for opener in openers:
        opener.start()
    return watcher.run()


def window_p99(seen: Seen) -> float | None:
    """The median over windows of time of the 99th percentile of each."""
    windows: dict[int, list[float]] = {}
    for begun, delay in zip(seen.begun, seen.last, strict=True):
        windows.setdefault(begun // WINDOW_NS, []).append(delay)
    worst = sorted(at_share(sorted(delays), dict(SHARES)["p99"]) for delays in windows.values())
    return round(at_share(worst, 0.5), 3) if worst else None


def machine(openers: list[Opener]) -> Row:
    """How the machine itself ran meanwhile: late, and slower than it can."""
    late = [one.late(number) / NS_PER_MS for one in openers for number in range(one.count)]
    took = [one.arithmetic(number) for one in openers for number in range(one.count)]
    usual = at_share(sorted(took), 0.5)
    slowed = percentiles([one / usual for one in took], 1)
    return {"opener_late_p99": percentiles(late)["p99"], "slowed_p999": slowed["p999"]}


def burst_row(pop: GossipPop, effort: Effort, hosts: list[int], slower: int, **labels: str) -> Row:
    """The delays while connections are opened at some hosts, at a part of the whole rate."""
    share = len(hosts) * slower
    count, rate = effort.opens // share, max(1, effort.opens_per_s // share)
    openers = [pop.opener(host, count, rate, KEPT) for host in hosts]
    lost = events_lost(pop, hosts)
    seen = watch(pop, openers, sampled_a_s=SAMPLED_A_S // len(hosts), pause_s=LOOK_PAUSE_S,
                 rate=rate)  # fmt: skip
    for opener in openers:
        opener.stop()
    figures = seen.row()
    return row(
        "latency", figures["p99"], "ms", "p99 <= 3 ms", **labels, **figures,
        window_p99=window_p99(seen), **machine(openers),
        asked_a_s=rate * len(hosts), opens_a_s=round(sum(opener.rate for opener in openers)),
        events_lost=events_lost(pop, hosts) - lost, hosts=effort.hosts, how=HOW,
    )  # fmt: skip


def events_lost(pop: GossipPop, hosts: list[int]) -> int:
    """Events that found the kernel's ring full: the agent did not get to run."""
    counted = (pop.box.agent_stats(host)["dataplane"] for host in hosts)
    return sum(counters["socket_events_lost"] for counters in counted)


def single_row(pop: GossipPop, effort: Effort) -> Row:
    """The delay of an event at a host that was idle, looked for more often."""
    opener = pop.opener(1, effort.singles, SINGLE_RATE, KEPT)
    seen = watch(pop, [opener], sampled_a_s=SINGLE_RATE, pause_s=SINGLE_PAUSE_S, rate=SINGLE_RATE)
    opener.stop()
    figures = seen.row()
    return row(
        "latency", figures["p50"], "ms", "median <= 0.5 ms", case="first event of an idle host",
        **figures, opens_a_s=SINGLE_RATE, hosts=effort.hosts, how=HOW,
    )  # fmt: skip


def latency(effort: Effort, _seed: int) -> list[Row]:
    """One busy host, all hosts busy, one that is a tenth as busy, all idle."""
    with pop_of(effort.hosts) as pop:
        everybody = list(pop.box.host_ids)
        return [
            burst_row(pop, effort, [1], 1),
            burst_row(pop, effort, everybody, 1, case="spread over all hosts"),
            burst_row(pop, effort, [1], SLOWER, case="a tenth of the opens"),
            single_row(pop, effort),
        ]


def still_missing(pop: GossipPop, opener: Opener) -> int:
    """How many of the sessions that are open now, host by host, a table does not have."""
    open_now = range(max(0, opener.count - opener.keep), opener.count)
    keys = b"".join(opener.key(number) for number in open_now)
    return sum(
        owner != opener.host
        for host in pop.box.live_hosts()
        if host != opener.host
        for owner in pop.view(host).table.find_burst(keys)
    )


def lossy_row(pop: GossipPop, effort: Effort, percent: int) -> Row:
    """The delays under loss, and what is missing for good: counted when it has ended."""
    opener = pop.opener(1, effort.opens, effort.opens_per_s, KEPT)
    pop.lose(percent)
    seen = watch(pop, [opener], sampled_a_s=SAMPLED_A_S, pause_s=LOOK_PAUSE_S,
                 rate=effort.opens_per_s)  # fmt: skip
    pop.lose(0)
    begin = time.monotonic()
    while (missing := still_missing(pop, opener)) and time.monotonic() - begin < MISSING_WAIT_S:
        time.sleep(POLL_S)
    healed_s = None if missing else round(time.monotonic() - begin, 3)
    opener.stop()
    figures = seen.row()
    unseen = figures.pop("missing")  # by the watcher, while they were open
    return row(
        "loss", figures["p999"], "ms", "p99.9 <= 25 ms, nothing missing", percent=percent,
        **figures, window_p99=window_p99(seen), **machine([opener]),
        missing=missing, unseen=unseen, healed_s=healed_s,
        asked_a_s=effort.opens_per_s, opens_a_s=round(opener.rate),
        events_lost=events_lost(pop, [1]), hosts=effort.hosts, how=HOW,
    )  # fmt: skip


def after_row(pop: GossipPop, effort: Effort) -> Row:
    """Much is lost for a while: what is missing when that has ended, and for how long."""
    found = lossy_row(pop, effort, MANY_LOSSES)
    value, target = found["missing"], "nothing missing after it ends"
    return {**found, "value": value, "unit": "sessions missing", "target": target, "case": "after"}


def loss(effort: Effort, _seed: int) -> list[Row]:
    """A little loss all the time; and much of it for a while, among hosts that are new."""
    rows = []
    with pop_of(effort.hosts) as pop:
        rows.append(lossy_row(pop, effort, SOME_LOSS))
    with pop_of(effort.hosts) as pop:
        rows.append(after_row(pop, effort))
    return rows
