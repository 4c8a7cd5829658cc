# SPDX-License-Identifier: BSD-2-Clause
"""Frames a second of the AF_XDP loop by its settings, each beside the defaults of the same rounds.

The burst and the wake-ups are no options of the product: the benchmark hands them to the classes
that the data path makes its loops of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from rich.progress import Progress

from bench import compare, machine
from bench.forward import FRAME_LEN, Bench, Effort, Measured
from bench.forwarders import Forwarder, Running, Setting, tunnelling
from bench.link import HOST, SENDER, VIP
from bench.machine import turns
from bench.world import World
from pyxdp_gossip import dataplane, xsk_plane
from pyxdp_gossip._native import XskLoop
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import XskSocket

TARGET: Final = "no setting is faster than the defaults"
BOUND_BY: Final = (
    "Frames that the AF_XDP loop ended, on a veth in copy mode, sent flat out; the XDP program's "
    "own are not among them. In copy mode each turn that sends makes a call, asked for or not: "
    "need_wakeup can gain only where the driver has zero-copy. `defaults again` is the defaults a "
    "second time: what lies within its spread is noise."
)
DEFAULTS: Final = "defaults"
BURSTS: Final = (8, 16, 32)  # the default is 64


class UnaskedSocket(XskSocket):
    """Bound without XDP_USE_NEED_WAKEUP."""

    _asks_for_calls = 0


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting that differs from the defaults, or none.

    Attributes:
        settings: of the data path.
        loop: keywords of XskLoop.
    """

    name: str
    settings: dict[str, Any]
    loop: dict[str, Any]
    socket: type[XskSocket] = XskSocket


VARIANTS: Final = (
    Variant(DEFAULTS, {}, {}),
    Variant("defaults again", {}, {}),
    *(Variant(f"burst {burst}", {}, {"burst": burst}) for burst in BURSTS),
    Variant("busy_poll on", {"busy_poll": True}, {}),
    Variant("need_wakeup off", {}, {"always_kick": True}, UnaskedSocket),
)


def _forwarder(variant: Variant) -> Forwarder:
    """Ours with this setting."""
    made = tunnelling(variant.name, plane="xsk", **variant.settings)

    @contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        with (
            patch.object(dataplane, "XskLoop", partial(XskLoop, **variant.loop)),
            patch.object(xsk_plane, "XskSocket", variant.socket),
            made.start(setting) as running,
        ):
            yield running

    return Forwarder(made.name, made.sink, start, outer_len=made.outer_len)


def measure(bench: Bench, progress: Progress) -> dict[str, Measured]:
    """All rounds; a setting that this kernel refuses is measured no further."""
    results = {variant.name: Measured() for variant in VARIANTS}
    order = turns([_forwarder(variant) for variant in VARIANTS], bench.effort.rounds)
    task = progress.add_task("sweep", total=len(order))
    for forwarder in order:
        result = results[forwarder.name]
        progress.update(task, description=f"sweep: {forwarder.name}", advance=1)
        if result.missing:
            continue
        try:
            bench.flat_out(forwarder, result)
        except HostError as error:
            if forwarder.name == DEFAULTS:
                raise
            result.missing = str(error)
    return results


def _frames(measured: Measured) -> list[float]:
    """Frames a second of each round."""
    return [mpps * 1e6 for mpps in measured.looped]


def _is_faster(mine: Sequence[float], defaults: Sequence[float]) -> bool:
    """Beyond noise, by the test of `bench compare`."""
    interval = compare.interval_of(defaults, mine) if min(*mine, *defaults) > 0 else None
    told = interval is not None and compare.is_told(interval, compare.LEAST_PERCENT)
    return told and interval is not None and interval.ratio > 1


def row(variant: Variant, results: dict[str, Measured], effort: Effort) -> dict[str, Any]:
    """One setting beside the defaults."""
    mine, defaults = results[variant.name], results[DEFAULTS]
    fixed = {
        "what": "loop",
        "variant": variant.name,
        "queues": 1,
        "frame_len": FRAME_LEN,
        "entries": effort.sessions,
        "unit": "frames/s",
        "rounds": effort.rounds,
        "target": TARGET,
        "bound_by": BOUND_BY,
    }
    if mine.missing:
        empty = {"value": None, "peer": DEFAULTS, "theirs": None, "ratio": None}
        return {**fixed, **empty, "note": f"{variant.name}: {mine.missing}"}
    return {
        **fixed,
        **machine.paired(_frames(mine), DEFAULTS, _frames(defaults)),
        "faster_than_defaults": _is_faster(mine.looped, defaults.looped),
    }


def run(seed: int, effort: Effort | None = None) -> list[dict[str, Any]]:
    """A row for each setting but the defaults; `seed` chooses the order of the sessions."""
    effort = effort or Effort()
    with World(SENDER, HOST) as world, Progress(transient=True) as progress:
        world.ip(HOST, f"addr add {VIP}/32 dev lo")
        results = measure(Bench(world, seed, effort), progress)
    return [row(variant, results, effort) for variant in VARIANTS[1:]]
