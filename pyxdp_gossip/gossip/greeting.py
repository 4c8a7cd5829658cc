# SPDX-License-Identifier: BSD-2-Clause
"""Answers HELLOs: who this host is, whom it knows, and what its services are."""

from __future__ import annotations

from collections.abc import Callable

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.membership import MEMBERS_MAX, Roster
from pyxdp_gossip.gossip.messages import Heartbeat, Hello, MemberEntry, Members, Welcome
from pyxdp_gossip.gossip.outbox import Outbox, Reach
from pyxdp_gossip.gossip.rates import BucketPerName
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.gossip.wire import DatagramType, Header
from pyxdp_gossip.timing import Timing


class Greeter:
    """Sends the WELCOME that a HELLO asks for.

    Args:
        heartbeat: makes a heartbeat of this moment.
    """

    def __init__(
        self,
        roster: Roster,
        dictionary: Dictionary,
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
        heartbeat: Callable[[], Heartbeat],
    ) -> None:
        self._roster = roster
        self._dictionary = dictionary
        self._outbox = outbox
        self._tally = tally
        self._heartbeat = heartbeat
        rate = timing.hellos_per_s
        self._answers = BucketPerName(rate, rate, MEMBERS_MAX)

    def welcome(self, hello: Hello, header: Header, reach: Reach, now: int) -> bool:
        """Answer one start of a host, known here or not: the answer says nothing secret to it.

        Returns:
            False: it had many answers a moment ago, and gets none.
        """
        # Of a start, so that recordings of one that is over do not use up the next one's.
        if not self._answers.take((header.sender, header.incarnation, header.salt), now):
            self._tally.add("hellos_refused")
            return False
        others = self._others(header.sender) if hello.members else []
        welcome = Welcome(hello.request, header.sender, header.incarnation)
        step = self._outbox.room.members
        for start in range(0, max(len(others), 1), step):
            part = tuple(others[start : start + step])
            known = (Members(part),) if part else ()
            sections = (self._heartbeat(), welcome, *known)
            self._outbox.put(reach, DatagramType.MEMBERSHIP, *sections)
        self.tell_services(reach)
        return True

    def _others(self, asker: int) -> list[MemberEntry]:
        return [
            MemberEntry(other.host, other.tunnel_port, other.incarnation, other.address)
            for other in self._roster
            if other.state.active and other.host != asker
        ]

    def tell_services(self, reach: Reach | None) -> None:
        """This host's dictionary, to a place or to the group."""
        for services in self._dictionary.parts(self._outbox.room.services):
            self._outbox.put(reach, DatagramType.MEMBERSHIP, services)
