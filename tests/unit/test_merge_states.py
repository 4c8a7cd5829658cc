# SPDX-License-Identifier: BSD-2-Clause
"""Two owners, one session, one observer: every state that loss, reordering and restarts can reach.

Breadth first over the C merge by way of `OwnershipLog`, with the real `BatchSequence` before it. A
state is rebuilt from the shortest way to it. In each one the table must show what the plain model
says; and from each one, whatever was lost, the digest and a pull must lead to the truth.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from test_merge import CLOSE, LINGER, ONE, OPEN, Model, Observer, Said, key_of

from pyxdp_gossip.gossip.sequence import Arrival, BatchSequence

BITMAP = b"\xff\xff"  # all 16 buckets
FIRST, AGAIN, OTHER = 1000, 77, 2000  # the salts of owner 4's two starts, and of owner 5's

Action = tuple[str, int, int]


@dataclass(frozen=True)
class Bounds:
    """How far the exploration goes: batches of a start, and pulls beside those of a restart."""

    batches: dict[int, int]
    pulls: dict[int, int]
    states: int


@dataclass
class Owner:
    """The truth: what a host says of the session, batch by batch, since its present start."""

    salt: int
    log: list[tuple[int, int]] = field(default_factory=list)  # kind and clock
    is_open: bool = False

    def say(self, kind: int, clock: int) -> None:
        self.log.append((kind, clock if kind == OPEN else 0))
        self.is_open = kind == OPEN


@dataclass
class Pull:
    """A shard on its way: as of which position, and whether the session is in it."""

    position: int
    has_it: bool
    whole: bool  # of a start that is new: no buckets are pruned


@dataclass
class Follower:
    """What the observer has of an owner's log; as `Receiver` and `Join` do it."""

    salt: int
    batches: BatchSequence = field(default_factory=BatchSequence)
    heard: set[int] = field(default_factory=set)
    pull: Pull | None = None
    pulls: int = 0
    taken: tuple[tuple[int, bool], ...] = ()  # pulls that came: position and what was in them
    keeps: bool = False
    incomplete: bool = False  # entries of the start before still count


class World:
    """Owners, observer and network after some actions."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.owners = {4: Owner(FIRST), 5: Owner(OTHER)}
        self.observer = emptied(_OBSERVER)
        self.followers = {4: Follower(FIRST), 5: Follower(OTHER)}
        self.model = Model()
        self.opened = 0  # OPENs so far, of both: their clock
        for follower in self.followers.values():
            follower.batches.reach(0)

    # ---- what can happen ----

    def actions(self) -> list[Action]:
        found: list[Action] = []
        for number, owner in self.owners.items():
            follower = self.followers[number]
            if len(owner.log) < self.bounds.batches[number]:
                kinds = (CLOSE, LINGER) if owner.is_open else (OPEN,)
                found += [("say", number, kind) for kind in kinds]
            if follower.salt != owner.salt:
                found.append(("follow", number, 0))
                continue
            found += [("hear", number, batch) for batch in range(1, len(owner.log) + 1)]
            if follower.batches.missing:
                found.append(("give up", number, 0))
            if follower.pull is None and follower.pulls < self.bounds.pulls[number]:
                found.append(("ask", number, 0))
            if follower.pull is not None:
                found.append(("get", number, 0))
        if self.owners[4].salt == FIRST and self.owners[4].log:
            found += [
                ("restart", 4, keeps) for keeps in ((0, 1) if self.owners[4].is_open else (0,))
            ]
        return found

    def act(self, action: Action) -> None:
        what, number, argument = action
        _ACTIONS[what](self, number, argument)
        follower = self.followers[number]
        if follower.keeps and not follower.batches.missing and follower.pull is None:
            follower.keeps = False
            self.observer.log.drop_closed(number)
        said = self.model.said.get(ONE, {}).get(number)
        if said is not None and said[1] == CLOSE and not follower.keeps:
            del self.model.said[ONE][number]

    def _say(self, number: int, kind: int) -> None:
        self.opened += kind == OPEN
        self.owners[number].say(kind, self.opened)

    def _hear(self, number: int, batch: int) -> None:
        follower = self.followers[number]
        arrival, missed = follower.batches.arrive(batch)
        follower.keeps = follower.keeps or missed > 0
        if arrival is Arrival.REPEATED:
            return
        follower.heard.add(batch)
        kind, clock = self.owners[number].log[batch - 1]
        self._enter(number, batch, kind, clock)

    def _enter(self, number: int, position: int, kind: int, clock: int) -> None:
        said = Said(number, ONE, position, kind, clock)
        self.model.hear(said)
        self.observer.hear(said, self.followers[number].keeps)

    def _give_up(self, number: int, _: int) -> None:
        batches = self.followers[number].batches
        batches.give_up(max(batches.missing) + 1)

    def _ask(self, number: int, _: int) -> None:
        self.followers[number].pulls += 1
        self._pull(number, whole=False)

    def _pull(self, number: int, *, whole: bool) -> None:
        owner, follower = self.owners[number], self.followers[number]
        follower.pull = Pull(len(owner.log), owner.is_open, whole)
        follower.keeps = True

    def _get(self, number: int, _: int) -> None:
        follower = self.followers[number]
        pull, follower.pull = follower.pull, None
        assert pull is not None
        follower.taken += ((pull.position, pull.has_it),)
        if pull.has_it:
            self._enter(number, pull.position, OPEN, 0)
        if pull.whole:
            follower.incomplete = False
            self.observer.owners.drop_previous(number)
            self.observer.log.settle()
            return
        self.observer.log.prune(number, BITMAP, pull.position)
        said = self.model.said.get(ONE, {}).get(number)
        if said is not None and said[1] == OPEN and said[0] < pull.position:
            del self.model.said[ONE][number]

    def _restart(self, number: int, keeps: int) -> None:
        """Whether the socket outlived its agent."""
        self.owners[number] = Owner(AGAIN)
        if keeps:
            self._say(number, OPEN)

    def _follow(self, number: int, _: int) -> None:
        owner, before = self.owners[number], self.followers[number]
        follower = self.followers[number] = Follower(owner.salt, pulls=before.pulls)
        follower.incomplete = True
        follower.batches.reach(len(owner.log))
        self.model.said.get(ONE, {}).pop(number, None)
        self.observer.owners.new_epoch(number)
        self.observer.log.begin_owner(number, owner.salt)
        self._pull(number, whole=True)

    # ---- what must hold ----

    def key(self) -> object:
        """Two ways with one key lead to the same: all of the world, and all that C shows."""
        entry = self.observer.tables[4].get(_KEY)
        shown = entry and (entry.owner, entry.flags, entry.position, entry.opened_at)
        return (
            *(self._key_of(number) for number in self.owners),
            *(shown, self.observer.log.statements),
        )

    def _key_of(self, number: int) -> object:
        owner, follower = self.owners[number], self.followers[number]
        pull = follower.pull
        return (
            *(owner.salt, tuple(owner.log), owner.is_open, follower.salt),
            *(follower.batches.highest, frozenset(follower.batches.missing)),
            *(frozenset(follower.heard), follower.taken, follower.pulls, follower.incomplete),
            pull and (pull.position, pull.has_it, pull.whole),
            self.observer.log.digest(number),
        )

    def check(self) -> None:
        """The table shows what the model says, as long as no earlier start's entries count."""
        if not any(follower.incomplete for follower in self.followers.values()):
            assert self.observer.view() == self.model.view()

    def repair(self) -> None:
        """What is on its way is lost; a heartbeat of each owner, and what comes of it."""
        for number, owner in self.owners.items():
            follower = self.followers[number]
            if follower.salt != owner.salt:
                self.act(("follow", number, 0))
                follower = self.followers[number]
            if follower.pull is not None and follower.pull.whole:
                self._pull(number, whole=True)
                self.act(("get", number, 0))
            follower.batches.reach(len(owner.log))
            if follower.batches.missing:
                self.act(("give up", number, 0))
            if self.observer.log.digest(number) != digest_of(number, owner):
                self._pull(number, whole=False)
                self.act(("get", number, 0))
            assert self.observer.log.digest(number) == digest_of(number, owner), number

    def check_truth(self) -> None:
        """Who holds the session owns it; of two, one; what nobody holds may linger."""
        holders = {number for number, owner in self.owners.items() if owner.is_open}
        shown = self.observer.view().get(ONE)
        if holders:
            assert shown is not None
            assert shown[0] in holders
            assert not shown[1]
        elif shown is not None:
            kinds = [kind for kind, _ in self.owners[shown[0]].log]
            assert shown[1]
            assert kinds[-1:] == [LINGER]


_KEY = key_of(ONE)
_OBSERVER = Observer(statements=8, buckets=2)
_ACTIONS = {
    "say": World._say,
    "hear": World._hear,
    "give up": World._give_up,
    "ask": World._ask,
    "get": World._get,
    "restart": World._restart,
    "follow": World._follow,
}


def digest_of(number: int, owner: Owner) -> tuple[int, int]:
    """What the owner's heartbeat says."""
    name = (number, owner.salt, owner.is_open)
    if name not in _digests:
        fresh = Observer(statements=8, buckets=2)
        fresh.log.begin_owner(number, owner.salt)
        if owner.is_open:
            fresh.hear(Said(number, ONE, 1, OPEN, 1))
        _digests[name] = fresh.log.digest(number)
    return _digests[name]


_digests: dict[tuple[int, int, bool], tuple[int, int]] = {}


def emptied(observer: Observer) -> Observer:
    """As new; making one costs more than all that is done with it."""
    observer.tables[4].remove(_KEY)
    for number, salt in ((4, FIRST), (5, OTHER)):
        observer.owners.void(number)
        observer.log.forget_owner(number)
        observer.log.begin_owner(number, salt)
    assert (observer.view(), observer.log.statements) == ({}, 0)
    return observer


def reached(bounds: Bounds, way: tuple[Action, ...]) -> World:
    world = World(bounds)
    for action in way:
        world.act(action)
    return world


def explore(bounds: Bounds) -> Counter[str]:
    """All states, breadth first; raises with the shortest way to what is wrong."""
    counts: Counter[str] = Counter()
    start = World(bounds)
    seen = {start.key()}
    ways: deque[tuple[tuple[Action, ...], list[Action]]] = deque([((), start.actions())])
    while ways:
        way, actions = ways.popleft()
        for action in actions:
            here = (*way, action)
            world = reached(bounds, here)
            counts["steps"] += 1
            key = world.key()
            if key in seen:
                continue
            seen.add(key)
            assert len(seen) <= bounds.states, "more states than were thought of"
            ways.append((here, world.actions()))
            try:
                world.check()
                world.repair()
                world.check_truth()
            except AssertionError as error:
                raise AssertionError(f"after {here}: {error}") from error
    counts["states"] = len(seen)
    return counts


LONG = Bounds({4: 3, 5: 2}, {4: 0, 5: 0}, 22_535)
PULLING = Bounds({4: 2, 5: 2}, {4: 1, 5: 0}, 17_327)


@pytest.mark.parametrize("bounds", [LONG, PULLING], ids=["long logs", "a pull at any time"])
def test_every_state_shows_what_was_heard_and_is_repaired_to_the_truth(bounds: Bounds) -> None:
    counts = explore(bounds)
    assert counts["states"] == bounds.states
    assert counts["steps"] > 4 * bounds.states
