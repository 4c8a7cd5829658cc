# SPDX-License-Identifier: BSD-2-Clause
"""The POP in network namespaces: a router, hosts with real proxies, clients; all of it gone after.

Usage: `with Box(hosts=4, clients=1, proxy="nginx") as box: box.set_next_hops([1, 2, 3])`.
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyxdp_gossip.popbox import cgroups, commands, leftovers, names, network, proxy, routes
from pyxdp_gossip.popbox.agents import Agent, Settings, wait_all_ready, write_key_file
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.observer import Observed, Observer
from pyxdp_gossip.popbox.processes import Process, is_listening

PROXY_TIMEOUT_S = 10.0


class Box:
    """One POP of this process; there can be one at a time.

    Args:
        hosts: 1..HOSTS_MAX; their ids are 1, 2, ...
        clients: 0..CLIENTS_MAX client namespaces, 1, 2, ...
        proxy: "nginx", "haproxy" (in front of nginx), or "none".
        ipv6: which VIP `vip` is; both are always served and routed.
        tcp_syncookies: host id to the value of net.ipv4.tcp_syncookies.
        seed: of the content that the proxies serve.
        multicast: False: the POP's network carries none, and the agents are told of each other.
        mtu: of the links inside the POP; those to the clients have 1500.

    Raises:
        BoxError: from `__enter__`; what is missing, and what to do. Nothing is left then.
    """

    def __init__(
        self,
        hosts: int = 4,
        clients: int = 1,
        proxy: proxy.ProxyKind = "nginx",
        ipv6: bool = False,
        tcp_syncookies: Mapping[int, int] | None = None,
        seed: int = 1,
        multicast: bool = True,
        mtu: int = names.POP_MTU,
    ) -> None:
        if not 1 <= hosts <= names.HOSTS_MAX:
            raise BoxError(f"{hosts} hosts: use 1 to {names.HOSTS_MAX}")
        if not 0 <= clients <= names.CLIENTS_MAX:
            raise BoxError(f"{clients} clients: use 0 to {names.CLIENTS_MAX}")
        if proxy not in ("nginx", "haproxy", "none"):
            raise BoxError(f"proxy {proxy!r}: use nginx, haproxy or none")
        self.host_ids = tuple(range(1, hosts + 1))
        self.client_ids = tuple(range(1, clients + 1))
        self.vip = names.VIP6 if ipv6 else names.VIP4
        self.port = names.VIP_PORT
        self.dead_hosts: set[int] = set()
        self.setup_s = 0.0
        self._proxy = proxy
        self._syncookies = dict(tcp_syncookies or {})
        self._seed = seed
        self._multicast = multicast
        self._mtu = mtu
        self._pid = os.getpid()
        self._lock: int | None = None
        self._processes: dict[str, list[Process]] = {}
        self._agents: dict[int, Agent] = {}

    # ---- set-up and teardown ----

    def __enter__(self) -> Self:
        begin = time.monotonic()
        self._require()
        self._lock = leftovers.claim(self._pid)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        self.setup_s = time.monotonic() - begin
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes everything down; repeating it is harmless."""
        if self._lock is None:
            return
        try:
            cgroups.kill(leftovers.box_cgroup(self._pid))
            for processes in self._processes.values():
                for process in processes:
                    process.reap()
            for agent in self._agents.values():
                agent.forget()
            leftovers.clear(self._pid)
        finally:
            os.close(self._lock)
            self._lock = None

    def _require(self) -> None:
        if os.geteuid() != 0:
            raise BoxError("network namespaces need root; run it with sudo")
        commands.require_programs("ip", "bridge", "tc", "nsenter", "ethtool", "bpftool")
        if self._proxy != "none":
            commands.require_programs("nginx")
        if self._proxy == "haproxy":
            commands.require_programs("haproxy")

    def _build(self) -> None:
        hosts, clients = len(self.host_ids), len(self.client_ids)
        observer = Observer(leftovers.pin_folder(self._pid) / "observer")
        observer.load()
        observer.watch([(names.VIP4, names.VIP_PORT), (names.VIP6, names.VIP_PORT)])
        self._observer = observer
        spaces = network.namespaces(self._pid, hosts, clients)
        lines = "".join(f"netns add {name}\n" for name in spaces)
        commands.run("making the namespaces", ["ip", "-batch", "-"], lines)
        router = network.router_script(self._pid, hosts, clients, self._multicast, self._mtu)
        programs = observer.attach_script(hosts, clients)
        commands.run_steps([self._script(spaces[0], "building the router", router + programs)])
        commands.run_steps(
            [
                *(
                    self._script(
                        self.host_namespace(host),
                        f"building host {host}",
                        network.host_script(host, self._syncookies.get(host)),
                    )
                    for host in self.host_ids
                ),
                *(
                    self._script(
                        self.client_namespace(client),
                        f"building client {client}",
                        network.client_script(client),
                    )
                    for client in self.client_ids
                ),
            ]
        )
        self._prepare_folders()
        # Only now: a next-hop object needs the bridge's carrier, thus a host that is up.
        hops = network.batch(routes.next_hop_objects(hosts))
        commands.run_steps([self._script(spaces[0], "making the next hops", hops)])
        self.set_next_hops(self.host_ids)
        self._start_proxies()

    def _script(self, namespace: str, what: str, script: str) -> commands.Step:
        return commands.script_in(namespace, what, script)

    def _prepare_folders(self) -> None:
        write_key_file(self.folder / "gossip.key")
        self.content = proxy.write_content(self.folder / "content", self._seed)
        box_cgroup = leftovers.box_cgroup(self._pid)
        box_cgroup.mkdir()
        for client in self.client_ids:
            (box_cgroup / f"c{client}").mkdir()
        for host in self.host_ids:
            self.host_cgroup(host).mkdir()
            self.host_folder(host).mkdir()
            self._agents[host] = Agent(
                host,
                self.host_folder(host),
                self.host_namespace(host),
                self.host_cgroup(host),
                leftovers.pin_folder(self._pid) / f"host-{host}",
                () if self._multicast else self._others(host),
            )

    def _others(self, host: int) -> list[str]:
        return [names.host_address(other).ipv4 for other in self.host_ids if other != host]

    def _start_proxies(self) -> None:
        waiting: list[tuple[Process, int]] = []
        for host in self.host_ids:
            folder = self.host_folder(host)
            for name, argv, port in proxy.proxy_commands(
                self._proxy, folder, self.folder / "content", host
            ):
                waiting.append((self.start_on_host(host, name, argv), port))
        for process, port in waiting:
            self._wait_listening(process, port)

    @staticmethod
    def _wait_listening(process: Process, port: int) -> None:
        process.wait_until(
            lambda: is_listening(process.pid, port), f"port {port} open", PROXY_TIMEOUT_S
        )

    # ---- names and places ----

    @property
    def folder(self) -> Path:
        """Where the box keeps its files; gone with it."""
        return leftovers.run_folder(self._pid)

    def host_folder(self, host: int) -> Path:
        return self.folder / f"h{host}"

    def host_cgroup(self, host: int) -> Path:
        return leftovers.box_cgroup(self._pid) / f"h{host}"

    def router_namespace(self) -> str:
        return names.router_namespace(self._pid)

    def host_namespace(self, host: int) -> str:
        return names.host_namespace(self._pid, host)

    def client_namespace(self, client: int) -> str:
        return names.client_namespace(self._pid, client)

    # ---- processes and commands ----

    def start_on_host(
        self, host: int, name: str, argv: list[str], *, piped: bool = False
    ) -> Process:
        """Starts a process in a host's namespace and cgroup; it ends with the host."""
        self._require_host(host)
        process = Process(
            f"{name} of host {host}",
            argv,
            self.host_namespace(host),
            self.host_cgroup(host),
            self.host_folder(host) / f"{name}.log",
            piped=piped,
        )
        self._processes.setdefault(f"h{host}", []).append(process)
        return process

    def start_on_client(self, client: int, name: str, argv: list[str]) -> Process:
        """Starts a process in a client's namespace, its standard input and output piped."""
        if client not in self.client_ids:
            raise BoxError(f"no client {client}; this box has {len(self.client_ids)}")
        process = Process(
            f"{name} of client {client}",
            argv,
            self.client_namespace(client),
            leftovers.box_cgroup(self._pid) / f"c{client}",
            self.folder / f"c{client}-{name}.log",
            piped=True,
        )
        self._processes.setdefault(f"c{client}", []).append(process)
        return process

    def run_in(self, namespace: str, argv: Sequence[str], stdin: str = "") -> str:
        """Runs a short command in a namespace of the box; returns its standard output."""
        what = f"{argv[0]} in {namespace}"
        return commands.run(what, [*commands.in_namespace(namespace), *argv], stdin)

    # ---- the router ----

    def set_next_hops(self, hosts: Iterable[int], kind: routes.Kind = "plain") -> None:
        """Makes exactly these hosts, in this order, the router's next hops for both VIPs."""
        chosen = list(hosts)
        for host in chosen:
            if host not in self.host_ids:
                raise BoxError(f"no host {host}; this box has {len(self.host_ids)}")
        lines = "".join(f"{line}\n" for line in routes.change(chosen, kind))
        self.run_in(self.router_namespace(), ["ip", "-batch", "-"], lines)

    def observed(self) -> Observed:
        """What the router saw the hosts answer so far."""
        return self._observer.read()

    # ---- hosts ----

    def _require_host(self, host: int) -> None:
        if host not in self.host_ids or host in self.dead_hosts:
            raise BoxError(f"host {host} is not alive in this box of {len(self.host_ids)}")

    def set_tcp_syncookies(self, host: int, value: int) -> None:
        """0 off, 1 on overflow, 2 always. The secret is one per kernel, not per host."""
        self._require_host(host)
        script = network.set_sysctls([("ipv4/tcp_syncookies", value)])
        self.run_in(self.host_namespace(host), ["sh", "-e", "-s"], script)

    def kill_host(self, host: int) -> None:
        """The power fails: the link first, so that no FIN or RST of a dying process gets out."""
        self._require_host(host)
        self.dead_hosts.add(host)
        self.run_in(self.host_namespace(host), ["ip", "link", "set", "eth0", "down"])
        self._observer.host_died(names.host_address(host).mac)
        cgroups.kill(self.host_cgroup(host))
        for process in self._processes.pop(f"h{host}", []):
            process.reap()
        self._agents[host].forget()

    # ---- agents ----

    def agent(self, host: int) -> Agent:
        """The agent of a host, running or not."""
        return self._agents[host]

    def start_agent(self, host: int, settings: Settings | None = None) -> None:
        """Starts an agent and waits until it is synced. `settings` change its configuration."""
        self.start_agents([host], settings)

    def start_agents(
        self, hosts: Iterable[int] | None = None, settings: Settings | None = None
    ) -> float:
        """Starts agents side by side (all live hosts by default); returns the seconds it took."""
        chosen = self.live_hosts() if hosts is None else list(hosts)
        begin = time.monotonic()
        for host in chosen:
            self._require_host(host)
            self._agents[host].spawn(settings)
        wait_all_ready(self._agents[host] for host in chosen)
        return time.monotonic() - begin

    def stop_agent(self, host: int) -> int:
        """SIGTERM and wait; returns the exit status."""
        return self._agents[host].stop()

    def kill_agent(self, host: int) -> None:
        self._agents[host].kill()

    def freeze_agent(self, host: int) -> None:
        self._agents[host].signal(signal.SIGSTOP)

    def thaw_agent(self, host: int) -> None:
        self._agents[host].signal(signal.SIGCONT)

    def agent_stats(self, host: int) -> dict[str, Any]:
        """{"dataplane": {counter: n}, "gossip": {...}, "mode": ...}; see `Agent.stats`."""
        return self._agents[host].stats()

    def live_hosts(self) -> list[int]:
        return [host for host in self.host_ids if host not in self.dead_hosts]
