# SPDX-License-Identifier: BSD-2-Clause
"""The limit on ICMP errors about packets too big for their path, and noise about them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from tests.golden_too_big import too_big_rows
from tests.golden_world import golden_world
from tests.kernel import dataplane_fixture
from tests.kernel.dataplane_fixture import Pair, host_under_test
from tests.model import run
from tests.mutations import mutated

ROWS: Final = too_big_rows()
TOLD: Final = [row.frame for row in ROWS if row.ending == "too_big_answered"]
BURST: Final = 5  # answers at once; at one a second the budget is empty after them
ETHERNET_BYTES: Final = 14
MUTATIONS: Final = 3000

pair = dataplane_fixture.pair


def test_above_the_budget_what_is_too_big_is_dropped(pair: Pair) -> None:
    with host_under_test(pair[0], too_big_rate_pps=1, flood_burst_s=float(BURST)) as limited:
        limited.set_flood()
        endings = [verdict.ending for verdict in limited.run_all(TOLD)]
    assert endings[:BURST] == ["too_big_answered"] * BURST
    assert endings[-1] == "too_big"
    assert endings.count("too_big_answered") < 2 * BURST < len(endings)


def test_floods_and_answers_have_budgets_of_their_own(pair: Pair) -> None:
    rates = {"flood_rate_pps": 1, "flood_new_rate_pps": 1, "flood_burst_s": 0.0}
    strays = [row.frame for row in ROWS if row.ending == "too_big_answered"
              and "flood" not in row.description]  # fmt: skip
    with host_under_test(pair[0], **rates) as limited:
        limited.set_flood()
        endings = {verdict.ending for verdict in limited.run_all(strays)}
    assert endings == {"too_big_answered"}


def test_mutated_frames_that_are_too_big_end_as_in_the_model(pair: Pair) -> None:
    source = random.Random(1191)
    originals = [row.frame for row in ROWS]
    frames = [mutated(source.choice(originals), source) for _ in range(MUTATIONS)]
    frames = [frame for frame in frames if len(frame) >= ETHERNET_BYTES]
    world = golden_world()
    counted: Counter[str] = Counter()
    with host_under_test(pair[0]) as host:
        host.set_flood()
        for frame, verdict in zip(frames, host.run_all(frames), strict=True):
            ending, output = run(world, frame)
            assert verdict.ending == ending, frame.hex()
            assert verdict.action == "drop" or verdict.frame == output, frame.hex()
            counted[ending] += 1
    assert counted["too_big_answered"] > 100
    assert counted["too_big"] > 100
