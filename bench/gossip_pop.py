# SPDX-License-Identifier: BSD-2-Clause
"""A POP of real agents for the gossip benchmark: its hosts, losses, and views into its tables."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.gossip_opener import Opener, first_client
from pyxdp_gossip._native import OwnerStates, SessionTable
from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.popbox import Box, leftovers
from pyxdp_gossip.popbox.agents import Settings
from pyxdp_gossip.popbox.cgroups import processes

GOSSIP_PORT: Final = 7946
PATIENCE_S: Final = 60.0  # for what takes a second: a machine under load
POLL_S: Final = 0.002
SESSIONS: Final = 1 << 18  # a table that no part but the join fills


def wait_until(what: str, condition: Callable[[], bool], pause_s: float = POLL_S) -> None:
    """Polls; a condition that does not come true ends the benchmark."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE_S:g} s in vain: {what}")
        time.sleep(pause_s)


class HostView:
    """What one host's pinned maps say, read beside its agent.

    To be made while the table is empty: adopting it clears what is void, and that is a write.
    """

    def __init__(self, host: int) -> None:
        self.host = host
        pins = leftovers.pin_folder(os.getpid()) / f"host-{host}" / "maps"
        with ExitStack() as stack:
            maps = {name: BpfMap.pinned(pins / name) for name in ("owners", "sessions4")}
            for opened in maps.values():
                stack.callback(os.close, opened.fd)
            self.owners = OwnerStates(memory=maps["owners"].memory())
            sessions = maps["sessions4"]
            buckets = sessions.max_entries - 1  # the first place is the table's header
            memory = sessions.memory()
            self.table = SessionTable(4, buckets, self.owners, memory=memory, adopt=True)


class GossipPop:
    """Hosts 1, 2, ... with an agent each; no proxy, no client, no packet but gossip."""

    def __init__(self, box: Box, sessions: int) -> None:
        self.box = box
        self.settings: Settings = {"gossip": {"preset": "lan"}, "table": {"sessions_v4": sessions}}
        self._views: dict[int, HostView] = {}
        self._lossy: set[int] = set()
        for host in box.host_ids:
            argv = ["ip", "addr", "add", f"{first_client(host)}/19", "dev", "lo"]
            box.run_in(box.host_namespace(host), argv)

    # ---- agents ----

    def start(self, hosts: Iterable[int]) -> None:
        """Starts agents and waits until they are synced."""
        chosen = list(hosts)
        self.box.start_agents(chosen, self.settings)
        for host in chosen:
            self._views.pop(host, None)  # a new agent may have new maps

    def settle(self, hosts: Iterable[int]) -> None:
        """Until each of these hosts takes all of them for active."""
        chosen = list(hosts)
        for host in chosen:
            wait_until(f"host {host} knows all", partial(self._knows, host, chosen))

    def _knows(self, host: int, others: list[int]) -> bool:
        return all(map(self.view(host).owners.is_active, others))

    def view(self, host: int) -> HostView:
        """Opened once an agent."""
        if host not in self._views:
            self._views[host] = HostView(host)
        return self._views[host]

    def cpu_us(self, host: int) -> int:
        """CPU time that the processes of a host have used."""
        words = (self.box.host_cgroup(host) / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1])

    def pin(self, host: int, cpu: int) -> None:
        """All threads of a host's processes stay on one CPU."""
        for process in processes(self.box.host_cgroup(host)):
            for task in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cpu})

    def counters(self, host: int) -> dict[str, Any]:
        """What the agent counts of the gossip."""
        gossip: dict[str, Any] = self.box.agent_stats(host)["gossip"]
        return gossip

    # ---- events and losses ----

    def opener(self, host: int, count: int, rate: int, keep: int) -> Opener:
        """A process that is ready to open `count` connections at a host, `rate` a second."""
        return Opener(self.box, host, count, rate, keep)

    def lose(self, percent: float, hosts: Iterable[int] | None = None) -> None:
        """From now on each host loses such a share of the gossip that comes to it; 0: none."""
        for host in hosts or self.box.live_hosts():
            space = self.box.host_namespace(host)
            if host in self._lossy:
                self.box.run_in(space, ["nft", "delete", "table", "inet", "gossip_loss"])
                self._lossy.discard(host)
            if percent:
                share = f"numgen random mod 1000 < {round(percent * 10)}"
                rule = f'iifname "eth0" udp dport {GOSSIP_PORT} {share} drop'
                chain = f"chain only {{ type filter hook input priority 0; {rule}; }}"
                table = f"table inet gossip_loss {{\n{chain}\n}}\n"
                self.box.run_in(space, ["nft", "-f", "-"], table)
                self._lossy.add(host)


@contextmanager
def pop_of(hosts: int, running: int | None = None, sessions: int = SESSIONS) -> Iterator[GossipPop]:
    """A POP whose first `running` hosts (all by default) have a synced agent."""
    with Box(hosts=hosts, clients=0, proxy="none") as box:
        pop = GossipPop(box, sessions)
        chosen = box.host_ids[:running]
        if chosen:
            pop.start(chosen)
            pop.settle(chosen)
        yield pop
