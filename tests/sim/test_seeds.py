# SPDX-License-Identifier: BSD-2-Clause
"""Many seeds of twenty hosts: no invariant breaks, and every fault was exercised."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from pyxdp_gossip.sim.command import replay_command, simulate_many
from pyxdp_gossip.sim.nemesis import FAULTS

SEEDS = 300  # three minutes of two cores; `make sim` runs a thousand and more
HOSTS = 20
SECONDS = 4.0


@pytest.mark.timeout(1500)
def test_many_seeds_of_twenty_hosts_break_no_invariant() -> None:
    faults: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    bad: list[str] = []
    jobs = os.cpu_count() or 1
    for result in simulate_many(HOSTS, range(SEEDS), seconds=SECONDS, calm=False, jobs=jobs):
        faults.update(result.faults)
        counts.update(result.counts)
        if result.violations:
            bad += [replay_command(result, False), *result.violations[:3]]
    assert not bad, "\n".join(bad)
    assert set(faults) == set(FAULTS)
    assert min(faults.values()) > SEEDS // 20  # each was there often, and beside others
    assert counts["misdelivered"] == 0
    for what in ("packets_local", "packets_table", "packets_flood", "claim", "misdirected"):
        assert counts[what] > SEEDS // 20, what
    assert counts["packets_unowned"] > 0
