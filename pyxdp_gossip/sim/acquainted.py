# SPDX-License-Identifier: BSD-2-Clause
"""Cores that know each other from the start, as if each had joined long ago: a join of many hosts
at once costs more than all that is simulated after it."""

from __future__ import annotations

from collections.abc import Mapping

from pyxdp_gossip.gossip.core import GossipCore
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.gossip.member import Member, Start
from pyxdp_gossip.gossip.messages import OURS
from pyxdp_gossip.session import Address, Service
from pyxdp_gossip.sim.host import SERVICES, address_of, name_of
from pyxdp_gossip.sim.pop import GOSSIP_PORT, Pop

GENERATION = 1  # of the first services that a host tells


def acquaint(
    core: GossipCore,
    start: Start,
    address: Address,
    reach: tuple[str, int],
    services: Mapping[int, Service],
    now: int,
) -> None:
    """Make a running start of another host, that has no sessions yet, a member that is followed.

    Its first heartbeat sets where its log begins, and completes it: an empty digest is equal.
    """
    roster, dictionary = core._roster, core._dictionary
    member = Member(
        *(start.host, start.incarnation, address, 6080, MemberState.ALIVE, now, start.salt, reach),
        established=True,
        versions=OURS,
        generation=GENERATION,
        services=dict(services),
        translation=dictionary.translate(services),
    )
    roster._members[start.host] = member
    roster._check_at = min(roster._check_at, roster._due(member))
    roster._owners.begin(start.host, start.salt)


def conclude(core: GossipCore) -> None:
    """The core's own join is over: it greets nobody, and says that it is active."""
    join = core._join
    join.synced = join.said = True
    join._hello_at = None


def acquaint_all(pop: Pop) -> None:
    """All hosts of a simulated POP whose agents were just started."""
    for host in pop.hosts.values():
        assert host.core is not None
        conclude(host.core)
        for other in pop.hosts.values():
            assert other.core is not None
            if other is not host:
                envelope = other.core._envelope
                start = Start(other.id, envelope.incarnation, envelope.salt)
                reach = name_of(other.id), GOSSIP_PORT
                acquaint(host.core, start, address_of(other.id), reach, SERVICES, pop.now)
        host.reach.update(pop.hosts)
