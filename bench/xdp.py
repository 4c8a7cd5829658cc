# SPDX-License-Identifier: BSD-2-Clause
"""Cost of one packet in the XDP program, by BPF_PROG_TEST_RUN, in a namespace of its own.

The kernel does not restore a frame between repeats: endings that leave it as it is are repeated as
they are, strays by `bench/stray.py`. What bounds the former: instructions, all of it in the cache.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from bench import stray
from bench.machine import repeat
from bench.world import World, inside
from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._native import pack_key4
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.session import Service

HOST: Final = "host"
VIP, CLIENT = IPv4Address("198.51.100.1"), IPv4Address("203.0.113.9")
PORT, CLIENT_PORT = 443, 51000
ACK, RST, SYN = 0x10, 0x04, 0x02


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        repeats, runs: of what passes.
        sessions, rounds: of strays; a turn is as many runs as there are sessions.
    """

    repeats: int = 7
    runs: int = 1_000_000
    sessions: int = 1_000_000
    rounds: int = 15


FULL = Effort()
QUICK: Final = Effort(repeats=2, runs=1000, sessions=1000, rounds=2)


def frame(port: int, flags: int) -> bytes:
    """60 bytes: Ethernet, IPv4, TCP to the VIP."""
    tcp = struct.pack("!HHIIBBHHH", CLIENT_PORT, port, 1, 1, 0x50, flags, 0xFFFF, 0, 0)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, CLIENT.packed, VIP.packed
    )  # fmt: skip
    return (bytes(12) + b"\x08\x00" + ip + tcp).ljust(60, b"\0")


def settings(pins: Path) -> DataplaneSettings:
    """A host on the loopback of a namespace of its own."""
    return DataplaneSettings(
        host=1,
        interface="lo",
        address=IPv4Address("127.0.0.1"),
        flood_group=IPv4Address("239.192.7.2"),
        tunnel_port=6080,
        services={Service(VIP, PORT, "tcp"): 0},
        sessions_v4=1_000_000,
        sessions_v6=1_000,
        mode="skb",
        pins=pins,
        cgroup=netlink.cgroup2_mount(),
        flood_rate_pps=0,
        flood_new_rate_pps=0,
    )


def run(seed: int, effort: Effort | None = None) -> list[dict[str, Any]]:
    """A row for each kind of packet that passes, and those of `bench/stray.py`."""
    with World(HOST) as world:
        for address in (VIP, CLIENT):
            world.ip(HOST, f"addr add {address}/32 dev lo")
        with inside(world.namespace(HOST)):
            return measure(world.pins / "host-1", seed, effort or FULL)


@contextmanager
def connection() -> Iterator[None]:
    """A live connection of the client to the service, and its listener."""
    with socket.create_server((str(VIP), PORT)) as listener:
        source = (str(CLIENT), CLIENT_PORT)
        with socket.create_connection((str(VIP), PORT), source_address=source):
            accepted, _ = listener.accept()
            with accepted:
                yield


def measure(pins: Path, seed: int, effort: Effort) -> list[dict[str, Any]]:
    """All rows, in the calling thread's namespace."""
    with Dataplane(settings(pins)) as plane, connection():
        plane.owners.activate(1)
        plane.table4.put(pack_key4(CLIENT.packed, CLIENT_PORT, 0), 1)
        plane.heartbeat(1 << 62)
        packets = {stray.SEGMENT: frame(PORT, ACK), stray.SYN: frame(PORT, SYN)}
        return passed(plane, effort) + stray.measure(
            plane, packets, VIP, PORT, entries=effort.sessions, rounds=effort.rounds, seed=seed
        )


def passed(plane: Dataplane, effort: Effort) -> list[dict[str, Any]]:
    """Rows of one packet again and again."""
    fd = plane.program_fd("xg_redirect")
    kinds = {
        "no service": frame(80, ACK),
        "own session": frame(PORT, RST),  # known by its addresses and ports alone
        "SYN of an own session": frame(PORT, SYN),
    }
    rows = []
    for what, packet in kinds.items():

        def look(packet: bytes = packet) -> float:
            run = bpf_object.run_program(fd, packet, repeat=effort.runs)
            return float(run.duration_ns)

        timed = repeat(look, effort.repeats)
        rows.append({"what": what, "entries": 1, "unit": "ns per packet", **timed})
    return rows
