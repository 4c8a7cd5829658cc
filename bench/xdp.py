# SPDX-License-Identifier: BSD-2-Clause
"""Cost of one packet in the XDP program, by BPF_PROG_TEST_RUN, in a namespace of its own.

Only endings that leave the frame as it is can be repeated: the kernel does not restore a frame
between repeats. What bounds the number: instructions, and cache misses of one hot session.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bench.machine import repeat
from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._native import pack_key4
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.session import Service

REPEATS = 7
RUNS = 1_000_000
VIP, CLIENT = IPv4Address("198.51.100.1"), IPv4Address("203.0.113.9")
PORT, CLIENT_PORT = 443, 51000
ACK, RST, SYN = 0x10, 0x04, 0x02


def frame(port: int, flags: int) -> bytes:
    """60 bytes: Ethernet, IPv4, TCP to the VIP."""
    tcp = struct.pack("!HHIIBBHHH", CLIENT_PORT, port, 1, 1, 0x50, flags, 0xFFFF, 0, 0)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, CLIENT.packed, VIP.packed
    )  # fmt: skip
    return (bytes(12) + b"\x08\x00" + ip + tcp).ljust(60, b"\0")


def settings() -> DataplaneSettings:
    """A host on the loopback of a namespace that ends with this process."""
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
        pins=Path(f"/sys/fs/bpf/pyxdp-gossip/bench-{os.getpid()}"),
        cgroup=netlink.cgroup2_mount(),
        flood_rate_pps=0,
        flood_new_rate_pps=0,
    )


def run(seed: int) -> list[dict[str, Any]]:
    """A row for each kind of packet that passes; `seed` has nothing to choose here."""
    from pyroute2 import netns

    name = f"xgbench{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.setns(name)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (VIP, CLIENT):
            subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
        with Dataplane(settings()) as plane, connection():
            plane.owners.activate(1)
            plane.table4.put(pack_key4(CLIENT.packed, CLIENT_PORT, 0), 1)
            plane.heartbeat(1 << 62)
            return measure(plane)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
        pins = settings().pins
        if pins.exists():
            pins.rmdir()


@contextmanager
def connection() -> Iterator[None]:
    """A live connection of the client to the service."""
    with socket.create_server((str(VIP), PORT)) as listener:
        source = (str(CLIENT), CLIENT_PORT)
        with socket.create_connection((str(VIP), PORT), source_address=source):
            accepted, _ = listener.accept()
            with accepted:
                yield


def measure(plane: Dataplane) -> list[dict[str, Any]]:
    fd = plane.program_fd("xg_redirect")
    kinds = {
        "no service": frame(80, ACK),
        "own session": frame(PORT, RST),  # known by its addresses and ports alone
        "SYN of an own session": frame(PORT, SYN),
    }
    rows = []
    for what, packet in kinds.items():

        def look(packet: bytes = packet) -> float:
            return float(bpf_object.run_program(fd, packet, repeat=RUNS).duration_ns)

        row = {"what": what, "entries": 1, "unit": "ns per packet", **repeat(look, REPEATS)}
        rows.append(row)
    return rows
