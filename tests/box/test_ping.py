# SPDX-License-Identifier: BSD-2-Clause
"""A ping of the VIP is answered by the host that it comes to, in one piece or in fragments."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from pyxdp_gossip.popbox import Box
from tests.box.pop import AGENTS, Pop
from tests.box.traffic import FAMILIES, PATIENCE_S, VIPS, inside, wait_for
from tests.model_formats import checksum

MakeBox = Callable[..., Box]

PROTOCOL: Final = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
REQUEST: Final = {4: 8, 6: 128}
REPLY: Final = {4: 0, 6: 129}
SMALL, LARGE = 100, 4000  # the latter is three fragments at an MTU of 1500
ID = 0x7069


def ping(sender: socket.socket, family: int, payload: bytes) -> None:
    """One echo request, and its answer with the same payload; the kernel sums up ICMPv6."""
    rest = struct.pack("!HH", ID, 1) + payload
    head = struct.pack("!BBH", REQUEST[family], 0, 0)
    if family == 4:
        head = head[:2] + checksum(head + rest).to_bytes(2)
    sender.sendto(head + rest, (VIPS[family], 0))
    while True:
        answer, source = sender.recvfrom(2 * LARGE)
        icmp = answer[20:] if family == 4 else answer
        if source[0] == VIPS[family] and icmp[0] == REPLY[family]:
            assert icmp[4:] == rest
            return


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_each_host_answers_pings_of_the_vip(make_box: MakeBox, family: int) -> None:
    pop = Pop(make_box(hosts=2, proxy="none", mtu=1500), AGENTS)
    box = pop.box
    with inside(box.client_namespace(1)):
        sender = socket.socket(FAMILIES[family], socket.SOCK_RAW, PROTOCOL[family])
    sender.settimeout(PATIENCE_S)
    with sender:
        for host, other in ((1, 2), (2, 1)):
            box.set_next_hops([host])
            before = pop.count(host, "passed_echo"), pop.count(other, "passed_echo")
            ping(sender, family, random.Random(host).randbytes(SMALL))
            due = before[0] + 1
            wait_for("counted", partial(lambda host, due: pop.count(host, "passed_echo") == due,
                                        host, due))  # fmt: skip
            ping(sender, family, random.Random(host).randbytes(LARGE))
            assert pop.count(other, "passed_echo") == before[1]
    pop.close()
