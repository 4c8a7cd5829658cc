# SPDX-License-Identifier: BSD-2-Clause
"""A bad network (netem) in front of a host: what arrives is forwarded, once, byte for byte."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from contextlib import closing

from pyxdp_gossip.stats import ENDINGS
from tests.golden_world import OWN_MAC
from tests.kernel.dataplane_fixture import DEVICE, LINK_MTU, OUTSIDE, host_under_test
from tests.kernel.wire import WAIT_S
from tests.model import parse
from tests.vm.guest.far_devices import packet_socket
from tests.vm.guest.host_link import Ends, driver_drops, first

STRAYS = 1000
BAD = "delay 2ms 1ms loss 10% duplicate 10% reorder 50%"
QUIET_S = 1.0
OUTER_BYTES = 44  # without Ethernet: IPv4, UDP, GUE
SEQUENCE = 20 + 4  # of the IPv4 packet: in TCP
PROTOCOL = 14 + 9  # of the frame: in IPv4
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in the socket module
ROOM = 1 << 24


def test_strays_through_a_bad_network_are_forwarded_as_they_arrive(host_link: Ends) -> None:
    inside, outside = host_link
    frame = first("stray_forwarded").frame
    at = parse(frame).l3
    assert parse(frame).family == 4
    inside.ip(f"link set {DEVICE} mtu {LINK_MTU}")
    outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
    outside.exec(f"tc qdisc add dev {OUTSIDE} root netem {BAD}")
    try:
        with (
            host_under_test(inside, plane="xsk", mode="zero-copy") as host,
            closing(packet_socket(outside, OUTSIDE)) as link,
        ):
            inside.run(host.plane.attach_packets)
            host.set_agent(True)
            link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
            before = host.plane.statistics()
            dropped = driver_drops(inside)
            sent = [numbered(frame, at, number) for number in range(STRAYS)]
            for one in sent:
                link.send(one)
            came = forwarded(link)
            risen = host.plane.statistics().since(before)
            dropped = driver_drops(inside) - dropped
    finally:
        outside.exec(f"tc qdisc del dev {OUTSIDE} root")
    counted = {name: count for name, count in risen.items() if count}
    assert {name for name in counted if name in ENDINGS} == {"stray_forwarded"}, counted
    assert counted["handed_over"] + counted.get("loop_behind", 0) == counted["stray_forwarded"]
    assert counted["stray_forwarded"] == len(came) + dropped, counted
    assert dropped <= counted.get("loop_behind", 0), "what the loop sends is not dropped"
    inner = [one[14 + OUTER_BYTES :] for one in came]
    known = {one[at:] for one in sent}
    assert set(inner) <= known
    numbers = [int.from_bytes(one[SEQUENCE : SEQUENCE + 4]) for one in inner]
    assert len(set(numbers)) < STRAYS, "none was lost"
    assert max(Counter(numbers).values()) == 2, "none came twice"
    assert numbers != sorted(numbers), "all came in order"


def numbered(frame: bytes, at: int, number: int) -> bytes:
    """The frame with this TCP sequence number; its checksum is nobody's business here."""
    place = at + SEQUENCE
    return frame[:place] + struct.pack("!I", number) + frame[place + 4 :]


def forwarded(link: socket.socket) -> list[bytes]:
    """What the host sent, until nothing more comes."""
    came = []
    limit = time.monotonic() + WAIT_S
    link.settimeout(QUIET_S)
    while time.monotonic() < limit:
        try:
            frame = link.recv(1 << 16)
        except TimeoutError:
            break
        if frame[6:12] == OWN_MAC and frame[PROTOCOL] == socket.IPPROTO_UDP:
            came.append(frame)
    return came
