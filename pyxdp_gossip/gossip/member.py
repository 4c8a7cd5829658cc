# SPDX-License-Identifier: BSD-2-Clause
"""Another host as this one knows it, and how its state changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.gossip.messages import Versions
from pyxdp_gossip.gossip.sequence import BatchSequence
from pyxdp_gossip.session import Address, Service


class Signal(Enum):
    """What is learned about a member."""

    HEARD = auto()
    DRAINS = auto()
    RESTARTED = auto()
    MISSED = auto()
    ANSWERED = auto()
    CONDEMNED = auto()
    LEFT = auto()


_S = MemberState
TALKING = (_S.ALIVE, _S.DRAINING)
TRANSITIONS: dict[tuple[MemberState, Signal], MemberState] = {
    (_S.ALIVE, Signal.DRAINS): _S.DRAINING,
    (_S.ALIVE, Signal.MISSED): _S.SUSPECT,
    (_S.ALIVE, Signal.LEFT): _S.LEFT,
    (_S.DRAINING, Signal.MISSED): _S.SUSPECT,
    (_S.DRAINING, Signal.LEFT): _S.LEFT,
    (_S.DRAINING, Signal.RESTARTED): _S.ALIVE,
    (_S.SUSPECT, Signal.HEARD): _S.ALIVE,
    (_S.SUSPECT, Signal.RESTARTED): _S.ALIVE,
    (_S.SUSPECT, Signal.ANSWERED): _S.SILENT,
    (_S.SUSPECT, Signal.CONDEMNED): _S.DEAD,
    (_S.SUSPECT, Signal.LEFT): _S.LEFT,
    (_S.SILENT, Signal.HEARD): _S.ALIVE,
    (_S.SILENT, Signal.RESTARTED): _S.ALIVE,
    (_S.SILENT, Signal.CONDEMNED): _S.DEAD,
    (_S.SILENT, Signal.LEFT): _S.LEFT,
    (_S.DEAD, Signal.HEARD): _S.ALIVE,
    (_S.DEAD, Signal.RESTARTED): _S.ALIVE,
    # A datagram that was overtaken by its sender's LEAVE does not bring it back.
    (_S.LEFT, Signal.RESTARTED): _S.ALIVE,
}
"""What is not here changes nothing."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a host's agent."""

    host: int
    incarnation: int
    salt: int


@dataclass(slots=True)
class Member:
    """Another host as this one knows it. `reach` is where its gossip comes from."""

    host: int
    incarnation: int
    address: Address
    tunnel_port: int
    state: MemberState
    heard_at: int
    salt: int | None = None  # of its start; None: known by hearsay only
    reach: tuple[str, int] | None = None
    established: bool = False  # it says that its own join ended
    versions: Versions | None = None  # of the wire format that it reads; None: not heard yet
    sessions: int = 0  # that it says it has
    has_shard: bool = False  # all its sessions came once
    has_previous: bool = False  # entries of its incarnation before still count
    generation: int | None = None  # of its services; None: not heard yet
    services: dict[int, Service] = field(default_factory=dict)
    translation: bytes = b""
    knows_all: bool = True  # this host has all of its services
    misses_services: bool = False  # records were lost because a service is unknown
    batches: BatchSequence = field(default_factory=BatchSequence)
    keeps_closed: bool = False  # the codec keeps what it closed: an older OPEN may still come
    unanswered: int = 0
    nonces: tuple[int, ...] = ()
    probe_at: int = 0
    found_dead: bool = False  # by this host; the others are asked for theirs
    accusers: dict[int, int] = field(default_factory=dict)  # host → when it accused last

    @property
    def talks(self) -> bool:
        """Whether its agent can be expected to answer."""
        return self.state in TALKING

    def acquit(self) -> None:
        """Something was heard of it: all that spoke against it is void."""
        self.unanswered = 0
        self.found_dead = False
        self.accusers.clear()

    def start_over(self) -> None:
        """Nothing of its log is known: another incarnation, or back from the dead."""
        self.has_shard = False
        self.batches = BatchSequence()
