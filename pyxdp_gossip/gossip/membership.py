# SPDX-License-Identifier: BSD-2-Clause
"""Who is in the POP: heartbeats, suspicion, probes and incarnations of the other hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from pyxdp_gossip.config import Timing
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import MemberChanged, MemberState, OutgoingEvent, ProbeWanted
from pyxdp_gossip.gossip.messages import Heartbeat, HostState, MemberEntry
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S
from pyxdp_gossip.gossip.records import OwnerStates
from pyxdp_gossip.gossip.sequence import BatchSequence
from pyxdp_gossip.session import Address, Service

MEMBERS_MAX = 256  # hosts of one POP that this one follows
NONCES_KEPT = 8  # an answer may come late by so many probes
STALLED_AFTER = 3  # heartbeats without being run: one is normal, two more say starved
NONCE_MASK = (1 << 64) - 1


class Signal(Enum):
    """What is learned about a member."""

    HEARD = auto()
    DRAINS = auto()
    RESTARTED = auto()
    MISSED = auto()
    ANSWERED = auto()
    UNANSWERED = auto()
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
    (_S.SUSPECT, Signal.UNANSWERED): _S.DEAD,
    (_S.SUSPECT, Signal.LEFT): _S.LEFT,
    (_S.SILENT, Signal.HEARD): _S.ALIVE,
    (_S.SILENT, Signal.RESTARTED): _S.ALIVE,
    (_S.SILENT, Signal.UNANSWERED): _S.DEAD,
    (_S.SILENT, Signal.LEFT): _S.LEFT,
    (_S.DEAD, Signal.HEARD): _S.ALIVE,
    (_S.DEAD, Signal.RESTARTED): _S.ALIVE,
    # A datagram that was overtaken by its sender's LEAVE does not bring it back.
    (_S.LEFT, Signal.RESTARTED): _S.ALIVE,
}
"""What is not here changes nothing."""


@dataclass(slots=True)
class Member:
    """Another host as this one knows it. `reach` is where its gossip comes from."""

    host: int
    incarnation: int
    address: Address
    tunnel_port: int
    state: MemberState
    heard_at: int
    reach: tuple[str, int] | None = None
    has_shard: bool = False  # all its sessions came once
    has_previous: bool = False  # entries of its incarnation before still count
    candidate: tuple[int, int] | None = None  # a newer incarnation, and when it was first heard
    generation: int | None = None  # of its services; None: not heard yet
    services: dict[int, Service] = field(default_factory=dict)
    translation: bytes = b""
    misses_services: bool = False  # records were lost because a service is unknown
    batches: BatchSequence = field(default_factory=BatchSequence)
    unanswered: int = 0
    nonces: tuple[int, ...] = ()
    probe_at: int = 0

    @property
    def talks(self) -> bool:
        """Whether its agent can be expected to answer."""
        return self.state in TALKING


class Roster:
    """All members, and the timers that find out about them.

    Args:
        host: this host's id.
        owners: told which hosts may own sessions, and whose entries are void.
        nonce_base: random start of the probes' nonces, 64 bits.
        emit: takes events for the caller.
        arrived: called with a member that is new, restarted or back: its sessions are unknown.
    """

    def __init__(
        self,
        host: int,
        owners: OwnerStates,
        timing: Timing,
        tally: Tally,
        nonce_base: int,
        emit: Callable[[OutgoingEvent], None],
        arrived: Callable[[Member, int], None],
    ) -> None:
        self._host = host
        self._owners = owners
        self._tally = tally
        self._emit = emit
        self._arrived = arrived
        self._nonce = nonce_base
        self._members: dict[int, Member] = {}
        self._listening_since = 0
        heartbeat = timing.heartbeat_ms * NS_PER_MS
        self._suspect_after = heartbeat * timing.suspect_after
        self._hold = heartbeat + heartbeat // 2
        self._probe_interval = timing.probe_interval_ms * NS_PER_MS
        self._silent_interval = timing.silent_probe_interval_ms * NS_PER_MS
        self._probe_attempts = timing.probe_attempts
        self._grace = timing.linger_s * NS_PER_S
        self._left_at: int | None = None

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, host: int) -> Member | None:
        """A member that was ever heard, in any state."""
        return self._members.get(host)

    def active(self) -> set[int]:
        """The hosts that may own sessions."""
        return {member.host for member in self if member.state.active}

    def view(self) -> int:
        """64 bits that name the hosts that may own sessions, this one included."""
        ids = b"".join(host.to_bytes(2, "big") for host in sorted(self.active() | {self._host}))
        return int.from_bytes(hashlib.sha256(ids).digest()[:8], "big")

    def has_quorum(self, now: int) -> bool:
        """Whether this host and its active members can speak for the POP.

        They are at least two and more than half of all that did not leave; and nobody left a
        moment ago, whose sockets may live on without an agent.
        """
        if self._left_at is not None and now - self._left_at < self._grace:
            return False
        present = sum(member.state is not MemberState.LEFT for member in self)
        active = len(self.active())
        return active > 0 and 2 * (active + 1) > present + 1

    # ---- hearing ----

    def hear(self, host: int, incarnation: int, reach: tuple[str, int], now: int) -> Member | None:
        """Note a sealed datagram; the member whose log it belongs to, or None to ignore it."""
        member = self._members.get(host)
        if member is None:
            return None
        if incarnation < member.incarnation:
            self._tally.add("old_incarnation")
            return None
        if incarnation > member.incarnation and not self._adopt(member, incarnation, now):
            self._tally.add("held_incarnation")
            return None
        member.heard_at = now
        member.reach = reach
        was = member.state
        self.signal(member, Signal.HEARD, now)
        return None if was is MemberState.LEFT and member.state is was else member

    def meet(
        self, host: int, incarnation: int, beat: Heartbeat, reach: tuple[str, int], now: int
    ) -> Member | None:
        """Take in a host that says for the first time where it is; None if there is no room."""
        member = Member(host, incarnation, beat.address, beat.tunnel_port, MemberState.ALIVE, now)
        member.reach = reach
        return self._take_in(member, now)

    def hearsay(self, entry: MemberEntry, now: int) -> None:
        """A member told of a host: if unknown, it is active, and found out about by probes."""
        if entry.host in self._members:
            return
        member = Member(
            *(entry.host, entry.incarnation, entry.address, entry.tunnel_port),
            *(MemberState.SUSPECT, now),
        )
        # Its heartbeats come first if its agent lives.
        member.probe_at = now + self._suspect_after
        self._take_in(member, now)

    def _take_in(self, member: Member, now: int) -> Member | None:
        if len(self._members) >= MEMBERS_MAX and not self._forget_one():
            self._tally.add("members_refused")
            return None
        self._members[member.host] = member
        self._owners.activate(member.host)
        self._tell(member)
        if member.talks:
            self._arrived(member, now)
        return member

    def _forget_one(self) -> bool:
        gone = [member for member in self if not member.state.active]
        if gone:
            del self._members[min(gone, key=lambda member: member.heard_at).host]
        return bool(gone)

    def _adopt(self, member: Member, incarnation: int, now: int) -> bool:
        """Switch to a newer incarnation, unless the known one is still heard.

        A restarted agent's predecessor is quiet. If both are heard, two hosts have one id: the
        elder tells the younger to stop, and until then nobody follows the younger.
        """
        if member.candidate is None or member.candidate[0] != incarnation:
            member.candidate = (incarnation, now)
        quiet_since = max(member.candidate[1], member.heard_at)
        if member.talks and now - quiet_since < self._hold:
            return False
        if member.state.active:
            self._owners.new_epoch(member.host)
        member.has_previous = member.state.active
        member.has_shard = False
        member.incarnation = incarnation
        member.candidate = None
        member.batches = BatchSequence()
        member.generation = None
        member.services = {}
        member.heard_at = now
        talked = member.talks
        self.signal(member, Signal.RESTARTED, now)
        if talked:  # else signal() called it
            self._arrived(member, now)
        return True

    def beat(self, member: Member, beat: Heartbeat, now: int) -> None:
        """Take in what a member says of itself."""
        if (beat.address, beat.tunnel_port) != (member.address, member.tunnel_port):
            member.address, member.tunnel_port = beat.address, beat.tunnel_port
            self._tell(member)
        if beat.state is HostState.DRAINING:
            self.signal(member, Signal.DRAINS, now)
        self._tally.add("batches_missed", member.batches.reach(beat.last_batch))

    def complete(self, member: Member) -> None:
        """All of its sessions are known: what only its earlier incarnation claimed is void."""
        member.has_shard = True
        if member.has_previous:
            member.has_previous = False
            self._owners.drop_previous(member.host)

    # ---- changing ----

    def signal(self, member: Member, signal: Signal, now: int) -> None:
        """Move a member by the table, and tell whoever must know."""
        before = member.state
        after = TRANSITIONS.get((before, signal))
        if after is None:
            return
        member.state = after
        if after is MemberState.LEFT:
            self._left_at = now
        member.unanswered = 0
        member.probe_at = now
        if before.active and not after.active:
            self._owners.void(member.host)
            self._owners.deactivate(member.host)
            member.has_previous = member.has_shard = False
        elif after.active and not before.active:
            self._owners.activate(member.host)
        self._tell(member)
        if member.talks and before not in TALKING and not member.has_shard:
            self._arrived(member, now)

    def _tell(self, member: Member) -> None:
        self._emit(MemberChanged(member.host, member.state, member.address, member.tunnel_port))

    # ---- timers ----

    def listen_again(self, now: int) -> None:
        """This agent was not run: nobody is suspected for what it could not hear."""
        self._listening_since = now
        for member in self:
            if member.state in (MemberState.SUSPECT, MemberState.SILENT):
                member.unanswered = 0
                member.probe_at = now

    def next_timer(self) -> int | None:
        """When a heartbeat is missed or a probe is due, in ns."""
        times = (self._due(member) for member in self if member.state.active)
        return min(times, default=None)

    def _due(self, member: Member) -> int:
        if member.talks:
            return max(member.heard_at, self._listening_since) + self._suspect_after
        return member.probe_at

    def handle_timer(self, now: int) -> None:
        """Suspect whoever was not heard, probe whoever is suspect."""
        for member in list(self):
            if not member.state.active or now < self._due(member):
                continue
            if member.talks:
                self.signal(member, Signal.MISSED, now)
            if member.unanswered >= self._probe_attempts:
                self.signal(member, Signal.UNANSWERED, now)
            else:
                self._probe(member, now)

    def _probe(self, member: Member, now: int) -> None:
        self._nonce = (self._nonce + 1) & NONCE_MASK
        member.nonces = (*member.nonces, self._nonce)[-NONCES_KEPT:]
        member.unanswered += 1
        member.probe_at = now + self._probe_interval
        self._tally.add("probes_wanted")
        self._emit(ProbeWanted(member.host, member.address, member.tunnel_port, self._nonce))

    def probe_answered(self, host: int, nonce: int, now: int) -> None:
        """The host's XDP program is at work: its sessions stay."""
        member = self._members.get(host)
        if member is None or member.talks or nonce not in member.nonces:
            return
        member.nonces = ()
        self.signal(member, Signal.ANSWERED, now)
        member.unanswered = 0
        member.probe_at = now + self._silent_interval
