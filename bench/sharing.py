# SPDX-License-Identifier: BSD-2-Clause
"""What a look-up pays for a writer, for another reader, and for the small pages of a BPF map.

`bench/csrc/table_sharing.c` measures, on two processors. Each row is a ratio to one reader alone,
of the same rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from typing import Any, Final

from bench import programs
from bench.machine import paired
from pyxdp_gossip.dataplane_settings import buckets_for

ROUNDS: Final = 15
SIZES: Final = (1_000_000, 10_000_000)
ALONE: Final = "alone"
# What it may cost, of one reader alone over 2 MiB pages; two readers that scale 1.9 times cost
# each of them 2/1.9.
TARGETS: Final = {
    ("beside_writer", 1_000_000): 1.1,
    ("beside_reader", 1_000_000): 1.053,
    ("map", 1_000_000): 1.25,
    ("map", 10_000_000): 1.5,
}
BOUND_BY: Final = {
    "beside_writer": "lines that the writer changes come from its processor's cache",
    "beside_reader": "the memory and the cache that both share",
    "small_pages": "TLB misses",
    "map": "TLB misses: the kernel maps an array in 4 KiB pages",
}


def run(seed: int, sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Four rows for each size."""
    return [row for entries in sizes for row in measure(entries, seed, rounds)]


def measure(entries: int, seed: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one table of IPv4 sessions, half of the questions hits."""
    argv = [programs.table_sharing(), entries, buckets_for(entries), rounds, seed]
    output = subprocess.run(
        [str(word) for word in argv], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    played = [json.loads(line) for line in output.splitlines()]
    alone = [one[ALONE] for one in played]
    rows = []
    for what, bound_by in BOUND_BY.items():
        ours = [one[what] for one in played]
        row: dict[str, Any] = {
            "what": what.replace("_", " "),
            "entries": entries,
            "unit": "ns per key",
            **paired(ours, "one reader alone", alone),
            "rounds": rounds,
            "bound_by": bound_by,
        }
        if what == "beside_writer":
            rates = [one["updates_a_s"] for one in played]
            row["updates_a_s"] = round(statistics.median(rates))
        if (what, entries) in TARGETS:
            row["target"] = f"ratio <= {TARGETS[what, entries]}"
        rows.append(row)
    return rows
