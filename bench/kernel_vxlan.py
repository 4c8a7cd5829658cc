# SPDX-License-Identifier: BSD-2-Clause
"""The kernel as a forwarder: it routes strays into a VXLAN device, as a host without us would."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.forwarders import Forwarder, Running, Setting
from bench.link import HOST, HOST_ADDRESS, HOST_DEVICE, PEER_ADDRESS, SENDER_MAC, TUNNEL_PORT, VIP
from pyxdp_gossip.encapsulation import ETH_LEN, overhead

DEVICE: Final = "kvx0"
VNI: Final = 7
INNER_ADDRESS, INNER_PEER = "10.9.0.1", "10.9.0.2"
INNER_MAC: Final = "02:00:0a:09:00:02"
OUTER_LEN: Final = ETH_LEN + overhead("vxlan", 4)


def no_vxlan() -> str | None:
    """Why the kernel's VXLAN cannot be measured here: it is tried in a namespace of its own."""
    script = f"ip link add {DEVICE} type vxlan id {VNI} dstport {TUNNEL_PORT}"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True)
    if tried.returncode == 0:
        return None
    said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"this kernel makes no VXLAN device ({said})"


def _prepare(setting: Setting) -> None:
    """Routes and neighbours are fixed: no ARP, no look-up that fails."""
    world = setting.world
    # A veth takes redirected frames while its receiving end has NAPI, by XDP or by GRO.
    world.exec(HOST, f"ethtool -K {HOST_DEVICE} gro on")
    for name in ("all", HOST_DEVICE):
        world.exec(HOST, f"sysctl -qw net.ipv4.conf.{name}.rp_filter=0")
    world.exec(HOST, "sysctl -qw net.ipv4.ip_forward=1")
    mac = SENDER_MAC.hex(":")
    peer = f"local {HOST_ADDRESS} remote {PEER_ADDRESS} dev {HOST_DEVICE}"
    for words in (
        f"neigh replace {PEER_ADDRESS} lladdr {mac} nud permanent dev {HOST_DEVICE}",
        f"link add {DEVICE} type vxlan id {VNI} dstport {TUNNEL_PORT} {peer} noudpcsum nolearning",
        f"link set {DEVICE} up",
        f"addr add {INNER_ADDRESS}/24 dev {DEVICE}",
        f"neigh replace {INNER_PEER} lladdr {INNER_MAC} nud permanent dev {DEVICE}",
        f"addr del {VIP}/32 dev lo",  # else the frames are the host's own
        f"route add {VIP}/32 via {INNER_PEER} dev {DEVICE}",
    ):
        world.ip(HOST, words)


def _clear(setting: Setting) -> None:
    world = setting.world
    for words in (f"link del {DEVICE}", f"addr add {VIP}/32 dev lo"):
        with contextlib.suppress(Exception):  # `_prepare` may have ended in its midst
            world.ip(HOST, words)


def _steer(setting: Setting) -> None:
    """Receive packet steering: the kernel's stack runs on the forwarder's core, not the sender's.
    `ip netns exec` mounts the namespace's own /sys."""
    path = Path("/sys/class/net") / HOST_DEVICE / "queues/rx-0/rps_cpus"
    script = f"echo {1 << setting.cpu:x} > {path}"
    inside = ["ip", "netns", "exec", setting.world.namespace(HOST)]
    subprocess.run([*inside, "sh", "-c", script], check=True, capture_output=True)


@contextmanager
def routed(setting: Setting) -> Iterator[Running]:
    """All on the sender's core, as an XDP program runs."""
    try:
        _prepare(setting)
        yield Running()
    finally:
        _clear(setting)


@contextmanager
def steered(setting: Setting) -> Iterator[Running]:
    """The stack on the second core, as an AF_XDP loop runs."""
    with routed(setting) as running:
        _steer(setting)
        yield running


FORWARDERS: Final = (
    Forwarder("kernel-vxlan", "bench_sink_tunnel", routed, no_vxlan, OUTER_LEN),
    Forwarder("kernel-vxlan-rps", "bench_sink_tunnel", steered, no_vxlan, OUTER_LEN),
)
