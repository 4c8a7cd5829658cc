# SPDX-License-Identifier: BSD-2-Clause
"""Many seeds of twenty hosts: no invariant breaks, and every fault was exercised."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from pyxdp_gossip.sim.command import replay_command, simulate_many
from pyxdp_gossip.sim.nemesis import FAULTS

SEEDS = 150  # a minute and a half of two cores; `make sim` runs a thousand
HOSTS = 20
SECONDS = 4.0
# What a run without faults leaves at zero, and the faults are there for. Batches that are given up
# and datagrams of an earlier start are rarer than one in so many seeds: test_gossip_repair.py and
# test_gossip_core.py in tests/unit have them.
MOVED = (
    *("replayed", "held_incarnation", "unproven", "unknown_key", "stalls"),
    *("batches_missed", "batches_late", "batches_repeated", "batches_asked"),
    *("repairs_unicast", "repairs_multicast", "digests_differ", "buckets_received"),
    *("records_stale", "records_lost", "rival_claims", "claims_repeated", "clock_refused"),
    *("shards_retried", "sessions_unowned", "not_mine_received", "entries_removed"),
    *("probes_wanted", "accusations_received", "refutations"),
)


@pytest.mark.timeout(1500)
def test_many_seeds_of_twenty_hosts_break_no_invariant() -> None:
    faults: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    core_counts: Counter[str] = Counter()
    bad: list[str] = []
    jobs = os.cpu_count() or 1
    for result in simulate_many(HOSTS, range(SEEDS), seconds=SECONDS, calm=False, jobs=jobs):
        faults.update(result.faults)
        counts.update(result.counts)
        core_counts.update(result.core_counts)
        if result.violations:
            bad += [replay_command(result, False), *result.violations[:3]]
    assert not bad, "\n".join(bad)
    assert set(faults) == set(FAULTS)
    assert min(faults.values()) > SEEDS // 20  # each was there often, and beside others
    assert counts["misdelivered"] == 0
    assert [name for name in MOVED if not core_counts[name]] == []
    for what in ("packets_local", "packets_table", "packets_flood", "claim", "misdirected"):
        assert counts[what] > SEEDS // 20, what
    assert counts["packets_unowned"] > 0
