# SPDX-License-Identifier: BSD-2-Clause
"""Frames a second by each tunnel format, each compared with IP-in-IP in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.progress import Progress

from bench.forward import BOUND_BY, Bench, Effort, measure, row
from bench.forwarders import Forwarder, tunnelling
from bench.link import HOST, SENDER, VIP
from bench.world import World

TARGET: Final = "ratio >= 0.9"
PLANES: Final = ("xdp", "xsk")


def _of_plane(plane: str) -> tuple[Forwarder, ...]:
    def one(name: str, encapsulation: str, version: int = 4, **extra: Any) -> Forwarder:
        return tunnelling(f"ours-{plane}-{name}", encapsulation, version, plane=plane, **extra)

    return (
        one("ipip", "ipip"),
        one("gue", "gue"),
        one("geneve", "geneve"),
        one("vxlan", "vxlan"),
        one("ipip-ipv6", "ipip", 6),
        one("gue-ipv6", "gue", 6),
        one("gue-ipv6-zero-checksum", "gue", 6, udp_checksum=False),
    )


def run(
    seed: int, effort: Effort | None = None, planes: Sequence[str] = PLANES
) -> list[dict[str, Any]]:
    """A row for each format but IP-in-IP, in each plane; IPv6's beside IP-in-IP over IPv6."""
    effort = effort or Effort()
    rows = []
    with World(SENDER, HOST) as world, Progress(transient=True) as progress:
        world.ip(HOST, f"addr add {VIP}/32 dev lo")
        for plane in planes:
            forwarders = _of_plane(plane)
            results = measure(Bench(world, seed, effort), progress, forwarders)
            for name in (one.name for one in forwarders if "ipip" not in one.name):
                peer = f"ours-{plane}-ipip" + ("-ipv6" if "ipv6" in name else "")
                compared = row(name, peer, results, effort)
                rows.append({**compared, "target": TARGET, "bound_by": BOUND_BY})
    return rows
