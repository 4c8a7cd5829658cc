# SPDX-License-Identifier: BSD-2-Clause
"""The session table's calls, one key at a time and in bursts; sessions that fit a cache."""

from __future__ import annotations

import random
from typing import Final

import pytest

from bench.micro.conftest import SEED, Timed
from pyxdp_gossip._native import OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for

SESSIONS: Final = 1 << 14
BURST: Final = 64
OWNER: Final = 1
RANDOM_LEN, ZERO_LEN = {4: 6, 6: 18}, {4: 2, 6: 6}  # client and port; slot 0 and padding


class Filled:
    """A table of one family, the keys in it, and as many that are not."""

    def __init__(self, family: int) -> None:
        generator = random.Random(SEED)
        owners = OwnerStates()
        owners.activate(OWNER)
        self.table = SessionTable(family, buckets_for(2 * SESSIONS), owners)

        def keys(count: int) -> list[bytes]:
            zeros = bytes(ZERO_LEN[family])
            return [generator.randbytes(RANDOM_LEN[family]) + zeros for _ in range(count)]

        self.keys, self.absent = keys(SESSIONS), keys(BURST)
        for key in self.keys:
            self.table.put(key, OWNER)


@pytest.fixture(params=(4, 6), ids=("v4", "v6"), scope="module")
def filled(request: pytest.FixtureRequest) -> Filled:
    return Filled(request.param)


def name(what: str, filled: Filled) -> str:
    return f"session table, IPv{filled.table.family}: {what}"


def test_put(filled: Filled, timed: Timed) -> None:
    """New sessions."""
    table, absent = filled.table, filled.absent

    def remove_all() -> tuple[()]:
        for key in absent:
            table.remove(key)
        return ()

    def put() -> None:
        for key in absent:
            table.put(key, OWNER)

    timed(name("put", filled), put, BURST, "key", before=remove_all)
    remove_all()


def test_remove(filled: Filled, timed: Timed) -> None:
    """Sessions that are there."""
    table, absent = filled.table, filled.absent

    def put_all() -> tuple[()]:
        for key in absent:
            table.put(key, OWNER)
        return ()

    def remove() -> None:
        for key in absent:
            table.remove(key)

    timed(name("remove", filled), remove, BURST, "key", before=put_all)


@pytest.mark.parametrize("what", ["put", "remove"])
def test_a_call_for_each_key_floor(filled: Filled, timed: Timed, what: str) -> None:
    """The same loop with a call that copies the key."""
    absent, copy = filled.absent, bytearray

    def copy_all() -> None:
        for key in absent:
            copy(key)

    timed(name(what, filled), copy_all, BURST, "key", case="floor: the keys copied")


@pytest.mark.parametrize("what", ["find, hits", "find, misses"])
def test_find(filled: Filled, timed: Timed, what: str) -> None:
    """A burst that is there, or is not."""
    table = filled.table
    burst = b"".join(filled.keys[:BURST] if "hits" in what else filled.absent)
    timed(name(what, filled), lambda: table.find_burst(burst), BURST, "key")


@pytest.mark.parametrize("what", ["find, hits", "find, misses"])
def test_find_floor(filled: Filled, timed: Timed, what: str) -> None:
    """The keys copied."""
    burst = b"".join(filled.absent)
    timed(name(what, filled), lambda: bytearray(burst), BURST, "key", case="floor: the keys copied")
