# SPDX-License-Identifier: BSD-2-Clause
"""A bad network (netem) between two guests, on gossip and strays: the connections live through it.

What a loop sends in zero-copy passes by no queueing discipline. So netem is at work twice in each
guest: on all that its kernel sends, gossip and answers to clients, and, by an ifb, on all that the
XDP program lets in: the others' gossip, and strays after they were stripped.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.vm.pair.world import Change, Host, Pair, deliver
from tests.vm.remote import DEVICE

BAD = {
    "delay": "delay 20ms 10ms",
    "loss": "loss 5%",
    "duplicates": "duplicate 20%",
    "reordering": "delay 10ms reorder 50%",
}
FLOWS = 6
ROUNDS = 2


@contextmanager
def bad_network(host: Host, how: str) -> Iterator[None]:
    """On both ways through the guest's kernel."""
    for words in (
        "ip link set ifb0 up",
        f"tc qdisc add dev ifb0 root netem {how}",
        f"tc qdisc add dev {DEVICE} ingress",
        f"tc filter add dev {DEVICE} parent ffff: matchall action mirred egress redirect dev ifb0",
        f"tc qdisc add dev {DEVICE} root netem {how}",
    ):
        host.run(words)
    try:
        yield
    finally:
        host.run(f"tc qdisc del dev {DEVICE} root")
        host.run(f"tc qdisc del dev {DEVICE} ingress")
        host.run("tc qdisc del dev ifb0 root")


def netem_counts(host: Host) -> list[tuple[int, int]]:
    """Packets that left each netem, and that it dropped."""
    said = host.run("tc -s qdisc show")
    found = re.findall(r"qdisc netem .*\n\s*Sent \d+ bytes (\d+) pkt \(dropped (\d+)", said)
    return [(int(sent), int(dropped)) for sent, dropped in found]


@pytest.mark.parametrize("kind", BAD)
def test_connections_live_through_a_bad_network(pop: Pair, kind: str) -> None:
    with (
        bad_network(pop.a, BAD[kind]),
        bad_network(pop.b, BAD[kind]),
        pop.connections(FLOWS) as made,
    ):
        a = Change(pop.a)
        ways = ([pop.a], [pop.b], [pop.a, pop.b], [pop.b, pop.a])
        for number, way in enumerate(itertools.chain.from_iterable([ways] * ROUNDS)):
            pop.route(*way)
            for one in made:
                deliver(one, bytes([number]) * 20_000)
        assert a.look().program["stray_forwarded"] > FLOWS
        for host in pop.hosts:
            counts = netem_counts(host)
            assert len(counts) == 2
            assert all(sent > FLOWS for sent, _ in counts)
            assert kind != "loss" or all(dropped for _, dropped in counts)
