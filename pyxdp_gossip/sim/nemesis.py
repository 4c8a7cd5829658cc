# SPDX-License-Identifier: BSD-2-Clause
"""What goes wrong in a simulation: one function a fault, and the choice by the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pyxdp_gossip.gossip.events import Drain, KeysChanged
from pyxdp_gossip.gossip.wire import decode_header
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.sim.host import Host
from pyxdp_gossip.sim.network import MS
from pyxdp_gossip.sim.pop import Pop

ROTATION_STEP = 60 * MS  # longer than a reload takes to reach all hosts
REPLAYED = 40  # recorded datagrams an attack


@dataclass
class Nemesis:
    """The faults of one run, all of them over at `end`."""

    pop: Pop
    end: int
    happened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = self.pop.random
        self._rotated_at = 0

    def strike(self) -> None:
        """Let one fault begin now; each ends by itself, or by `heal`."""
        name = self._random.choice(tuple(FAULTS))
        self.happened.append(name)
        FAULTS[name](self)

    def _some_host(self, *, beside: int = 3) -> Host | None:
        """A host with an agent at work, if at least `beside` others have one."""
        running = [host for host in self.pop.hosts.values() if host.runs]
        return self._random.choice(running) if len(running) > beside else None

    def _later(self, least: int, most: int, action: Callable[[], None]) -> None:
        """After so many milliseconds, but not behind the end."""
        time = self.pop.now + self._random.randint(least, most) * MS
        self.pop.at(min(time, self.end), action)

    # ---- the network ----

    def loss(self) -> None:
        network = self.pop.network
        network.loss = self._random.choice((0.01, 0.1, 0.3))
        self._later(100, 1000, lambda: setattr(network, "loss", 0.0))

    def duplication(self) -> None:
        network = self.pop.network
        network.duplication = self._random.choice((0.01, 0.2))
        self._later(100, 1000, lambda: setattr(network, "duplication", 0.0))

    def reordering(self) -> None:
        network = self.pop.network
        network.reordering = self._random.choice((0.01, 0.2, 0.5))
        self._later(100, 1000, lambda: setattr(network, "reordering", 0.0))

    def partition(self) -> None:
        hosts = list(self.pop.hosts)
        left = set(self._random.sample(hosts, self._random.randint(1, len(hosts) // 2)))
        pairs = {(one, two) for one in hosts for two in hosts if (one in left) != (two in left)}
        self._block(pairs)

    def one_way(self) -> None:
        hosts = list(self.pop.hosts)
        deaf = self._random.choice(hosts)
        others = self._random.sample(hosts, self._random.randint(1, len(hosts)))
        self._block({(other, deaf) for other in others if other != deaf})

    def _block(self, pairs: set[tuple[int, int]]) -> None:
        blocked = self.pop.network.blocked
        blocked |= pairs
        self._later(50, 1500, lambda: blocked.difference_update(pairs))

    def clog(self) -> None:
        host = self._some_host()
        if host is not None and host.id not in self.pop.network.clogged:
            self.pop.network.clogged[host.id] = []
            self._later(50, 600, lambda: self.pop.unclog(host))

    def replay(self) -> None:
        recorded = self.pop.recorded
        for _ in range(min(REPLAYED, len(recorded))):
            host = self._some_host()
            if host is not None:
                data = self._random.choice(recorded)
                anybody = self._random.choice(tuple(self.pop.hosts))
                sender = decode_header(data).sender
                self.pop.deliver(host, data, self._random.choice((sender, anybody)))

    # ---- hosts ----

    def freeze(self) -> None:
        host = self._some_host()
        if host is not None:
            host.frozen = True
            self._later(50, 1500, lambda: self._thaw(host))

    def kill(self) -> None:
        host = self._some_host()
        if host is not None:
            host.kill_agent()
            self._later(10, 800, lambda: self._restart(host))

    def _restart(self, host: Host) -> None:
        if host.up and host.core is None and not host.gone:
            self.pop.start_agent(host)

    def revive(self, host: Host) -> None:
        """Whatever stands still goes on, a crashed host included; what left stays away."""
        self._thaw(host)
        if not host.gone and host.core is None:
            self.pop.start_agent(host)

    def crash(self) -> None:
        host = self._some_host(beside=5)
        if host is not None:
            self.pop.end_sessions(host)
            host.crash()
            if self._random.random() < 0.5:
                host.gone = True
            else:
                self._later(100, 1500, lambda: self.pop.start_agent(host))

    def join(self) -> None:
        host = Host(max(self.pop.hosts) + 1)
        self.pop.hosts[host.id] = host
        self.pop.start_agent(host)

    def drain(self) -> None:
        host = self._some_host()
        if host is not None and host.core is not None:
            host.draining = True
            host.core.handle_event(Drain(), self.pop.now)

    def leave(self) -> None:
        host = self._some_host(beside=5)
        if host is not None:
            for client in [one for one, owner in self.pop.live.items() if owner == host.id]:
                self.pop.close(client, linger=False)
            self.pop.leave(host)
            host.up = False

    # ---- clocks and keys ----

    def skew(self) -> None:
        """A host's clock is wrong, and it starts again with it."""
        host = self._some_host()
        if host is not None:
            host.wall_skew = self._random.choice((-5000, -500, 500, 5000)) * MS
            host.kill_agent()
            self._restart(host)

    def rotate(self) -> None:
        """Three reloads everywhere: the new key, the new key first, the old one gone."""
        if self.pop.now < self._rotated_at:
            return  # who rotates again before the last one is over cuts hosts off
        self._rotated_at = self.pop.now + 3 * ROTATION_STEP
        old = self.pop.keys[0]
        new = Key(old.id % 60_000 + 1, self._random.randbytes(32))
        for step, ring in enumerate(((old, new), (new, old), (new,))):
            time = min(self.pop.now + step * ROTATION_STEP, self.end)
            self.pop.at(time, partial(self._begin, ring))

    def _begin(self, ring: tuple[Key, ...]) -> None:
        self.pop.keys = ring
        for host in self.pop.hosts.values():
            time = self.pop.now + self._random.randint(0, 20) * MS
            self.pop.at(time, partial(self._reload, host))

    def _reload(self, host: Host) -> None:
        """SIGHUP: the agent reads the file as it is now; a frozen one does when it goes on."""
        if host.runs and host.core is not None:
            host.core.handle_event(KeysChanged(self.pop.keys), self.pop.now)

    def _thaw(self, host: Host) -> None:
        was_frozen = host.frozen
        self.pop.thaw(host)
        if was_frozen:
            self._reload(host)

    def heal(self) -> None:
        """Nothing is wrong any more: agents run again, what was cut off is reachable."""
        pop = self.pop
        pop.network.heal()
        for host in pop.hosts.values():
            pop.unclog(host)
            self._thaw(host)
            self._restart(host)


FAULTS: dict[str, Callable[[Nemesis], None]] = {
    name: getattr(Nemesis, name)
    for name in (
        *("loss", "duplication", "reordering", "partition", "one_way", "clog", "replay"),
        *("freeze", "kill", "crash", "join", "drain", "leave", "skew", "rotate"),
    )
}
