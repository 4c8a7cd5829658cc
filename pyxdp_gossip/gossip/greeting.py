# SPDX-License-Identifier: BSD-2-Clause
"""Answers HELLOs: who this host is, whom it knows, and what its services are."""

from __future__ import annotations

from collections.abc import Callable

from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import Heartbeat, Hello, MemberEntry, Members, Welcome
from pyxdp_gossip.gossip.outbox import Outbox, Reach
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.gossip.wire import DatagramType, Header


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
        heartbeat: Callable[[], Heartbeat],
    ) -> None:
        self._roster = roster
        self._dictionary = dictionary
        self._outbox = outbox
        self._heartbeat = heartbeat

    def welcome(self, hello: Hello, header: Header, reach: Reach) -> None:
        """Answer one start of a host, known here or not: the answer says nothing secret to it."""
        others = [
            MemberEntry(other.host, other.tunnel_port, other.incarnation, other.address)
            for other in self._roster
            if other.state.active and other.host != header.sender
        ]
        welcome = Welcome(hello.request, header.sender, header.incarnation)
        step = self._outbox.room.members
        for start in range(0, max(len(others), 1), step):
            part = tuple(others[start : start + step])
            known = (Members(part),) if part else ()
            sections = (self._heartbeat(), welcome, *known)
            self._outbox.put(reach, DatagramType.MEMBERSHIP, *sections)
        self.tell_services(reach)

    def tell_services(self, reach: Reach | None) -> None:
        """This host's dictionary, to a place or to the group."""
        for services in self._dictionary.parts(self._outbox.room.services):
            self._outbox.put(reach, DatagramType.MEMBERSHIP, services)
