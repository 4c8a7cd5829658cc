# SPDX-License-Identifier: BSD-2-Clause
"""What our programs and a real agent cost the host's own traffic, through a real nginx.

A client with wrk and a host with nginx on one veth. The host's interface has nothing attached,
a bare XDP_PASS, or everything of ours: the agent at work, the sessions in the table as our own, by
each tunnel format.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from bench import programs
from bench.machine import rounded, turns
from bench.world import World
from pyxdp_gossip.bpf_object import BpfObject
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.popbox.agents import Agent, Settings, write_key_file
from pyxdp_gossip.popbox.processes import is_listening

BOUND_BY: Final = (
    "Client, nginx, agent and both NAPIs share one CPU, so that whatever ours costs, wherever it "
    "runs, takes from the rate (with two CPUs a veth runs the host's XDP program on the client's "
    "CPU, which may have time to spare). The ratio therefore counts the client's work too; "
    "added_us does not: CPU time that ours adds to one request, connection or MiB, by the "
    "cgroups' clocks, which other load on the machine does not move (a kernel with "
    "IRQ_TIME_ACCOUNTING leaves the XDP programs out of it). Native XDP on a veth switches GSO "
    "off at the peer and linearises what arrives: the driver's cost, so the fair peer is XDP_PASS."
)
CLIENT, HOST = "client", "host"
DEVICE: Final = "eth0"  # of both namespaces
CLIENT_ADDRESS, HOST_ADDRESS, VIP = "10.8.0.2", "10.8.0.1", "198.51.100.1"
PORT: Final = 80
LINK_MTU: Final = 1600
MIB: Final = 1 << 20
SMALL_BYTES, BULK_BYTES = 200, 64 * MIB
READY_TIMEOUT_S: Final = 30.0
WRK_SPARE_S: Final = 15.0  # over the time that wrk was told, on a loaded machine
TOTALS: Final = re.compile(r"^TOTALS (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)

# wrk's own figures, for a machine: requests, bytes, microseconds, errors.
WRK_REPORT: Final = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("TOTALS %d %d %d %d\\n", summary.requests, summary.bytes,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of traffic.

    Attributes:
        path: of the file that is asked for.
        options: wrk's, beside those that all have.
        in_gbit: the figure is bytes, not requests.
    """

    what: str
    path: str
    connections: int
    unit: str
    options: tuple[str, ...] = ()
    in_gbit: bool = False


LOADS: Final = (
    Load("requests", "small", 32, "requests/s"),
    Load("bulk", "bulk", 4, "Gbit/s", in_gbit=True),
    # Each request on a connection of its own: what a session's open and close cost.
    Load("connections", "small", 16, "connections/s", ("-H", "Connection: close")),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int = 3  # of each variant: two minutes of wrk
    window_s: int = 2  # wrk counts whole seconds


QUICK: Final = Effort(rounds=1, window_s=1)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it happens."""

    world: World
    traffic: BpfObject
    cpu: int
    host_cgroup: Path
    client_cgroup: Path


Counters = Callable[[], dict[str, int]]
"""The data path's counters, by name; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What is attached at the host: its name, how, and why it cannot be, or None; the tunnel
    format, if it is ours."""

    name: str
    attach: Callable[[Scene], AbstractContextManager[Counters]]
    missing: Callable[[], str | None] = lambda: None
    encapsulation: str | None = None


@contextmanager
def nothing(scene: Scene) -> Iterator[Counters]:
    """No program at all."""
    yield dict


@contextmanager
def bare_pass(scene: Scene) -> Iterator[Counters]:
    """A program that is one instruction: the cost of native XDP on a veth."""
    index = scene.world.call(HOST, socket.if_nametoindex, DEVICE)
    attach = programs.attached(scene.traffic.program_fd("bench_pass"), index)
    scene.world.call(HOST, attach.__enter__)
    try:
        yield dict
    finally:
        attach.__exit__(None, None, None)


def ours(plane: str, encapsulation: str) -> Callable[[Scene], AbstractContextManager[Counters]]:
    """A real agent: programs, sockops on nginx's cgroup, gossip, the table kept by events."""

    @contextmanager
    def attach(scene: Scene) -> Iterator[Counters]:
        world = scene.world
        folder = world.folder / "agent"
        folder.mkdir(exist_ok=True)
        pins = world.pins / "host-1"
        agent = Agent(1, folder, world.namespace(HOST), scene.host_cgroup, pins)
        try:
            settings = {"dataplane": {"plane": plane, "encapsulation": encapsulation}}
            world.call(HOST, spawn_on, scene.cpu, agent, settings)
            agent.wait_ready()
            yield lambda: agent.stats()["dataplane"]
            agent.stop()
        finally:
            if agent.process:
                agent.kill()

    return attach


def spawn_on(cpu: int, agent: Agent, settings: Settings) -> None:
    """Starts an agent that stays on one CPU, as its parent's thread does."""
    os.sched_setaffinity(0, {cpu})
    agent.spawn(settings)


def no_xsk() -> str | None:
    """Why plane = "xsk" cannot run here."""
    there = {field.name for field in dataclasses.fields(DataplaneSettings)}
    return None if "plane" in there else "not built yet: DataplaneSettings has no plane"


def of_format(encapsulation: str) -> Variant:
    """The XDP program alone, with another tunnel format than the default."""
    attach = ours("xdp", encapsulation)
    return Variant(f"ours-xdp-{encapsulation}", attach, encapsulation=encapsulation)


DEFAULT, *OTHER_FORMATS = ENCAPSULATIONS
OURS: Final = (
    Variant("ours-xdp", ours("xdp", DEFAULT), encapsulation=DEFAULT),
    Variant("ours-xsk", ours("xsk", DEFAULT), no_xsk, DEFAULT),
    *map(of_format, OTHER_FORMATS),
)
VARIANTS: Final = (Variant("nothing", nothing), Variant("XDP_PASS", bare_pass), *OURS)
COMPARISONS: Final = tuple(
    (variant.name, peer) for variant in OURS for peer in ("XDP_PASS", "nothing")
)


# ---- the scene ----


def nginx_config(folder: Path) -> str:
    """One worker that answers from memory and writes nothing outside `folder`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""user root;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{temporary}
  sendfile on;
  open_file_cache max=8;
  keepalive_requests 1000000000;
  server {{
    listen {VIP}:{PORT} backlog=1024;
    root {folder}/content;
  }}
}}
"""


def make_link(world: World) -> None:
    """A veth between client and host; each knows the way to the other's addresses."""
    world.ip(
        CLIENT,
        f"link add {DEVICE} mtu {LINK_MTU} type veth "
        f"peer name {DEVICE} mtu {LINK_MTU} netns {world.namespace(HOST)}",
    )
    for short, address in ((CLIENT, CLIENT_ADDRESS), (HOST, HOST_ADDRESS)):
        world.ip(short, f"link set {DEVICE} up")
        world.ip(short, f"addr add {address}/24 dev {DEVICE}")
    world.ip(HOST, f"addr add {VIP}/32 dev lo")
    world.ip(CLIENT, f"route add {VIP}/32 via {HOST_ADDRESS}")
    # What comes back through the tunnel needs whole checksums: as on a host of ours.
    world.exec(CLIENT, f"ethtool -K {DEVICE} tx off")


def start_nginx(scene: Scene) -> None:
    """nginx answers on the VIP when this returns."""
    world = scene.world
    content = world.folder / "content"
    content.mkdir()
    (content / "small").write_bytes(bytes(SMALL_BYTES))
    with (content / "bulk").open("wb") as file:
        file.truncate(BULK_BYTES)
    config = world.folder / "nginx.conf"
    config.write_text(nginx_config(world.folder))
    argv = ["nginx", "-p", str(world.folder), "-c", str(config)]
    argv += ["-e", f"{world.folder}/nginx-error.log"]
    process = world.start(HOST, "nginx", argv, scene.cpu, scene.host_cgroup)
    process.wait_until(lambda: is_listening(process.pid, PORT), "listening", READY_TIMEOUT_S)


@contextmanager
def scene_of(world: World) -> Iterator[Scene]:
    """The link, nginx and what wrk needs."""
    groups = [world.cgroup / short for short in (HOST, CLIENT)]
    for group in groups:
        group.mkdir()
    scene = Scene(world, programs.load("traffic"), max(os.sched_getaffinity(0)), *groups)
    make_link(world)
    write_key_file(world.folder / "gossip.key")
    (world.folder / "report.lua").write_text(WRK_REPORT)
    start_nginx(scene)
    yield scene


# ---- the measuring ----


@dataclass(frozen=True, slots=True)
class Figure:
    """One run of a load: its rate in the load's unit, and the CPU time of one request or MiB."""

    rate: float
    cpu_us: float


def cpu_us(cgroup: Path) -> int:
    """CPU time that the processes of a cgroup and below have used."""
    words = (cgroup / "cpu.stat").read_text().split()
    return int(words[words.index("usage_usec") + 1])


def run_load(scene: Scene, load: Load, seconds: int) -> Figure:
    """Runs wrk; client, nginx and agent are charged."""
    world = scene.world
    before_us = cpu_us(world.cgroup)
    argv = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", *load.options]
    argv += ["-s", str(world.folder / "report.lua"), f"http://{VIP}:{PORT}/{load.path}"]
    process = world.start(CLIENT, f"wrk-{load.what}", argv, scene.cpu, scene.client_cgroup)
    status = process.popen.wait(seconds + WRK_SPARE_S)
    found = TOTALS.findall(process.log.read_text())
    if status != 0 or not found:
        raise RuntimeError(f"{load.what}: wrk ended with status {status}: {process.log_tail()}")
    requests, size, duration_us, errors = (int(word) for word in found[-1])
    if errors or requests == 0:
        raise RuntimeError(f"{load.what}: {errors} errors in {requests} requests")
    used_us = cpu_us(world.cgroup) - before_us
    if load.in_gbit:
        return Figure(size * 8 / 1e3 / duration_us, used_us / (size / MIB))
    return Figure(requests / (duration_us / 1e6), used_us / requests)


Figures = dict[str, dict[str, list[Figure]]]
"""Variant to kind of load to the figure of each round."""


def measure(scene: Scene, effort: Effort, progress: Progress) -> tuple[Figures, dict[str, float]]:
    """The figures, and by variant the percentage of service packets that were found as own."""
    present = [variant for variant in VARIANTS if not variant.missing()]
    figures: Figures = {variant.name: {load.what: [] for load in LOADS} for variant in present}
    own: dict[str, float] = {}
    order = turns(present, effort.rounds)
    task = progress.add_task("overhead", total=len(order) * len(LOADS))
    for variant in order:
        with variant.attach(scene) as counters:
            for load in LOADS:
                progress.update(task, description=f"overhead: {variant.name}, {load.what}")
                before = counters()
                figures[variant.name][load.what].append(run_load(scene, load, effort.window_s))
                if before and load.what == "requests":
                    own[variant.name] = own_percent(before, counters())
                progress.advance(task)
    return figures, own


def own_percent(before: dict[str, int], after: dict[str, int]) -> float:
    """How many of the packets that passed were the table's own sessions, in percent."""
    passed = {name: after[name] - before[name] for name in after if name.startswith("passed_")}
    return 100 * passed["passed_own"] / max(1, sum(passed.values()))


def row(load: Load, mine: str, peer: str, figures: Figures, effort: Effort) -> dict[str, Any]:
    """One comparison."""
    ours_rates, their_rates = (
        [figure.rate for figure in figures[name][load.what]] for name in (mine, peer)
    )
    ours_us, theirs_us = (
        statistics.median(figure.cpu_us for figure in figures[name][load.what])
        for name in (mine, peer)
    )
    ours_median, theirs_median = statistics.median(ours_rates), statistics.median(their_rates)
    pairs = [a / b for a, b in zip(ours_rates, their_rates, strict=True)]
    return {
        "what": load.what,
        "variant": mine,
        "peer": peer,
        "ours": round(ours_median, 3),
        "theirs": round(theirs_median, 3),
        "unit": load.unit,
        "ratio": round(ours_median / theirs_median, 3),
        "min": round(min(ours_rates), 3),
        "max": round(max(ours_rates), 3),
        "theirs_min": round(min(their_rates), 3),
        "theirs_max": round(max(their_rates), 3),
        "ratio_min": round(min(pairs), 3),
        "ratio_max": round(max(pairs), 3),
        "rounds": effort.rounds,
        "cpu_us": round(ours_us, 2),
        "theirs_cpu_us": round(theirs_us, 2),
        "added_us": round(ours_us - theirs_us, 2),
        "samples": rounded(ours_rates),
        "theirs_samples": rounded(their_rates),
    }


def absent_row(load: Load, mine: str, peer: str, effort: Effort, why: str) -> dict[str, Any]:
    """The row of a variant that cannot run here."""
    empty = dict.fromkeys(("ours", "theirs", "ratio", "min", "max"))
    return {
        "what": load.what,
        "variant": mine,
        "peer": peer,
        **empty,
        "unit": load.unit,
        "rounds": effort.rounds,
        "note": f"{mine}: {why}",
    }


def run(seed: int, effort: Effort | None = None) -> list[dict[str, Any]]:
    """A row for each load and comparison; `seed` has nothing to choose here."""
    effort = effort or Effort()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: make setup")
    missing = {variant.name: variant.missing() for variant in VARIANTS}
    formats = {variant.name: variant.encapsulation for variant in OURS}
    with (
        World(CLIENT, HOST) as world,
        Progress(transient=True) as progress,
        scene_of(world) as scene,
    ):
        figures, own = measure(scene, effort, progress)
    rows = []
    for load in LOADS:
        for mine, peer in COMPARISONS:
            why = missing[mine]
            if why:
                rows.append(absent_row(load, mine, peer, effort, why))
                continue
            found = row(load, mine, peer, figures, effort)
            if load.what == "requests":
                found["own_percent"] = round(own[mine], 2)
            rows.append(found)
    return [told(found, formats[found["variant"]]) for found in rows]


def told(found: dict[str, Any], encapsulation: str | None) -> dict[str, Any]:
    """A row with its tunnel format, beside what else names it, and with what bounds it."""
    names = {"what": found["what"], "variant": found["variant"], "encapsulation": encapsulation}
    return {**names, **found, "bound_by": BOUND_BY}
