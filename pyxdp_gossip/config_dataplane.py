# SPDX-License-Identifier: BSD-2-Clause
"""[dataplane] of the configuration: how packets are taken and sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyxdp_gossip.config_table import TableReader
from pyxdp_gossip.encapsulation import ENCAPSULATIONS, VNI_MAX

MSS_MIN, MSS_MAX = 536, 32767  # RFC 9293: what all must take; the kernel's MAX_TCP_WINDOW
CPU_MAX = 8191  # the kernel's own limit, CONFIG_NR_CPUS
CPUS_MOST = 128  # XG_QUEUES: more queues have no loop
DEFAULT_PINS = "/sys/fs/bpf/pyxdp-gossip"


@dataclass(frozen=True, slots=True)
class DataplaneConfig:
    """[dataplane]: how packets are taken and sent.

    `plane`: "xsk", strays go through AF_XDP sockets, or "xdp", the XDP program sends them itself.
    `mode`: "zero-copy", "copy", "native" (the better of the two), "skb" (generic XDP), or "auto":
    native, and skb where the driver has no XDP.
    `cgroup` None: the cgroup2 mount of /proc/mounts. `pins` is this host's folder in bpffs.
    The two flood rates are floods a second, for sessions seen before and for never-seen ones;
    `too_big_rate_pps`: ICMP errors a second to clients whose packets are too big for their path.
    `mss`: the largest segment that the services announce; "auto": what fits the interface's MTU
    with the outer headers; None: they announce what the kernel says.
    `encapsulation`: "gue", "geneve", "vxlan" or "ipip", the same on all hosts; `vni` is of Geneve
    and VXLAN. `udp_checksum`: UDP over IPv6 carries a real checksum (RFC 8200 section 8.1).
    `cpus`: the AF_XDP loop of RX queue n runs on CPU cpus[n mod len(cpus)] and nowhere else; empty:
    wherever the scheduler puts it. Best those that serve the queues' interrupts, of the device's
    NUMA node. The price: what else runs there delays strays.
    `busy_poll`: the loops poll the driver themselves instead of sleeping until an interrupt: less
    latency and fewer losses in a burst, for one CPU a queue that is always busy.
    """

    plane: str
    mode: str
    tunnel_port: int
    cgroup: Path | None
    pins: Path
    flood_rate_pps: int
    flood_new_rate_pps: int
    too_big_rate_pps: int
    mss: int | Literal["auto"] | None
    encapsulation: str = "gue"
    vni: int = 0
    udp_checksum: bool = True
    cpus: tuple[int, ...] = ()
    busy_poll: bool = False


def read(table: TableReader, host_id: int) -> DataplaneConfig:
    """The table of the host with this id.

    Raises:
        ConfigError: a value is wrong.
    """
    cgroup = table.text("cgroup", optional=True)
    pins = table.text("pins", optional=True)
    encapsulation = table.choice("encapsulation", tuple(ENCAPSULATIONS), "gue")
    plane = table.choice("plane", ("xsk", "xdp"), "xsk")
    for key in ("cpus", "busy_poll"):
        if plane == "xdp" and table.has(key):
            raise table.error("plane", plane, f'"xsk" where `{key}` is set: "xdp" has no loops')
    return DataplaneConfig(
        plane=plane,
        mode=table.choice("mode", ("auto", "zero-copy", "copy", "native", "skb"), "auto"),
        tunnel_port=table.integer("tunnel_port", 1, 65535, ENCAPSULATIONS[encapsulation].port),
        cgroup=None if cgroup is None else Path(cgroup),
        pins=Path(pins if pins is not None else f"{DEFAULT_PINS}/host-{host_id}"),
        flood_rate_pps=table.integer("flood_rate_pps", 1, 10_000_000, 50_000),
        flood_new_rate_pps=table.integer("flood_new_rate_pps", 1, 10_000_000, 10_000),
        too_big_rate_pps=table.integer("too_big_rate_pps", 1, 10_000_000, 1000),
        mss=table.integer_or_auto("mss", MSS_MIN, MSS_MAX),
        encapsulation=encapsulation,
        vni=table.integer("vni", 0, VNI_MAX, 0),
        udp_checksum=not table.boolean("udp6_zero_checksum", False),
        cpus=table.integers("cpus", 0, CPU_MAX, CPUS_MOST),
        busy_poll=table.boolean("busy_poll", False),
    )
