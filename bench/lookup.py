# SPDX-License-Identifier: BSD-2-Clause
"""Cost of one look-up in the session table, beside other tables, over its size and share of hits.

`bench/csrc/lookup_peers.c` measures: one process, one core, the same sessions and questions for
all, round by round. What bounds the number: instructions as long as the table fits the cache, then
how many cache lines are on their way at once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any, Final

from rich.progress import Progress

from bench import programs
from bench.machine import alone, paired
from pyxdp_gossip._native import SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.templates import HeaderTemplate

ROUNDS: Final = 15
SIZES: Final = {
    4: (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    6: (10_000, 100_000, 1_000_000, 10_000_000),
}
BUCKET_ENTRIES: Final = 4
FULL: Final = 0.8  # the load that tables are made for
OURS, PIPELINE, PEER = "ours", "pipeline", "rte_hash"
OTHERS: Final = {
    OURS: ("libcuckoo", "ours_gather", "ours_avx512", "ours_avx2", "ours_any", "floor"),
    PIPELINE: ("pipeline_1500", "pipeline_floors"),
}
# At half hits a look-up costs so much of rte_hash's; a whole stray no more than that look-up.
TARGETS: Final = {
    (OURS, 4, 1_000_000, 50): 0.5,
    (OURS, 4, 10_000_000, 50): 0.5,
    (OURS, 6, 1_000_000, 50): 0.6,
    (PIPELINE, 4, 1_000_000, 100): 1.0,
}
BOUND_BY: Final = "cache lines on their way at once; instructions while the table fits the cache"
NO_PEER: Final = "no libdpdk-dev: `make bench-setup` installs it"


def run(seed: int, sizes: dict[int, Sequence[int]] | None = None) -> list[dict[str, Any]]:
    """All rows."""
    chosen = sizes or SIZES
    rows: list[dict[str, Any]] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("lookup", total=sum(len(ones) for ones in chosen.values()))
        for family, entries in [(key, one) for key, ones in chosen.items() for one in ones]:
            progress.update(task, description=f"{entries:,} sessions over IPv{family}")
            rows += measure(family, entries, seed)
            progress.advance(task)
    return rows


def measure(
    family: int, entries: int, seed: int, *, rounds: int = ROUNDS, pages: str = "huge"
) -> list[dict[str, Any]]:
    """Rows of one table, for hits of all, half and none of the questions.

    Args:
        pages: "huge" for 2 MiB where the kernel gives them, "small" for 4 KiB.
    """
    buckets = buckets_for(entries)
    with template_file() as headers:
        argv = [programs.lookup_peers(), family, entries, buckets, rounds, seed, pages]
        words = [*map(str, argv), headers]
        output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    played: dict[int, list[dict[str, Any]]] = {}
    for line in output.splitlines():
        one = json.loads(line)
        played.setdefault(one["hit_percent"], []).append(one)
    bytes_used = SessionTable.required_bytes(family, buckets)
    return [
        {
            "what": "forward" if ours == PIPELINE else "look up",
            "family": family,
            "entries": entries,
            "hit_percent": percent,
            "pages": pages,
            "unit": "ns per frame" if ours == PIPELINE else "ns per key",
            **_figures(ones, ours),
            **_judged(family, entries, percent, ours),
            "bytes_per_session": round(bytes_used / entries, 1),
            "bytes_when_full": round(bytes_used / (buckets * BUCKET_ENTRIES * FULL), 1),
            "rounds": rounds,
            "bound_by": BOUND_BY,
        }
        for percent, ones in played.items()
        for ours in (OURS, PIPELINE)
        if ours in ones[0]
    ]


def headers_to(host: int) -> HeaderTemplate:
    """GUE over IPv4, to the host of this number."""
    return HeaderTemplate.build(
        source=IPv4Address("192.0.2.1"), destination=IPv4Address(f"192.0.2.{host}"),
        source_mac=bytes(6), destination_mac=bytes(6), mtu=9000, cookie=bytes(8), tunnel_port=6080,
    )  # fmt: skip


@contextmanager
def template_file() -> Iterator[str]:
    """The headers by which strays are sent, in a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(headers_to(2).pack())
        file.flush()
        yield file.name


def _figures(played: Sequence[dict[str, Any]], ours_is: str) -> dict[str, Any]:
    """Ours beside rte_hash's, and the medians of the others."""
    ours = [one[ours_is] for one in played]
    others = {
        name: round(statistics.median(one[name] for one in played), 2)
        for name in OTHERS[ours_is]
        if name in played[0]
    }
    if PEER not in played[0]:
        return alone(ours) | others | {"peer": PEER, "ratio": None, "note": NO_PEER}
    return paired(ours, PEER, [one[PEER] for one in played]) | others


def _judged(family: int, entries: int, percent: int, ours: str) -> dict[str, Any]:
    target = TARGETS.get((ours, family, entries, percent))
    return {"target": f"ratio <= {target}"} if target else {}
