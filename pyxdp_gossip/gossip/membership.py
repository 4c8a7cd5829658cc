# SPDX-License-Identifier: BSD-2-Clause
"""Who is in the POP: heartbeats, suspicion, probes and incarnations of the other hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyxdp_gossip.digests import hmac_sha256, sha256
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import MemberChanged, MemberState, OutgoingEvent, ProbeWanted
from pyxdp_gossip.gossip.health import LocalHealth
from pyxdp_gossip.gossip.member import TALKING, TRANSITIONS, Member, Signal, Start
from pyxdp_gossip.gossip.messages import Accusation, Heartbeat, HostState, MemberEntry
from pyxdp_gossip.gossip.owners import Ownership
from pyxdp_gossip.gossip.rates import NS_PER_MS, NS_PER_S, OncePerInterval
from pyxdp_gossip.timing import Timing

MEMBERS_MAX = 1024  # hosts of one POP that this one follows
NONCES_KEPT = 8  # an answer may come late by so many probes
STALLED_AFTER = 3  # heartbeats without being run: one is normal, two more say starved
FAR = 1 << 62  # ns: later than any timer


class Roster:
    """All members, and the timers that find out about them.

    Args:
        host: this host's id.
        owners: told which hosts may own sessions, and whose entries are void.
        nonce_key: (32,) bytes that nobody outside the POP knows: probes cannot be answered before
            they were sent.
        emit: takes events for the caller.
        arrived: called with a member that is new, restarted or back: its sessions are unknown.
        accuse: sends an accusation to all.
    """

    def __init__(
        self,
        host: int,
        owners: Ownership,
        timing: Timing,
        tally: Tally,
        nonce_key: bytes,
        emit: Callable[[OutgoingEvent], None],
        arrived: Callable[[Member, int], None],
        accuse: Callable[[Accusation], None],
    ) -> None:
        self._host = host
        self._owners = owners
        self._tally = tally
        self._emit = emit
        self._arrived = arrived
        self._accuse = accuse
        self._nonce_key = nonce_key
        self._probes = 0
        self._members: dict[int, Member] = {}
        self._listening_since = 0
        heartbeat = timing.heartbeat_ms * NS_PER_MS
        self.health = LocalHealth(heartbeat)
        self._suspect_after = heartbeat * timing.suspect_after
        self._hold = heartbeat + heartbeat // 2
        self._probe_interval = timing.probe_interval_ms * NS_PER_MS
        self._silent_interval = timing.silent_probe_interval_ms * NS_PER_MS
        self._probe_attempts = timing.probe_attempts
        self._dead_alone = timing.dead_alone_ms * NS_PER_MS
        self._grace = timing.linger_s * NS_PER_S
        self._gone_at: int | None = None
        self._agreed = OncePerInterval(self._probe_interval, MEMBERS_MAX)
        self._check_at = FAR  # no member is due before; found anew whenever it is reached

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
        return int.from_bytes(sha256(ids)[:8], "big")

    def has_quorum(self, now: int) -> bool:
        """Whether this host and its active members can speak for the POP.

        They are at least two and more than half of all that did not leave; and nobody left or
        died a moment ago: sockets may live on without an agent, and a host that is cut off from
        all others looks dead to them while the router still reaches it.
        """
        if self._gone_at is not None and now - self._gone_at < self._grace:
            return False
        present = sum(member.state is not MemberState.LEFT for member in self)
        active = len(self.active())
        return active > 0 and 2 * (active + 1) > present + 1

    # ---- hearing ----

    def hear(self, member: Member, reach: tuple[str, int], now: int) -> bool:
        """Note a datagram of the incarnation that is followed; False if it left already."""
        member.heard_at = now
        member.reach = reach
        if member.state not in TALKING:
            self.signal(member, Signal.HEARD, now)
        return member.state is not MemberState.LEFT

    def meet(
        self, start: Start, beat: Heartbeat, reach: tuple[str, int], now: int
    ) -> Member | None:
        """Take in a host that proved that it runs; None if there is no room."""
        member = Member(
            *(start.host, start.incarnation, beat.address, beat.tunnel_port),
            *(MemberState.ALIVE, now, start.salt, reach),
            versions=beat.versions,
        )
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
        self._check_at = min(self._check_at, self._due(member))
        if member.salt is None:
            self._owners.activate(member.host)
        else:
            self._owners.begin(member.host, member.salt)
        self._tell(member)
        if member.talks:
            self._arrived(member, now)
        return member

    def _forget_one(self) -> bool:
        gone = [member for member in self if not member.state.active]
        if gone:
            del self._members[min(gone, key=lambda member: member.heard_at).host]
        return bool(gone)

    def holds(self, member: Member, since: int, now: int) -> bool:
        """Whether a newer start, first heard at `since`, must wait: the known one still talks.

        A restarted agent's predecessor is quiet. If both are heard, two hosts have one id: the
        elder tells the younger to stop, and until then nobody follows the younger.
        """
        return member.talks and now - max(since, member.heard_at) < self._hold

    def adopt(self, member: Member, start: Start, reach: tuple[str, int], now: int) -> None:
        """Follow a start that proved that it runs: a newer one, or one known by hearsay."""
        if member.state.active and start.incarnation != member.incarnation:
            self._owners.restart(member.host, start.salt)
            member.has_previous = True
        else:
            self._owners.begin(member.host, start.salt)
        member.incarnation, member.salt, member.reach = start.incarnation, start.salt, reach
        member.start_over()
        member.versions = None
        member.generation = None
        member.services = {}
        member.heard_at = now
        talked = member.talks
        self.signal(member, Signal.RESTARTED, now)
        if talked:  # else signal() called it
            self._arrived(member, now)

    def beat(self, member: Member, beat: Heartbeat, now: int) -> int:
        """Take in what a member says of itself; how many batches are newly missing."""
        if (beat.address, beat.tunnel_port) != (member.address, member.tunnel_port):
            member.address, member.tunnel_port = beat.address, beat.tunnel_port
            self._tell(member)
        member.established = beat.state is not HostState.JOINING
        member.versions = beat.versions
        member.sessions = beat.sessions
        if beat.state is HostState.DRAINING:
            self.signal(member, Signal.DRAINS, now)
        return member.batches.reach(beat.last_batch)

    def complete(self, member: Member) -> None:
        """All of its sessions are known: what only its earlier incarnation claimed is void."""
        member.has_shard = True
        if member.has_previous:
            member.has_previous = False
            self._owners.complete(member.host)

    # ---- changing ----

    def signal(self, member: Member, signal: Signal, now: int) -> None:
        """Move a member by the table, and tell whoever must know."""
        before = member.state
        after = TRANSITIONS.get((before, signal))
        if after is None:
            return
        member.state = after
        if after in (MemberState.LEFT, MemberState.DEAD):
            self._gone_at = now
        member.acquit()
        self._probe_again(member, now)
        if before.active and not after.active:
            self._owners.gone(member.host)
            member.has_previous = False
            member.start_over()
        elif after.active and not before.active and signal is not Signal.RESTARTED:
            self._owners.begin(member.host, member.salt or 0)
        self._tell(member)
        if member.talks and before not in TALKING and not member.has_shard:
            self._arrived(member, now)

    def _tell(self, member: Member) -> None:
        self._emit(MemberChanged(member.host, member.state, member.address, member.tunnel_port))

    # ---- timers ----

    def listen_again(self, now: int) -> None:
        """This agent was not run: nobody is suspected for what it could not hear."""
        self._listening_since = now
        self.health.stalled()
        for member in self:
            if member.state in (MemberState.SUSPECT, MemberState.SILENT):
                member.acquit()
                self._probe_again(member, now)

    def _probe_again(self, member: Member, at: int) -> None:
        member.probe_at = at
        self._check_at = min(self._check_at, self._due(member))

    def next_timer(self) -> int | None:
        """When a heartbeat may be missed or a probe due, in ns; a needless call does no harm."""
        return None if self._check_at == FAR else self._check_at

    def _due(self, member: Member) -> int:
        if not member.state.active:
            return FAR
        if member.talks:
            heard = max(member.heard_at, self._listening_since)
            return heard + self.health.stretch(self._suspect_after)
        return member.probe_at

    def handle_timer(self, now: int) -> None:
        """Suspect whoever was not heard, probe whoever is suspect."""
        if now < self._check_at:
            return
        for member in list(self):
            if now < self._due(member):
                continue
            if member.talks:
                self.signal(member, Signal.MISSED, now)
            if member.unanswered >= self._probe_attempts:
                self._find_dead(member, now)
            if member.state.active:
                self._probe(member, now)
        self._check_at = min(map(self._due, self), default=FAR)

    def _probe(self, member: Member, now: int) -> None:
        self._probes += 1
        digest = hmac_sha256(self._nonce_key, self._probes.to_bytes(8, "big"))
        nonce = int.from_bytes(digest[:8], "big")
        member.nonces = (*member.nonces, nonce)[-NONCES_KEPT:]
        member.unanswered += 1
        member.probe_at = now + self.health.stretch(self._probe_interval)
        self._tally.add("probes_wanted")
        self._emit(ProbeWanted(member.host, member.address, member.tunnel_port, nonce))

    def probe_answered(self, host: int, nonce: int, now: int) -> None:
        """The host's XDP program is at work: its sessions stay."""
        member = self._members.get(host)
        if member is None or member.talks or nonce not in member.nonces:
            return
        member.nonces = ()
        self.signal(member, Signal.ANSWERED, now)
        member.acquit()
        self._probe_again(member, now + self._silent_interval)

    # ---- quorum ----

    def _find_dead(self, member: Member, now: int) -> None:
        """This host finds a member dead: say so, and see who agrees."""
        member.found_dead = True
        self._accuse(Accusation(member.host, member.incarnation))
        self._condemn(member, now)

    def accused(self, accuser: Member, accusation: Accusation, now: int) -> None:
        """Another host finds a member dead."""
        member = self._members.get(accusation.host)
        if member is None or member.talks:
            return  # whom this host hears is not dead
        # An adopted member's incarnation is unknown to whoever adopted it. Who missed a later start
        # and its end accuses one that is over even more surely.
        another = accusation.incarnation not in (member.incarnation, 0) and member.incarnation
        if another and (member.state.active or accusation.incarnation > member.incarnation):
            return
        if member.state.active:
            member.accusers[accuser.host] = now
            self._condemn(member, now)
        elif self._agreed.passes((accuser.host, member.host), now):
            self._accuse(accusation)

    def _condemn(self, member: Member, now: int) -> None:
        """Dead is what this host and enough of those it hears find dead at the same time.

        Enough: together more than half of all that could observe. A host that hears nobody of
        several is more likely cut off itself: it waits for `dead_alone_ms`.
        """
        if not member.found_dead:
            return
        observers = {other.host for other in self if other.talks and other is not member}
        fresh = now - self.health.stretch(self._probe_interval) * self._probe_attempts
        agreeing = {host for host, at in member.accusers.items() if at >= fresh} & observers
        others = sum(other.state.active for other in self if other is not member)
        if not observers and others:
            if now - member.heard_at >= self._dead_alone:
                self.signal(member, Signal.CONDEMNED, now)
        elif 2 * (len(agreeing) + 1) > len(observers) + 1:
            self.signal(member, Signal.CONDEMNED, now)
