# SPDX-License-Identifier: BSD-2-Clause
"""Where an agent's resident memory is, by the kernel's own list of its mappings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.gossip_figures import Row, row
from pyxdp_gossip._native import SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for

KIB: Final = 1024
MB: Final = 1_000_000
TARGET: Final = "<= 100 MB"
MAPS: Final = "anon_inode:bpf-map"
COLD_BYTES: Final = 12  # a slot, of what only the writer needs; another 4 where sessions lingered
PARTS: Final = ("resident", "shared", "maps", "files", "anonymous")
FLOORS: Final = {
    "the bare interpreter": "pass",
    "interpreter and cryptography": "import cryptography.hazmat.primitives.ciphers.aead",
    "interpreter and all that an agent imports": "import pyxdp_gossip.cli",
}
BARE: Final = (
    "; print(sum(int(l.split()[1]) for l in open('/proc/self/smaps') if l[:4] == 'Rss:') * 1024)"
)
HOW: Final = (
    "memory: resident set of the largest old agent, with interpreter, libraries and mapped maps, "
    "once each knows of all sessions (sum of Rss in /proc/PID/smaps). table: the hot entries, a "
    "BPF map; cold: what only the writer needs of them; maps: all BPF maps, the table among them; "
    "files: interpreter and libraries; anonymous: Python's objects, cold parts, the AF_XDP "
    "socket's frames (8.4 MB); shared: pages of the resident set that other processes have too."
)


def parts_of(smaps: Iterable[str]) -> tuple[int, ...]:
    """Bytes by `PARTS` of a process: all, those that other processes have too, and by kind."""
    found = dict.fromkeys(PARTS, 0)
    kind = "anonymous"
    for line in smaps:
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else ""
            kind = "maps" if name == MAPS else "files" if name.startswith("/") else "anonymous"
        elif words[0] == "Rss:":
            found[kind] += int(words[1]) * KIB
            found["resident"] += int(words[1]) * KIB
        elif words[0] in ("Shared_Clean:", "Shared_Dirty:"):
            found["shared"] += int(words[1]) * KIB
    return tuple(found[name] for name in PARTS)


def own_parts() -> list[int]:
    """Of this process."""
    return list(parts_of(Path("/proc/self/smaps").read_text().splitlines()))


def floor_of(work: str) -> int:
    """Resident bytes of a fresh interpreter that has done `work`."""
    done = subprocess.run(
        [sys.executable, "-c", work + BARE], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def floors() -> list[Row]:
    """What an agent has before it has anything of its own."""
    return [
        row(*("join", floor_of(work) / MB, "MB", ""), case=f"memory of {what}", how=f"`{work}`")
        for what, work in FLOORS.items()
    ]


def memory(
    sessions: int, hosts: int, room: int, empty: Sequence[list[int]], full: Sequence[list[int]]
) -> list[Row]:
    """The rows of the old hosts' memory, before and after they knew of all sessions.

    Args:
        room: sessions that the tables are made for.
        empty, full: `own_parts()` of each member, before and after.
    """
    grown = [after[0] - before[0] for before, after in zip(empty, full, strict=True)]
    largest = max(full)
    buckets = buckets_for(room)
    split: dict[str, Any] = {
        f"{name}_mb": round(value / MB, 1) for name, value in zip(PARTS, largest, strict=True)
    }
    return [
        row(
            *("join", largest[0] / MB, "MB", TARGET),
            case="memory of those who were there",
            sessions=sessions,
            hosts=hosts,
            empty_mb=round(max(empty)[0] / MB, 1),
            grown_bytes_a_session=round(max(grown) / sessions, 1),
            table_mb=round(SessionTable.required_bytes(4, buckets) / MB, 1),
            cold_mb=round(buckets * 4 * COLD_BYTES / MB, 1),
            **split,
            how=HOW,
        ),
        *floors(),
    ]
