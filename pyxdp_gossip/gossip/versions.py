# SPDX-License-Identifier: BSD-2-Clause
"""Which version of the wire format each datagram is written in, so that its readers can read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import IncompatibleHost
from pyxdp_gossip.gossip.member import Start
from pyxdp_gossip.gossip.membership import MEMBERS_MAX, Roster
from pyxdp_gossip.gossip.messages import Heartbeat, Versions
from pyxdp_gossip.gossip.outbox import Destination, Reach
from pyxdp_gossip.gossip.rates import NS_PER_S
from pyxdp_gossip.gossip.wire import Header

NAMED_AFTER = NS_PER_S  # of nothing but unreadable: before, it may not have heard of this host yet


def pick_version(own: Versions, others: Iterable[Versions | None]) -> int:
    """The version for datagrams to several hosts: the highest that all of them read.

    Args:
        own: what this host reads, and therefore writes.
        others: what each of them reads; None where that is not known yet.

    Returns:
        If somebody's versions are not known, or there is nobody, the lowest instead; if no
        version is read by all, one that most of them read.
    """
    known = list(others)
    readers = {
        version: sum(versions is not None and version in versions for versions in known)
        for version in own.all()
    }
    fit = [version for version, count in readers.items() if count == max(readers.values())]
    return fit[0] if None in known or not known else fit[-1]


@dataclass(slots=True)
class _Unreadable:
    start: Start
    since: int


class Negotiation:
    """What this host writes in, and who cannot be understood.

    A host that reads no version that all active members read is not taken in. Each such start, and
    each that is heard but cannot be read, is named once.

    Args:
        hindered: told that there is a host that this one cannot understand.
    """

    def __init__(
        self,
        own: Versions,
        roster: Roster,
        tally: Tally,
        emit: Callable[[IncompatibleHost], None],
        hindered: Callable[[], None],
    ) -> None:
        self._own = own
        self._roster = roster
        self._tally = tally
        self._emit = emit
        self._hindered = hindered
        self._last: dict[Reach, int] = {}  # where from → version of the last datagram
        self._unreadable: dict[int, _Unreadable] = {}
        self._named: dict[int, Start] = {}

    def version_for(self, destination: Destination) -> int:
        """The group's; or the one in which a host wrote last, which it reads for sure."""
        if self._own.lowest == self._own.highest:
            return self._own.lowest
        last = None if destination is None else self._last.get(destination)
        if last is not None:
            return last
        active = (member for member in self._roster if member.state.active)
        return pick_version(self._own, (member.versions for member in active))

    def heard(self, header: Header, reach: Reach) -> None:
        """Note an authentic datagram that this host reads."""
        if self._own.lowest == self._own.highest and not self._unreadable:
            return
        member = self._roster.get(header.sender)
        if member is not None and header.incarnation < member.incarnation:
            return  # recorded: it says nothing of what the host reads now
        self._unreadable.pop(header.sender, None)
        if self._own.lowest == self._own.highest:
            return
        self._last.pop(reach, None)
        if len(self._last) >= MEMBERS_MAX:
            del self._last[next(iter(self._last))]
        self._last[reach] = header.version

    def refused(self, header: Header, reach: Reach, now: int) -> None:
        """Note an authentic datagram of a version that this host does not read."""
        start = Start(header.sender, header.incarnation, header.salt)
        member = self._roster.get(header.sender)
        if member is not None and header.incarnation < member.incarnation:
            return
        self._hindered()
        noted = self._unreadable.get(header.sender)
        if noted is None or noted.start != start:
            if noted is None and len(self._unreadable) >= MEMBERS_MAX:
                return
            self._unreadable[header.sender] = _Unreadable(start, now)
        elif now - noted.since >= NAMED_AFTER:
            self._name(start, Versions(header.version, header.version), reach)

    def admits(self, start: Start, beat: Heartbeat, reach: Reach) -> bool:
        """Whether a newcomer reads what all active members read; names it if not."""
        if self._own.lowest == self._own.highest and self._own.lowest in beat.versions:
            return True  # what every member reads that this host took in
        active = (member for member in self._roster if member.state.active)
        common: Versions | None = self._own
        for member in active:
            if common is not None and member.host != start.host and member.versions is not None:
                common = common & member.versions
        if common is None or common & beat.versions is not None:
            return True  # the members themselves do not understand each other: nothing to keep
        self._tally.add("incompatible_host")
        self._hindered()
        self._name(start, beat.versions, reach)
        return False

    def _name(self, start: Start, theirs: Versions, reach: Reach) -> None:
        known = self._named.get(start.host)
        if known == start or (known is None and len(self._named) >= MEMBERS_MAX):
            return
        self._named[start.host] = start
        self._emit(IncompatibleHost(start.host, reach, theirs, self._own))
