# SPDX-License-Identifier: BSD-2-Clause
"""Made-up results for the tests of the report and of the comparison."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

MACHINE = {"cpu": "a processor", "cores": 8, "kernel": "6.12", "load_at_start": 0.1}


def samples(middle: float, seed: int, spread: float = 0.01, count: int = 7) -> list[float]:
    """Repeats around a figure."""
    generator = random.Random(seed)
    return [round(middle * generator.gauss(1, spread), 3) for _ in range(count)]


def spread_of(values: list[float]) -> dict[str, Any]:
    """What `machine.repeat` would say of them."""
    value, low, high = statistics.median(values), min(values), max(values)
    return {"value": value, "min": low, "max": high, "is_steady": True, "samples": values}


def lookup_row(entries: int, values: list[float], **more: Any) -> dict[str, Any]:
    """A row as `bench.lookup` has them."""
    named = {"family": 4, "entries": entries, "hit_percent": 50, "memory": "anonymous"}
    return {**named, "bytes_per_session": 20.5, "unit": "ns per key", **spread_of(values), **more}


def forward_row(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """A row as `bench.forward` has them."""
    return {
        "plane": "xdp",
        "forwarder": "ours-xdp",
        "queues": 1,
        "peer": "xdp-macswap",
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": "Mpps",
        "min": min(ours),
        "max": max(ours),
        "theirs_min": min(theirs),
        "theirs_max": max(theirs),
        "rounds": len(ours),
        "ratio": 0.5,
        "bound_by": "A veth.",
        "samples": ours,
        "theirs_samples": theirs,
    }


def write(path: Path, bench: str, rows: list[dict[str, Any]], **machine: Any) -> Path:
    """A file of rows."""
    result = {
        "bench": bench,
        "command": f"python -m bench {bench} --seed 1",
        "machine": {**MACHINE, **machine},
        "seed": 1,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path
