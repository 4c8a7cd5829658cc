# SPDX-License-Identifier: BSD-2-Clause
"""Any bytes as a frame: forwarder and explanation end alike, under sanitizers too."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip.explanation import explain
from tests.examples import examples
from tests.unit.test_golden_forwarder import golden_forwarder, rows_without_tunnel

FORWARDER = golden_forwarder(flood=False)
FRAMES = list({row.frame: None for row in rows_without_tunnel() if len(row.frame) < 400})
ETHERTYPES = [b"", b"\x08\x00", b"\x86\xdd", b"\x81\x00\x00\x05\x08\x00"]


def handled(frame: bytes) -> None:
    """By forwarder and explanation, which end alike."""
    ((ending, output),) = FORWARDER.forward([frame])
    FORWARDER.fragments(frame)
    said = explain(frame, FORWARDER)
    assert (said.ending, said.output) == (ending, output), frame.hex()


def test_every_truncation_of_every_golden_shape() -> None:
    shapes = {(len(frame), frame[12:24]): frame for frame in FRAMES}
    for frame in shapes.values():
        for end in range(len(frame) + 1):
            handled(frame[:end])


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(ETHERTYPES), st.binary(max_size=120))
def test_noise(ethertype: bytes, noise: bytes) -> None:
    handled(bytes(12) + ethertype + noise if ethertype else noise)


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(FRAMES), st.integers(0, 120), st.integers(0, 255), st.integers(0, 400))
def test_a_golden_frame_with_one_byte_changed_and_cut_anywhere(
    frame: bytes, at: int, value: int, end: int
) -> None:
    changed = bytearray(frame)
    changed[at % len(frame)] = value
    handled(bytes(changed[:end]))
