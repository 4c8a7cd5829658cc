# SPDX-License-Identifier: BSD-2-Clause
"""Agents' starts that did not prove yet that they run now: a recorded datagram proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.member import Member, Start
from pyxdp_gossip.gossip.membership import MEMBERS_MAX, Roster
from pyxdp_gossip.gossip.messages import Heartbeat, Hello, Message, Welcome
from pyxdp_gossip.gossip.outbox import Reach
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S
from pyxdp_gossip.gossip.wire import Header
from pyxdp_gossip.timing import Timing

FORGOTTEN_AFTER = 3 * NS_PER_S  # unproven for so long: a recording, or a host that is gone again


@dataclass(slots=True)
class Newcomer:
    """One start of a host's agent, as far as it was heard."""

    start: Start
    since: int
    beat: Heartbeat | None = None
    proven: bool = False
    challenged_at: int | None = None
    refused: bool = False  # it reads no version that the members read
    wanted: int | None = None  # it asked for this host's shard, under this request


class Newcomers:
    """Challenges each start that is new here; it becomes a member by its answer.

    The challenge is a HELLO with a request that nobody could know before; the answer is a WELCOME
    to it, for this very start of this host.

    Args:
        challenge: sends a HELLO to where a start was heard.
        answers: whether a WELCOME answers a HELLO of this start.
        admits: whether a start reads what the members read.
    """

    def __init__(
        self,
        roster: Roster,
        timing: Timing,
        tally: Tally,
        challenge: Callable[[Reach], None],
        answers: Callable[[Welcome], bool],
        admits: Callable[[Start, Heartbeat, Reach], bool],
    ) -> None:
        self._roster = roster
        self._tally = tally
        self._challenge = challenge
        self._answers = answers
        self._admits = admits
        self._interval = timing.hello_interval_ms * NS_PER_MS
        self._known: dict[int, Newcomer] = {}

    def hear(
        self, header: Header, messages: list[Message], reach: Reach, now: int
    ) -> tuple[Member | None, int | None]:
        """Take in a datagram of a start that is not followed yet.

        Returns:
            The member, once the start proved itself; and the request under which it wants this
            host's shard, if it said so before.
        """
        newcomer = self._note(header, messages, now)
        if newcomer is None:
            return None, None
        if newcomer.beat is None or str(newcomer.beat.address) != reach[0]:
            self._tally.add("wrong_source")  # or it did not say yet where it is
            return None, None
        newcomer.refused = not self._admits(newcomer.start, newcomer.beat, reach)
        if newcomer.refused:
            return None, None
        if not newcomer.proven:
            self._tally.add("unproven")
            due = newcomer.challenged_at is None or now - newcomer.challenged_at >= self._interval
            if due:
                newcomer.challenged_at = now
                self._challenge(reach)
            return None, None
        member = self._roster.get(header.sender)
        if member is not None and self._roster.holds(member, newcomer.since, now):
            self._tally.add("held_incarnation")
            return None, None
        del self._known[header.sender]
        if member is None:
            member = self._roster.meet(newcomer.start, newcomer.beat, reach, now)
        else:
            self._roster.adopt(member, newcomer.start, reach, now)
        return member, newcomer.wanted

    def refuses(self, host: int) -> bool:
        """Whether nothing may be answered to a host's newcomer."""
        newcomer = self._known.get(host)
        return newcomer is not None and newcomer.refused

    def _forget(self, now: int) -> None:
        """Whoever did not prove itself in time makes room; the oldest come first."""
        while self._known:
            host, oldest = next(iter(self._known.items()))
            if oldest.proven or now - oldest.since < FORGOTTEN_AFTER:
                return
            del self._known[host]

    def _note(self, header: Header, messages: list[Message], now: int) -> Newcomer | None:
        self._forget(now)
        newcomer = self._known.get(header.sender)
        start = Start(header.sender, header.incarnation, header.salt)
        if newcomer is None or newcomer.start != start:
            if newcomer is not None and newcomer.start.incarnation > header.incarnation:
                self._tally.add("old_incarnation")
                return None
            if newcomer is None and len(self._known) >= MEMBERS_MAX:
                self._tally.add("members_refused")
                return None
            self._known.pop(header.sender, None)  # the newest stand at the end
            newcomer = self._known[header.sender] = Newcomer(start, now)
        for message in messages:
            if isinstance(message, Heartbeat):
                newcomer.beat = message
            elif isinstance(message, Welcome):
                newcomer.proven = newcomer.proven or self._answers(message)
            elif isinstance(message, Hello) and message.pull:
                newcomer.wanted = message.request
        return newcomer
