# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets without a tunnel header through the C forwarder."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pyxdp_gossip._native import Forwarder, OwnerStates, SessionTable
from pyxdp_gossip.forwarder import pack_layouts
from tests.golden import Golden, plain_rows
from tests.golden_quic import quic_rows
from tests.golden_too_big import too_big_rows
from tests.golden_world import (
    ACTIVE,
    CLIENTS,
    ENTRIES,
    FLOOD,
    OWN_HOST,
    PROTOCOL_NUMBERS,
    QUIC_SLOTS,
    ROUTES,
    SERVICES,
    VIPS,
    golden_world,
    mapped,
    session_key,
)
from tests.layouts_of_model import quic_layouts
from tests.model import run_untunnelled
from tests.mutations import mutated
from tests.templates_of_routes import template

BURST = 64
BUCKETS = 64
LINGER = 1  # XG_META_LINGER
MUTATIONS = 4000
SERVICE = struct.Struct("<16s2sBxHH")  # struct xg_service


def rows_without_tunnel() -> tuple[Golden, ...]:
    """Of packets straight from the router."""
    return plain_rows() + too_big_rows() + quic_rows()


def golden_forwarder(*, flood: bool = True) -> Forwarder:
    """The golden world's tables in a forwarder."""
    owners = OwnerStates()
    tables = {family: SessionTable(family, BUCKETS, owners) for family in (4, 6)}
    for host in (OWN_HOST, *ACTIVE):
        owners.activate(host)
    for index, host in enumerate(ROUTES):
        owners.set_template(host, index)
    for (family, _, _), slot in SERVICES.items():
        for state, entry in ENTRIES.items():
            key = session_key(CLIENTS[family], state.client_port, slot)
            tables[family].put(key, entry.owner, flags=LINGER if entry.lingering else 0)
    services = b"".join(
        SERVICE.pack(
            mapped(VIPS[family]),
            struct.pack("!H", port),
            PROTOCOL_NUMBERS[name],
            slot,
            slot in QUIC_SLOTS,
        )
        for (family, name, port), slot in SERVICES.items()
    )
    templates = b"".join(template(route).pack() for route in (*ROUTES.values(), FLOOD))
    return Forwarder(
        OWN_HOST, tables[4], tables[6], owners, templates, services,
        len(ROUTES) if flood else None, quic=pack_layouts(quic_layouts()),
    )  # fmt: skip


def forwarded(forwarder: Forwarder, frames: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Ending and bytes of each frame, in full bursts."""
    results = []
    for start in range(0, len(frames), BURST):
        results += forwarder.forward(list(frames[start : start + BURST]))
    return results


@pytest.mark.parametrize("flood", [True, False], ids=["flood", "no flood"])
def test_the_forwarder_agrees_with_every_plain_golden_packet(flood: bool) -> None:
    rows = [row for row in rows_without_tunnel() if row.flood == flood and row.agent_alive]
    results = forwarded(golden_forwarder(flood=flood), [row.frame for row in rows])
    differences = [
        f"{row.description}: {row.ending}, C: {ending}"
        for row, (ending, frame) in zip(rows, results, strict=True)
        if (ending, frame) != (row.ending, row.output)
    ]
    assert differences == []


def test_each_frame_is_counted_in_its_ending() -> None:
    rows = [row for row in rows_without_tunnel() if row.flood and row.agent_alive]
    forwarder = golden_forwarder()
    forwarded(forwarder, [row.frame for row in rows])
    counted = {name: value for name, value in forwarder.counters().items() if value}
    assert counted == Counter(row.ending for row in rows)


def test_mutated_golden_packets_end_as_in_the_model() -> None:
    source = random.Random(443)
    originals = [row.frame for row in rows_without_tunnel() if 14 < len(row.frame) < 1000]
    frames = [mutated(source.choice(originals), source) for _ in range(MUTATIONS)]
    world = replace(golden_world(), sent=[])
    for frame, result in zip(frames, forwarded(golden_forwarder(), frames), strict=True):
        assert result == run_untunnelled(world, frame), frame.hex()


def test_a_burst_of_65_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 64"):
        golden_forwarder().forward([bytes(60)] * (BURST + 1))
