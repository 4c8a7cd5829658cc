# SPDX-License-Identifier: BSD-2-Clause
"""conntrackd beside our gossip: states of one host that come to be known at another.

Two namespaces with a daemon each, joined by a veth; our two hosts are joined by a bridge. Both
get all states at once and take as long as they need; the receiver has a core of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Final

from bench import conntrack_states, machine
from bench.gossip_figures import Effort, Row
from bench.gossip_join import Member, bytes_sent
from bench.gossip_opener import NS_PER_MS
from bench.gossip_pop import PATIENCE_S, pop_of, wait_until
from bench.machine import turns
from bench.world import World
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.popbox.processes import Process

MODES: Final = ("FTFW", "NOTRACK")
OURS: Final = "gossip"
SENDER, RECEIVER = "ct1", "ct2"
# Its configuration's language takes `c1` for something else: a name must not look like one.
DEVICE: Final = "sync0"
ADDRESSES: Final = {SENDER: "10.11.0.1", RECEIVER: "10.11.0.2"}
MAX_STATES: Final = Path("/proc/sys/net/netfilter/nf_conntrack_max")
LOOK_S: Final = 0.02
QUIET_S: Final = 10.0  # nothing new for so long: the rest is lost
READY_S: Final = 10.0
CURRENT: Final = re.compile(r"cache external:\s+current active connections:\s+(\d+)")
INTERNAL: Final = re.compile(r"cache internal:\s+current active connections:\s+(\d+)")
BOUND_BY: Final = (
    "conntrackd: states are entered by ctnetlink, {states} at once, on the sender's core; netlink "
    "and socket buffers hold all of them. Its sender is bound by one netlink event and one cache "
    "entry a state, its receiver by one message a state; ours by the records' datagrams. CPU time "
    "is the daemon's, by schedstat, or our agent's, by its cgroup; the kernel's delivery is the "
    "sender's. Full state: conntrackd's second daemon is started anew and asks (-n); ours is a "
    "third host that joins, from HELLO to synced. Both look each 20 ms."
)
CONFIGURATION: Final = """\
Sync {{
	Mode {mode} {{
{mode_lines}
	}}
	Multicast {{
		IPv4_address 225.0.0.50
		Group 3780
		IPv4_interface {address}
		Interface {device}
		SndSocketBuffer 33554432
		RcvSocketBuffer 134217728
		Checksum on
	}}
}}
General {{
	HashSize {buckets}
	HashLimit {limit}
	LogFile {folder}/{name}.daemon
	LockFile {folder}/{name}.lock
	UNIX {{
		Path {folder}/{name}.ctl
	}}
	NetlinkBufferSize 268435456
	NetlinkBufferSizeMaxGrowth 536870912
	NetlinkEventsReliable On
}}
"""


@dataclass(slots=True)
class Measured:
    """What one of the three did in each round."""

    per_s: list[float] = field(default_factory=list)
    bytes_a_state: list[float] = field(default_factory=list)
    sender_us: list[float] = field(default_factory=list)
    receiver_us: list[float] = field(default_factory=list)
    resync_ms: list[float] = field(default_factory=list)
    lost: int = 0


def missing() -> str | None:
    """Why conntrackd cannot be measured here."""
    if not shutil.which("conntrackd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return "conntrackd is not installed: make bench-setup"
    if not MAX_STATES.exists():
        return "this kernel has no nf_conntrack"
    return conntrack_states.missing()


@contextmanager
def room_for(states: int) -> Iterator[None]:
    """The kernel's limit, one for all namespaces, is high enough meanwhile."""
    before = int(MAX_STATES.read_text())
    if before < 2 * states:
        MAX_STATES.write_text(str(2 * states))
    try:
        yield
    finally:
        if before < 2 * states:
            MAX_STATES.write_text(str(before))


class Daemon:
    """One conntrackd in its namespace."""

    def __init__(self, world: World, short: str, mode: str, states: int, cpu: int) -> None:
        self._world, self._short = world, short
        self.path = world.folder / f"{short}.conf"
        lines = f"\t\tResendQueueSize {2 * states}" if mode == "FTFW" else ""
        self.path.write_text(
            CONFIGURATION.format(
                mode=mode,
                mode_lines=lines,
                address=ADDRESSES[short],
                device=DEVICE,
                buckets=states,
                limit=4 * states,
                folder=world.folder,
                name=short,
            )
        )
        argv = ["conntrackd", "-C", str(self.path)]
        self._process: Process = world.start(short, short, argv, cpu, world.cgroup)
        self._process.wait_until(self._answers, "an answer", READY_S)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("-s"))
        except HostError:  # its client ends in failure while nobody listens
            return False

    def ask(self, option: str) -> str:
        """Its answer to one option of its client."""
        return self._world.exec(self._short, f"conntrackd -C {self.path} {option}")

    def known(self, pattern: re.Pattern[str] = CURRENT) -> int:
        """States in one of its two caches."""
        found = pattern.search(self.ask("-s"))
        if not found:
            raise RuntimeError("conntrackd's statistics are not as expected")
        return int(found[1])

    def cpu_us(self) -> float:
        """CPU time that it used: it has one thread."""
        schedstat = Path(f"/proc/{self._process.pid}/schedstat").read_text()
        return int(schedstat.split()[0]) / 1e3

    def kill(self) -> None:
        """Ends it at once; its lock and socket would keep the next one away."""
        self._process.stop(SIGKILL, PATIENCE_S)
        for ending in ("lock", "ctl"):
            self.path.with_suffix(f".{ending}").unlink(missing_ok=True)


def until_known(known: Callable[[], int], states: int) -> tuple[int, float]:
    """How many came to be known, and the moment at which the last one was."""
    best, at = 0, time.monotonic()
    while best < states:
        found = known()
        if found > best:
            best, at = found, time.monotonic()
        elif time.monotonic() > at + QUIET_S:
            break
        time.sleep(LOOK_S)
    return best, at


@contextmanager
def joined() -> Iterator[World]:
    """Two namespaces and the veth between them."""
    with World(SENDER, RECEIVER) as world:
        far = f"peer name {DEVICE} netns {world.namespace(RECEIVER)}"
        world.ip(SENDER, f"link add {DEVICE} type veth {far}")
        for short, address in ADDRESSES.items():
            world.ip(short, f"addr add {address}/24 dev {DEVICE}")
            world.ip(short, f"link set {DEVICE} up")
        yield world


def _received(world: World) -> int:
    """Bytes that came to the receiver, from Ethernet up."""
    shown = json.loads(world.exec(RECEIVER, f"ip -j -s link show {DEVICE}"))
    return int(shown[0]["stats64"]["rx"]["bytes"])


def theirs(mode: str, states: int, portions: list[bytes], result: Measured) -> None:
    """One round of conntrackd."""
    cpus = sorted(os.sched_getaffinity(0))
    with joined() as world:
        daemons = [
            Daemon(world, short, mode, states, cpu)
            for short, cpu in ((SENDER, cpus[0]), (RECEIVER, cpus[-1]))
        ]
        begun_us = [daemon.cpu_us() for daemon in daemons]
        with closing(world.call(SENDER, conntrack_states.open_socket)) as opened:
            before, begin = _received(world), time.monotonic()
            os.sched_setaffinity(0, {cpus[0]})
            try:
                conntrack_states.enter(opened, portions)
            finally:
                os.sched_setaffinity(0, set(cpus))
        known, end = until_known(daemons[1].known, states)
        used = [d.cpu_us() - was for d, was in zip(daemons, begun_us, strict=True)]
        size = _received(world) - before
        if not known or daemons[0].known(INTERNAL) != states:
            raise RuntimeError(f"conntrackd ({mode}): {known} of {states} states came")
        _take(result, states, known, end - begin, size, used)
        daemons[1].kill()
        again = Daemon(world, RECEIVER, mode, states, cpus[-1])
        begin = time.monotonic()
        again.ask("-n")
        known, end = until_known(again.known, states)
        result.lost += states - known
        result.resync_ms.append((end - begin) * 1e3)


def ours(states: int, result: Measured) -> None:
    """One round of ours, over two hosts and one that joins them."""
    cpus = sorted(os.sched_getaffinity(0))
    with pop_of(3, running=0, sessions=2 * states) as pop:
        members = [Member(pop, host, 2 * states) for host in (1, 2)]
        for member in members:
            member.answer()
        pop.settle((1, 2))
        for host, cpu in ((1, cpus[0]), (2, cpus[-1])):
            pop.pin(host, cpu)
        members[0].ask("prepare", states)
        begun_us = [pop.cpu_us(host) for host in (1, 2)]
        before, begin = bytes_sent(pop, 2), time.monotonic()
        members[0].tell("enter")
        known, end = until_known(lambda: int(members[1].ask("size")), states)
        used = [pop.cpu_us(host) - was for host, was in zip((1, 2), begun_us, strict=True)]
        size = bytes_sent(pop, 2) - before
        members[0].answer()
        if not known:
            raise RuntimeError("no session came to be known")
        _take(result, states, known, end - begin, size, used)
        third = Member(pop, 3, 2 * states)
        told = third.answer()
        wait_until("the third host knows all", lambda: third.ask("size") == known, LOOK_S)
        result.resync_ms.append((told["synced"] - told["begun"]) / NS_PER_MS)


def _take(
    result: Measured, states: int, known: int, took_s: float, size: int, used: Sequence[float]
) -> None:
    result.lost += states - known
    result.per_s.append(known / took_s)
    result.bytes_a_state.append(size / known)
    result.sender_us.append(used[0] / known)
    result.receiver_us.append(used[1] / known)


FIGURES: Final[tuple[tuple[str, str, str, Callable[[Measured], list[float]]], ...]] = (
    ("events", "events/s", "faster than conntrackd", lambda one: one.per_s),
    ("size", "bytes/state", "less than conntrackd", lambda one: one.bytes_a_state),
    ("sender's CPU", "us per state", "less than conntrackd", lambda one: one.sender_us),
    ("receiver's CPU", "us per state", "less than conntrackd", lambda one: one.receiver_us),
    ("full state", "ms", "faster than conntrackd", lambda one: one.resync_ms),
)


def rows_of(results: dict[str, Measured], states: int, why: str | None) -> list[Row]:
    """A row for each figure beside each mode; the first has no case."""
    mine = results[OURS]
    rows: list[Row] = []
    for name, unit, target, samples in FIGURES:
        for mode in MODES:
            case = {} if not rows else {"case": f"{name}, {mode}"}
            made: Row = {"what": "conntrackd", **case, "unit": unit, "target": target}
            if why:
                made |= machine.alone(samples(mine))
                made |= {"peer": f"conntrackd {mode}", "theirs": None, "ratio": None, "note": why}
            else:
                peer = results[mode]
                made |= machine.paired(samples(mine), f"conntrackd {mode}", samples(peer))
                made |= {"lost": mine.lost, "theirs_lost": peer.lost}
            bound_by = BOUND_BY.format(states=states)
            rounds = len(samples(mine))
            rows.append({**made, "sessions": states, "rounds": rounds, "bound_by": bound_by})
    return rows


def conntrackd(effort: Effort, _seed: int) -> list[Row]:
    """All rounds of ours and of both modes, in turns."""
    states, why = effort.tracked, missing()
    results = {name: Measured() for name in (OURS, *MODES)}
    portions = [] if why else conntrack_states.prepared(states)
    for name in turns([OURS] if why else list(results), effort.repeats):
        if name == OURS:
            ours(states, results[name])
        else:
            with room_for(states):
                theirs(name, states, portions, results[name])
    return rows_of(results, states, why)
