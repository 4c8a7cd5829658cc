# SPDX-License-Identifier: BSD-2-Clause
"""One more host joins a POP that has many sessions: how long, how many bytes, whom it disturbs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.gossip_figures import Effort, Row, percentiles, row
from bench.gossip_memory import memory
from bench.gossip_opener import NS_PER_S
from bench.gossip_pop import GossipPop, pop_of, wait_until
from bench.gossip_watch import Seen, Watch
from pyxdp_gossip.popbox import leftovers, names
from pyxdp_gossip.popbox.agents import default_settings, to_toml
from pyxdp_gossip.popbox.processes import Process, python_command

ROOM: Final = 1.1  # of the tables, for the live sessions on top
UDP_PORT: Final = 443
SESSIONS_V6: Final = 1024  # there are none
LIVE_A_S: Final = 500  # opens at one host while another one joins
LOOK_PAUSE_S: Final = 0.0002
WARM_UP_NS: Final = 500_000_000
SHARE_OF_JOIN: Final = 0.2  # of the live time that lies before the join
HOW: Final = (
    "join: from the start of the agent's loop, whose first act is HELLO, to synced; "
    "bytes_a_session: all that the bridge sent to the joining host meanwhile, from Ethernet up. "
    "delay_*: from accept() at host 1 to the last of the other old hosts, before and during."
)


class Member:
    """A host's agent of `bench.gossip_member`."""

    def __init__(self, pop: GossipPop, host: int, sessions: int) -> None:
        box = pop.box
        folder = box.host_folder(host)
        pins = leftovers.pin_folder(os.getpid()) / f"host-{host}"
        tables = default_settings(host, folder, pins, box.host_cgroup(host))
        tables["service"].append({"vip": names.VIP4, "port": UDP_PORT, "protocol": "udp"})
        tables["gossip"]["preset"] = "lan"
        tables["table"] = {"sessions_v4": sessions, "sessions_v6": SESSIONS_V6}
        path = folder / "member.toml"
        path.write_text(to_toml(tables))
        argv = python_command("bench.gossip_member", str(path))
        self._process: Process = box.start_on_host(host, "member", argv, piped=True)

    def answer(self) -> Any:
        """The next line that it says."""
        pipe = self._process.popen.stdout
        assert pipe is not None  # started with pipes
        line = pipe.readline()
        if not line:
            raise RuntimeError(f"{self._process.name} ended: {self._process.log_tail()}")
        return json.loads(line)

    def tell(self, *command: object) -> None:
        """Gives it a command, whose answer is for `answer`."""
        pipe = self._process.popen.stdin
        assert pipe is not None  # started with pipes
        pipe.write(json.dumps(command).encode() + b"\n")
        pipe.flush()

    def ask(self, *command: object) -> Any:
        """A command and its answer."""
        self.tell(*command)
        return self.answer()


def fill(members: Sequence[Member], sessions: int) -> None:
    """Each member enters its share; returns once all tables have all of it."""
    share = sessions // len(members)
    for number, member in enumerate(members):
        sys.stderr.write(f"gossip: member {number + 1} enters {share} sessions\n")
        member.ask("claim", number * share, share)
    whole = share * len(members)

    def everywhere() -> bool:
        return all(member.ask("size") == whole for member in members)

    wait_until("all sessions are everywhere", everywhere, pause_s=0.1)


def bytes_sent(pop: GossipPop, host: int) -> int:
    """What the bridge has sent to a host."""
    argv = ["ip", "-j", "-s", "link", "show", names.host_port(host)]
    shown = json.loads(pop.box.run_in(pop.box.router_namespace(), argv))
    return int(shown[0]["stats64"]["tx"]["bytes"])


class Newcomer(threading.Thread):
    """Starts the last host's agent after a while, beside the watcher."""

    def __init__(self, pop: GossipPop, host: int, sessions: int, wait_s: float) -> None:
        super().__init__(daemon=True)
        self._pop, self._host = pop, host
        self._sessions, self._wait_s = sessions, wait_s
        self.joined: dict[str, Any] | None = None
        self.bytes = 0
        self.launched_at = 0
        self.size = 0

    def run(self) -> None:
        """Its failure shows as a missing answer."""
        time.sleep(self._wait_s)
        self.launched_at = time.monotonic_ns()
        before = bytes_sent(self._pop, self._host)
        member = Member(self._pop, self._host, self._sessions)
        joined = member.answer()
        self.bytes = bytes_sent(self._pop, self._host) - before
        self.size = member.ask("size")
        self.joined = joined


def delays(seen: Seen, begin: int, end: int) -> list[float]:
    """Of the sessions that were accepted in a stretch of time."""
    pairs = zip(seen.begun, seen.last, strict=True)
    return [delay for at, delay in pairs if begin <= at < end]


def result(effort: Effort, seen: Seen, newcomer: Newcomer, started_at: int) -> Row:
    """The row of a join."""
    joined = newcomer.joined
    assert joined is not None  # the caller looked
    before = percentiles(delays(seen, started_at + WARM_UP_NS, newcomer.launched_at))
    during = percentiles(delays(seen, joined["begun"], joined["synced"]))
    more = None if None in (before["p99"], during["p99"]) else during["p99"] - before["p99"]
    return row(
        *("join", (joined["synced"] - joined["begun"]) / NS_PER_S, "s", "<= 0.4 s"),
        sessions=effort.joined,
        hosts=effort.hosts + 1,
        partial=joined["partial"],
        known=newcomer.size,
        bytes_a_session=round(newcomer.bytes / effort.joined, 2),
        bytes_target="<= 18",
        delay_before_p99=before["p99"],
        delay_during_p99=during["p99"],
        delay_more_ms=None if more is None else round(more, 3),
        delay_target="<= 5 ms more",
        missing=seen.missing,
        how=HOW,
    )


def join(effort: Effort, _seed: int) -> list[Row]:
    """A POP full of sessions, one host busy, and one host more."""
    size = int(effort.joined * ROOM)
    newest = effort.hosts + 1
    with pop_of(newest, running=0) as pop:
        members = [Member(pop, host, size) for host in range(1, newest)]
        for member in members:
            member.answer()
        pop.settle(range(1, newest))
        empty = [member.ask("parts") for member in members]
        fill(members, effort.joined)
        full = [member.ask("parts") for member in members]
        opener = pop.opener(1, int(LIVE_A_S * effort.live_s), LIVE_A_S, LIVE_A_S * 10)
        views = [pop.view(host) for host in range(2, newest)]
        watcher = Watch(views, [opener], 1, LOOK_PAUSE_S)
        newcomer = Newcomer(pop, newest, size, effort.live_s * SHARE_OF_JOIN)
        started_at = time.monotonic_ns()
        opener.start()
        newcomer.start()
        seen = watcher.run()
        wait_until("it has joined", lambda: not newcomer.is_alive())
        opener.stop()
        if newcomer.joined is None:
            raise RuntimeError("the newcomer did not join")
        joined = result(effort, seen, newcomer, started_at)
        return [joined, *memory(effort.joined, effort.hosts, size, empty, full)]
