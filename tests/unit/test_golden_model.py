# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets against the plain model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.golden import Golden, plain_rows
from tests.golden_tunnel import tunnel_rows
from tests.golden_world import golden_world
from tests.model import run

# Endings that need a socket of this kernel, a spent budget, or a frame without headroom.
NEED_A_KERNEL = {
    "passed_known",
    "passed_stale_entry",
    "delivered_stray",
    "delivered_flood",
    "miss_over_budget_new",
    "miss_over_budget_seen",
    "no_headroom",
}


def _differences(rows: tuple[Golden, ...]) -> list[str]:
    found = []
    for golden in rows:
        world = golden_world(agent_alive=golden.agent_alive, flood=golden.flood)
        ending, output = run(world, golden.frame)
        if (ending, output) != (golden.ending, golden.output):
            found.append(f"{golden.description}: {golden.ending}, the model says {ending}")
    return found


def test_the_model_agrees_with_every_plain_golden_packet() -> None:
    assert _differences(plain_rows()) == []


def test_the_model_agrees_with_every_golden_tunnel_packet() -> None:
    assert _differences(tunnel_rows()) == []


def test_golden_descriptions_name_one_row_each() -> None:
    names = Counter(golden.description for golden in plain_rows() + tunnel_rows())
    assert [name for name, times in names.items() if times > 1] == []


def test_every_ending_has_a_golden_packet_or_needs_a_kernel() -> None:
    text = (Path(__file__).parents[2] / "csrc" / "stats.h").read_text()
    section = text[text.index("XG_ENDINGS(X)") : text.index("XG_SIDE_COUNTERS(X)")]
    endings = {line.split("(")[1].split(",")[0] for line in section.splitlines() if "\tX(" in line}
    shown = {golden.ending for golden in plain_rows() + tunnel_rows()}
    assert endings - shown == NEED_A_KERNEL
