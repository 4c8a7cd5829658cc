# SPDX-License-Identifier: BSD-2-Clause
"""The number of this start of the agent, which grows over restarts and turned-back clocks."""

from __future__ import annotations

import contextlib
from pathlib import Path


def next_incarnation(path: Path, wall: int) -> int:
    """The incarnation of this start: the wall clock, but always more than the last one.

    Args:
        path: where the last one is kept; a file that cannot be read or written costs only the
            protection against a clock that went back (the salt keeps nonces apart anyway).
        wall: ns since 1970.
    """
    try:
        last = int(path.read_text())
    except (OSError, ValueError):
        last = 0
    incarnation = max(wall, last + 1) & 0xFFFFFFFFFFFFFFFF
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{incarnation}\n")
    return incarnation
