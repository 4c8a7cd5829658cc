# SPDX-License-Identifier: BSD-2-Clause
"""What is too big for its path and has no DF, through the C forwarder and the model."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, defragment
from scapy.packet import Raw

from pyxdp_gossip.explanation import explain
from tests.examples import examples
from tests.golden import OVERHEAD, ethernet, ip, udp
from tests.golden_fragmenting import WAYS, cut_rows
from tests.golden_world import State, golden_world
from tests.model import parse, run, run_untunnelled
from tests.model_fragmenting import cut
from tests.unit.test_golden_forwarder import golden_forwarder

FORWARDER = golden_forwarder()
OUTER = 14 + OVERHEAD  # bytes in front of the inner packet, without a tag


def test_the_forwarder_sends_every_golden_packet_in_its_fragments() -> None:
    for row in cut_rows():
        assert FORWARDER.forward([row.frame]) == [("fragmented", row.frame)], row.description
        found = FORWARDER.fragments(row.frame)
        assert found == list(row.outputs), row.description
        said = explain(row.frame, FORWARDER)
        assert (said.ending, said.output, said.steps[-1].name) == (
            "fragmented", row.frame, "fragmented",
        )  # fmt: skip


def test_the_model_agrees_with_every_golden_packet() -> None:
    for row in cut_rows():
        world = golden_world()
        assert run(world, row.frame) == ("too_big_answered", row.answer), row.description
        world = replace(world, sent=[])
        assert run(world, row.frame) == ("fragmented", row.frame), row.description
        assert world.sent == list(row.outputs), row.description


def test_what_fits_has_no_fragments() -> None:
    assert FORWARDER.fragments(bytes(ethernet() / ip(4) / udp(State.OTHER))) == []


@st.composite
def options(draw: st.DrawFn) -> bytes:
    """Well-formed IPv4 options in whole words."""
    one = st.one_of(
        st.just(b"\x01"),
        st.builds(
            lambda kind, data: bytes([kind, 2 + len(data)]) + data,
            st.integers(2, 255), st.binary(max_size=9),
        ),
    )  # fmt: skip
    found = b"".join(draw(st.lists(one, max_size=6)))[:40]
    return found + bytes(-len(found) % 4)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Any IPv4 packet of UDP, DF clear, whole."""
    header = draw(options())
    pattern = draw(st.binary(min_size=1, max_size=16))
    payload = (pattern * 4000)[: draw(st.integers(0, 4000))]
    port = draw(st.sampled_from([state for state in WAYS if state is not State.ABSENT])).client_port
    packet = ip(4, id=draw(st.integers(0, 0xFFFF)), tos=draw(st.integers(0, 255)))
    built = bytearray(bytes(packet / UDP(sport=port, dport=443) / Raw(payload)))
    built[0] += len(header) // 4
    built[2:4] = (len(built) + len(header)).to_bytes(2)
    raw = bytes(built[:20]) + header + bytes(built[20:])
    return _summed(raw)


def _summed(raw: bytes) -> bytes:
    """The packet with its header's checksum, as scapy writes it."""
    whole = IP(raw)
    del whole.chksum
    return bytes(whole)[: 4 * (raw[0] & 15)] + raw[4 * (raw[0] & 15) :]


@settings(max_examples=examples(400), deadline=None)
@given(packets())
def test_any_packets_fragments_are_the_models_and_put_together_the_packet(packet: bytes) -> None:
    frame = bytes(ethernet())[:12] + b"\x08\x00" + packet
    world = replace(golden_world(), sent=[])
    assert FORWARDER.forward([frame])[0] == run_untunnelled(world, frame)
    found = FORWARDER.fragments(frame)
    assert found == world.sent
    _, mtu = WAYS[State(parse(frame).source_port - State.ABSENT.client_port)]
    assert bool(found) == (len(packet) > mtu - OVERHEAD)
    if not found:
        return
    inner = [_inner(one) for one in found]
    assert max(map(len, inner)) <= mtu - OVERHEAD
    assert all((len(one) - 4 * (one[0] & 15)) % 8 == 0 for one in inner[:-1])
    assert len({_entropy(one) for one in found}) == 1
    ((whole, *_),) = defragment([IP(one) for one in inner])
    assert bytes(whole[UDP]) == bytes(IP(packet)[UDP])
    assert inner[0][20 : 4 * (inner[0][0] & 15)] == packet[20 : 4 * (packet[0] & 15)]


def _inner(frame: bytes) -> bytes:
    return frame[OUTER + 4 * (frame[12:14] == b"\x81\x00") :]


def _entropy(frame: bytes) -> bytes:
    at = 34 + 4 * (frame[12:14] == b"\x81\x00")
    return frame[at : at + 2]


@settings(max_examples=examples(300), deadline=None)
@given(packets(), st.integers(124, 1500), st.integers(124, 1500))
def test_fragments_of_fragments_put_together_the_packet(
    packet: bytes, first: int, second: int
) -> None:
    pieces = cut(packet, first) if len(packet) > first else [packet]
    again = [one for piece in pieces for one in _all_of(piece, second)]
    assert max(map(len, again)) <= second
    parts = {}
    for one in again:
        header, flags = 4 * (one[0] & 15), int.from_bytes(one[6:8])
        parts[(flags & 0x1FFF) * 8] = one[header:], bool(flags & 0x2000)
    whole, at = b"", 0
    while at in parts:
        part, more = parts.pop(at)
        whole, at = whole + part, at + len(part)
        assert more == (at < len(packet) - 4 * (packet[0] & 15))
    assert (whole, parts) == (packet[4 * (packet[0] & 15) :], {})


def _all_of(piece: bytes, mtu: int) -> list[bytes]:
    return cut(piece, mtu) if len(piece) > mtu else [piece]
