# SPDX-License-Identifier: BSD-2-Clause
"""Nothing is allocated per packet, event or record: counted in C, and in what Python adds."""

from __future__ import annotations

import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.gossip.records import EventKind, EventRecord
from tests import c_programs
from tests.unit.test_c_frames import CODEC

ROOT = Path(__file__).parents[2]
WRAPPED = ("malloc", "calloc", "realloc", "mmap")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing")
SOURCES = (*CODEC, "event_ring.c", "datagram_reader.c", "forward.c", "flow_hashes.c")

# Of the data path, what makes nothing: not even a call that could allocate is in it.
WITHOUT = (
    "forward.c", "flow_hashes.c", "xsk_loop_run.c", "session_burst.c", "session_room.c",
    "record_apply.c", "merge.c",
)  # fmt: skip
# What of the C library it may call: none of these allocates.
HARMLESS = {
    "memcpy", "memmove", "memset", "memcmp", "__errno_location", "recvfrom", "sendto", "poll",
    "read", "clock_gettime", "nanosleep", "getsockopt", "__stack_chk_fail", "__cpu_model",
    "_GLOBAL_OFFSET_TABLE_",
}  # fmt: skip


def test_c_allocates_nothing_per_packet_event_record_or_datagram(tmp_path: Path) -> None:
    program = tmp_path / "test_no_allocation"
    files = [ROOT / "tests" / "c" / "test_no_allocation.c"]
    files += [ROOT / "csrc" / source for source in SOURCES]
    wrap = [f"-Wl,--wrap={name}" for name in WRAPPED]
    words = ["gcc", *FLAGS, f"-I{ROOT / 'csrc'}", *map(str, files), *wrap, "-o", str(program)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert c_programs.run(program) == "ok\n"


@pytest.mark.parametrize("source", WITHOUT)
def test_what_handles_packets_and_records_calls_nothing_that_allocates(
    source: str, tmp_path: Path
) -> None:
    target = tmp_path / "object.o"
    words = ["gcc", *FLAGS, f"-I{ROOT / 'csrc'}", "-c", str(ROOT / "csrc" / source)]
    subprocess.run([*words, "-o", str(target)], check=True)
    shown = subprocess.run(["nm", "-u", str(target)], capture_output=True, text=True, check=True)
    called = {line.split()[-1] for line in shown.stdout.splitlines()}
    assert {name for name in called if not name.startswith("xg_")} <= HARMLESS


class Host:
    """Two tables and a log."""

    def __init__(self, number: int, sessions: int) -> None:
        self.owners = OwnerStates()
        for host in (1, 2):
            self.owners.activate(host)
        tables = [SessionTable(family, buckets_for(sessions), self.owners) for family in (4, 6)]
        self.table4 = tables[0]
        self.log = OwnershipLog(*tables, number)


def events(kind: EventKind, first: int, count: int) -> bytes:
    """Of sessions `first` and on, each of its own client."""
    made = []
    for number in range(first, first + count):
        address = number.to_bytes(4, "big").ljust(16, b"\0")
        made.append(EventRecord(kind, 4, 2, 1024, 0, 0, 0, address, 0).pack())
    return b"".join(made)


def traced(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that stay, and the most that there were meanwhile."""
    work()
    tracemalloc.start()
    try:
        work()
        tracemalloc.reset_peak()
        before, _peak = tracemalloc.get_traced_memory()
        work()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, peak - before


DATAGRAM = 1400 + 64
TRANSLATION = bytes(4) + (2).to_bytes(2, "little")
KINDS = (EventKind.OPEN, EventKind.CLOSE)


@pytest.mark.parametrize("count", [1, 16, 170])
def test_python_takes_for_a_datagram_what_its_bytes_take_and_keeps_nothing(count: int) -> None:
    own, other = Host(1, 1000), Host(2, 1000)
    made = [events(kind, 0, count) for kind in KINDS]
    position = 0

    def say_and_hear() -> None:
        nonlocal position
        for records in made:
            position += 1
            own.log.absorb(records, clock=position, position=position, now_ms=0)
            section = own.log.encode(1400)
            assert len(section) == 4 + 8 * count
            kind, body = section[0], section[4:]
            other.log.apply(1, kind, body, TRANSLATION, clock=position, position=position, now_ms=0)

    kept, most = traced(say_and_hear)
    assert kept <= 64  # the position's own integer
    assert most <= 5 * DATAGRAM  # whatever it holds: the section, copies of it, small objects


def test_python_objects_do_not_grow_with_the_records_of_a_datagram() -> None:
    own = Host(1, 1000)
    position = 0

    def peak_of(count: int) -> int:
        made = [events(kind, 0, count) for kind in KINDS]

        def absorb() -> None:
            nonlocal position
            for records in made:
                position += 1
                own.log.absorb(records, clock=position, position=position, now_ms=0)
                own.log.encode(1400)

        kept, most = traced(absorb)
        assert kept <= 64
        return most

    few, many = peak_of(1), peak_of(170)
    assert many - few <= DATAGRAM  # the section itself


def test_twice_the_sessions_take_no_more_but_pages_of_the_table() -> None:
    """A table is made for its most sessions; what comes later fills it, and makes nothing."""
    room = 20_000
    owners = OwnerStates()
    owners.activate(1)
    tables = (SessionTable(4, buckets_for(room), owners), SessionTable(6, 2, owners))
    log = OwnershipLog(*tables, 1)

    def fill(first: int, count: int) -> None:
        for start in range(first, first + count, 100):
            log.absorb(events(EventKind.OPEN, start, 100), clock=1, position=1, now_ms=0)
            log.encode(1400)

    fill(0, 5_000)
    tracemalloc.start()
    try:
        fill(5_000, 100)
        before, _peak = tracemalloc.get_traced_memory()
        fill(5_100, 4_900)
        after, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tables[0]) == 10_000
    assert after - before <= 256


@pytest.mark.parametrize("sessions", [1000, 100_000, 1_000_000, 1_100_000, 10_000_000])
def test_a_session_has_41_bytes_of_bpf_memory_at_most(sessions: int) -> None:
    """16 bytes an entry at a load of 0.8 down to half of it; and a header."""
    needed = SessionTable.required_bytes(4, buckets_for(sessions))
    assert 16 / 0.8 <= needed / sessions <= 2 * 16 / 0.8 + 1
