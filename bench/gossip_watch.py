# SPDX-License-Identifier: BSD-2-Clause
"""Watches the tables of many hosts for new sessions, and says when each host had each of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bench.gossip_figures import Row, percentiles
from bench.gossip_opener import NS_PER_MS, Opener
from bench.gossip_pop import HostView

LOOK_MAX: Final = 64  # keys of one look at a table; the others wait for the next turn, so that a
# watcher that is behind takes no more of the agents' time than one that is not
GIVE_UP_NS: Final = 10_000_000_000  # nothing new for so long after the last one was accepted


@dataclass(slots=True)
class Awaited:
    """A session that was accepted; `left` hosts do not have it yet."""

    opener: Opener
    number: int
    key: bytes
    accepted_at: int
    left: int


@dataclass(slots=True)
class Seen:
    """Delays in ms: of each host and session, and of each session until the last host had it.

    Attributes:
        begun: of each of `last`: when the session was accepted, ns.
        gaps: between two looks, ms: what the delays are exact to.
        missing: sessions that a host never had, or not before they were closed.
    """

    delays: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    missing: int = 0

    def row(self) -> Row:
        """Percentiles, and how exact they are."""
        gaps = percentiles(self.gaps)
        hosts = {f"host_{name}": value for name, value in percentiles(self.delays).items()}
        exact = {"poll_p50": gaps["p50"], "poll_p99": gaps["p99"]}
        return {**percentiles(self.last), **hosts, **exact, "missing": self.missing}


class Watch:
    """Looks at the tables in turns.

    Args:
        views: of the hosts whose tables are looked at; an owner's own is left out.
        openers: whose sessions are looked for.
        every: only each so-many-th session, so that the watcher takes little of the machine.
        pause_s: between two looks at all tables; more than 0, or it would starve a core.
    """

    def __init__(
        self, views: Iterable[HostView], openers: Iterable[Opener], every: int, pause_s: float
    ) -> None:
        self.seen = Seen()
        self._openers = list(openers)
        self._every = every
        self._pause_s = pause_s
        self._next = [0] * len(self._openers)
        self._waiting: list[tuple[HostView, list[Awaited]]] = [(view, []) for view in views]

    def _take_in(self) -> bool:
        """Notes what was accepted; whether that was the last."""
        done = True
        for which, opener in enumerate(self._openers):
            opened, number = opener.opened, self._next[which]
            while number < opened:
                self._await(opener, number)
                number += self._every
            self._next[which] = number
            done = done and opened == opener.count
        return done

    def _await(self, opener: Opener, number: int) -> None:
        others = [waiting for view, waiting in self._waiting if view.host != opener.host]
        awaited = Awaited(opener, number, opener.key(number), opener.at(number), len(others))
        for waiting in others:
            waiting.append(awaited)

    def _look(self, view: HostView, waiting: list[Awaited]) -> None:
        """Asks a host's table for sessions that it is to get, those behind next time."""
        asked = waiting[:LOOK_MAX]
        if not asked:
            return
        found = view.table.find_burst(b"".join(one.key for one in asked))
        now = time.monotonic_ns()
        absent: list[Awaited] = []
        for one, owner in zip(asked, found, strict=True):
            if owner == one.opener.host:
                self._note(one, now)
            elif one.opener.has_closed(one.number):
                self.seen.missing += 1
            else:
                absent.append(one)
        waiting[:] = waiting[LOOK_MAX:] + absent

    def _note(self, one: Awaited, now: int) -> None:
        delay = (now - one.accepted_at) / NS_PER_MS
        self.seen.delays.append(delay)
        one.left -= 1
        if one.left == 0:
            self.seen.last.append(delay)
            self.seen.begun.append(one.accepted_at)

    def run(self) -> Seen:
        """Until every session is everywhere, or nothing new comes any more."""
        gc.disable()  # a collection is a gap
        try:
            self._run()
        finally:
            gc.enable()
        self.seen.missing += sum(len(waiting) for _, waiting in self._waiting)
        return self.seen

    def _run(self) -> None:
        got, quiet_since = 0, time.monotonic_ns()
        looked_at = quiet_since
        while True:
            done = self._take_in()
            for view, waiting in self._waiting:
                self._look(view, waiting)
            now = time.monotonic_ns()
            self.seen.gaps.append((now - looked_at) / NS_PER_MS)
            looked_at = now
            if done and not any(waiting for _, waiting in self._waiting):
                return
            if len(self.seen.delays) != got or not done:
                got, quiet_since = len(self.seen.delays), now
            elif now - quiet_since > GIVE_UP_NS:
                return
            for opener in self._openers:
                opener.check()
            time.sleep(self._pause_s)
