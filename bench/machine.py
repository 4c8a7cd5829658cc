# SPDX-License-Identifier: BSD-2-Clause
"""What a figure was measured on, and how repeats become one figure."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

Name = TypeVar("Name")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, kernel and Python of this machine."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def repeat(measure: Callable[[], float], times: int) -> dict[str, float]:
    """Median, minimum and maximum of so many measurements; the first is thrown away."""
    measure()
    values = [measure() for _ in range(times)]
    return {
        "value": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def turns(names: Sequence[Name], rounds: int) -> list[Name]:
    """Who is measured when: each once a round, forwards and backwards in turn (ABBA), and each
    pair of rounds begins with another one, so that a drift of the machine cancels."""
    order: list[Name] = []
    for number in range(rounds):
        first = number // 2 % max(1, len(names))
        rotated = [*names[first:], *names[:first]]
        order += rotated[::-1] if number % 2 else rotated
    return order
