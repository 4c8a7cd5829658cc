# SPDX-License-Identifier: BSD-2-Clause
"""Odd frames by the thousand over a link, through XDP program and AF_XDP loop: each ends in exactly
one counter, and in the one that the model names."""

from __future__ import annotations

import random
from collections import Counter

from pyxdp_gossip.stats import ENDINGS
from tests.box.traffic import wait_for
from tests.golden_world import golden_world
from tests.kernel import test_golden_loop
from tests.kernel.test_golden_loop import ETHERNET_BYTES, HANDED_OVER, ROWS, Link
from tests.model import run
from tests.mutations import mutated

link = test_golden_loop.link

FRAMES = 6000
AT_ONCE = 100  # fewer than any ring on the way holds: none is lost before the program sees it
OF_LATER_FRAGMENTS = ("passed_fragment", "fragment_unknown", "fragment_forwarded")
ETHERTYPES = (b"\x08\x00", b"\x86\xdd", b"\x81\x00\x08\x00", b"\x81\x00\x86\xdd", b"\x08\x06")
GOLDEN = [row.frame for row in ROWS if ETHERNET_BYTES <= len(row.frame) < 1000]


def by_kind(endings: Counter[str]) -> Counter[str]:
    """What becomes of a later fragment hangs on what came before, and when."""
    found: Counter[str] = Counter()
    for name, count in endings.items():
        found["a later fragment" if name in OF_LATER_FRAGMENTS else name] += count
    return found


def odd_frame(source: random.Random) -> bytes:
    """A golden packet, one with some bytes changed, or noise behind an EtherType."""
    kind = source.randrange(4)
    if kind == 0:
        return source.choice(GOLDEN)
    if kind == 1:
        return bytes(12) + source.choice(ETHERTYPES) + source.randbytes(source.randrange(200))
    frame = mutated(source.choice(GOLDEN), source)
    return frame if len(frame) >= ETHERNET_BYTES else frame.ljust(ETHERNET_BYTES, b"\0")


def test_each_of_many_odd_frames_ends_once_and_as_in_the_model(link: Link) -> None:
    source = random.Random(9000)
    frames = [odd_frame(source) for _ in range(FRAMES)]
    world = golden_world()
    expected = Counter(run(world, frame)[0] for frame in frames)
    assert len(expected) > len(ENDINGS) // 2, "the frames are not odd enough"
    link.host.set_agent(True)
    plane = link.host.plane
    before = plane.statistics()
    for start in range(0, FRAMES, AT_ONCE):
        burst = frames[start : start + AT_ONCE]
        link.far.send(*burst)
        due = start + len(burst)
        wait_for(
            f"{due} frames end", lambda due=due: plane.statistics().since(before).frames >= due
        )
        while link.far.receive(0.0):
            """What came back makes room for the next."""
    risen = plane.statistics().since(before)
    found = Counter({name: risen[name] for name in ENDINGS if risen[name]})
    assert by_kind(found) == by_kind(expected)
    assert risen.frames == FRAMES
    assert (
        0
        < risen.handed_over
        <= sum(expected[name] for name in (*HANDED_OVER, "too_big", "too_big_answered"))
    )
