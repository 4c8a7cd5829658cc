# SPDX-License-Identifier: BSD-2-Clause
"""What a figure was measured on, and how repeats become one figure."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pyxdp_gossip import _native

Name = TypeVar("Name")

ROOT: Final = Path(__file__).resolve().parent.parent
NOT_MEASURED: Final = (":!bench/results", ":!docs", ":!tests", ":!*.md")
CPU_FLAGS: Final = (
    *("hypervisor", "sse4_2", "aes", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("vaes", "erms", "fsrm", "asimd", "sve"),
)
"""What the code chooses by, and what explains a figure."""
CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage")
# What a compiler leaves in an object beside its code: DWARF's producer, with the flags; or its
# name alone, in the section .comment.
PRODUCER: Final = re.compile(rb"GNU C\d+ [\w.+ /=,:-]+")
COMMENT: Final = re.compile(rb"GCC: \([^)\0]+\) [\d.]+|clang version [\d.]+")

STEADY_PERCENT: Final = 5.0
"""A figure is steady if the middle half of its samples spreads over less of their median."""
SAMPLES_TO_TELL: Final = 5  # of fewer the quartiles are the extremes, or nothing
MORE: Final = 4
"""Unsteady figures are repeated so many times more often, at most."""
SPREAD: Final = ("min", "max", "spread_percent", "is_steady", "samples", "yardstick")
"""What `repeat` says beside the value."""
DIGITS: Final = 3
YARD: Final = bytes(1 << 18)  # fits the cache beside what is measured


def describe() -> dict[str, Any]:
    """This machine, its kernel, how the extension was built, and how busy it is now: to be asked
    before anything is measured."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        **_processor(),
        "cores": os.cpu_count(),
        "cpus": sorted(os.sched_getaffinity(0)),
        **_caches(),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "huge_pages": {name: _chosen(HUGE_PAGES / name) for name in ("enabled", "shmem_enabled")},
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": built_by(Path(_native.__file__).read_bytes()),
        "source": _source(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _processor() -> dict[str, Any]:
    """Name and flags of the first processor, by /proc/cpuinfo."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    flags = set(told.get("flags", told.get("Features", "")).split())
    return {
        "cpu": told.get("model name", "unknown"),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def _text(path: Path) -> str:
    """What a file of the kernel says; empty if this kernel has none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _caches() -> dict[str, str]:
    """Sizes of the caches for data, as `{"cache_l2": "2048K"}`."""
    return {
        f"cache_l{_text(index / 'level')}": _text(index / "size")
        for index in sorted(CACHES.glob("index*"))
        if _text(index / "type") != "Instruction"
    }


def _chosen(path: Path) -> str:
    """Of a setting in the manner of `always [madvise] never`, the word in force."""
    found = re.search(r"\[([^]]+)]", _text(path))
    return found.group(1) if found else "unknown"


def built_by(module: bytes) -> str:
    """The compiler of an object and its flags, as it says itself.

    Args:
        module: an ELF file, its debug sections not compressed.

    Returns:
        "unknown" of one that was stripped.
    """
    found = PRODUCER.search(module) or COMMENT.search(module)
    return found.group(0).decode() if found else "unknown"


def _source() -> str:
    """The commit that is measured, with a `+` if what is measured differs from it."""

    def git(*words: str) -> str:
        argv = ["git", "-C", str(ROOT), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", *NOT_MEASURED)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def spread_percent(samples: Sequence[float]) -> float:
    """The distance of the quartiles over the median, in percent."""
    middle = statistics.median(samples)
    if len(samples) < 2 or middle == 0:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return abs((high - low) / middle) * 100


def is_steady(samples: Sequence[float]) -> bool:
    """Whether so many samples, so close together, make a figure."""
    return len(samples) >= SAMPLES_TO_TELL and spread_percent(samples) <= STEADY_PERCENT


def rounded(samples: Sequence[float]) -> list[float]:
    """Samples for the file."""
    return [round(sample, DIGITS) for sample in samples]


def yardstick() -> float:
    """Microseconds of a piece of work that no version of ours changes: what the machine itself did
    meanwhile."""
    begin = time.perf_counter_ns()
    hashlib.sha256(YARD).digest()
    return (time.perf_counter_ns() - begin) / 1e3


def repeat(measure: Callable[[], float], times: int) -> dict[str, Any]:
    """Median and spread of at least so many measurements; the first is thrown away.

    While they are not steady there are more, up to `MORE` times as many; `is_steady` says what
    became of it. `yardstick` has the machine's own speed before each of them.
    """
    measure()
    samples: list[float] = []
    yards: list[float] = []
    while len(samples) < times or (not is_steady(samples) and len(samples) < MORE * times):
        yards.append(yardstick())
        samples.append(measure())
    return {**summary(samples), "yardstick": rounded(yards)}


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """What a row says of its samples."""
    return {
        "value": round(statistics.median(samples), DIGITS),
        "min": round(min(samples), DIGITS),
        "max": round(max(samples), DIGITS),
        "spread_percent": round(spread_percent(samples), 1),
        "is_steady": is_steady(samples),
        "samples": rounded(samples),
    }


def alone(ours: Sequence[float]) -> dict[str, Any]:
    """Median and spread of the rounds of one."""
    return {
        "value": round(statistics.median(ours), 2),
        "min": round(min(ours), 2),
        "max": round(max(ours), 2),
        "spread_percent": round(spread_percent(ours), 1),
        "samples": rounded(ours),
    }


def paired(ours: Sequence[float], peer: str, theirs: Sequence[float]) -> dict[str, Any]:
    """The rounds of one beside a peer's, which took turns with it."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        **alone(ours),
        "peer": peer,
        "theirs": round(statistics.median(theirs), 2),
        "theirs_min": round(min(theirs), 2),
        "theirs_max": round(max(theirs), 2),
        "theirs_samples": rounded(theirs),
        "ratio": round(statistics.median(pairs), 3),
        "ratio_min": round(min(pairs), 3),
        "ratio_max": round(max(pairs), 3),
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
