# SPDX-License-Identifier: BSD-2-Clause
"""What one stray costs the forwarder in instructions, branches and cache lines, by callgrind.

A simulated processor: the same on each machine, whoever else is on it. It has no AVX-512, so the
burst look-up is the one of AVX2. Prefetches count as instructions; a line counts as missed where it
is used first.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import programs
from bench.lookup import template_file
from pyxdp_gossip.dataplane_settings import buckets_for

ENTRIES: Final = 1_000_000
FRAMES: Final = (64, 1500)
# of a core of this decade: bytes, ways, bytes a line
CACHES: Final = ("--I1=32768,8,64", "--D1=49152,12,64", "--LL=33554432,16,64")
PARTS: Final = {
    "forward": ("xg_forward_burst",),
    "look up": tuple(f"xg_session_table_{step}" for step in ("plan", "probe", "take")),
}
NO_VALGRIND: Final = "no valgrind: `make bench-setup` installs it"


def run(seed: int, entries: int = ENTRIES) -> list[dict[str, Any]]:
    """A row for each part and length of frames; `seed` has nothing to choose here."""
    return [measure(part, frame_len, entries) for frame_len in FRAMES for part in PARTS]


def measure(part: str, frame_len: int, entries: int) -> dict[str, Any]:
    """Counts while a part runs, for each frame."""
    row = {
        "what": part,
        "entries": entries,
        "frame_bytes": frame_len,
        "unit": "instructions per frame",
    }
    with template_file() as headers, tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        program = [programs.pipeline_alone(), entries, buckets_for(entries), frame_len, headers]
        argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
        argv += ["--cache-sim=yes", "--branch-sim=yes", *CACHES]
        argv += [f"--toggle-collect={name}" for name in PARTS[part]]
        try:
            done = subprocess.run(
                [*argv, *map(str, program)], capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            return row | {"value": None, "note": NO_VALGRIND}
        counted = _totals(output.read_text())
    frames = int(done.stdout)

    def each(*events: str) -> float:
        return round(sum(counted[event] for event in events) / frames, 2)

    return row | {
        "value": each("Ir"),
        "branches": each("Bc", "Bi"),
        "mispredicted": each("Bcm", "Bim"),
        "loads": each("Dr"),
        "stores": each("Dw"),
        "lines_missed_l1": each("D1mr", "D1mw"),
        "lines_missed_l3": each("DLmr", "DLmw"),
    }


def _totals(text: str) -> dict[str, int]:
    """Event by event, of a file of callgrind's.

    Source: valgrind's manual, "Callgrind Format Specification".
    """
    found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return dict(zip(found["events"].split(), map(int, found["totals"].split()), strict=True))
