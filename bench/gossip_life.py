# SPDX-License-Identifier: BSD-2-Clause
"""Deaths that are found, deaths that never were, and what hosts at rest cost."""

from __future__ import annotations

import fcntl
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import sched_getaffinity
from typing import Final

from bench.gossip_figures import Effort, Row, percentiles, row
from bench.gossip_pop import GossipPop, pop_of, wait_until
from bench.world import call_inside

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP: Final = 1
IFREQ: Final = struct.Struct("=16sH14x")
LOOK_S: Final = 0.001
REST_S: Final = 2.0  # after a join; its exchanges end in less
DIED: Final = re.compile(r"state[^\w]+dead")
# Ends with its parent, however that ends.
BUSY: Final = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
GOAL_HOSTS: Final = 100
HEARTBEATS_A_S: Final = 10
US_PER_S: Final = 1e6
HOW_IDLE: Final = (
    "idle: CPU time by the hosts' cgroups; the kernel's delivery of multicast is charged to the "
    "sender. at_100 goes along the line through both sizes of the POP: what a host costs alone "
    "(its turns, heartbeats and housekeeping), and what each peer adds (ten datagrams a second)."
)


def set_link(up: bool) -> None:
    """In the namespace of the calling thread, without a process of its own to start."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, IFREQ.pack(b"eth0", 0))
        flags = IFREQ.unpack(answer)[1]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFREQ.pack(b"eth0", flags))


# ---- death ----


def kill(pop: GossipPop, victim: int) -> float:
    """Kills a host; milliseconds until all others take its sessions for void. It is back then."""
    space = pop.box.host_namespace(victim)
    others = [host for host in pop.box.host_ids if host != victim]
    asked = [pop.view(host).owners.is_active for host in others]
    begin = time.monotonic()
    call_inside(space, set_link, False)
    pop.box.kill_agent(victim)
    wait_until("all say dead", lambda: not any(active(victim) for active in asked), LOOK_S)
    taken_ms = (time.monotonic() - begin) * 1e3
    call_inside(space, set_link, True)
    pop.start([victim])
    pop.settle(pop.box.host_ids)
    return taken_ms


def death(effort: Effort, _seed: int) -> list[Row]:
    """Hosts that die one after the other; then the hunt for false deaths."""
    with pop_of(effort.hosts) as pop:
        times = []
        for number in range(effort.deaths):
            time.sleep(REST_S)
            times.append(kill(pop, pop.box.host_ids[number % effort.hosts]))
            sys.stderr.write(f"gossip: death {number + 1} of {effort.deaths}: {times[-1]:.0f} ms\n")
        found = row(
            *("death", statistics.median(times), "ms", "median <= 500 ms, p99 <= 800 ms"),
            **percentiles(times, 1),
            tries=effort.deaths,
            hosts=effort.hosts,
        )
        return [found, false_deaths(pop, effort)]


def deaths_said(pop: GossipPop) -> int:
    """How often agents said that another host is dead, by their logs."""
    logs = (pop.box.agent(host).log.read_text(errors="replace") for host in pop.box.host_ids)
    return sum(len(DIED.findall(log)) for log in logs)


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process for each core that never rests."""
    running = []
    try:
        for cpu in sorted(sched_getaffinity(0)):
            running.append(
                subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", BUSY])
            )
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def stay(what: str, seconds: float) -> None:
    """Lets time pass, and says so."""
    sys.stderr.write(f"gossip: {what}, {seconds:g} s\n")
    time.sleep(seconds)


def false_deaths(pop: GossipPop, effort: Effort) -> Row:
    """Loaded cores, and one agent stopped for a while: how many deaths were said; all are false."""
    before = deaths_said(pop)
    if not before:
        raise RuntimeError("the hosts that died are in no log: false deaths would not show")
    stopped_s = min(effort.stopped_s, effort.loaded_s)
    agent = pop.box.agent(pop.box.host_ids[-1])
    with busy_cores():
        stay("cores are loaded", effort.loaded_s - stopped_s)
        loaded = deaths_said(pop) - before
        agent.signal(signal.SIGSTOP)
        stay("one agent is stopped", stopped_s)
        agent.signal(signal.SIGCONT)
        stay("it goes on", min(REST_S, stopped_s))
    said = deaths_said(pop) - before
    return row(
        *("death", said, "false deaths", "0"),
        case="loaded cores, one agent stopped",
        before_stop=loaded,
        minutes=round(effort.loaded_s / 60, 2),
        stopped_s=stopped_s,
        hosts=effort.hosts,
    )


# ---- rest ----


def rest_us(hosts: int, seconds: float) -> list[float]:
    """CPU time a second of each agent of a POP at rest, in microseconds."""
    with pop_of(hosts) as pop:
        time.sleep(REST_S)
        before = [pop.cpu_us(host) for host in pop.box.host_ids]
        begin = time.monotonic()
        stay(f"{hosts} agents at rest", seconds)
        taken = time.monotonic() - begin
        after = [pop.cpu_us(host) for host in pop.box.host_ids]
    return [(now - was) / taken for now, was in zip(after, before, strict=True)]


def idle(effort: Effort, _seed: int) -> list[Row]:
    """Percent of one core that an agent takes at rest; the line through two sizes leads to 100."""
    few, many = effort.idle_hosts
    costs = {hosts: rest_us(hosts, effort.idle_s) for hosts in (few, many)}
    low, high = (statistics.mean(costs[hosts]) for hosts in (few, many))
    peer_us = (high - low) / (many - few)
    alone_us = low - peer_us * (few - 1)
    percent = 100 / US_PER_S
    return [
        row(
            *("idle", high * percent, "% of a core", f"<= 3 % at {GOAL_HOSTS} hosts"),
            at_100=round((alone_us + peer_us * (GOAL_HOSTS - 1)) * percent, 3),
            hosts=many,
            max=round(max(costs[many]) * percent, 3),
            few_hosts=few,
            few_percent=round(low * percent, 3),
            alone_us_a_s=round(alone_us, 1),
            us_a_datagram=round(peer_us / HEARTBEATS_A_S, 1),
            how=HOW_IDLE,
        )
    ]
