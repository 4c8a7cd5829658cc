# SPDX-License-Identifier: BSD-2-Clause
"""Four hosts under whatever hypothesis thinks of: each step keeps the promise, and all heals."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyxdp_gossip.gossip.events import Drain
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.sim.host import Host
from pyxdp_gossip.sim.nemesis import Nemesis
from pyxdp_gossip.sim.network import MS
from pyxdp_gossip.sim.pop import Pop
from pyxdp_gossip.sim.run import QUIET_MS

HOSTS = 4
CLIENTS = 6  # few, so that sessions, hosts and faults meet
FAR = 1 << 62
ROTATION_MS = 200  # one that began last may go on

hosts = st.integers(1, HOSTS)
clients = st.integers(0, CLIENTS - 1)
rates = st.sampled_from((0.0, 0.1, 0.5))


class GossipMachine(RuleBasedStateMachine):
    """The simulated POP, driven by rules instead of a seed."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed: int) -> None:
        self.pop = Pop(Random(seed), (Key(1, bytes(32)),))
        self.nemesis = Nemesis(self.pop, FAR)
        for number in range(1, HOSTS + 1):
            self.pop.hosts[number] = Host(number)
            self.pop.start_agent(self.pop.hosts[number])
        self.pop.run_until(800 * MS)
        assert self.pop.counts["synced"] == HOSTS

    # ---- clients ----

    @rule(client=clients, number=hosts, handshake=st.booleans())
    def open(self, client: int, number: int, handshake: bool) -> None:
        host = self.pop.hosts[number]
        free = client not in self.pop.live and self.pop.now >= self.pop.free_at.get(client, 0)
        if not free or not host.up or host.draining:
            return
        if handshake:
            self.pop.begin(client, host)
        else:
            self.pop.open(client, host)

    @rule(client=clients, number=hosts)
    def acknowledge(self, client: int, number: int) -> None:
        if self.pop.hosts[number].up:
            self.pop.acknowledge(client, self.pop.hosts[number])

    @rule(client=clients, linger=st.booleans())
    def close(self, client: int, linger: bool) -> None:
        if client in self.pop.live:
            self.pop.close(client, linger=linger)

    @rule(client=clients, number=hosts)
    def packet(self, client: int, number: int) -> None:
        if self.pop.hosts[number].up:
            self.pop.packet(client, self.pop.hosts[number])

    @rule(ms=st.sampled_from((1, 5, 30, 200, 700)))
    def wait(self, ms: int) -> None:
        self.pop.run_until(self.pop.now + ms * MS)

    # ---- the network ----

    @rule(loss=rates, duplication=rates, reordering=rates)
    def disturb(self, loss: float, duplication: float, reordering: float) -> None:
        network = self.pop.network
        network.loss, network.duplication, network.reordering = loss, duplication, reordering

    @rule(source=hosts, receiver=hosts)
    def block(self, source: int, receiver: int) -> None:
        if source != receiver:
            self.pop.network.blocked.add((source, receiver))

    @rule()
    def connect(self) -> None:
        self.pop.network.heal()

    @rule(number=hosts)
    def clog(self, number: int) -> None:
        self.pop.network.clogged.setdefault(number, [])

    @rule(number=hosts)
    def unclog(self, number: int) -> None:
        self.pop.unclog(self.pop.hosts[number])

    @rule(which=st.integers(0, 2**16), source=hosts, receiver=hosts)
    def replay(self, which: int, source: int, receiver: int) -> None:
        recorded = self.pop.recorded
        self.pop.deliver(self.pop.hosts[receiver], recorded[which % len(recorded)], source)

    # ---- hosts ----

    @rule(number=hosts)
    def freeze(self, number: int) -> None:
        self.pop.hosts[number].frozen = True

    @rule(number=hosts)
    def kill(self, number: int) -> None:
        self.pop.hosts[number].kill_agent()

    @rule(number=hosts)
    def crash(self, number: int) -> None:
        self.pop.end_sessions(self.pop.hosts[number])
        self.pop.hosts[number].crash()

    @rule(number=hosts)
    def restart(self, number: int) -> None:
        """Whatever stands still goes on; what left stays away."""
        self.nemesis.revive(self.pop.hosts[number])

    @rule(number=hosts)
    def drain(self, number: int) -> None:
        host = self.pop.hosts[number]
        if host.runs and host.core is not None:
            host.draining = True
            host.core.handle_event(Drain(), self.pop.now)

    @precondition(lambda self: sum(host.gone for host in self.pop.hosts.values()) == 0)
    @rule(number=hosts)
    def leave(self, number: int) -> None:
        host = self.pop.hosts[number]
        if host.runs:
            for client in [one for one, owner in self.pop.live.items() if owner == number]:
                self.pop.close(client, linger=False)
            self.pop.leave(host)
            host.up = False

    @rule()
    def rotate(self) -> None:
        self.nemesis.rotate()

    # ---- what must hold ----

    @invariant()
    def nothing_is_violated(self) -> None:
        assert self.pop.violations == []

    def teardown(self) -> None:
        """After all faults, and a quiet time, every table says what the kernels say."""
        if not hasattr(self, "pop") or self.pop.violations:
            return
        for host in self.pop.hosts.values():
            self.nemesis.revive(host)
        self.nemesis.heal()
        for client, owner in list(self.pop.live.items()):
            self.pop.acknowledge(client, self.pop.hosts[owner])
        self.pop.run_until(self.pop.now + (QUIET_MS + ROTATION_MS) * MS)
        self.pop.settle()
        self.pop.check_tables()
        self.pop.check_packets()
        assert self.pop.violations == []


TestGossipMachine = GossipMachine.TestCase
TestGossipMachine.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
