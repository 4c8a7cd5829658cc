# SPDX-License-Identifier: BSD-2-Clause
"""The C parser, under ASan and UBSan, against the plain model."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import c_programs
from tests.golden import plain_rows
from tests.golden_too_big import too_big_rows
from tests.golden_tunnel import tunnel_rows
from tests.model import NotReadableError, Packet, parse
from tests.mutations import mutated

# enum xg_parse_reason; of a frame that cannot be read the model knows the ending only.
OK, NOT_IP, TRUNCATED, BAD_HEADER, NOT_TRANSPORT, FRAGMENT = range(6)
ENDINGS = {
    NOT_IP: "passed_not_ip",
    TRUNCATED: "passed_unparsed",
    BAD_HEADER: "passed_unparsed",
    NOT_TRANSPORT: "passed_unparsed",
    FRAGMENT: "passed_fragment",
}
MUTATIONS = 20_000


def length_prefixed(frames: Sequence[bytes]) -> bytes:
    """What the C program reads."""
    return b"".join(struct.pack("<H", len(frame)) + frame for frame in frames)


def parsed_by_c(frames: Sequence[bytes], compiler: str = "gcc") -> list[str | Packet]:
    """Each frame's ending or packet, by the C parser."""
    program = c_programs.build("test_packet_parse", compiler)
    lines = c_programs.run(program, "parse", data=length_prefixed(frames)).splitlines()
    assert len(lines) == len(frames)
    return [_result(line.split()) for line in lines]


def _result(words: list[str]) -> str | Packet:
    reason = int(words[0])
    if reason != OK:
        return ENDINGS[reason]
    family, protocol, flags, tos, l3, l4, length, source, destination = map(int, words[1:10])
    source_address, destination_address = map(bytes.fromhex, words[12:14])
    return Packet(
        family, protocol, source_address, destination_address, source, destination,
        flags, tos, l3, l4, length,
    )  # fmt: skip


def parsed_by_model(frame: bytes) -> str | Packet:
    """The same, by the model."""
    try:
        return parse(frame)
    except NotReadableError as error:
        return str(error)


def golden_frames() -> list[bytes]:
    """The frames of all golden rows, each once."""
    rows = plain_rows() + too_big_rows() + tunnel_rows()
    return list(dict.fromkeys(golden.frame for golden in rows))


def assert_same(frames: Sequence[bytes], compiler: str = "gcc") -> None:
    """The C parser and the model read each frame alike."""
    for frame, by_c in zip(frames, parsed_by_c(frames, compiler), strict=True):
        assert by_c == parsed_by_model(frame), frame.hex()


def test_gcc_parser_reads_golden_frames_as_the_model_does() -> None:
    assert_same(golden_frames())


def test_clang_parser_reads_golden_frames_as_the_model_does() -> None:
    assert_same(golden_frames(), "clang")


def test_the_parser_survives_every_truncation_of_every_shape() -> None:
    shapes = {(len(frame), frame[12:14]): frame for frame in golden_frames() if len(frame) < 400}
    assert_same([frame[:end] for frame in shapes.values() for end in range(len(frame) + 1)])


def test_the_parser_reads_mutated_frames_as_the_model_does() -> None:
    source = random.Random(20)
    frames = [frame for frame in golden_frames() if 14 < len(frame) < 400]
    assert_same([mutated(source.choice(frames), source) for _ in range(MUTATIONS)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=120), min_size=1, max_size=200))
def test_the_parser_reads_noise_as_the_model_does(noise: list[bytes]) -> None:
    assert_same(noise)


def test_sequence_and_acknowledgement_numbers_are_in_host_order() -> None:
    frame = next(
        golden.frame for golden in plain_rows()
        if golden.description == "IPv4, ABSENT, agent alive: TCP [A]"
    )  # fmt: skip
    program = c_programs.build("test_packet_parse")
    words = c_programs.run(program, "parse", data=length_prefixed([frame])).split()
    assert [int(word) for word in words[10:12]] == [0x01020304, 0x11121314]
