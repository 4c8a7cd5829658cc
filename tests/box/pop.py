# SPDX-License-Identifier: BSD-2-Clause
"""A box with pyxdp-gossip at work in one of two ways, and what a test asks of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyxdp_gossip._native import LINGER
from pyxdp_gossip.popbox import Box
from pyxdp_gossip.popbox.agents import Settings
from pyxdp_gossip.popbox.changes import ChangeSource
from pyxdp_gossip.popbox.crowd import Crowd, Tally
from pyxdp_gossip.popbox.observer import Observed
from pyxdp_gossip.session import Session
from tests.box.host_maps import HostMaps, session_key
from tests.box.static_host import attach_static_host
from tests.box.traffic import Connection, wait_for

NO_AGENT, AGENTS = "no agent", "agents"


class Pop:
    """A box and its hosts' maps; `mode` is NO_AGENT or AGENTS."""

    def __init__(self, box: Box, mode: str, settings: Settings | None = None) -> None:
        self.box = box
        self.mode = mode
        self._stack = ExitStack()
        self._maps: dict[int, HostMaps] = {}
        if mode == NO_AGENT:
            for host in box.host_ids:
                attach_static_host(box, host)
        else:
            box.start_agents(settings=settings)

    def close(self) -> None:
        self._stack.close()

    def maps(self, host: int) -> HostMaps:
        """Opened once; a test that restarts an agent calls `reopen` for its host."""
        if host not in self._maps:
            self._maps[host] = self._stack.enter_context(HostMaps(self.box, host))
        return self._maps[host]

    def reopen(self, host: int) -> None:
        """Forgets the maps of the program that was attached until now."""
        self._maps.pop(host, None)

    def count(self, host: int, *counters: str) -> int:
        """The sum of some counters of a host."""
        counted = self.maps(host).counters()
        return sum(counted[name] for name in counters)

    def count_all(self, *counters: str) -> int:
        """The same over all live hosts."""
        return sum(self.count(host, *counters) for host in self.box.live_hosts())

    def owners(self, session: Session) -> set[int | None]:
        """What the tables of all live hosts say; None: a host does not know it."""
        entries = [self.maps(host).entry(session) for host in self.box.live_hosts()]
        return {None if entry is None else entry.owner for entry in entries}

    def wait_owner(self, session: Session, owner: int | None) -> None:
        """Until all tables agree; with no agent they stay empty."""
        if self.mode == AGENTS:
            wait_for(f"all tables say {owner}", lambda: self.owners(session) == {owner})

    def ask_until_healed(self, connection: Connection, session: Session, owner: int) -> None:
        """Asks until all tables agree; an agent hears of one flow ten times a second at most."""

        def healed() -> bool:
            assert connection.ask() == owner
            return self.owners(session) == {owner}

        wait_for(f"all tables say {owner}", healed)

    def wait_lingering(self, session: Session) -> None:
        """Until all tables know that the session was closed and has last packets to come."""

        def lingers() -> bool:
            entries = [self.maps(host).entry(session) for host in self.box.live_hosts()]
            return all(entry is not None and entry.flags == LINGER for entry in entries)

        if self.mode == AGENTS:
            wait_for("all tables say that it lingers", lingers)

    def lie(self, host: int, session: Session, owner: int) -> None:
        """Makes a host's table name another owner."""
        key = session_key(session)
        self.maps(host).lie(session.family, lambda table: table.put(key, owner))

    def forget(self, host: int, session: Session) -> None:
        """Takes a session out of a host's table."""
        key, found = session_key(session), []
        self.maps(host).lie(session.family, lambda table: found.append(table.remove(key)))
        assert found == [True]


def change_hops(box: Box, changes: int, seed: int, crowd: Crowd) -> None:
    """Harsh changes of the next hops, each followed by traffic of every connection."""
    source = ChangeSource(box.live_hosts(), seed)
    for _ in range(changes):
        change = source.draw()
        box.set_next_hops(change.hosts, change.kind)
        crowd.broken_so_far()  # takes in what was reported before
        crowd.wait_report()
        crowd.wait_report()


def assert_nothing_broke(result: Tally) -> None:
    assert (result.broken, result.wrong_bytes) == (0, 0), result


@contextmanager
def nothing_misdelivered(box: Box) -> Iterator[None]:
    """No host answers for a session of another one, and none resets anything."""
    before = box.observed()
    yield
    seen: Observed = box.observed() - before
    assert (seen.misdelivered, seen.resets, seen.flows_full) == (0, 0, 0), seen
    assert seen.packets > 0, "the observer saw nothing"
