# SPDX-License-Identifier: BSD-2-Clause
"""What the data path is told before it starts, and how it lies in the BPF maps (pure)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pyxdp_gossip.encapsulation import ENCAPSULATIONS, overhead
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Address, KernelView, Service, packed16, unpacked16

NO_TEMPLATE: Final = 0xFFFF
RELAYS: Final = 511  # XG_RELAYS
ENTRIES_A_BUCKET: Final = 4
FILL: Final = 0.8  # what the table reaches without a refusal
BUCKETS_LEAST: Final = 16  # a table of a few buckets may refuse before that
RING_BYTES: Final = 1 << 20  # XG_RING_BYTES
EVENTS_A_READ: Final = 4096  # bounds the time of one turn of the agent's loop
FILTER_NAME: Final = "pyxdp_gossip"
IPV4_TCP_HEADERS: Final = 20 + 20
IPV6_TCP_HEADERS: Final = 40 + 20
MSS_MIN, MSS_MAX = 88, 32767  # TCP_MIN_MSS and MAX_TCP_WINDOW: what the kernel takes
VIEWS: Final = {  # of xg_question's action
    "pass": KernelView.FULL,
    "tx": KernelView.HALF,
    "drop": KernelView.ABSENT,
}

ATTACH_MODES: Final = {  # of the XDP program, by [dataplane] mode
    "auto": "auto",
    "native": "native",
    "zero-copy": "native",
    "copy": "native",
    "skb": "skb",
}

# In zero-copy mode this driver drops what the XDP program sends by itself: docs/zero-copy.md.
DRIVERS_TO_COPY: Final = frozenset({"virtio_net"})

CONFIG: Final = struct.Struct("<QQ4QQ16s16s2sHH6sHHHH511HHH4x")  # struct xg_config
PEER: Final = struct.Struct("<H6x8s8s8s8s8s")  # struct xg_peer


@dataclass(frozen=True, slots=True)
class PeerCookies:
    """The cookies of one peer, (8,) bytes each; `*_old` are of the previous key.

    Attributes:
        unicast, unicast_old: from the peer to this host.
        flood, flood_old: from the peer to the flood group.
        reply: from this host to the peer.
    """

    unicast: bytes
    flood: bytes
    reply: bytes
    unicast_old: bytes
    flood_old: bytes


@dataclass(frozen=True, slots=True)
class DataplaneSettings:
    """What the data path must know before it starts.

    Attributes:
        flood_group: None: misses go to each host by a copy of its own.
        services: each service's slot, 0..65534, stable for this host.
        mode: "auto", "native", "skb"; "zero-copy" and "copy" are native ones, of the AF_XDP
            sockets.
        plane: "xsk": strays are forwarded by the AF_XDP loops; "xdp": by the XDP program alone.
        pins: this host's folder in a BPF file system.
        cgroup: a cgroup v2 that holds the proxy.
        flood_rate_pps, flood_new_rate_pps: floods a second, for flows whose packets missed
            before and for others; 0: no limit.
        too_big_rate_pps: ICMP errors a second, about what is too big for its path, by the XDP
            program and by each loop; 0: no limit.
        mss: the largest segment that the services' SYN-ACKs announce; "auto": what fits the
            interface's MTU with the outer headers; None: whatever the kernel says.
        flood_burst_s: how many seconds of its rate a budget may spend at once.
        encapsulation: "gue", "geneve", "vxlan" or "ipip", of the whole POP.
        vni: of Geneve and VXLAN.
        udp_checksum: UDP over IPv6 carries a real checksum.
        quic: the layouts of the QUIC services' connection ids.
        cpus: where the AF_XDP loops run, one of them a queue, round and round; none: anywhere.
        busy_poll: the AF_XDP loops poll the driver, and never sleep.
    """

    host: int
    interface: str
    address: Address
    flood_group: Address | None
    tunnel_port: int
    services: Mapping[Service, int]
    sessions_v4: int
    sessions_v6: int
    mode: str
    pins: Path
    cgroup: Path
    flood_rate_pps: int
    flood_new_rate_pps: int
    flood_burst_s: float = 0.05
    plane: str = "xdp"
    too_big_rate_pps: int = 0
    mss: int | Literal["auto"] | None = None
    encapsulation: str = "gue"
    vni: int = 0
    udp_checksum: bool = True
    quic: tuple[QuicLb, ...] = ()
    cpus: tuple[int, ...] = ()
    busy_poll: bool = False

    @property
    def by_slot(self) -> dict[int, Service]:
        """The services by their slots, in the order of those."""
        ordered = sorted(self.services.items(), key=itemgetter(1))
        return {slot: service for service, slot in ordered}


def buckets_for(sessions: int) -> int:
    """The number of buckets, an even one, that holds so many sessions at the rated fill."""
    return 2 * max(BUCKETS_LEAST // 2, ceil(sessions / (2 * ENTRIES_A_BUCKET * FILL)))


def announced_mss(mss: int | Literal["auto"] | None, mtu: int, added: int) -> tuple[int, int]:
    """What SYN-ACKs may announce over IPv4 and over IPv6 (RFC 9293 3.7.1); 0: anything.

    Args:
        added: bytes of outer headers.
    """
    if mss != "auto":
        return mss or 0, mss or 0
    room = min(max(mtu - added - IPV6_TCP_HEADERS, MSS_MIN), MSS_MAX)
    return min(room + IPV6_TCP_HEADERS - IPV4_TCP_HEADERS, MSS_MAX), room


def pack_config(
    settings: DataplaneSettings,
    netns_cookie: int,
    flood_template: int,
    mac: bytes,
    copies: Sequence[int],
    mtu: int,
) -> bytes:
    """`struct xg_config`, its heartbeat 0.

    Args:
        netns_cookie: of the network namespace whose sockets are this host's.
        flood_template: place in the array of templates, or NO_TEMPLATE.
        mac: (6,) bytes, this host's.
        copies: places of the templates to the hosts that the flood group does not reach. Where
            there is no group, these may be asked to flood.
        mtu: of the interface.
    """
    relays = copies[:RELAYS] if settings.flood_group is None else ()
    group = packed16(settings.flood_group) if settings.flood_group else bytes(16)
    rates = (settings.flood_new_rate_pps, settings.flood_rate_pps, settings.too_big_rate_pps, 0)
    intervals_ns = (1_000_000_000 // rate if rate else 0 for rate in rates)
    added = overhead(settings.encapsulation, settings.address.version)
    return CONFIG.pack(
        0,
        netns_cookie,
        *intervals_ns,
        int(settings.flood_burst_s * 1e9),
        packed16(settings.address),
        group,
        struct.pack("!H", settings.tunnel_port),
        settings.host,
        flood_template,
        mac,
        ENCAPSULATIONS[settings.encapsulation].number,
        len(copies),
        settings.plane == "xsk",
        len(relays),
        *relays,
        *[NO_TEMPLATE] * (RELAYS - len(relays)),
        *announced_mss(settings.mss, mtu, added),
    )


def xsk_mode(mode: str, attached: str, driver: str | None) -> str:
    """What the AF_XDP sockets are asked for: "auto", "zero-copy", "copy" or "skb".

    Args:
        mode: [dataplane] mode.
        attached: how the XDP program is: "native" or "skb".
    """
    if attached == "skb":
        return "skb"
    if mode not in ("auto", "native"):
        return mode
    return "copy" if driver in DRIVERS_TO_COPY else "auto"


class PackedConfig(NamedTuple):
    """What a `struct xg_config` says of the tunnel.

    Attributes:
        flood_group: None: there is none.
        flood_template: place in the array of templates, or NO_TEMPLATE.
        relays: places of the templates to those that may be asked to flood.
        has_loops: AF_XDP loops take what the program hands over, and fragment what is too big.
        mac: (6,) bytes, this host's.
    """

    address: Address
    flood_group: Address | None
    tunnel_port: int
    flood_template: int
    encapsulation: str
    relays: tuple[int, ...]
    has_loops: bool
    mac: bytes


def unpack_config(config: bytes | bytearray | memoryview) -> PackedConfig:
    """Reads back what `pack_config` wrote of the tunnel."""
    address, group, port, _, flood, mac, number, *rest = CONFIG.unpack_from(config)[7:]
    names = {form.number: name for name, form in ENCAPSULATIONS.items()}
    return PackedConfig(
        unpacked16(address),
        unpacked16(group) if any(group) else None,
        int.from_bytes(port),
        flood,
        names.get(number, "gue"),
        tuple(rest[3 : 3 + rest[2]]),
        bool(rest[1]),
        mac,
    )
