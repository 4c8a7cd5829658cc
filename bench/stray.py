# SPDX-License-Identifier: BSD-2-Clause
"""A whole stray in the XDP program beside a single look-up in a hash map of the kernel's.

`bench/bpf/stray.bpf.c` puts the next session of a shuffled order into the frame before each run.
What that costs is measured as well, in the same rounds, and taken off both.
"""

from __future__ import annotations

import random
import struct
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import htons
from statistics import median
from typing import Any, Final

from bench import programs
from bench.lookup import headers_to
from bench.machine import paired, turns
from pyxdp_gossip import bpf_object
from pyxdp_gossip._native import pack_key4
from pyxdp_gossip.bpf_object import BpfObject
from pyxdp_gossip.dataplane import Dataplane

SEGMENT, SYN = "segment of a stray", "SYN of a stray"
LRU, HASH = "LRU_HASH", "HASH"
EMPTY, EMPTY_OURS = EMPTIES = ("bench_empty", "bench_ours_empty")
LOOK_UPS: Final = {LRU: "bench_lru", HASH: "bench_hash"}
ENDINGS: Final = {SEGMENT: "stray_forwarded", SYN: "syn_forwarded"}
ORDERS: Final = ("random", "one session")
TARGET: Final = "ratio <= 0.8"
RESOLUTION_NS: Final = 1.0  # of BPF_PROG_TEST_RUN
BOUND_BY: Final = (
    "cache lines at random places, one of our table and two or more of a hash map. A stray's SYN "
    "is parsed, looked up and encapsulated; a segment asks the kernel's table of sockets as well, "
    "which is one line more, and the listener's. `raw` has the repeats' own cost in it: the next "
    "session put into the frame, and for ours the outer headers taken off again."
)

OWNERS: Final = range(2, 18)  # each with headers of its own
CLIENTS: Final = 1 << 24
SESSION: Final = struct.Struct("<4sHH")  # struct session
RUNNING: Final = struct.Struct("<14sxxII4sHxxQ")  # struct running
NEXT_AT, HITS_AT = 16, 32


@dataclass(frozen=True, slots=True)
class Scene:
    """Loaded programs, and tables that all hold the same sessions.

    Attributes:
        running: `struct running`, which the programs read and write.
        frames: of any client, by what is measured.
        runs: of one turn.
    """

    plane: Dataplane
    bpf: BpfObject
    running: memoryview
    frames: dict[str, bytes]
    runs: int

    def use(self, sessions: int) -> None:
        """From now on so many sessions of the order take turns, beginning with its first."""
        struct.pack_into("<II", self.running, NEXT_AT, 0, sessions)

    def take_turn(self, name: str) -> float:
        """Nanoseconds of one run, as a turn's mean; each must end as it should."""
        before = self._ended(name)
        run = bpf_object.run_program(
            self.bpf.program_fd(LOOK_UPS.get(name, "bench_ours" if name in ENDINGS else name)),
            self.frames.get(name, self.frames[SYN]),
            repeat=self.runs,
        )
        counted = self._ended(name) - before
        if run.action != "tx" or counted != (0 if name in EMPTIES else self.runs):
            raise RuntimeError(f"{name}: {counted} of {self.runs} runs ended as they should")
        return float(run.duration_ns)

    def _ended(self, name: str) -> int:
        """How many runs of this one were right so far."""
        if name in ENDINGS:
            return self.plane.statistics()[ENDINGS[name]]
        (hits,) = struct.unpack_from("<Q", self.running, HITS_AT)
        return int(hits) if name in LOOK_UPS else 0


def measure(
    plane: Dataplane, frames: dict[str, bytes], vip: IPv4Address, port: int, *,
    entries: int, rounds: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of so many sessions: in random order, and one of them again and again.

    Args:
        plane: its service of this VIP and port has slot 0.
        frames: of the service, 60 bytes, by SEGMENT and SYN.
    """
    sessions = shuffled(entries, seed)
    # The map's size is the next power of two: each processor keeps free elements to itself, and
    # a map without room would evict before it is full. It has as many hash buckets either way.
    room = 1 << entries.bit_length()
    sizes = {"order": entries, "flows": room, "flows_hash": room}
    with closing(programs.load("stray", sizes)) as bpf:
        with memoryview(bpf.maps["order"].memory()) as order:
            order[: len(sessions)] = sessions
        ours = plane.program_fd("xg_redirect")
        for number, program in enumerate((ours, bpf.program_fd("bench_nothing"))):
            bpf.maps["measured"].update(*(one.to_bytes(4, "little") for one in (number, program)))
        with memoryview(bpf.maps["running"].memory()) as running:
            ethernet = frames[SYN][:14]
            RUNNING.pack_into(running, 0, ethernet, 0, entries, vip.packed, htons(port), 0)
            scene = Scene(plane, bpf, running, frames, entries)
            fill(scene, sessions)
            return [row for which in ORDERS for row in rows_of(scene, which, entries, rounds)]


def shuffled(entries: int, seed: int) -> bytes:
    """Distinct sessions of random clients, an array of `struct session`."""
    chosen = random.Random(seed).sample(range(CLIENTS << 16), entries)
    return b"".join(
        SESSION.pack((0x0A000000 | number >> 16).to_bytes(4, "big"), number & 0xFFFF, 0)
        for number in chosen
    )


def fill(scene: Scene, sessions: bytes) -> None:
    """Puts the sessions into our table and into the maps."""
    plane = scene.plane
    for host in OWNERS:
        plane.owners.activate(host)
        plane.set_template(host, headers_to(host))
    for number, (client, port_be, _) in enumerate(SESSION.iter_unpack(sessions)):
        key = pack_key4(client, htons(port_be), 0)
        plane.table4.put(key, OWNERS[number % len(OWNERS)])
    run = bpf_object.run_program(
        scene.bpf.program_fd("bench_fill"), scene.frames[SYN], repeat=scene.runs
    )
    if run.action != "tx":
        raise RuntimeError("the maps do not take all sessions")


def rows_of(scene: Scene, order: str, entries: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one order of the sessions."""
    scene.use(entries if order == "random" else 1)
    names = [*ENDINGS, *LOOK_UPS, *EMPTIES]
    for name in names:
        scene.take_turn(name)
    raw: dict[str, list[float]] = {name: [] for name in names}
    for name in turns(names, rounds):
        raw[name].append(scene.take_turn(name))
    net = {name: net_of(raw, name) for name in (*ENDINGS, *LOOK_UPS)}
    return [
        {
            "what": what,
            "order": order,
            "entries": entries,
            "unit": "ns per packet",
            **paired(net[what], LRU, net[LRU]),
            "raw": median(raw[what]),
            "theirs_raw": median(raw[LRU]),
            "rounds": rounds,
            **({"target": TARGET} if what in ENDINGS and order == "random" else {}),
            "bound_by": BOUND_BY,
        }
        for what in (SYN, SEGMENT, HASH)
    ]


def net_of(raw: dict[str, list[float]], name: str) -> list[float]:
    """What remains of each round without the repeats' own cost; no less than can be told."""
    empty = raw[EMPTY_OURS if name in ENDINGS else EMPTY]
    return [max(whole - less, RESOLUTION_NS) for whole, less in zip(raw[name], empty, strict=True)]
