# SPDX-License-Identifier: BSD-2-Clause
"""Tunnel packets through the forwarder and in words: golden endings and bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

import pyxdp_gossip as xg
from pyxdp_gossip._native import Forwarder
from pyxdp_gossip.stats import ENDINGS
from tests.golden import Golden, ip, tcp, udp
from tests.golden_formats import FLAVOURS, Flavour, flavoured_world, format_rows
from tests.golden_tunnel import RELAY_MARK, flooded, stripped, tunnel_rows, tunnelled
from tests.golden_world import PEER, State, golden_world, underlay
from tests.model import parse, run
from tests.mutations import mutated
from tests.unit.golden_receiver import receiver_of_world, receiving_forwarder
from tests.unit.test_explanation import agrees
from tests.unit.test_golden_formats import name_of
from tests.unit.test_golden_forwarder import forwarded

MUTATIONS = 3000


def differences(forwarder: Forwarder, rows: Sequence[Golden]) -> list[str]:
    """What the forwarder, or the explanation, does otherwise than the rows say."""
    found = []
    results = forwarded(forwarder, [row.frame for row in rows])
    for row, (ending, output) in zip(rows, results, strict=True):
        if ending != row.ending or (ENDINGS[ending] != "drop" and output != row.output):
            found.append(f"{row.description}: {row.ending}, C: {ending} {output.hex()}")
        said = xg.explain(row.frame, forwarder)
        if not agrees(said, ending, output):
            found.append(f"{row.description}: {ending}, explained: {said}")
    return found


@pytest.mark.parametrize("flood", [True, False], ids=["flood", "no flood"])
def test_every_golden_tunnel_packet_is_opened_and_explained(flood: bool) -> None:
    rows = [row for row in tunnel_rows() if row.flood == flood and row.agent_alive]
    assert rows
    assert differences(receiving_forwarder(flood=flood), rows) == []


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_so_is_each_golden_packet_of_each_format(flavour: Flavour) -> None:
    assert differences(receiving_forwarder(flavoured_world(flavour)), format_rows(flavour)) == []


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_mutated_packets_end_as_in_the_model(flavour: Flavour) -> None:
    source = random.Random(name_of(flavour))
    originals = [row.frame for row in format_rows(flavour) if len(row.frame) < 400]
    frames = [mutated(source.choice(originals), source) for _ in range(MUTATIONS)]
    # the forwarder has no memory of fragments
    world = replace(flavoured_world(flavour), fragments=None)
    forwarder = receiving_forwarder(world)
    for frame, (ending, output) in zip(frames, forwarded(forwarder, frames), strict=True):
        want, sent = run(world, frame)
        assert ending == want, frame.hex()
        # of a mutated packet a derived checksum is wrong by the same amount as its own
        derived = flavour.checksum and ENDINGS[ending] == "tx" and ending != "probe_answered"
        if ENDINGS[ending] != "drop" and not derived:
            assert output == sent, frame.hex()
        assert agrees(xg.explain(frame, forwarder), ending, output), frame.hex()


def test_all_tunnel_endings_but_those_of_memory_and_budget_are_reached() -> None:
    seen = {row.ending for row in tunnel_rows()}
    for frame in (tunnelled(ip(4) / tcp(State.OWN)), flooded(ip(4) / tcp(State.OWN))):
        seen.add(xg.explain(frame, receiving_forwarder(), kernel_knows=True).ending)
    tunnel = {name for name in ENDINGS if name.startswith(("delivered_", "tunnel_", "flood_"))}
    assert tunnel - {"delivered_fragment"} <= seen


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ["sent", "relayed", "flooded"])
def test_what_the_kernel_knows_is_stripped(family: int, how: str) -> None:
    inner = ip(family) / tcp(State.ABSENT)
    frame = flooded(inner) if how == "flooded" else tunnelled(
        inner, mark=RELAY_MARK if how == "relayed" else 0
    )  # fmt: skip
    forwarder = receiving_forwarder()
    asked = xg.explain(frame, forwarder)
    assert asked.asks_kernel
    assert asked.question == bytes(12) + stripped(inner)[12:]
    assert asked.sender == underlay(PEER)
    found = xg.explain(frame, forwarder, kernel_knows=True)
    assert found.output == stripped(inner)
    assert found.ending == ("delivered_stray" if how == "sent" else "delivered_flood")
    unknown = xg.explain(frame, forwarder, kernel_knows=False)
    assert (unknown.ending, unknown.output) == (asked.ending, asked.output)
    assert not unknown.asks_kernel


def test_without_a_kernel_own_sessions_are_taken_as_known() -> None:
    forwarder = receiving_forwarder(own_is_known=True)
    for state, ending in ((State.OWN, "delivered_stray"), (State.OTHER, "misdirected_flooded")):
        frame = tunnelled(ip(6) / tcp(state))
        assert forwarder.forward([frame])[0][0] == ending
        assert agrees(xg.explain(frame, forwarder), *forwarder.forward([frame])[0])
    frame = flooded(ip(4) / udp(State.OWN))
    assert xg.explain(frame, forwarder).ending == "delivered_flood"
    assert xg.explain(frame, forwarder, kernel_knows=False).ending == "flood_unknown"


def test_a_tunnel_packet_is_told_in_words() -> None:
    frame = tunnelled(ip(4) / tcp(State.ABSENT, "S"), tos=1)
    text = str(xg.explain(frame, receiving_forwarder())).splitlines()
    assert text[0] == "tcp 203.0.113.9:50000 -> 198.51.100.1:443"
    assert text[1] == (
        "  Is it a tunnel packet for this host? Yes, gue from 10.8.0.14. "
        "Another host of the POP may have sent it here."
    )
    assert text[-1] == "pass: delivered_syn. A SYN sent here by another host: stripped."
    assert len(text) == 11


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_a_packet_to_another_host_is_no_tunnel_packet_here(flavour: Flavour) -> None:
    world = flavoured_world(flavour)
    frame = next(row.frame for row in format_rows(flavour) if row.ending == "delivered_syn")
    elsewhere = replace(world, address=next(iter(world.peers)))
    found = xg.explain(frame, receiving_forwarder(elsewhere))
    assert found.sender is None
    assert found.ending in ("passed_no_service", "passed_unparsed")


def test_a_receiver_gives_back_its_senders() -> None:
    receiver = receiver_of_world(golden_world())
    again = xg.TunnelReceiver.build(
        address=golden_world().address, flood_group=golden_world().flood_group,
        port=receiver.port, mac=receiver.mac, senders=receiver.peers(),
    )  # fmt: skip
    assert again == receiver
    for change in ({"port": 0}, {"mac": b""}):
        with pytest.raises(ValueError, match=r"port|MAC"):
            xg.TunnelReceiver.build(
                **{"address": underlay(PEER), "flood_group": None, "port": 1, "mac": bytes(6),
                   "senders": {}} | change  # type: ignore[arg-type]
            )  # fmt: skip
    with pytest.raises(ValueError, match="no multiple of 64"):
        xg.Forwarder.build(
            3, {}, *(xg.SessionTable(family, 2, OWNERS) for family in (4, 6)), OWNERS, {},
            receiver=replace(receiver, senders=bytes(63)),
        )  # fmt: skip


OWNERS = xg.OwnerStates()


def test_the_cut_rows_cover_each_byte() -> None:
    lengths = {len(row.frame) for row in tunnel_rows() if row.ending == "tunnel_malformed"}
    first = parse(tunnelled(ip(4) / udp(State.ABSENT))).l4 + 8
    assert set(range(first, first + 16)) <= lengths
