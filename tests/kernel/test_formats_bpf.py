# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets of each tunnel format through the XDP program, and over a link with the loop;
noise and mutations against the model."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pyxdp_gossip.stats import ENDINGS
from tests.golden import Golden
from tests.golden_formats import FLAVOURS, Flavour, flavoured_world, format_rows
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    DEVICE,
    OUTSIDE,
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.test_golden_bpf import check_golden
from tests.kernel.test_golden_loop import HANDED_OVER, MTU, Link
from tests.kernel.wire import wire
from tests.model import parse, run
from tests.mutations import mutated
from tests.unit.test_golden_formats import name_of

MUTATIONS = 1500
ETHERNET_BYTES = 14


@pytest.fixture(scope="module", params=FLAVOURS, ids=name_of)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """A tunnel format over IPv4 or IPv6."""
    chosen: Flavour = request.param
    return chosen


@pytest.fixture(scope="module")
def host(flavour: Flavour) -> Iterator[HostUnderTest]:
    """A data path that speaks it, loaded and not attached."""
    with own_namespaces() as make:
        inside, _ = make_pair(make, connect)
        with host_under_test(inside, flavoured_world(flavour)) as made:
            made.set_flood()
            yield made


def test_the_bpf_program_agrees_with_the_golden_packets_of_each_format(
    host: HostUnderTest, flavour: Flavour
) -> None:
    check_golden(host, format_rows(flavour))


def without_checksum(flavour: Flavour, ending: str, frame: bytes) -> bytes:
    """What was sent, without the UDP checksum that is derived from the inner packet's: of a mutated
    packet neither is right, and they are wrong by the same amount."""
    if not flavour.checksum or ENDINGS[ending] != "tx" or ending == "probe_answered":
        return frame
    place = parse(frame).l4 + 6
    return frame[:place] + bytes(2) + frame[place + 2 :]


def test_mutated_packets_of_each_format_end_as_in_the_model(
    host: HostUnderTest, flavour: Flavour
) -> None:
    source = random.Random(name_of(flavour))
    originals = [row.frame for row in format_rows(flavour) if len(row.frame) < 400]
    frames = [mutated(source.choice(originals), source) for _ in range(MUTATIONS)]
    frames = [frame for frame in frames if len(frame) >= ETHERNET_BYTES]
    world = flavoured_world(flavour)
    for frame, verdict in zip(frames, host.run_all(frames), strict=True):
        ending, output = run(world, frame)
        assert verdict.ending == ending, frame.hex()
        if verdict.action != "drop":
            sent, expected = (
                without_checksum(flavour, ending, data) for data in (verdict.frame, output)
            )
            assert sent == expected, frame.hex()


def test_both_planes_together_agree_with_the_golden_packets_of_each_format(
    flavour: Flavour,
) -> None:
    with own_namespaces() as make:
        inside, outside = make_pair(make, connect)
        for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
            namespace.ip(f"link set {device} mtu {MTU}")
        # no frame of the kernel's own may end in a counter meanwhile
        outside.exec(f"sysctl -qw net.ipv6.conf.{OUTSIDE}.disable_ipv6=1")
        inside.exec(f"sysctl -qw net.ipv6.conf.{DEVICE}.disable_ipv6=0")
        with (
            host_under_test(inside, flavoured_world(flavour), plane="xsk", mode="copy") as made,
            wire(outside, OUTSIDE) as far,
        ):
            made.set_flood()
            inside.run(made.plane.attach_packets)
            link = Link(made, far)
            for row in format_rows(flavour):
                risen = link.check(row)
                is_looped = row.ending in HANDED_OVER or too_late(row)
                is_looped = is_looped and "fragment" not in row.description  # XDP sends them all
                assert risen.get("handed_over", 0) == is_looped


def too_late(row: Golden) -> bool:
    """What is wrong with a stray is found where its headers are written."""
    return (
        row.ending in ("too_big", "too_big_answered", "no_checksum")
        and "ABSENT" not in row.description
    )
