# SPDX-License-Identifier: BSD-2-Clause
"""A data path under test: in a namespace of its own, with a veth to the outside, nobody's agent."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

import pytest

from pyxdp_gossip import kernel_mounts
from pyxdp_gossip.bpf_object import ProgramRun
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import NO_TEMPLATE, DataplaneSettings, PeerCookies
from pyxdp_gossip.session import KernelView, Service
from pyxdp_gossip.stats import ENDINGS
from tests.golden_world import (
    ACTIVE,
    CLIENTS,
    ENTRIES,
    FLOOD_GROUP,
    OWN_ADDRESS,
    OWN_HOST,
    OWN_MAC,
    QUIC_SLOTS,
    SERVICES,
    TUNNEL_PORT,
    VIPS,
    golden_world,
    session_key,
)
from tests.kernel.conftest import Namespace
from tests.kernel.conftest import connect as connect_link
from tests.layouts_of_model import quic_layouts
from tests.model import Entry, Peer, World
from tests.templates_of_routes import template

_numbers = itertools.count(1)

# Of the golden world's services, the TCP ones of both address families.
TCP_SLOTS: Final = {4: 0, 6: 2}

Pair = tuple[Any, Any]

LINGER: Final = 1  # XG_META_LINGER
HOUR_NS: Final = 3600 * 10**9
DEVICE: Final = "xg0"
OUTSIDE: Final = "out0"

# Both directions of the links inside the POP: full-size packets with outer headers fit.
LINK_MTU: Final = 1600

EVENT: Final = struct.Struct("<BBH2sHII16sQ")
EVENT_KINDS: Final = {
    1: "OPEN",
    2: "CLOSE",
    3: "CLOSE_LINGER",
    4: "CLAIM",
    5: "MISS",
    6: "MISDIRECTED",
}
EVENTS_MAX: Final = 4096
CLOCK_MONOTONIC_COARSE: Final = 6  # linux/time.h; not in the time module

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Event:
    """One record of a ring, readable."""

    kind: str
    family: int
    slot: int
    client: Address
    port: int
    host: int
    seq: int
    ack: int


def next_tick() -> None:
    """Waits until the kernel's coarse clock has moved on."""
    before = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
    while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) == before:
        pass


def unpacked(records: bytes) -> list[Event]:
    """The events of a read of a ring."""
    events = []
    for kind, family, slot, port, host, seq, ack, address, _ in EVENT.iter_unpack(records):
        client = IPv4Address(address[:4]) if family == 4 else IPv6Address(address)
        name = EVENT_KINDS.get(kind, str(kind))
        events.append(Event(name, family, slot, client, int.from_bytes(port), host, seq, ack))
    return events


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one frame: action and frame of the kernel, and the counter that rose."""

    ending: str
    action: str
    frame: bytes


def cookies(peer: Peer) -> PeerCookies:
    """The cookies of a golden peer."""
    return PeerCookies(
        unicast=peer.unicast[0], unicast_old=peer.unicast[1],
        flood=peer.flood[0], flood_old=peer.flood[1], reply=peer.reply,
    )  # fmt: skip


class HostUnderTest:
    """One data path, and the questions that tests ask of it; use inside `host_under_test`."""

    def __init__(self, namespace: Any, plane: Dataplane, world: World | None = None) -> None:
        self.namespace = namespace
        self.plane = plane
        self.world = world or golden_world()
        self.remembers_fragments = False  # True: a first fragment counts for later frames

    def run(self, frame: bytes) -> Verdict:
        """One frame through the XDP program; asserts that exactly one ending was counted.

        In a tick of its own: what the kernel said of a frame before it holds no more.
        """
        next_tick()
        return self.run_all([frame])[0]

    def run_all(self, frames: list[bytes]) -> list[Verdict]:
        """Frames through the XDP program, in order."""
        verdicts: list[Verdict] = self.namespace.run(lambda: [self._run(one) for one in frames])
        return verdicts

    def _run(self, frame: bytes) -> Verdict:
        if not self.remembers_fragments:
            self.forget_fragments()
        before = self.plane.statistics()
        result: ProgramRun = self.plane.test_run(frame)
        risen = self.plane.statistics().since(before)
        endings = [name for name in ENDINGS for _ in range(risen[name])]
        assert len(endings) == 1, f"{endings} were counted for {frame.hex()}"
        assert result.action == ENDINGS[endings[0]], f"{endings[0]}: {result.action}"
        return Verdict(endings[0], result.action, result.frame)

    def forget_fragments(self) -> None:
        """Empties the program's memory of first fragments."""
        memory = self.plane._maps["fragments"]
        for key in list(memory.each_key()):
            memory.delete(key)

    def knows(self, frame: bytes) -> bool:
        """The kernel's own view of a frame."""
        return bool(self.namespace.run(self.plane.kernel_knows, frame))

    def view(self, frame: bytes) -> KernelView:
        """What the kernel says of the frame's session, when a peer asks."""
        result: KernelView = self.namespace.run(self.plane.kernel_view, frame)
        return result

    def run_unchecked(self, frames: list[bytes]) -> None:
        """Many frames, in order; nobody looks at what becomes of each."""
        self.namespace.run(lambda: [self.plane.test_run(frame) for frame in frames])

    def packet_events(self) -> list[Event]:
        """What the XDP program told the agent since the last call."""
        return unpacked(bytes(self.plane.packet_events.read(EVENTS_MAX)))

    def socket_events(self) -> list[Event]:
        """What the sockops program told the agent since the last call."""
        return unpacked(bytes(self.plane.socket_events.read(EVENTS_MAX)))

    def set_agent(self, alive: bool) -> None:
        """An agent whose heartbeat is always, or never, fresh enough."""
        self.plane.heartbeat(time.clock_gettime_ns(time.CLOCK_MONOTONIC) + HOUR_NS if alive else 0)

    def put(self, client: Address, port: int, slot: int, entry: Entry) -> None:
        """An entry of the session table."""
        table = self.plane.table4 if client.version == 4 else self.plane.table6
        flags = LINGER if entry.lingering else 0
        table.put(session_key(client, port, slot), entry.owner, flags=flags)

    def remove(self, client: Address, port: int, slot: int) -> None:
        """Takes an entry out again."""
        table = self.plane.table4 if client.version == 4 else self.plane.table6
        table.remove(session_key(client, port, slot))

    def unset_flood(self) -> None:
        """As before the first flood template was published."""
        self.namespace.run(self.plane._write_config, NO_TEMPLATE, self.plane._link.mac)

    def set_flood(self) -> None:
        """Publishes the flood template."""
        assert self.world.flood is not None
        self.namespace.run(self.plane.set_flood_template, template(self.world.flood, self.world))


def _fill(host: HostUnderTest) -> None:
    """Owners, routes, peers and sessions of the golden world."""
    plane, world = host.plane, host.world
    for number in (OWN_HOST, *ACTIVE):
        plane.owners.activate(number)
    for number, route in world.routes.items():
        plane.set_template(number, template(route, world))
    for address, peer in world.peers.items():
        plane.set_peer(peer.host, address, cookies(peer))
    for (family, _, _), slot in SERVICES.items():
        for state, entry in ENTRIES.items():
            host.put(CLIENTS[family], state.client_port, slot, entry)
    host.set_agent(True)


def settings(suffix: str) -> DataplaneSettings:
    """The golden world's settings; no limit on floods."""
    return DataplaneSettings(
        host=OWN_HOST,
        interface=DEVICE,
        address=OWN_ADDRESS,
        flood_group=FLOOD_GROUP,
        tunnel_port=TUNNEL_PORT,
        services={
            Service(VIPS[family], port, protocol, quic=slot in QUIC_SLOTS): slot  # type: ignore
            for (family, protocol, port), slot in SERVICES.items()
        },
        sessions_v4=1000,
        sessions_v6=1000,
        mode="auto",
        pins=Path(f"/sys/fs/bpf/pyxdp-gossip/test-{os.getpid()}-{suffix}"),
        cgroup=kernel_mounts.cgroup2_mount(),
        flood_rate_pps=0,
        flood_new_rate_pps=0,
        quic=quic_layouts(),
    )


@contextmanager
def own_namespaces() -> Iterator[Callable[[str], Namespace]]:
    """The fixture `netns`, for fixtures that outlive one test."""
    made: list[Namespace] = []

    def make(suffix: str = "") -> Namespace:
        made.append(Namespace(f"xgm{os.getpid()}-{next(_numbers)}{suffix}"))
        return made[-1]

    try:
        yield make
    finally:
        for namespace in made:
            namespace.remove()


def make_pair(netns: Callable[[str], Any], veth: Callable[..., None]) -> tuple[Any, Any]:
    """A host's namespace with device xg0 and the VIPs, and a client's beside it, on one link.

    The host answers on the VIPs; the client reaches them straight over the link.
    """
    inside, outside = netns("h"), netns("c")
    veth(inside, DEVICE, outside, OUTSIDE)
    inside.ip(f"link set {DEVICE} address {OWN_MAC.hex(':')}")
    for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
        namespace.ip(f"link set {device} mtu {LINK_MTU}")
        namespace.exec(f"ethtool -K {device} tx off rx off tso off gso off gro off")
    inside.ip(f"addr add {OWN_ADDRESS}/24 dev {DEVICE}")
    for family, prefix in ((4, 24), (6, 64)):
        inside.ip(f"addr add {VIPS[family]}/{32 if family == 4 else 128} dev {DEVICE}")
        outside.ip(f"addr add {CLIENTS[family]}/{prefix} dev {OUTSIDE}")
        inside.ip(f"-{family} route add {CLIENTS[family]} dev {DEVICE}")
        outside.ip(f"-{family} route add {VIPS[family]} dev {OUTSIDE}")
    return inside, outside


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The host's namespace and the client's; a test file takes it in by `pair = ...`."""
    with own_namespaces() as make:
        yield make_pair(make, connect_link)


@contextmanager
def host_under_test(
    namespace: Any, world: World | None = None, **changes: Any
) -> Iterator[HostUnderTest]:
    """A loaded data path with the golden world in it; nothing is attached.

    Args:
        world: the golden world in another tunnel format.
        changes: of DataplaneSettings.
    """
    world = world or golden_world()
    changes = {
        "address": world.address,
        "flood_group": world.flood_group,
        "encapsulation": world.flavour.name,
        "vni": world.flavour.vni,
        "udp_checksum": world.flavour.checksum,
        **changes,
    }
    plane = Dataplane(replace(settings(namespace.name), **changes))
    host = HostUnderTest(namespace, plane, world)
    namespace.run(plane.open)
    try:
        namespace.run(_fill, host)
        yield host
    finally:
        namespace.run(plane.detach)
        plane.close()
        remove_folder(plane.settings.pins)


def remove_folder(folder: Path) -> None:
    """Removes an empty pin folder, if it is there."""
    if folder.exists():
        folder.rmdir()
