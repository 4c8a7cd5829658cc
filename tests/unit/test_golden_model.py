# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets against the plain model."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.golden import Golden, plain_rows
from tests.golden_quic import quic_rows
from tests.golden_too_big import too_big_rows
from tests.golden_tunnel import tunnel_rows
from tests.golden_world import golden_world
from tests.model import run

ROOT = Path(__file__).parents[2]

# Endings that need a socket of this kernel, a fragment before this one, a spent budget, a frame
# without headroom, a POP without a flood group, or an AF_XDP loop that something happened to.
NEED_A_KERNEL = {
    "passed_known",
    "fragment_forwarded",
    "fragment_over_budget",
    "delivered_fragment",
    "passed_stale_entry",
    "delivered_stray",
    "delivered_flood",
    "miss_over_budget_new",
    "miss_over_budget_seen",
    "miss_relayed",
    "no_headroom",
    "overtaken",
    "fragment_no_frames",
    "loop_stale",
    "loop_lost",
    "chain_refused",
}
OF_OTHER_FORMATS = {"no_checksum"}  # tests/golden_formats.py
NEED_A_LOOP = {"fragmented"}  # tests/golden_fragmenting.py


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


def test_the_model_agrees_with_every_golden_packet_that_is_too_big() -> None:
    assert _differences(too_big_rows()) == []


def test_the_model_agrees_with_every_golden_tunnel_packet() -> None:
    assert _differences(tunnel_rows()) == []


def test_the_model_agrees_with_every_golden_quic_packet() -> None:
    assert _differences(quic_rows()) == []


def test_golden_descriptions_name_one_row_each() -> None:
    rows = plain_rows() + too_big_rows() + tunnel_rows() + quic_rows()
    names = Counter(golden.description for golden in rows)
    assert [name for name, times in names.items() if times > 1] == []


def endings() -> set[str]:
    """The names of all endings, read from the one list."""
    text = (ROOT / "csrc" / "stats.h").read_text()
    section = text[text.index("XG_ENDINGS(X)") : text.index("XG_SIDE_COUNTERS(X)")]
    return set(re.findall(r"^\tX\((\w+), (?:PASS|DROP|TX),", section, re.MULTILINE))


def test_every_ending_has_a_golden_packet_or_needs_a_kernel() -> None:
    rows = plain_rows() + too_big_rows() + tunnel_rows() + quic_rows()
    shown = {golden.ending for golden in rows}
    assert shown <= endings()
    assert endings() - shown == NEED_A_KERNEL | OF_OTHER_FORMATS | NEED_A_LOOP


def test_the_decision_tables_page_names_every_ending_and_only_tests_that_exist() -> None:
    page = (ROOT / "docs" / "decision-table.md").read_text()
    code = set(re.findall(r"`([^`]+)`", page))
    assert endings() - code == set()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rows = {word for word in code if re.fullmatch(r"(test_\w+|\w+_rows)", word)}
    assert {word for word in rows if f"def {word}(" not in tests} == set()
    files = {word for word in code if re.fullmatch(r"\w+/[\w/.]+", word)}
    assert {word for word in files if not (ROOT / word).exists()} == set()
