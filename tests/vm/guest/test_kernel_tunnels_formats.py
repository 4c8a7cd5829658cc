# SPDX-License-Identifier: BSD-2-Clause
"""Each tunnel format against the kernel's own devices, in both directions, all pairs of families.

The far kernel takes off what the loop put in front, and the XDP program takes off what the far
kernel put in front: byte for byte what went in.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyxdp_gossip.stats import ENDINGS
from tests.formats_world import flavoured_world
from tests.golden_world import OWN_MAC, PEER, VIPS, mac, mapped
from tests.kernel.dataplane_fixture import DEVICE, OUTSIDE, HostUnderTest, host_under_test
from tests.kernel.xsk_link import until
from tests.model import parse
from tests.model_formats import ETHERTYPES, FLAVOURS, Flavour
from tests.vm.guest.far_devices import (
    ETHERNET_BYTES,
    FarDevices,
    far_devices,
    packet_socket,
    received,
    to_service,
)
from tests.vm.guest.host_link import Ends
from tests.vm.rows import Row, openings, rows_of

Tunnel = tuple[HostUnderTest, FarDevices]


def name_of(flavour: Flavour) -> str:
    """For pytest."""
    return f"{flavour.name}-IPv{flavour.version}" + ("-checksum" if flavour.checksum else "")


CORE = ("geneve-IPv6-checksum",)
ALL = [
    pytest.param(one, id=name_of(one), marks=[pytest.mark.core] if name_of(one) in CORE else [])
    for one in FLAVOURS
]


@pytest.fixture(scope="module", params=ALL)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """A tunnel format over IPv4 or IPv6."""
    chosen: Flavour = request.param
    return chosen


@pytest.fixture(scope="module")
def host(host_link: Ends, flavour: Flavour) -> Iterator[HostUnderTest]:
    """A data path that speaks it, with its loop."""
    inside, outside = host_link
    for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=0")
        namespace.ip(f"link set {device} mtu 1700")
    world = flavoured_world(flavour)
    with host_under_test(inside, world, plane="xsk", mode="copy") as made:
        inside.run(made.plane.attach_packets)
        yield made


@pytest.fixture
def tunnel(host: HostUnderTest, host_link: Ends, flavour: Flavour) -> Iterator[Tunnel]:
    """The far kernel's devices of the format, at the other end."""
    with far_devices(*host_link, flavour) as devices:
        yield host, devices


def strays(flavour: Flavour, family: int) -> list[Row]:
    """To PEER, without a VLAN tag in the outer headers."""
    return [
        row
        for row in rows_of(flavour)
        if row.ending == "stray_forwarded"
        and row.output[:6] == mac(PEER)
        and int.from_bytes(row.output[12:14]) == ETHERTYPES[flavour.version]
        and parse(row.frame).family == family
    ]


def inner(row: Row) -> bytes:
    """The IP packet that came to the host."""
    packet = parse(row.frame)
    return row.frame[packet.l3 : packet.l3 + packet.length]


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_delivers_what_came_to_the_host(
    tunnel: Tunnel, flavour: Flavour, family: int
) -> None:
    _, devices = tunnel
    rows = strays(flavour, family)
    assert len(rows) > 3
    with (
        closing(packet_socket(devices.outside, OUTSIDE)) as sender,
        devices.opened(family) as receiver,
    ):
        for row in rows:
            sender.send(row.frame)
            assert devices.delivered(receiver, family) == inner(row), row.description


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_checks_the_checksum_that_is_derived(
    tunnel: Tunnel, flavour: Flavour, family: int
) -> None:
    """What has one over IPv6, one bit off, is not delivered."""
    if not flavour.checksum:
        assert all(row.output[60:62] == bytes(2) for row in _over_udp6(flavour, family))
        return
    host, devices = tunnel
    wrong, right = strays(flavour, family)[:2]
    frame = bytearray(wrong.output)
    frame[60] ^= 1  # Ethernet, IPv6, and 6 bytes of UDP are in front
    with (
        closing(packet_socket(host.namespace, DEVICE)) as sender,
        devices.opened(family) as receiver,
    ):
        sender.send(frame)
        sender.send(right.output)
        assert devices.delivered(receiver, family) == inner(right)


def _over_udp6(flavour: Flavour, family: int) -> list[Row]:
    has_udp = flavour.version == 6 and flavour.name != "ipip"
    return strays(flavour, family) if has_udp else []


def refused_here(flavour: Flavour) -> bool:
    """The kernel's GUE has no words for our cookie."""
    return flavour.name == "gue"


@pytest.mark.parametrize("family", [4, 6])
def test_the_xdp_program_passes_what_went_into_the_kernels_device(
    tunnel: Tunnel, flavour: Flavour, family: int
) -> None:
    """But for GUE: the kernel writes no cookie, so none of it is passed."""
    host, devices = tunnel
    packets = openings(family)
    before = host.plane.statistics()
    with (
        closing(packet_socket(host.namespace, DEVICE)) as stack,
        devices.opened(family) as sender,
    ):
        for packet in packets:
            devices.put(sender, family, packet)
            if not refused_here(flavour):
                assert next_of(stack, family)[ETHERNET_BYTES:] == packet
        until(lambda: sum(endings(host, before).values()) >= len(packets))
        if refused_here(flavour):
            assert nothing_of(stack, family)
    half = len(packets) // 2
    delivered = {"delivered_syn": half, "delivered_udp": half}
    refused = {"tunnel_bad_cookie": len(packets)}
    assert endings(host, before) == (refused if refused_here(flavour) else delivered)


def endings(host: HostUnderTest, before: object) -> dict[str, int]:
    """How many tunnel packets met which end since."""
    risen = host.plane.statistics().since(before)  # type: ignore[arg-type]
    names = (one for one in ENDINGS if one.startswith(("tunnel", "delivered", "misdirected")))
    return {name: risen[name] for name in names if risen[name]}


def next_of(stack: socket.socket, family: int) -> bytes:
    """The next frame to the service that the host's stack got."""
    while True:
        frame = received(stack)
        if to_service(frame, mapped(VIPS[family])):
            assert frame[:6] == OWN_MAC
            return frame


def nothing_of(stack: socket.socket, family: int) -> bool:
    """Whether no frame to the service is among those that came."""
    while True:
        try:
            frame = received(stack, timeout_s=0)
        except TimeoutError:
            return True
        if to_service(frame, mapped(VIPS[family])):
            return False


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernels_fou_is_refused(host_link: Ends, version: int) -> None:
    """It writes no header at all behind UDP: that is no format of ours."""
    flavour = Flavour("gue", version, checksum=version == 6)
    inside, _ = host_link
    with (
        far_devices(*host_link, flavour, "fou") as devices,
        host_under_test(inside, flavoured_world(flavour), plane="xdp", mode="native") as host,
        closing(packet_socket(inside, DEVICE)) as stack,
    ):
        inside.run(host.plane.attach_packets)
        for family in (4, 6):
            packets = openings(family)
            before = host.plane.statistics()
            with devices.opened(family) as sender:
                for packet in packets:
                    devices.put(sender, family, packet)
                until(lambda: sum(endings(host, before).values()) >= len(packets))  # noqa: B023
            assert endings(host, before) == {"tunnel_bad_cookie": len(packets)}
            assert nothing_of(stack, family)
