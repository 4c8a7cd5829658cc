# SPDX-License-Identifier: BSD-2-Clause
"""Getting every member's sessions: the shards this host asks for, and when it is synced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import MemberState, OutgoingEvent, Synced
from pyxdp_gossip.gossip.member import Member, Start
from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import Hello, PullBuckets, Shard, ShardEnd, Welcome
from pyxdp_gossip.gossip.outbox import Outbox, Reach
from pyxdp_gossip.gossip.rates import NS_PER_MS
from pyxdp_gossip.gossip.records import RECORD_BYTES, OwnershipLog
from pyxdp_gossip.gossip.wire import DatagramType
from pyxdp_gossip.timing import Timing

SHARD_DATAGRAMS_MAX = 1 << 20  # 1.3 GB of records: more than the largest table holds
RETRY_STEPS_MAX = 10  # the wait between two tries grows up to so many times its first
REQUEST_MASK = (1 << 32) - 1
ASKED_KEPT = 256  # as many as there are members
REQUESTS_VALID = 1024  # a WELCOME may come late by so many HELLOs
WELCOMES_ENOUGH = 2  # established members that tell of all others
ON_THEIR_WAY_MAX = 2048  # datagrams of shards: a third of what the socket keeps, read in 0.2 s
STRAGGLERS_WAIT = 20 * NS_PER_MS  # datagrams of a shard that its end overtook


@dataclass(slots=True)
class Pull:
    """One member's shard on its way. `count` is known once its end came.

    `expected`: datagrams, by the sessions that the member says it has.
    `bitmap`: the buckets that were asked for; empty for the whole shard.
    """

    request: int
    retry_at: int
    expected: int = 0
    bitmap: bytes = b""
    tries: int = 1
    position: int = 0
    numbers: set[int] = field(default_factory=set)
    count: int | None = None


class Join:
    """Asks every member for its shard; says *synced* once all came, *partial* if some did not.

    Not all at once: what comes faster than it is read is lost, and asked for again.

    Args:
        greet: sends a HELLO to a place, or to the group if it is None.
        start: of this host.
        first_request: random start of the requests, 32 bits.
    """

    def __init__(
        self,
        log: OwnershipLog,
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
        emit: Callable[[OutgoingEvent], None],
        greet: Callable[[Reach | None, Hello], None],
        start: Start,
        first_request: int,
        now: int,
    ) -> None:
        self._log = log
        self._outbox = outbox
        self._tally = tally
        self._emit = emit
        self._greet = greet
        self._start = start
        self._pulls: dict[int, Pull] = {}
        self._waiting: dict[int, Member] = {}  # to be asked, in this order
        self._came_at = now  # the last datagram of any shard, or the start
        self._request = first_request & REQUEST_MASK
        self._requests = 0
        self._hello_interval = timing.hello_interval_ms * NS_PER_MS
        self._retry = timing.pull_retry_ms * NS_PER_MS
        self._settle = timing.settle_ms * NS_PER_MS
        self._hello_at: int | None = now
        self._asked: deque[int] = deque(maxlen=ASKED_KEPT)  # requests that ask for members
        self._join_timeout = timing.join_timeout_ms * NS_PER_MS
        self._alone = timing.alone_ms * NS_PER_MS
        self._give_up_at = now + self._join_timeout
        self._ready_at = now + self._alone
        self._asked_all = False
        self._met_anyone = False
        self._hindered = False  # there is a host whose datagrams this one cannot read
        self.synced = False
        self.said = False  # the caller was told that the join ended, complete or not

    def _next_request(self) -> int:
        self._request = (self._request + 1) & REQUEST_MASK
        self._requests = min(self._requests + 1, REQUESTS_VALID)
        return self._request

    def answers(self, welcome: Welcome) -> bool:
        """Whether a WELCOME answers one of the last HELLOs of this very start."""
        if (welcome.host, welcome.incarnation) != (self._start.host, self._start.incarnation):
            return False
        return (self._request - welcome.request) & REQUEST_MASK < self._requests

    # ---- asking ----

    def challenge(self, reach: Reach) -> None:
        """Ask a start that is new here to prove that it runs."""
        self._greet(reach, Hello(self._next_request(), False))

    def _ask(self, reach: Reach | None, request: int, *, pull: bool) -> None:
        self._asked.append(request)
        self._greet(reach, Hello(request, pull, members=True))

    def pull(self, member: Member, now: int) -> None:
        """Ask a member for its shard when its turn comes; one on its way is asked for anew."""
        if not self._met_anyone:
            self._met_anyone = True
            self._ready_at = now + self._settle
        self._pulls.pop(member.host, None)
        self._waiting[member.host] = member
        member.keeps_closed = True

    def _next_waiting(self) -> Member | None:
        """Whom to ask now: one whose shard fits behind what is on its way."""
        if not self._waiting:
            return None
        awaited = sum(self._awaited(host, pull) for host, pull in self._pulls.items())
        for member in self._waiting.values():
            if member.talks and (not awaited or awaited + self._size(member) <= ON_THEIR_WAY_MAX):
                return member
        return None

    def _awaited(self, host: int, pull: Pull) -> int:
        """Datagrams that may be on their way; not of one that does not answer."""
        comes = pull.tries == 1 and _talks(self._roster, host)
        return max(0, pull.expected - len(pull.numbers)) if comes else 0

    def _size(self, member: Member) -> int:
        """Datagrams of its shard, if all its sessions are IPv4."""
        return 1 + member.sessions * RECORD_BYTES[4] // self._outbox.room.shard

    def _ask_waiting(self, now: int) -> None:
        while (member := self._next_waiting()) is not None:
            del self._waiting[member.host]
            pull = Pull(self._next_request(), now + self._retry, self._size(member))
            self._pulls[member.host] = pull
            self._ask(member.reach, pull.request, pull=True)

    def pull_buckets(self, member: Member, bitmap: bytes, now: int) -> None:
        """Ask a member for its sessions in the buckets that differ."""
        pull = Pull(self._next_request(), now + self._retry, bitmap=bitmap)
        self._pulls[member.host] = pull
        member.keeps_closed = True
        kind = DatagramType.MEMBERSHIP
        self._outbox.put(member.reach, kind, PullBuckets(pull.request, bitmap))

    def pulls(self, member: Member) -> bool:
        """Whether something of a member is on its way, or will be asked for."""
        return member.host in self._pulls or member.host in self._waiting

    def welcomed(self, welcome: Welcome) -> None:
        """Somebody told of the members: no more HELLOs to the group."""
        if welcome.request in self._asked:
            self._hello_at = None

    def hindered(self) -> None:
        """Somebody is there who cannot be understood: this host is not alone."""
        self._hindered = True

    # ---- what comes ----

    def take(self, member: Member, shard: Shard, now: int) -> bool:
        """Note a shard's datagram; False if nobody waits for it, or it was seen before."""
        pull = self._pulls.get(member.host)
        wanted = pull is not None and pull.request == shard.request
        if pull is None or not wanted or shard.number >= SHARD_DATAGRAMS_MAX:
            self._tally.add("shard_datagrams_ignored")
            return False
        if shard.number in pull.numbers:
            return False
        pull.numbers.add(shard.number)
        pull.position = shard.position
        pull.retry_at = now + self._retry
        self._came_at = now
        return True

    def end(self, member: Member, end: ShardEnd, now: int) -> None:
        """Note a shard's length; a datagram may still come behind its end."""
        pull = self._pulls.get(member.host)
        if pull is None or pull.request != end.request:
            self._tally.add("shard_datagrams_ignored")
            return
        pull.count = end.count
        pull.position = max(pull.position, end.position)
        pull.retry_at = now + STRAGGLERS_WAIT
        self.check(member)

    def check(self, member: Member) -> None:
        """Complete a member if all of its shard is there."""
        pull = self._pulls.get(member.host)
        if pull is None or pull.count is None or len(pull.numbers) < pull.count:
            return
        del self._pulls[member.host]
        if pull.bitmap:
            closed = self._log.prune(member.host, pull.bitmap, pull.position)
            self._tally.add("buckets_received")
            self._tally.add("entries_pruned", closed)
        else:
            self._tally.add("shards_received")
            self._roster.complete(member)

    # ---- timers ----

    def follow(self, roster: Roster) -> None:
        """Whose members these are; before anything else."""
        self._roster = roster

    def next_timer(self) -> int | None:
        """When to greet, ask again or conclude, in ns."""
        if self._next_waiting() is not None:
            return 0
        if self.synced and not self._pulls:
            return None
        roster = self._roster
        times = [self._due(pull) for host, pull in self._pulls.items() if _talks(roster, host)]
        if self._hello_at is not None:
            times.append(self._hello_at)
        if not self.said:
            times.append(self._concludes_at(roster))
        return min(times, default=None)

    def _due(self, pull: Pull) -> int:
        """When it is asked again; not while shards come, behind which its own may wait."""
        if pull.count is not None:
            return pull.retry_at
        return max(pull.retry_at, self._came_at + self._retry)

    def _concludes_at(self, roster: Roster) -> int:
        if any(_is_open(member) for member in roster):
            return self._give_up_at
        if self._hindered and not self._met_anyone:
            return self._give_up_at
        enough = sum(member.established for member in roster) >= WELCOMES_ENOUGH
        return 0 if enough else self._ready_at

    def handle_timer(self, now: int) -> None:
        """Greet, ask again, conclude: whatever is due."""
        roster = self._roster
        if self._hello_at is not None and now >= self._hello_at:
            if not self._asked_all:
                self._begin(now)
            self._hello_at = now + self._hello_interval
            self._ask(None, self._next_request(), pull=False)
        for host, pull in list(self._pulls.items()):
            member = roster.get(host)
            if member is None or not member.state.active:
                del self._pulls[host]
            elif member.talks and now >= self._due(pull):
                self._go_on(member, pull, now)
        for host in [host for host, member in self._waiting.items() if not member.state.active]:
            del self._waiting[host]
        self._ask_waiting(now)
        if not self.synced:
            self._conclude(roster, now)

    def _begin(self, now: int) -> None:
        """Whoever needs long to load and attach has asked nobody meanwhile: it is not alone yet."""
        self._asked_all = True
        self._give_up_at = now + self._join_timeout
        if not self._met_anyone:
            self._ready_at = now + self._alone

    def _go_on(self, member: Member, pull: Pull, now: int) -> None:
        """Something was lost: ask again for what did not begin; the digest finds the rest."""
        if pull.bitmap or pull.numbers or pull.count is not None:
            del self._pulls[member.host]
            member.batches.behind = True
            self._tally.add("pulls_cut")
            return
        tries = pull.tries + 1
        retry_at = now + self._retry * min(tries, RETRY_STEPS_MAX)
        fresh = Pull(self._next_request(), retry_at, pull.expected, tries=tries)
        self._pulls[member.host] = fresh
        self._tally.add("shards_retried")
        self._ask(member.reach, fresh.request, pull=True)

    def _conclude(self, roster: Roster, now: int) -> None:
        complete = self._met_anyone or not self._hindered
        complete = complete and not any(_is_open(member) for member in roster)
        if complete and now >= self._concludes_at(roster):
            self.synced = self.said = True
            self._hello_at = None
            self._emit(Synced(partial=False))
        elif not self.said and now >= self._give_up_at:
            self.said = True
            self._hello_at = None
            self._emit(Synced(partial=True))


def _talks(roster: Roster, host: int) -> bool:
    member = roster.get(host)
    return member is not None and member.talks


def _is_open(member: Member) -> bool:
    """Whether a join must wait for it: for its shard, or for whether it lives at all."""
    if member.talks:
        return not member.has_shard
    return member.salt is None and member.state is MemberState.SUSPECT
