# SPDX-License-Identifier: BSD-2-Clause
"""Frames a second that a forwarder on a veth gives back, ours beside the systems to beat."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rich.progress import Progress

from bench import kernel_vxlan, programs
from bench.forwarders import FORWARDERS, Forwarder, Running, Setting, tunnelling
from bench.link import DRAIN_S, HOST, SENDER, VIP, Link
from bench.machine import rounded, turns
from bench.world import World

BOUND_BY: Final = (
    "A veth's NAPI runs on the CPU that transmitted. An XDP plane therefore shares one core with "
    "the sender (live frames, no skb) and the sink: 1/rate is sender + veth twice + program + "
    "sink, and the ratio to xdp-macswap, not the rate, judges the program (memory: 1 M sessions "
    "in random order). AF_XDP forwarders have the second core and are bound by copy mode: an skb "
    "is made for each frame that is sent. A veth has no zero-copy. kernel-vxlan routes each stray "
    "into a VXLAN device, on the sender's core as an XDP program, or by RPS on the second one; it "
    "knows one owner for all sessions and looks none up."
)
FRAME_LEN: Final = programs.FRAME_BYTES
STEADY_S: Final = 20.0  # testpmd takes two seconds to start; a loaded machine longer
POLL_S: Final = 0.01
FIRST_PPS: Final = 10_000.0  # until the forwarder gives the first frame back
PACED_SHARE: Final = 0.7  # of the measured rate: below saturation nothing may be lost

# What the AF_XDP loop alone gave back in the rounds of ours-xsk; the rest was the XDP program's,
# which sends by itself what the loop cannot take.
LOOP: Final = "ours-xsk-loop"
# ours, theirs
COMPARISONS: Final = (
    ("ours-xdp", "xdp-macswap"),
    ("ours-xsk", "testpmd"),
    ("ours-xsk", "xdpsock-like"),
    (LOOP, "testpmd"),
    (LOOP, "xdpsock-like"),
    ("ours-xdp-vxlan", "kernel-vxlan"),
    ("ours-xsk-vxlan", "kernel-vxlan-rps"),
)
TWO_QUEUE_COMPARISONS: Final = (
    ("ours-xdp", "xdp-macswap"),
    ("ours-xsk", "testpmd"),
    (LOOP, "testpmd"),
)
BOUND_BY_TWO: Final = (
    "Two queues: two senders, each on a CPU with a queue, so that a veth's NAPI, the XDP program "
    "and the sink run on both. On two cores the AF_XDP loops, one a queue, share these with the "
    "senders: what two queues gain the senders lose, and only the ratio to a peer says something."
)
ONE_QUEUE: Final = "DPDK's net_af_xdp takes a veth for a device of one queue"  # no combined ones
TWO_QUEUES: Final = tuple(
    replace(one, missing=lambda: ONE_QUEUE) if one.name == "testpmd" else one
    for one in FORWARDERS
    if one.name != "xdpsock-like"  # it has one
)
ALL: Final = (
    *FORWARDERS,
    tunnelling("ours-xdp-vxlan", "vxlan", plane="xdp"),
    tunnelling("ours-xsk-vxlan", "vxlan", plane="xsk"),
    *kernel_vxlan.FORWARDERS,
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        sessions: a power of two.
        warm_up_s: after the first frame came back, before the clock runs.
    """

    rounds: int = 7
    window_s: float = 1.0
    warm_up_s: float = 0.4
    paced_s: float = 2.0
    sessions: int = 1 << 20


QUICK: Final = Effort(rounds=1, window_s=0.1, warm_up_s=0.0, paced_s=0.2, sessions=1 << 12)


@dataclass(slots=True)
class Measured:
    """What one forwarder did: Mpps given back and offered, the sending thread's CPU time a frame
    that came back (ns) in each round; and the paced run."""

    returned: list[float] = field(default_factory=list)
    offered: list[float] = field(default_factory=list)
    cpu_ns: list[float] = field(default_factory=list)
    looped: list[float] = field(default_factory=list)
    paced: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.returned)


class Bench:
    """One run: the places, the programs and who is measured on which CPU."""

    def __init__(
        self, world: World, seed: int, effort: Effort, senders: Sequence[int] = ()
    ) -> None:
        self.effort = effort
        self.seed = seed
        cpus = sorted(os.sched_getaffinity(0))
        traffic = [programs.load("traffic") for _ in senders or cpus[:1]]
        self.link = Link(world, traffic, senders or cpus[:1])
        self.setting = Setting(world, traffic[0], cpus[-1], effort.sessions, tuple(senders))

    @contextmanager
    def running(self, forwarder: Forwarder) -> Iterator[Running]:
        """A fresh link with the forwarder at work on it."""
        with (
            self.link.up(forwarder.sink, self.effort.sessions, self.seed, forwarder.outer_len),
            forwarder.start(self.setting) as running,
        ):
            yield running

    def _wait_for_frames(self, running: Running) -> None:
        deadline = time.monotonic() + STEADY_S
        while self.link.counts().good == 0:
            running.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no frame came back in {STEADY_S:g} s")
            time.sleep(POLL_S)

    def flat_out(self, forwarder: Forwarder, result: Measured) -> None:
        """One round."""
        with self.running(forwarder) as running, self.link.sending(None):
            self._wait_for_frames(running)
            time.sleep(self.effort.warm_up_s)
            before, looped = self.link.counts(), running.looped()
            time.sleep(self.effort.window_s)
            after, looped = self.link.counts(), running.looped() - looped
        returned, took_s = after.good - before.good, after.at_s - before.at_s
        result.returned.append(returned / took_s / 1e6)
        result.looped.append(looped / took_s / 1e6)
        result.offered.append((after.sent - before.sent) / took_s / 1e6)
        result.cpu_ns.append((after.cpu_s - before.cpu_s) * 1e9 / max(1, returned))

    def paced(self, forwarder: Forwarder, mpps: float) -> dict[str, Any]:
        """Frames by where they ended at an offered rate below saturation."""
        with self.running(forwarder) as running:
            with self.link.sending(FIRST_PPS):
                self._wait_for_frames(running)
            time.sleep(DRAIN_S)
            before, begin = self.link.counts(), self._inside(running)
            with self.link.sending(mpps * PACED_SHARE * 1e6):
                time.sleep(self.effort.paced_s)
            time.sleep(DRAIN_S)
            after, end = self.link.counts(), self._inside(running)
        entered, accounted = (now - was for now, was in zip(end, begin, strict=True))
        returned = after.good - before.good
        return {
            "paced_mpps": round((after.sent - before.sent) / self.effort.paced_s / 1e6, 3),
            "paced_offered": after.sent - before.sent,
            "paced_entered": entered,
            "paced_returned": returned,
            "lost_inside": entered - returned - accounted,
        }

    def _inside(self, running: Running) -> tuple[int, int]:
        """Frames that the forwarder's XDP program saw, by the kernel's count; and how many of
        them were dropped by a counter's name or found the sender's ring full."""
        counted = self.link.device_statistics()
        entered = sum(counted[f"rx_queue_{queue}_xdp_packets"] for queue in range(self.link.queues))
        return entered, running.drops() + self.link.tx_dropped()


def measure(
    bench: Bench, progress: Progress, forwarders: Sequence[Forwarder] = ALL
) -> dict[str, Measured]:
    """All rounds of all forwarders that can run here, then the paced runs."""
    results = {forwarder.name: Measured(missing=forwarder.missing()) for forwarder in forwarders}
    present = [forwarder for forwarder in forwarders if not results[forwarder.name].missing]
    order = turns(present, bench.effort.rounds)
    task = progress.add_task("forward", total=len(order) + len(present))
    for forwarder in order:
        progress.update(task, description=f"forward: {forwarder.name}", advance=1)
        bench.flat_out(forwarder, results[forwarder.name])
    for forwarder in present:
        progress.update(task, description=f"forward: {forwarder.name}, paced", advance=1)
        result = results[forwarder.name]
        result.paced = bench.paced(forwarder, result.median)
    return results


def cpu_times(mine: Measured, peer: Measured) -> dict[str, float]:
    """The sending core's time a frame, which other load on the machine does not move. The whole
    cost of an XDP forwarder is in it; of an AF_XDP one, only what its RX path costs the sender."""
    ours_ns, theirs_ns = (statistics.median(measured.cpu_ns) for measured in (mine, peer))
    return {
        "cpu_ns": round(ours_ns, 1),
        "theirs_cpu_ns": round(theirs_ns, 1),
        "cpu_ratio": round(theirs_ns / ours_ns, 3),
    }


def row(
    ours: str, theirs: str, results: dict[str, Measured], effort: Effort, queues: int = 1
) -> dict[str, Any]:
    """One comparison."""
    mine, peer = results[ours], results[theirs]
    fixed = {
        "plane": ours.split("-")[1],
        "forwarder": ours,
        "queues": queues,
        "frame_len": FRAME_LEN,
        "entries": effort.sessions,
        "peer": theirs,
    }
    note = "; ".join(
        f"{name}: {results[name].missing}" for name in (ours, theirs) if results[name].missing
    )
    if note:
        figures = [None if result.missing else round(result.median, 3) for result in (mine, peer)]
        return {
            **fixed,
            "ours": figures[0],
            "theirs": figures[1],
            "unit": "Mpps",
            "ratio": None,
            "min": None,
            "max": None,
            "rounds": effort.rounds,
            "lost_inside": None,
            "note": note,
        }
    pairs = [a / b for a, b in zip(mine.returned, peer.returned, strict=True)]
    return {
        **fixed,
        "ours": round(mine.median, 3),
        "theirs": round(peer.median, 3),
        "unit": "Mpps",
        "ratio": round(mine.median / peer.median, 3),
        "min": round(min(mine.returned), 3),
        "max": round(max(mine.returned), 3),
        "theirs_min": round(min(peer.returned), 3),
        "theirs_max": round(max(peer.returned), 3),
        "ratio_min": round(min(pairs), 3),
        "ratio_max": round(max(pairs), 3),
        "offered": round(statistics.median(mine.offered), 3),
        "rounds": effort.rounds,
        **cpu_times(mine, peer),
        **mine.paced,
        "theirs_lost_inside": peer.paced["lost_inside"],
        "samples": rounded(mine.returned),
        "theirs_samples": rounded(peer.returned),
    }


def two_senders() -> tuple[int, ...] | None:
    """CPUs whose frames come to different queues of two; None: there are no such CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    other = next((cpu for cpu in cpus[1:] if cpu % 2 != cpus[0] % 2), None)
    return None if other is None else (cpus[0], other)


def by_queues(
    world: World, progress: Progress, seed: int, effort: Effort, senders: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """The comparisons by one queue, or by one for each of several senders."""
    chosen, pairs = (TWO_QUEUES, TWO_QUEUE_COMPARISONS) if senders else (ALL, COMPARISONS)
    results = measure(Bench(world, seed, effort, senders), progress, chosen)
    whole = results["ours-xsk"]
    results[LOOP] = replace(whole, returned=whole.looped)
    queues = len(senders) or 1
    bound_by = BOUND_BY if queues == 1 else BOUND_BY_TWO
    return [
        {**row(ours, theirs, results, effort, queues), "bound_by": bound_by}
        for ours, theirs in pairs
    ]


def without_two(effort: Effort) -> list[dict[str, Any]]:
    """The rows by two queues where they cannot be measured."""
    missing = Measured(missing="two senders need an even and an odd CPU")
    results = {name: missing for pair in TWO_QUEUE_COMPARISONS for name in pair}
    return [
        {**row(*pair, results, effort, 2), "bound_by": BOUND_BY_TWO}
        for pair in TWO_QUEUE_COMPARISONS
    ]


def run(seed: int, effort: Effort | None = None) -> list[dict[str, Any]]:
    """A row for each comparison; `seed` chooses the order of the sessions."""
    effort = effort or Effort()
    with World(SENDER, HOST) as world, Progress(transient=True) as progress:
        world.ip(HOST, f"addr add {VIP}/32 dev lo")
        rows = by_queues(world, progress, seed, effort)
        senders = two_senders()
        if senders:
            return rows + by_queues(world, progress, seed, effort, senders)
    return rows + without_two(effort)
