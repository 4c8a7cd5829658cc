# SPDX-License-Identifier: BSD-2-Clause
"""What the simulator counts beside what bench/scaling_formulas.py says: the cores of the agents in
virtual time, so that the comparison is arithmetic and no machine is in it."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Final

from bench.scaling_formulas import Flow, Pop, received_flow, said_flow, sent_flow, timing_of
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.sim.acquainted import acquaint_all
from pyxdp_gossip.sim.host import Host
from pyxdp_gossip.sim.network import MS
from pyxdp_gossip.sim.pop import Pop as SimulatedPop
from pyxdp_gossip.timing import Timing

NS_A_S: Final = 1_000_000_000
CLIENTS_A_HOST: Final = 100
OPEN_LEAST, OPEN_MOST = 2, 30  # at a host: the tables of the simulator have 1,024 places
WARM_UP_MS: Final = 150  # the first heartbeats; then a second has as many beats as any other
EVERYBODY: Final = -1


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation. `busy` hosts have `events_a_s` opens and ends each, the others rest."""

    hosts: int
    events_a_s: float
    busy: int = EVERYBODY
    seconds: int = 1
    heartbeat_ms: int = 100
    flush_ms: int = 1
    unicast: bool = False
    loss: float = 0.0
    seed: int = 1

    @property
    def timing(self) -> Timing:
        """Of its hosts; nobody is suspected for a few lost heartbeats."""
        return replace(timing_of(self.flush_ms, self.heartbeat_ms), suspect_after=10)

    @property
    def busy_hosts(self) -> int:
        """How many."""
        return self.hosts if self.busy == EVERYBODY else self.busy

    def pop(self, events_a_s: float) -> Pop:
        """As the formulas want it, if all hosts had so many events."""
        return Pop(self.hosts, 0, events_a_s * self.hosts / 2, self.unicast, self.loss)


@dataclass(frozen=True, slots=True)
class Counted:
    """Of a second of one host, in the mean of all: what left its socket and what its core got."""

    sent: Flow
    received: Flow
    window_ms: float | None
    cores: dict[str, float]


@dataclass
class Load:
    """Sessions that open and end at one host, at random moments."""

    pop: SimulatedPop
    host: Host
    events_a_s: float
    random: Random
    open: list[int] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """The first event comes as soon as any other."""
        first = self.host.id * CLIENTS_A_HOST
        self.free = list(range(first, first + CLIENTS_A_HOST))
        self._wait()

    def _wait(self) -> None:
        pause = int(self.random.expovariate(self.events_a_s) * NS_A_S)
        self.pop.at(self.pop.now + pause, self._happen)

    def _happen(self) -> None:
        opens = self.random.random() < 0.5
        if len(self.open) in (OPEN_LEAST, OPEN_MOST):
            opens = len(self.open) == OPEN_LEAST
        if opens or len(self.open) < OPEN_LEAST:
            client = self.free.pop(0)
            self.open.append(client)
            self.pop.live[client] = self.host.id
            self.pop.socket_event(self.host, EventKind.OPEN, client)
            self.pop.watch_open(client)
        else:
            client = self.open.pop(0)
            self.free.append(client)
            del self.pop.live[client]
            self.pop.socket_event(self.host, EventKind.CLOSE, client)
        self._wait()


def simulated(case: Case) -> Counted:
    """Run one case: hosts that know each other, a load, and what is counted of whole seconds."""
    random = Random(case.seed)
    told_of = frozenset(range(1, case.hosts + 1)) if case.unicast else None
    pop = SimulatedPop(random, (Key(1, bytes(32)),), case.timing, told_of=told_of)
    for number in range(1, case.hosts + 1):
        pop.hosts[number] = Host(number)
        pop.start_agent(pop.hosts[number])
    acquaint_all(pop)
    for number in range(1, case.busy_hosts + 1) if case.events_a_s else ():
        Load(pop, pop.hosts[number], case.events_a_s, random).begin()
    gc.disable()  # nothing that is garbage has a cycle; looking for some takes half of the time
    try:
        pop.run_until(WARM_UP_MS * MS)
        pop.network.loss = case.loss
        before, network = _totals(pop)
        pop.run_until((WARM_UP_MS + case.seconds * 1000) * MS)
        after, network_after = _totals(pop)
    finally:
        gc.enable()
    if pop.violations:
        raise RuntimeError(f"the simulation is wrong: {pop.violations[0]}")
    share = 1 / case.seconds / case.hosts
    cores = {name: (after[name] - before[name]) * share for name in after}
    network_after.subtract(network)
    return Counted(
        sent=Flow(network_after["datagrams"], network_after["bytes"]).times(share),
        received=Flow(cores["datagrams_in"], cores["bytes_in"]),
        window_ms=max(pop.convergence) / MS if pop.convergence else None,
        cores=cores,
    )


def _totals(pop: SimulatedPop) -> tuple[Counter[str], Counter[str]]:
    total: Counter[str] = Counter()
    for host in pop.hosts.values():
        assert host.core is not None
        total.update(asdict(host.core.counters))
    return total, Counter(pop.counts)


def computed(case: Case, counted: Counted) -> tuple[Flow, Flow]:
    """What the formulas say of the same: sent and received by one host, in the mean of all; of the
    records that there were, for chance makes a few more or less than were asked for."""
    records_a_s = counted.cores["events_absorbed"] * case.hosts / max(1, case.busy_hosts)
    busy, rest = case.pop(records_a_s), case.pop(0.0)
    share, timing = case.busy_hosts / case.hosts, case.timing
    if share == 1:
        return sent_flow(busy, timing), received_flow(busy, timing)
    assert case.loss == 0, "repair depends on everybody's load"
    said = said_flow(busy, timing).times(share) + said_flow(rest, timing).times(1 - share)
    copies = case.hosts - 1 if case.unicast else 1
    return said.times(copies), said.times(case.hosts - 1)


def deviation_percent(counted: Flow, computed_flow: Flow) -> float:
    """The larger one, of datagrams or of bytes, in percent of what the formulas say."""
    pairs = (
        (counted.datagrams_a_s, computed_flow.datagrams_a_s),
        (counted.bytes_a_s, computed_flow.bytes_a_s),
    )
    return max(abs(one - other) / other * 100 for one, other in pairs)
