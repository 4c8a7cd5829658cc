# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own tunnel devices as judges: they take our outer headers off again.

A device of the far kernel receives what the loop sends in zero-copy, and hands out the packet
that came to the host, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.golden_world import OWN_ADDRESS, PEER, TUNNEL_PORT, mac, underlay
from tests.kernel.conftest import Namespace
from tests.kernel.dataplane_fixture import DEVICE, LINK_MTU, OUTSIDE, host_under_test
from tests.model import parse
from tests.vm.guest.far_devices import packet_socket
from tests.vm.guest.host_link import Ends
from tests.vm.rows import Row, golden_rows

KINDS = {4: "ipip", 6: "sit"}


@contextmanager
def tunnel(outside: Namespace, family: int) -> Iterator[str]:
    """The peer in the far namespace: its addresses, GUE on the tunnel port, and a device."""
    device = f"gue{family}"
    ends = f"local {underlay(PEER)} remote {OWN_ADDRESS}"
    outside.ip(f"link set {OUTSIDE} address {mac(PEER).hex(':')}")
    outside.ip(f"addr add {underlay(PEER)}/24 dev {OUTSIDE}")
    outside.exec(f"ip fou add port {TUNNEL_PORT} gue")
    outside.ip(f"link add {device} type {KINDS[family]} {ends}")
    outside.ip(f"link set {device} up")
    try:
        yield device
    finally:
        outside.ip(f"link del {device}")
        outside.exec(f"ip fou del port {TUNNEL_PORT}")
        outside.ip(f"addr del {underlay(PEER)}/24 dev {OUTSIDE}")


def strays(family: int) -> list[Row]:
    """To PEER, without a VLAN tag in the outer headers."""
    return [
        row
        for row in golden_rows()
        if row.ending == "stray_forwarded"
        and row.output[:6] == mac(PEER)
        and row.output[12:14] == b"\x08\x00"
        and parse(row.frame).family == family
    ]


@pytest.mark.core
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernels_gue_delivers_what_came_to_the_host(host_link: Ends, family: int) -> None:
    inside, outside = host_link
    rows = strays(family)
    assert rows
    inside.ip(f"link set {DEVICE} mtu {LINK_MTU}")
    with (
        tunnel(outside, family) as device,
        host_under_test(inside, plane="xsk", mode="zero-copy") as host,
        closing(packet_socket(outside, OUTSIDE)) as sender,
        closing(packet_socket(outside, device)) as receiver,
    ):
        inside.run(host.plane.attach_packets)
        host.set_agent(True)
        for row in rows:
            sender.send(row.frame)
            packet = parse(row.frame)
            inner = row.frame[packet.l3 : packet.l3 + packet.length]
            got = receiver.recv(1 << 16)
            assert got == inner, row.description
