# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets through the XDP program in the kernel, and noise against the model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import Golden, plain_rows
from tests.golden_quic import quic_rows
from tests.golden_too_big import too_big_rows
from tests.golden_tunnel import tunnel_rows
from tests.golden_world import (
    OWN_MAC,
    PEER,
    PEER_WITHOUT_TEMPLATE,
    ROUTES,
    golden_world,
)
from tests.kernel.conftest import connect
from tests.kernel.dataplane_fixture import (
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.model import run
from tests.mutations import mutated

ROWS = plain_rows() + too_big_rows() + tunnel_rows() + quic_rows()
MUTATIONS = 4000

# The kernel refuses test frames without a whole Ethernet header.
ETHERNET_BYTES = 14


@pytest.fixture(scope="module")
def golden_host() -> Iterator[HostUnderTest]:
    """One data path for all golden packets of this module; there is not a socket in it."""
    with own_namespaces() as make:
        inside, _ = make_pair(make, connect)
        with host_under_test(inside) as host:
            yield host


@pytest.fixture(scope="module")
def groupless() -> Iterator[HostUnderTest]:
    """One of a POP without a flood group, and without a loop; it can ask one host to flood."""
    with own_namespaces() as make:
        inside, _ = make_pair(make, connect)
        with host_under_test(inside, flood_group=None) as host:
            inside.run(host.plane.set_own_mac, OWN_MAC)
            inside.run(host.plane.set_flood_copies, [PEER, PEER_WITHOUT_TEMPLATE])
            yield host


def check_golden(host: HostUnderTest, rows: Sequence[Golden]) -> None:
    """Each ends as its row says, with the row's bytes."""
    differences = []
    for golden, verdict in zip(rows, host.run_all([row.frame for row in rows]), strict=True):
        if verdict.ending != golden.ending:
            differences.append(f"{golden.description}: {golden.ending}, BPF: {verdict.ending}")
        elif verdict.action != "drop" and verdict.frame != golden.output:
            differences.append(
                f"{golden.description}: {verdict.frame.hex()}, expected {golden.output.hex()}"
            )
    assert differences == []


def test_without_a_flood_template_the_bpf_program_agrees_with_the_golden_packets(
    golden_host: HostUnderTest,
) -> None:
    golden_host.unset_flood()
    check_golden(golden_host, [row for row in ROWS if not row.flood])


@pytest.mark.parametrize("alive", [True, False], ids=["agent alive", "agent dead"])
def test_the_bpf_program_agrees_with_the_golden_packets(
    golden_host: HostUnderTest, alive: bool
) -> None:
    golden_host.set_flood()
    golden_host.set_agent(alive)
    check_golden(golden_host, [row for row in ROWS if row.flood and row.agent_alive == alive])


def test_without_a_group_and_a_loop_what_would_be_flooded_is_relayed(
    groupless: HostUnderTest,
) -> None:
    world = replace(golden_world(flood=False), flood_group=IPv4Address(0), relay=ROUTES[PEER])
    source = random.Random(7946)
    frames = [row.frame for row in ROWS if len(row.frame) >= ETHERNET_BYTES]
    frames += [mutated(source.choice(frames), source) for _ in range(MUTATIONS // 4)]
    frames = [frame for frame in frames if len(frame) >= ETHERNET_BYTES]
    counted: Counter[str] = Counter()
    for frame, verdict in zip(frames, groupless.run_all(frames), strict=True):
        ending, output = run(world, frame)
        assert verdict.ending == ending, frame.hex()
        assert verdict.action == "drop" or verdict.frame == output, frame.hex()
        counted[ending] += 1
    assert counted["miss_relayed"] > 100
    assert counted["miss_flooded"] + counted["misdirected_flooded"] == 0


def _assert_model_agrees(host: HostUnderTest, frames: Sequence[bytes]) -> None:
    """Ending and bytes of each frame; `run_all` fails if the kernel refuses a frame."""
    world = golden_world()
    host.set_flood()
    host.set_agent(True)
    for frame, verdict in zip(frames, host.run_all(list(frames)), strict=True):
        ending, output = run(world, frame)
        assert verdict.ending == ending, frame.hex()
        assert verdict.action == "drop" or verdict.frame == output, frame.hex()


def test_mutated_golden_packets_end_as_in_the_model(golden_host: HostUnderTest) -> None:
    source = random.Random(6040)
    originals = [row.frame for row in ROWS if 30 < len(row.frame) < 1000]
    frames = [mutated(source.choice(originals), source) for _ in range(MUTATIONS)]
    _assert_model_agrees(golden_host, [frame for frame in frames if len(frame) >= ETHERNET_BYTES])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([row.frame for row in ROWS if 30 < len(row.frame) < 400]),
    st.lists(st.tuples(st.integers(12, 399), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
    st.binary(max_size=30),
)
def test_any_change_cut_and_tail_of_a_golden_packet_ends_as_in_the_model(
    golden_host: HostUnderTest,
    frame: bytes,
    changes: list[tuple[int, int]],
    cut: int,
    tail: bytes,
) -> None:
    data = bytearray(frame)
    for index, value in changes:
        data[index % len(data)] = value
    data = data[: max(ETHERNET_BYTES, len(data) - cut)] + tail
    _assert_model_agrees(golden_host, [bytes(data)])


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00\x08\x00", b"\x08\x06"]),
    st.binary(max_size=200),
)
def test_noise_ends_as_in_the_model(
    golden_host: HostUnderTest, ethertype: bytes, noise: bytes
) -> None:
    _assert_model_agrees(golden_host, [bytes(12) + ethertype + noise])
