# SPDX-License-Identifier: BSD-2-Clause
"""The four rings over memory that the test made, with the test as their kernel: order, room, and
counts beyond 32 bits."""

from __future__ import annotations

import ctypes
import random
from array import array
from typing import Any, Final

import pytest

from pyxdp_gossip._rings import CompletionRing, FillRing, RxRing, TxRing

SIZE: Final = 8
FRAME: Final = 2048
UMEM: Final = 16 * FRAME
NEARLY_ROUND: Final = 2**32 - 5  # the rings' counts are 32 bits wide, and wrap
NEED_WAKEUP: Final = 1  # XDP_RING_NEED_WAKEUP
ROUNDS: Final = 50


class RingStruct(ctypes.Structure):
    """struct xsk_ring_prod and xsk_ring_cons of <xdp/xsk.h>."""

    _fields_ = [
        *[(name, ctypes.c_uint32) for name in ("cached_prod", "cached_cons", "mask", "size")],
        *[(name, ctypes.c_void_p) for name in ("producer", "consumer", "ring", "flags")],
    ]


class Descriptor(ctypes.Structure):
    """struct xdp_desc of <linux/if_xdp.h>."""

    _fields_ = [
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("options", ctypes.c_uint32),
    ]


class Kernel:
    """The kernel's end of a ring: its counts and entries, with nothing behind them."""

    def __init__(self, kind: type, *, consumes: bool) -> None:
        self.producer = ctypes.c_uint32(NEARLY_ROUND)
        self.consumer = ctypes.c_uint32(NEARLY_ROUND)
        self.flags = ctypes.c_uint32(0)
        self.entries = (kind * SIZE)()
        pointers = (self.producer, self.consumer, self.entries, self.flags)
        ahead = SIZE if consumes else 0  # as libxdp leaves it, see xsk_prod_nb_free()
        self.struct = RingStruct(
            NEARLY_ROUND, (NEARLY_ROUND + ahead) % 2**32, SIZE - 1, SIZE,
            *map(ctypes.addressof, pointers),
        )  # fmt: skip
        self.address = ctypes.addressof(self.struct)

    @property
    def waiting(self) -> int:
        """Entries that one side has written and the other has not taken."""
        return (self.producer.value - self.consumer.value) % 2**32

    def take(self, count: int) -> list[Any]:
        """Entries that were submitted, oldest first."""
        assert count <= self.waiting
        found = [self.entries[(self.consumer.value + i) % SIZE] for i in range(count)]
        self.consumer.value += count
        return [(one.address, one.length) if isinstance(one, Descriptor) else one for one in found]

    def give(self, *entries: Any) -> None:
        """Entries for user space."""
        for entry in entries:
            assert self.waiting < SIZE
            self.entries[self.producer.value % SIZE] = entry
            self.producer.value += 1


def fill() -> tuple[FillRing, Kernel]:
    kernel = Kernel(ctypes.c_uint64, consumes=True)
    return FillRing(kernel.address, UMEM, FRAME), kernel


def tx() -> tuple[TxRing, Kernel]:
    kernel = Kernel(Descriptor, consumes=True)
    return TxRing(kernel.address, UMEM, FRAME), kernel


def rx() -> tuple[RxRing, Kernel]:
    kernel = Kernel(Descriptor, consumes=False)
    return RxRing(kernel.address), kernel


def completion() -> tuple[CompletionRing, Kernel]:
    kernel = Kernel(ctypes.c_uint64, consumes=False)
    return CompletionRing(kernel.address), kernel


def address(number: int) -> int:
    return number % 16 * FRAME


def descriptor(number: int) -> tuple[int, int]:
    return address(number), 1 + number


def words(entries: list[Any]) -> array[int]:
    """The same burst as a buffer."""
    flat = [word for one in entries for word in (one if isinstance(one, tuple) else (one,))]
    return array("Q", flat)


@pytest.mark.parametrize(("make", "entry"), [(fill, address), (tx, descriptor)])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_submitted_comes_out_in_order_round_and_round(
    make: Any, entry: Any, seed: int
) -> None:
    ring, kernel = make()
    chance, reserved, written, submitted, taken = random.Random(seed), 0, 0, 0, 0
    while taken < ROUNDS * SIZE:
        count = chance.randint(0, SIZE)
        room = SIZE - (reserved - taken)
        assert ring.free == room
        assert ring.reserve(count) == (count if count <= room else 0)
        reserved += count if count <= room else 0
        burst = [entry(written + i) for i in range(chance.randint(0, reserved - written))]
        ring.write(chance.choice([list, tuple, words])(burst))
        written += len(burst)
        count = chance.randint(0, written - submitted)
        ring.submit(count)
        submitted += count
        assert kernel.waiting == submitted - taken
        count = chance.randint(0, submitted - taken)
        assert kernel.take(count) == [entry(taken + i) for i in range(count)]
        taken += count
    assert kernel.producer.value < NEARLY_ROUND, "the counts went round"


@pytest.mark.parametrize(
    ("make", "entry"), [(rx, descriptor), (completion, address)]
)  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_what_the_kernel_gives_comes_in_order_round_and_round(
    make: Any, entry: Any, seed: int
) -> None:
    ring, kernel = make()
    wide = 2 if make is rx else 1
    chance, given, seen, released = random.Random(seed), 0, 0, 0
    while released < ROUNDS * SIZE:
        for _ in range(chance.randint(0, SIZE - (given - released))):
            kernel.give(entry(given))
            given += 1
        assert ring.available == given - seen
        count = chance.randint(0, SIZE)
        if chance.random() < 0.5:
            found = ring.peek(count)
            assert found == [entry(seen + i) for i in range(min(count, given - seen))]
            seen += len(found)
        else:
            buffer = array("Q", bytes(8 * wide * count))
            got = ring.peek_into(buffer)
            assert got == min(count, given - seen)
            want = words([entry(seen + i) for i in range(got)])
            assert buffer[: got * wide] == want
            seen += got
        count = chance.randint(0, seen - released)
        ring.release(count)
        released += count
        assert kernel.waiting == given - released
    assert kernel.producer.value < NEARLY_ROUND, "the counts went round"


@pytest.mark.parametrize("make", [fill, tx])
def test_a_producer_says_whether_the_kernel_sleeps(make: Any) -> None:
    ring, kernel = make()
    assert ring.needs_wakeup is False
    kernel.flags.value = NEED_WAKEUP
    assert ring.needs_wakeup is True


@pytest.mark.parametrize("count", [-1, SIZE + 1, 2**32, 2**32 + 1, 2**70])
def test_a_count_that_the_ring_has_not_is_refused_and_changes_nothing(count: int) -> None:
    for ring, kernel, call in (
        *[(ring, kernel, ring.reserve) for ring, kernel in (fill(), tx())],
        *[(ring, kernel, ring.peek) for ring, kernel in (rx(), completion())],
    ):
        before = bytes(kernel.struct)
        with pytest.raises(ValueError, match=rf"count is {count}, expected 0\.\.{SIZE}"):
            call(count)
        assert bytes(kernel.struct) == before
        assert ring.size == SIZE


BAD = [
    (0, 0), (0, FRAME + 1), (1, FRAME), (FRAME - 1, 2), (UMEM, 1), (UMEM - 1, 2), (-1, 1), (0, -1),
    (2**64, 1), (2**64 - 1, 1), (2**64 - 1, 2), (2**63, 1), (0, 2**32), (0, 2**32 + 60),
    (UMEM - FRAME, 2**64 - 1),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_descriptor_and_none_of_the_burst_is_written(bad: tuple[int, int]) -> None:
    ring, kernel = tx()
    assert ring.reserve(3) == 3
    for burst in ([(FRAME, 60), (0, FRAME), bad], [bad, (FRAME, 60)]):
        with pytest.raises(ValueError, match="UMEM"):
            ring.write(burst)
        if min(bad) >= 0 and max(bad) < 2**64:
            with pytest.raises(ValueError, match="does not lie in one frame"):
                ring.write(words(burst))
    with pytest.raises(ValueError, match=r"expected 0\.\.0"):
        ring.submit(1)
    assert not any(entry.address or entry.length for entry in kernel.entries)
    edges = [(UMEM - 1, 1), (UMEM - FRAME, FRAME), (5, 60)]
    ring.write(edges)
    ring.submit(3)
    assert kernel.take(3) == edges


@pytest.mark.parametrize("bad", [UMEM, -1, 2**63, 2**64 - 1, 2**64, 2**64 + 1])
def test_one_address_outside_and_none_of_the_burst_is_written(bad: int) -> None:
    ring, kernel = fill()
    assert ring.reserve(2) == 2
    with pytest.raises(ValueError, match="outside the UMEM"):
        ring.write([FRAME, bad])
    assert list(kernel.entries) == [0] * SIZE
    ring.write([FRAME, UMEM - 1])
    ring.submit(2)
    assert kernel.take(2) == [FRAME, UMEM - 1]


def test_half_an_entry_is_no_burst_and_half_a_number_none() -> None:
    ring, kernel = tx()
    ring.reserve(2)
    for burst in (array("Q", [0, 60, FRAME]), [(0,)], [(0, 60, 1)]):
        with pytest.raises(ValueError, match=r"words, expected 2|to unpack"):
            ring.write(burst)  # type: ignore[arg-type]
    for wrong in (array("I", [0, 60]), 5, None, [None], [("0", "60")], [(0.5, 1)]):
        with pytest.raises((TypeError, ValueError)):
            ring.write(wrong)  # type: ignore[arg-type]
    for call in (ring.reserve, ring.submit, rx()[0].peek, rx()[0].release):
        with pytest.raises(TypeError):
            call(0.5)  # type: ignore[arg-type]
    assert (kernel.waiting, ring.free) == (0, SIZE - 2)


def ask(ring: Any, name: str) -> None:
    """Reads a property, or calls a method for a burst of nothing."""
    getattr(ring, name)(array("Q") if name in ("write", "peek_into") else 0)


def test_after_detach_every_call_is_refused_and_the_memory_is_left_alone() -> None:
    for ring, kernel in (fill(), tx(), rx(), completion()):
        before = bytes(kernel.struct), bytes(kernel.entries)
        ring.detach()
        ring.detach()
        names = [name for name in dir(type(ring)) if name[0] != "_" and name != "detach"]
        assert len(names) in (5, 6)
        for name in names:
            with pytest.raises(ValueError, match="the ring is closed: its socket was"):
                ask(ring, name)
        assert (bytes(kernel.struct), bytes(kernel.entries)) == before
