# SPDX-License-Identifier: BSD-2-Clause
"""The comparison that the demo shows: the same changes of ECMP, without and with pyxdp-gossip."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyxdp_gossip.popbox.box import Box
from pyxdp_gossip.popbox.changes import Change, ChangeSource
from pyxdp_gossip.popbox.crowd import Crowd, Tally
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.observer import Observed
from pyxdp_gossip.popbox.proxy import ProxyKind

HOSTS_MIN = 3
"""One is killed, and two next hops must be left."""
HOSTS_MAX = 16
CONNECTIONS_MAX = 4000
"""One Python process holds them all; beyond this it is what limits, not the hosts."""
CHANGES_MAX = 200
SETTLE_S = 0.5
CHANGE_INTERVAL_S = 1.0
"""Five small requests of each connection: every one meets every change."""
POLL_S = 0.1
WITHDRAW_AFTER_S = 0.3
"""How long the router goes on sending to a dead host, as with BFD beside BGP."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the steps done and the steps of the whole run."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo runs; see the limits of this module."""

    hosts: int = 4
    connections: int = 400
    changes: int = 8
    seed: int = 1
    proxy: ProxyKind = "nginx"
    ipv6: bool = False
    plane: str = "xsk"

    def check(self) -> None:
        """Raises BoxError if a number is outside its limits."""
        for name, low, high in (
            ("hosts", HOSTS_MIN, HOSTS_MAX),
            ("connections", 1, CONNECTIONS_MAX),
            ("changes", 1, CHANGES_MAX),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BoxError(f"--{name} {value}: use {low} to {high}")


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One phase: what the clients met, what the router saw, what the agents counted."""

    clients: Tally
    observed: Observed
    strays_forwarded: int = 0
    flooded: int = 0
    mode: str = ""
    victim: int | None = None

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "broken": self.clients.broken,
            "misdelivered": self.observed.misdelivered,
            "orphans_answered": self.observed.orphans_answered,
            "resets": self.observed.resets,
            "wrong_bytes": self.clients.wrong_bytes,
            "requests": self.clients.requests,
            "bytes": self.clients.bytes,
            "reasons": self.clients.reasons,
        }
        if self.mode:
            result["broken_owner_died"] = self.clients.broken_owner_died
            result["strays_forwarded"] = self.strays_forwarded
            result["flooded"] = self.flooded
            result["mode"] = self.mode
            result["killed_host"] = self.victim
        return result


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Both phases and what was asked for."""

    options: DemoOptions
    baseline: PhaseResult
    gossip: PhaseResult
    duration_s: float

    @property
    def good(self) -> bool:
        """Whether the promise held: nothing broke, nothing was misdelivered, no byte was wrong."""
        gossip = self.gossip
        return not (
            gossip.clients.broken or gossip.observed.misdelivered or gossip.clients.wrong_bytes
        )

    def as_json(self) -> dict[str, Any]:
        """The machine-readable result; keys are only ever appended."""
        options = self.options
        return {
            "hosts": options.hosts,
            "connections": options.connections,
            "changes": options.changes,
            "seed": options.seed,
            "baseline": self.baseline.as_json(),
            "gossip": self.gossip.as_json(),
            "proxy": options.proxy,
            "ipv6": options.ipv6,
            "duration_s": round(self.duration_s, 1),
        }


class _Counters:
    """Sums the agents' counters, those of a host that is about to be killed included."""

    def __init__(self) -> None:
        self.strays = 0
        self.flooded = 0
        self.modes: set[str] = set()

    def add(self, stats: dict[str, Any]) -> None:
        self.strays += int(stats["dataplane"].get("stray_forwarded", 0))
        self.flooded += int(stats["dataplane"].get("miss_flooded", 0))
        self.modes.add(str(stats["mode"]))


class _Phase:
    """One phase in a box of its own: no socket of the other one is left in it."""

    def __init__(self, options: DemoOptions, with_gossip: bool, step: Callable[[str], None]):
        self._options = options
        self._with_gossip = with_gossip
        self._name = "with pyxdp-gossip" if with_gossip else "without"
        self._step = step
        self._source = ChangeSource(range(1, options.hosts + 1), options.seed)
        self._counters = _Counters()
        self._victim: int | None = None

    def run(self) -> PhaseResult:
        options = self._options
        with Box(options.hosts, 1, options.proxy, options.ipv6, seed=options.seed) as box:
            if self._with_gossip:
                box.start_agents(settings={"dataplane": {"plane": options.plane}})
            self._step(f"{self._name}: {options.hosts} hosts up")
            with Crowd(box, options.connections, options.seed) as crowd:
                crowd.wait_ready()
                self._step(f"{self._name}: {options.connections} connections open")
                self._wait(crowd, SETTLE_S)
                for number in range(options.changes):
                    self._change(box, crowd, number)
                clients = crowd.finish()
            observed = box.observed()
            if self._with_gossip:
                for host in box.live_hosts():
                    self._counters.add(box.agent_stats(host))
        self._step(f"{self._name}: {clients.broken} broken")
        counters = self._counters
        return PhaseResult(
            clients,
            observed,
            counters.strays,
            counters.flooded,
            ", ".join(sorted(counters.modes)),
            self._victim,
        )

    def _change(self, box: Box, crowd: Crowd, number: int) -> None:
        if self._with_gossip and number == self._options.changes // 2:
            change = self._kill_one(box, crowd)
        else:
            change = self._source.draw()
        box.set_next_hops(change.hosts, change.kind)
        self._wait(crowd, CHANGE_INTERVAL_S)
        hops = ", ".join(map(str, change.hosts))
        self._step(
            f"{self._name}: {change.what} ({change.kind}: {hops}), {crowd.broken_so_far()} broken"
        )

    def _kill_one(self, box: Box, crowd: Crowd) -> Change:
        victim = self._source.draw_victim()
        self._counters.add(box.agent_stats(victim))
        self._victim = victim
        box.kill_host(victim)
        crowd.host_died(victim)
        self._wait(crowd, WITHDRAW_AFTER_S)
        return self._source.withdraw(victim)

    @staticmethod
    def _wait(crowd: Crowd, seconds: float) -> None:
        """Lets time pass and takes the clients' reports in meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            crowd.broken_so_far()
            time.sleep(min(POLL_S, left))


STEPS_BESIDE_CHANGES = 3
"""Steps of a phase that are no changes: hosts up, connections open, result."""


def run_demo(options: DemoOptions, progress: Progress) -> DemoResult:
    """Runs both phases, one after the other.

    Raises:
        BoxError: an option is out of range, or the box or an agent could not be started.
    """
    options.check()
    begin = time.monotonic()
    total = 2 * (options.changes + STEPS_BESIDE_CHANGES)
    done = 0

    def step(text: str) -> None:
        nonlocal done
        done += 1
        progress(text, done, total)

    baseline = _Phase(options, False, step).run()
    gossip = _Phase(options, True, step).run()
    return DemoResult(options, baseline, gossip, time.monotonic() - begin)
