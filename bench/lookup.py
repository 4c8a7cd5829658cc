# SPDX-License-Identifier: BSD-2-Clause
"""Cost of one look-up in the session table, in bursts, over its size and share of hits.

What bounds the number: memory. The smallest table fits the cache and shows the code alone.
"""

from __future__ import annotations

import random
import time
from typing import Any

from bench.machine import repeat
from pyxdp_gossip._native import OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for

REPEATS = 7
LOOKUPS = 1 << 19
OWNER = 1
ENTRIES = {4: (10_000, 100_000, 1_000_000), 6: (10_000, 1_000_000)}
KEY_LEN = {4: 8, 6: 24}


def make_keys(family: int, count: int, generator: random.Random) -> list[bytes]:
    """Distinct random keys: client address, client port, slot 0."""
    keys: set[bytes] = set()
    while len(keys) < count:
        if family == 4:
            keys.add(generator.randbytes(6) + bytes(2))
        else:
            keys.add(generator.randbytes(18) + bytes(6))
    return sorted(keys)


def measure(family: int, entries: int, generator: random.Random) -> list[dict[str, Any]]:
    """Rows for hits of all, half and none of the keys."""
    owners = OwnerStates()
    owners.activate(OWNER)
    table = SessionTable(family, buckets_for(entries), owners)
    known = make_keys(family, entries, generator)
    for key in known:
        table.put(key, OWNER)
    unknown = make_keys(family, min(entries, LOOKUPS), generator)
    rows = []
    for hit_percent in (100, 50, 0):
        asked = b"".join(
            generator.choice(known if generator.randrange(100) < hit_percent else unknown)
            for _ in range(LOOKUPS)
        )

        def look(asked: bytes = asked) -> float:
            begin = time.perf_counter_ns()
            table.find_burst(asked)
            return (time.perf_counter_ns() - begin) / LOOKUPS

        rows.append(
            {
                "family": family,
                "entries": entries,
                "hit_percent": hit_percent,
                "bytes_per_session": round(table.memory_bytes / entries, 1),
                "memory": "anonymous",
                "unit": "ns per key",
                **repeat(look, REPEATS),
            }
        )
    return rows


def run(seed: int) -> list[dict[str, Any]]:
    """All rows."""
    generator = random.Random(seed)
    return [
        row
        for family, sizes in ENTRIES.items()
        for entries in sizes
        for row in measure(family, entries, generator)
    ]
