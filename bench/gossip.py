# SPDX-License-Identifier: BSD-2-Clause
"""The gossip in figures: records, datagrams, delays, losses, deaths, joins, and what rest costs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench import conntrackd, gossip_codec, gossip_join, gossip_latency, gossip_life, gossip_stream
from bench.gossip_figures import Effort, Row

Measure = Callable[[Effort, int], list[Row]]

PARTS: Final[dict[str, Measure]] = {
    "apply": gossip_codec.apply,
    "encode": gossip_codec.encode,
    "end_to_end": gossip_stream.end_to_end,
    "wire_bytes": gossip_stream.wire_bytes,
    "latency": gossip_latency.latency,
    "loss": gossip_latency.loss,
    "death": gossip_life.death,
    "join": gossip_join.join,
    "idle": gossip_life.idle,
    "conntrackd": conntrackd.conntrackd,
}
NEEDS_ROOT: Final = frozenset(PARTS) - {"apply", "encode"}
SECONDS_A_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for beside the seed.

    Attributes:
        only: names of `PARTS`; empty: all.
        minutes: of the hunt for false deaths; None: as the effort has it.
    """

    only: Sequence[str] = ()
    minutes: float | None = None


def with_minutes(effort: Effort, minutes: float | None) -> Effort:
    """The hunt for false deaths so long; one agent is stopped for half of it, 60 s at most."""
    if minutes is None:
        return effort
    seconds = minutes * SECONDS_A_MINUTE
    return replace(effort, loaded_s=seconds, stopped_s=min(SECONDS_A_MINUTE, seconds / 2))


def check(only: Sequence[str]) -> None:
    """Refuses what is no part, and what cannot run here."""
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise SystemExit(f"--only: no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    chosen = set(only or PARTS)
    if os.geteuid() != 0 and chosen & NEEDS_ROOT:
        raise SystemExit("network namespaces need root; run it with sudo")


def run(seed: int, effort: Effort | None = None, options: Options | None = None) -> list[Row]:
    """The rows of all parts, or of those that are asked for, in the order of `PARTS`.

    `load` is that of the machine before a part: with eight agents on its cores, whatever else
    runs is in the figures.
    """
    options = options or Options()
    effort = with_minutes(effort or Effort(), options.minutes)
    check(options.only)
    rows: list[Row] = []
    for name, measure in PARTS.items():
        if options.only and name not in options.only:
            continue
        begin = time.monotonic()
        sys.stderr.write(f"gossip: {name} ...\n")
        load = round(os.getloadavg()[0], 2)
        rows += [{**found, "load": load} for found in measure(effort, seed)]
        sys.stderr.write(f"gossip: {name} took {time.monotonic() - begin:.1f} s\n")
    return rows
