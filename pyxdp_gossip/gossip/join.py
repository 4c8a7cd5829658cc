# SPDX-License-Identifier: BSD-2-Clause
"""Getting every member's sessions: the shards this host asks for, and when it is synced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyxdp_gossip.config import Timing
from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.events import OutgoingEvent, Synced
from pyxdp_gossip.gossip.membership import Member, Roster
from pyxdp_gossip.gossip.messages import Hello, Shard, ShardEnd
from pyxdp_gossip.gossip.rates import NS_PER_MS

SHARD_DATAGRAMS_MAX = 1 << 20  # 1.3 GB of records: more than the largest table holds
RETRY_STEPS_MAX = 10  # the wait between two tries grows up to so many times its first
REQUEST_MASK = (1 << 32) - 1


@dataclass(slots=True)
class Pull:
    """One member's shard on its way. `count` is known once its end came."""

    request: int
    retry_at: int
    tries: int = 1
    numbers: set[int] = field(default_factory=set)
    count: int | None = None


class Join:
    """Asks every member for its shard; says *synced* once all came, *partial* if some did not.

    Args:
        greet: sends a HELLO to a member, or to the group if it is None.
    """

    def __init__(
        self,
        timing: Timing,
        tally: Tally,
        emit: Callable[[OutgoingEvent], None],
        greet: Callable[[Member | None, Hello], None],
        now: int,
    ) -> None:
        self._tally = tally
        self._emit = emit
        self._greet = greet
        self._pulls: dict[int, Pull] = {}
        self._request = 0
        self._hello_interval = timing.hello_interval_ms * NS_PER_MS
        self._retry = timing.pull_retry_ms * NS_PER_MS
        self._settle = timing.settle_ms * NS_PER_MS
        self._hello_at: int | None = now
        self._give_up_at = now + timing.join_timeout_ms * NS_PER_MS
        self._ready_at = now + timing.alone_ms * NS_PER_MS
        self._met_anyone = False
        self.synced = False
        self.said = False  # the caller was told that the join ended, complete or not

    def _next_request(self) -> int:
        self._request = (self._request + 1) & REQUEST_MASK
        return self._request

    def pull(self, member: Member, now: int) -> None:
        """Ask a member for its shard; a shard on its way is asked for anew."""
        if not self._met_anyone:
            self._met_anyone = True
            self._ready_at = now + self._settle
        self._pulls[member.host] = pull = Pull(self._next_request(), now + self._retry)
        self._greet(member, Hello(pull.request, True))

    def welcomed(self) -> None:
        """Somebody answered: no more HELLOs to the group."""
        self._hello_at = None

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
        pull.retry_at = now + self._retry * min(pull.tries, RETRY_STEPS_MAX)
        return True

    def end(self, member: Member, end: ShardEnd, roster: Roster) -> None:
        """Note a shard's length; a datagram may still come behind its end."""
        pull = self._pulls.get(member.host)
        if pull is None or pull.request != end.request:
            self._tally.add("shard_datagrams_ignored")
            return
        pull.count = end.count
        self.check(member, roster)

    def check(self, member: Member, roster: Roster) -> None:
        """Complete a member if all of its shard is there."""
        pull = self._pulls.get(member.host)
        if pull is not None and pull.count is not None and len(pull.numbers) >= pull.count:
            del self._pulls[member.host]
            self._tally.add("shards_received")
            roster.complete(member)

    def next_timer(self, roster: Roster) -> int | None:
        """When to greet, ask again or conclude, in ns."""
        times = [pull.retry_at for host, pull in self._pulls.items() if _talks(roster, host)]
        if self._hello_at is not None:
            times.append(self._hello_at)
        if not self.said:
            times.append(self._ready_at if self._may_conclude(roster) else self._give_up_at)
        return min(times, default=None)

    def _may_conclude(self, roster: Roster) -> bool:
        return not any(member.talks and not member.has_shard for member in roster)

    def handle_timer(self, roster: Roster, now: int) -> None:
        """Greet, ask again, conclude: whatever is due."""
        if self._hello_at is not None and now >= self._hello_at:
            self._hello_at = now + self._hello_interval
            self._greet(None, Hello(self._next_request(), False))
        for host, pull in list(self._pulls.items()):
            member = roster.get(host)
            if member is None or not member.state.active:
                del self._pulls[host]
            elif member.talks and now >= pull.retry_at:
                self._ask_again(member, pull, now)
        self._conclude(roster, now)

    def _ask_again(self, member: Member, pull: Pull, now: int) -> None:
        tries = pull.tries + 1
        retry_at = now + self._retry * min(tries, RETRY_STEPS_MAX)
        fresh = Pull(self._next_request(), retry_at, tries)
        self._pulls[member.host] = fresh
        self._tally.add("shards_retried")
        self._greet(member, Hello(fresh.request, True))

    def _conclude(self, roster: Roster, now: int) -> None:
        if not self.synced and now >= self._ready_at and self._may_conclude(roster):
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
