# SPDX-License-Identifier: BSD-2-Clause
"""One simulation from a seed: load, faults, quiet, comparison, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from pyxdp_gossip.key_file import Key
from pyxdp_gossip.sim.acquainted import acquaint_all
from pyxdp_gossip.sim.host import Host
from pyxdp_gossip.sim.nemesis import Nemesis
from pyxdp_gossip.sim.network import MS
from pyxdp_gossip.sim.pop import Pop
from pyxdp_gossip.timing import Timing

START_MS = 800  # the hosts start in the first 50 ms, and know each other by then
QUIET_MS = 2200  # for death, restart, NACK, digest and pull, one behind the other
CLIENTS = 60
TICK_MS = 5
FAULTS_MAX = 5
TOLD_OF = 5  # hosts, more than nearly any run loses of them at once
HANDSHAKES_SEEN = 0.3  # whose last packet may come to another host; the others are over at once
HEARTBEATS_MS = (100, 150, 200, 250)


@dataclass
class Result:
    """What one simulation came to; `violations` is empty if all held."""

    hosts: int
    seed: int
    virtual_s: float
    violations: list[str]
    faults: list[str]
    counts: dict[str, int]
    convergence_ms: list[float] = field(default_factory=list)
    core_counts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The keys that others rely on, and more."""
        events = self.counts.get("opens", 0) + self.counts.get("closes", 0)
        times = sorted(self.convergence_ms) or [0.0]
        return {
            "hosts": self.hosts,
            "seed": self.seed,
            "virtual_s": self.virtual_s,
            "events": events,
            "misdelivered": self.counts.get("misdelivered", 0),
            "violations": self.violations,
            "convergence_ms": {
                "p50": times[len(times) // 2],
                "p99": times[min(len(times) - 1, len(times) * 99 // 100)],
                "max": times[-1],
            },
            "bytes_per_event": self.counts.get("bytes", 0) / max(events, 1),
            "datagrams": self.counts.get("datagrams", 0),
            "faults": self.faults,
            "counts": self.counts,
            "core_counts": self.core_counts,
        }


class Clients:
    """Opens and closes sessions and sends packets to hosts that the router happens to choose."""

    def __init__(self, pop: Pop, end: int) -> None:
        self._pop = pop
        self._random = pop.random
        self._end = end

    def tick(self) -> None:
        """Something happens, then time passes."""
        if self._pop.now >= self._end:
            return
        up = [host for host in self._pop.hosts.values() if host.up and not host.gone]
        self._act(self._random.randrange(CLIENTS), up)
        self._pop.at(self._pop.now + self._random.randint(1, 2 * TICK_MS) * MS, self.tick)

    def _act(self, client: int, up: list[Host]) -> None:
        pop, random = self._pop, self._random
        host = random.choice(up)
        if client not in pop.live:
            if random.random() < 0.1:
                pop.packet(client, host)  # of a session that ended
            elif pop.now >= pop.free_at.get(client, 0):
                self._open(client, [one for one in up if not one.draining])
        elif random.random() < 0.2:
            pop.close(client, linger=random.random() < 0.5)
        else:
            for _ in range(3):
                pop.packet(client, random.choice(up))

    def _open(self, client: int, takers: list[Host]) -> None:
        """At any host that takes new sessions, whether its agent runs or not."""
        pop, random = self._pop, self._random
        if not takers:
            return
        host = random.choice(takers)
        if random.random() < HANDSHAKES_SEEN:
            pop.begin(client, host)
            later = pop.now + random.randint(1, 30) * MS
            pop.at(later, partial(pop.acknowledge, client, random.choice(takers)))
        else:
            pop.open(client, host)
            if client in pop.live:
                pop.watch_open(client)


def simulate(
    hosts: int,
    seed: int,
    *,
    seconds: float = 5.0,
    calm: bool = False,
    unicast: bool = False,
    met: bool = False,
) -> Result:
    """Run one seed.

    Args:
        hosts: how many start, 1..1000.
        seed: of everything.
        seconds: virtual time in all, at least 4.
        calm: no faults.
        unicast: the network carries no multicast; each host is told of the first ones.
        met: the hosts know each other from the start.
    """
    random = Random(f"{hosts} {seed}")
    timing = Timing(
        heartbeat_ms=random.choice(HEARTBEATS_MS), suspect_after=random.choice((3, 4, 5))
    )
    told_of = frozenset(range(1, min(hosts, TOLD_OF) + 1)) if unicast else None
    pop = Pop(random, (Key(1, random.randbytes(32)),), timing, told_of=told_of)
    end = int(seconds * 1000) * MS
    faults_end = end - QUIET_MS * MS
    for number in range(1, hosts + 1):
        host = pop.hosts[number] = Host(number)
        if met:
            pop.start_agent(host)
        else:
            pop.at(random.randint(0, 50) * MS, partial(pop.start_agent, host))
    if met:
        acquaint_all(pop)
    clients = Clients(pop, faults_end)
    pop.at(START_MS * MS, clients.tick)
    nemesis = Nemesis(pop, faults_end)
    if not calm:
        for _ in range(random.randint(1, FAULTS_MAX)):
            pop.at(random.randint(START_MS, faults_end // MS - 100) * MS, nemesis.strike)
    pop.at(faults_end, nemesis.heal)
    pop.run_until(end)
    pop.settle()
    if not pop.violations:
        pop.check_tables()
        pop.check_packets()
    return Result(
        *(hosts, seed, seconds, pop.violations, nemesis.happened, dict(pop.counts)),
        [time / MS for time in pop.convergence],
        pop.core_counts(),
    )
