# SPDX-License-Identifier: BSD-2-Clause
"""The forwarders that are compared, one context manager each: ours and the systems to beat."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from bench import programs
from bench.link import (
    FIRST_CLIENT,
    HOST,
    HOST_ADDRESS,
    HOST_DEVICE,
    HOST_MAC,
    LINK_MTU,
    PEER_ADDRESS,
    PORT,
    PORTS_A_CLIENT,
    SENDER_MAC,
    TUNNEL_PORT,
    VIP,
    client_keys,
)
from bench.world import STOP_TIMEOUT_S, World
from pyxdp_gossip._native import OwnershipLog
from pyxdp_gossip.bpf_object import BpfObject
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.encapsulation import ETH_LEN, overhead
from pyxdp_gossip.session import Service
from pyxdp_gossip.stats import ENDINGS
from pyxdp_gossip.templates import HeaderTemplate

OWN_HOST, PEER = 1, 2
OPEN4: Final = 0x10  # XG_SECTION_OPEN4
COOKIE: Final = bytes(range(8))


@dataclass(frozen=True, slots=True)
class Running:
    """A forwarder at work.

    Attributes:
        drops: how many frames it dropped so far for reasons that it counts itself.
        looped: how many frames its AF_XDP loop ended so far; 0 if it has none.
        check: raises if it has ended.
    """

    drops: Callable[[], int] = lambda: 0
    looped: Callable[[], int] = lambda: 0
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a forwarder runs.

    Attributes:
        cpu: of a forwarder with a thread of its own; an XDP program runs where its NAPI does.
        cpus: of a forwarder with a thread for each queue, if there are several.
        sessions: a power of two, as many as the sender has.
    """

    world: World
    traffic: BpfObject
    cpu: int
    sessions: int
    cpus: tuple[int, ...] = ()

    @property
    def queues(self) -> int:
        """Of the forwarder's interface."""
        return len(self.cpus) or 1


Start = Callable[[Setting], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Forwarder:
    """One forwarder: its name in the rows, what its frames must look like, how it is run.

    Attributes:
        outer_len: bytes of headers that it puts in the place of the Ethernet header; 0: none.
        missing: why it cannot run here, or None.
    """

    name: str
    sink: str
    start: Start
    missing: Callable[[], str | None] = lambda: None
    outer_len: int = 0


@contextmanager
def macswap(setting: Setting) -> Iterator[Running]:
    """The trivial XDP_TX program."""
    world = setting.world
    index = world.call(HOST, socket.if_nametoindex, HOST_DEVICE)
    attach = programs.attached(setting.traffic.program_fd("bench_macswap"), index)
    world.call(HOST, attach.__enter__)
    try:
        yield Running()
    finally:
        attach.__exit__(None, None, None)


@contextmanager
def _process(setting: Setting, name: str, argv: list[str]) -> Iterator[Running]:
    """A forwarder that is a program. `ip netns exec` hides the BPF file system, so that libxdp
    pins nothing that would outlive it."""
    world = setting.world
    inside = ["ip", "netns", "exec", world.namespace(HOST), *argv]
    process = world.start(HOST, name, inside, setting.cpu, world.cgroup)

    def check() -> None:
        status = process.popen.poll()
        if status is not None:
            raise RuntimeError(f"{name} ended with status {status}: {process.log_tail()}")

    try:
        yield Running(check=check)
    finally:
        process.stop(signal.SIGTERM, STOP_TIMEOUT_S)


def testpmd(setting: Setting) -> AbstractContextManager[Running]:
    """DPDK's testpmd over net_af_xdp, by one queue. Its first thread sleeps."""
    lcores = f"0@{setting.cpu},1@{setting.cpu}"
    argv = [
        "env", f"RUNTIME_DIRECTORY={setting.world.folder}",  # else it leaves files in /run/dpdk
        "dpdk-testpmd", f"--lcores={lcores}", "--no-pci", "--no-huge", "-m", "512",
        "--iova-mode=va", "--no-shconf", "--no-telemetry",
        f"--vdev=net_af_xdp0,iface={HOST_DEVICE},start_queue=0,queue_count=1",
        "--", "--forward-mode=macswap", "--auto-start", "--nb-cores=1", "--stats-period=3600",
        "--total-num-mbufs=16384",  # four times what its rings hold; the default wants 340 MB
    ]  # fmt: skip
    return _process(setting, "testpmd", argv)


def xdpsock_like(setting: Setting) -> AbstractContextManager[Running]:
    """A plain AF_XDP loop in C."""
    return _process(setting, "xdpsock-like", [str(programs.forwarder()), HOST_DEVICE])


def no_testpmd() -> str | None:
    """Why testpmd cannot run here."""
    found = shutil.which("dpdk-testpmd", path=f"{os.environ.get('PATH', '')}:/usr/bin")
    plugin = list(Path("/usr/lib").glob("*/dpdk/pmds-*/librte_net_af_xdp.so*"))
    if found and plugin:
        return None
    return "DPDK's testpmd or its net_af_xdp is not installed: make bench-setup"


# ---- ours ----


ADDRESSES: Final = {
    4: (HOST_ADDRESS, PEER_ADDRESS),
    6: (IPv6Address("fd08::1"), IPv6Address("fd08::2")),
}


def settings(
    world: World, sessions: int, extra: dict[str, Any], version: int = 4
) -> DataplaneSettings:
    """Our data path on the forwarder's interface; no limit on floods."""
    return DataplaneSettings(
        host=OWN_HOST,
        interface=HOST_DEVICE,
        address=ADDRESSES[version][0],
        flood_group=IPv4Address("239.192.7.2"),
        tunnel_port=TUNNEL_PORT,
        services={Service(VIP, PORT, "tcp"): 0},
        sessions_v4=sessions,
        sessions_v6=1000,
        mode="native",
        pins=world.pins / "ours",
        cgroup=world.cgroup,
        flood_rate_pps=0,
        flood_new_rate_pps=0,
        **extra,
    )


def fill(plane: Dataplane, sessions: int) -> None:
    """Every session of the sender, owned by the other host, as its gossip would enter them."""
    plane.owners.activate(OWN_HOST)
    plane.owners.activate(PEER)
    log = OwnershipLog(plane.table4, plane.table6, OWN_HOST)
    rest = [key + bytes(2) for key in client_keys()]
    first = int(FIRST_CLIENT)
    body = b"".join(
        client.to_bytes(4, "big") + port
        for client in range(first, first + sessions // PORTS_A_CLIENT)
        for port in rest
    )
    moment = {"clock": 1, "position": 1, "now_ms": 1}
    result = log.apply(PEER, OPEN4, body, bytes(2), **moment)
    if result.applied != sessions:
        raise RuntimeError(f"{result.applied} of {sessions} sessions are in the table")
    settings = plane.settings
    template = HeaderTemplate.build(
        source=settings.address,
        destination=ADDRESSES[settings.address.version][1],
        source_mac=HOST_MAC,
        destination_mac=SENDER_MAC,
        tunnel_port=TUNNEL_PORT,
        cookie=COOKIE,
        mtu=LINK_MTU,
        encapsulation=settings.encapsulation,
        udp_checksum=settings.udp_checksum,
    )
    plane.set_template(PEER, template)


def ours(extra: dict[str, Any], version: int = 4) -> Start:
    """Our data path, with further settings, over IPv4 or IPv6; a listener of the service beside
    it, as on any host: every stray's question to the kernel finds it."""

    @contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        world = setting.world
        with contextlib.ExitStack() as stack:
            stack.enter_context(world.call(HOST, socket.create_server, (str(VIP), PORT)))
            chosen = {"cpus": setting.cpus, **extra} if extra.get("plane") == "xsk" else extra
            plane = Dataplane(settings(world, setting.sessions, chosen, version))
            world.call(HOST, plane.open)
            stack.callback(plane.close)
            stack.callback(world.call, HOST, plane.detach)
            fill(plane, setting.sessions)
            world.call(HOST, _attach, plane, setting.cpus or (setting.cpu,))

            def drops() -> int:
                found = plane.statistics()
                return sum(found[name] for name, action in ENDINGS.items() if action == "drop")

            def looped() -> int:
                return plane.statistics()["handed_over"]

            yield Running(drops, looped)

    return start


def _attach(plane: Dataplane, cpus: Sequence[int]) -> None:
    """Attaches the programs; threads that this starts inherit the CPUs of the calling one."""
    os.sched_setaffinity(0, set(cpus))
    plane.attach_packets()


def tunnelling(name: str, encapsulation: str = "gue", version: int = 4, **extra: Any) -> Forwarder:
    """Ours, by one tunnel format."""
    outer_len = ETH_LEN + overhead(encapsulation, version)
    start = ours({"encapsulation": encapsulation, **extra}, version)
    return Forwarder(name, "bench_sink_tunnel", start, outer_len=outer_len)


FORWARDERS: Final = (
    Forwarder("xdp-macswap", "bench_sink_plain", macswap),
    tunnelling("ours-xdp", plane="xdp"),
    Forwarder("testpmd", "bench_sink_plain", testpmd, no_testpmd),
    Forwarder("xdpsock-like", "bench_sink_plain", xdpsock_like),
    tunnelling("ours-xsk", plane="xsk"),
)
