# SPDX-License-Identifier: BSD-2-Clause
"""The record codec: coalescing, conflicts, round trips, against a plain decoder and model."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip import _native
from pyxdp_gossip._native import LINGER, UNOWNED, ApplyResult, OwnershipLog, SessionTable

OPEN, CLOSE, CLOSE_LINGER, CLAIM, MISS = 1, 2, 3, 4, 5
KINDS = {(OPEN, 4): 0x10, (CLOSE, 4): 0x11, (CLOSE_LINGER, 4): 0x12,
         (OPEN, 6): 0x18, (CLOSE, 6): 0x19, (CLOSE_LINGER, 6): 0x1A}  # fmt: skip
MEANINGS = {kind: meaning for meaning, kind in KINDS.items()}
SECTION_ORDER = [0x11, 0x12, 0x19, 0x1A, 0x10, 0x18]
SAME_SLOTS = array("H", range(16))

Session = tuple[bytes, int, int]  # client address, client port, service index
Record = tuple[int, Session]  # OPEN, CLOSE or CLOSE_LINGER


class Host:
    """One host's tables and log; every host id up to 9 is active."""

    def __init__(self, host_id: int, buckets: int = 256) -> None:
        self.owners = _native.OwnerStates()
        for host in range(10):
            self.owners.activate(host)
        self.table4 = SessionTable(4, buckets, self.owners)
        self.table6 = SessionTable(6, buckets, self.owners)
        self.log = OwnershipLog(self.table4, self.table6, host_id)

    def absorb(self, *records: Record, clock: int = 1, position: int = 1, now_ms: int = 0) -> int:
        events = b"".join(event(*record) for record in records)
        return self.log.absorb(events, clock=clock, position=position, now_ms=now_ms)

    def told(self, budget: int = 65536) -> list[Record]:
        return decode(self.log.encode(budget))

    def hear(
        self, sender: int, record: Record, *, clock: int = 1, position: int = 1, now_ms: int = 0
    ) -> ApplyResult:
        meaning, (address, port, index) = record
        family = 4 if len(address) == 4 else 6
        body = address + struct.pack(">HH", port, index)
        return self.log.apply(sender, KINDS[meaning, family], body, SAME_SLOTS,
                              clock=clock, position=position, now_ms=now_ms)  # fmt: skip

    def hear_all(self, sender: int, sections: bytes, clock: int, position: int) -> None:
        for kind, body in split(sections):
            self.log.apply(sender, kind, body, SAME_SLOTS,
                           clock=clock, position=position, now_ms=0)  # fmt: skip

    def entry(self, session: Session) -> _native.Entry | None:
        address, port, slot = session
        if len(address) == 4:
            return self.table4.get(_native.pack_key4(address, port, slot))
        return self.table6.get(_native.pack_key6(address, port, slot))

    def owner(self, session: Session) -> int | None:
        entry = self.entry(session)
        return entry.owner if entry else None


def event(kind: int, session: Session) -> bytes:
    """`struct xg_event`, from the description in xg_types.h."""
    address, port, slot = session
    return struct.pack("<BBH2sHII16sQ", kind, 4 if len(address) == 4 else 6, slot,
                       struct.pack(">H", port), 0, 0, 0, address, 0)  # fmt: skip


def split(data: bytes) -> list[tuple[int, bytes]]:
    sections = []
    while data:
        kind, flags, length = struct.unpack_from(">BBH", data)
        assert (flags, len(data) >= 4 + length) == (0, True)
        sections.append((kind, data[4 : 4 + length]))
        data = data[4 + length :]
    return sections


def decode(data: bytes) -> list[Record]:
    """The plain decoder: sections to records, in their order on the wire."""
    sections = split(data)
    order = [SECTION_ORDER.index(kind) for kind, _ in sections]
    assert order == sorted(set(order))
    records = []
    for kind, body in sections:
        meaning, family = MEANINGS[kind]
        size = 8 if family == 4 else 20
        assert body
        assert len(body) % size == 0
        for at in range(0, len(body), size):
            port, index = struct.unpack_from(">HH", body, at + size - 4)
            records.append((meaning, (body[at : at + size - 4], port, index)))
    return records


V4: Session = (b"\xcb\x00\x71\x09", 51000, 2)
V6: Session = (bytes.fromhex("20010db8000000000000000000000009"), 51000, 3)
BOTH = pytest.mark.parametrize("session", [V4, V6], ids=["ipv4", "ipv6"])


def test_the_wire_bytes_are_what_the_format_says() -> None:
    host = Host(3)
    host.absorb((OPEN, V4), (OPEN, V6))
    assert host.log.encode(1400) == bytes.fromhex(
        "10 00 0008 cb007109 c738 000218 00 0014 20010db8000000000000000000000009 c738 0003"
    )


@BOTH
def test_an_open_becomes_an_own_entry_and_is_told_once(session: Session) -> None:
    host = Host(3)
    assert host.absorb((OPEN, session), (OPEN, session), clock=7, position=5, now_ms=9) == 2
    assert host.entry(session) == _native.Entry(3, 0, 0, 7, 5, 0)
    assert host.log.pending == 1
    assert host.told() == [(OPEN, session)]
    assert (host.log.pending, host.log.encode(1400)) == (0, b"")


@BOTH
def test_open_and_close_inside_one_flush_cancel(session: Session) -> None:
    for end in (CLOSE, CLOSE_LINGER):
        host = Host(3)
        host.absorb((OPEN, session), (end, session))
        assert (host.log.pending, host.log.cancelled, host.told()) == (0, 1, [])


def test_a_session_told_before_and_claimed_again_is_still_closed() -> None:
    host = Host(3)
    host.absorb((OPEN, V4))
    host.told()
    host.absorb((CLAIM, V4), (CLOSE, V4))
    assert host.told() == [(CLOSE, V4)]


def test_close_then_open_tells_the_close_first() -> None:
    host = Host(3)
    host.absorb((OPEN, V4), (OPEN, V6))
    host.told()
    host.absorb((CLOSE, V4), (OPEN, V4), (CLOSE_LINGER, V6), (OPEN, V6))
    assert host.log.pending == 2
    assert host.told() == [(CLOSE, V4), (CLOSE_LINGER, V6), (OPEN, V4), (OPEN, V6)]


def test_an_open_waits_for_the_close_that_did_not_fit() -> None:
    host = Host(3)
    host.absorb((CLOSE, V6), (OPEN, V6), (OPEN, V4))
    assert host.told(budget=20) == [(OPEN, V4)]
    assert host.told(budget=24) == [(CLOSE, V6)]
    assert host.told(budget=24) == [(OPEN, V6)]
    assert host.log.pending == 0


def test_an_open_left_over_after_its_close_was_told_can_still_cancel() -> None:
    host = Host(3)
    host.absorb((CLOSE, V6), (OPEN, V6))
    assert host.told(budget=24) == [(CLOSE, V6)]
    host.absorb((CLOSE, V6))
    assert (host.log.pending, host.told()) == (0, [])


@BOTH
def test_a_close_removes_only_an_own_entry(session: Session) -> None:
    host = Host(3)
    host.hear(4, (OPEN, session), clock=9)
    host.absorb((CLOSE, session))
    assert host.owner(session) == 4
    host.absorb((CLOSE_LINGER, session))
    assert host.entry(session).flags == 0
    host.absorb((OPEN, session), (CLOSE, session))
    assert host.owner(session) == 4  # who claimed it before, and never closed it


def test_a_lingering_session_is_not_revived_by_a_claim_but_by_an_open() -> None:
    host = Host(3)
    host.absorb((OPEN, V4), clock=5)
    host.absorb((CLOSE_LINGER, V4), clock=6, now_ms=77)
    assert host.entry(V4) == _native.Entry(3, LINGER, 0, 5, 1, 77)
    host.absorb((CLAIM, V4))
    assert (host.entry(V4).flags, host.log.ignored) == (LINGER, 1)
    host.absorb((OPEN, V4))
    assert host.entry(V4).flags == 0


def test_other_events_are_ignored_and_counted() -> None:
    host = Host(3)
    bad_family = bytes([OPEN, 5]) + event(OPEN, V4)[2:]
    events = event(MISS, V4) + bad_family + event(0, V4) + event(OPEN, V4)
    assert host.log.absorb(events, clock=1, position=1, now_ms=1) == 4
    assert (host.log.ignored, host.log.pending) == (3, 1)


def test_a_full_batch_takes_no_further_session_until_it_is_encoded() -> None:
    host = Host(3)
    opens = [(OPEN, (b"\0\0\0\1", port, 1)) for port in range(300)]
    assert host.absorb(*opens) == 256
    assert host.owner(opens[256][1]) is None
    assert len(host.told()) == 256
    assert host.absorb(*opens[256:]) == 44
    assert len(host.told()) == 44


def test_an_open_the_own_table_refuses_is_told_and_counted() -> None:
    host = Host(3, buckets=2)
    opens = [(OPEN, (b"\0\0\0\1", port, 1)) for port in range(9)]
    host.absorb(*opens)
    assert (host.log.refused, len(host.told())) == (1, 9)


sessions = st.tuples(
    st.sampled_from([b"\1\2\3\4", b"\1\2\3\5", bytes(16), bytes(15) + b"\1"]),
    st.integers(1, 3),
    st.integers(0, 1),
)
history = st.lists(st.tuples(st.sampled_from([OPEN, CLOSE, CLOSE_LINGER]), sessions), max_size=40)


@settings(deadline=None)
@given(st.lists(history, max_size=6), st.integers(24, 120))
def test_another_host_ends_with_the_same_live_sessions(
    flushes: list[list[Record]], budget: int
) -> None:
    ours, theirs = Host(3), Host(4)
    seen = set()
    for position, records in enumerate(flushes, start=1):
        ours.absorb(*records, clock=position, position=position)
        seen |= {session for _, session in records}
        while ours.log.pending:
            data = ours.log.encode(budget)
            assert 0 < len(data) <= budget
            decode(data)
            theirs.hear_all(3, data, position, position)
    for session in seen:
        entry = ours.entry(session)
        live = entry is not None and entry.flags == 0
        peer_entry = theirs.entry(session)
        assert (peer_entry is not None and peer_entry.flags == 0) == live


@settings(deadline=None)
@given(st.sets(sessions), st.sets(sessions), st.integers(24, 200))
def test_a_shard_tells_every_own_session_that_does_not_linger(
    live: set[Session], lingering: set[Session], budget: int
) -> None:
    host = Host(3)
    host.absorb(*[(OPEN, session) for session in live | lingering])
    host.absorb(*[(CLOSE_LINGER, session) for session in lingering])
    host.hear(4, (OPEN, (b"\7\7\7\7", 7, 7)))
    told = []
    for family in (4, 6):
        cursor: int | None = 0
        while cursor is not None:
            data, cursor = host.log.shard(family, cursor, budget)
            assert len(data) <= budget
            told += decode(data)
    assert sorted(told) == sorted((OPEN, session) for session in live - lingering)


@BOTH
def test_the_newer_open_wins_and_equal_clocks_fall_to_the_higher_host(session: Session) -> None:
    host = Host(3)
    host.hear(5, (OPEN, session), clock=10)
    assert host.hear(6, (OPEN, session), clock=9).lost == 1
    assert host.hear(4, (OPEN, session), clock=10).lost == 1
    assert host.owner(session) == 5
    assert host.hear(6, (OPEN, session), clock=10).applied == 1
    assert host.hear(4, (OPEN, session), clock=11).applied == 1
    assert host.owner(session) == 4


@BOTH
def test_an_older_rival_of_an_own_session_comes_back_as_a_claim(session: Session) -> None:
    host = Host(3)
    host.absorb((OPEN, session), clock=10)
    result = host.hear(4, (OPEN, session), clock=9)
    assert (result.lost, result.rivals) == (1, event(CLAIM, session))
    host.told()
    host.log.absorb(result.rivals, clock=12, position=2, now_ms=0)
    assert host.told() == [(OPEN, session)]
    assert host.hear(4, (OPEN, session), clock=13).rivals == b""
    assert host.owner(session) == 4


def test_of_one_owner_the_later_position_wins_across_the_wrap_around() -> None:
    host = Host(3)
    host.hear(4, (OPEN, V4), clock=5, position=0xFFFFFFFF)
    assert host.hear(4, (OPEN, V4), clock=5, position=0xFFFFFFFE).stale == 1
    assert host.hear(4, (CLOSE, V4), position=0xFFFFFFFE).stale == 1
    assert host.hear(4, (OPEN, V4), clock=6, position=0xFFFFFFFF).applied == 1
    assert host.hear(4, (CLOSE_LINGER, V4), position=0, now_ms=8).applied == 1
    assert host.entry(V4) == _native.Entry(4, LINGER, 0, 6, 0, 8)
    assert host.hear(5, (CLOSE, V4), position=9).stale == 1
    assert host.hear(4, (CLOSE, V4), position=1).applied == 1
    assert host.hear(4, (CLOSE, V4), position=2).stale == 1


def test_a_new_incarnation_overrules_the_old_ones_positions() -> None:
    host = Host(3)
    host.hear(4, (OPEN, V4), clock=5, position=1000)
    host.hear(4, (OPEN, V6), clock=5, position=1000)
    host.owners.new_epoch(4)
    assert host.hear(4, (OPEN, V4), clock=6, position=1).applied == 1
    assert host.hear(4, (CLOSE, V6), position=2).applied == 1
    host.owners.drop_previous(4)
    assert (host.owner(V4), host.owner(V6)) == (4, None)


def test_void_and_unowned_entries_give_way_to_any_open() -> None:
    host = Host(3)
    host.hear(4, (OPEN, V4), clock=100)
    host.owners.void(4)
    assert host.hear(5, (OPEN, V4), clock=1).applied == 1
    host.table6.mark_unowned(_native.pack_key6(*V6), 0)
    assert host.owner(V6) == UNOWNED
    assert host.hear(5, (OPEN, V6), clock=1).applied == 1


def test_indexes_are_translated_and_unknown_ones_counted() -> None:
    host = Host(3)
    body = b"".join(b"\1\2\3\4" + struct.pack(">HH", 80, index) for index in range(4))
    translation = array("H", [9, _native.SERVICE_UNKNOWN, 5])
    result = host.log.apply(4, 0x10, body, translation, clock=1, position=1, now_ms=0)
    assert result == ApplyResult(2, 0, 0, 2, 0, b"", 0)
    assert [host.owner((b"\1\2\3\4", 80, slot)) for slot in (9, 5, 0)] == [4, 4, None]
    unaligned = memoryview(b"x" + translation.tobytes())[1:]
    assert host.log.apply(4, 0x10, body, unaligned, clock=1, position=1, now_ms=0) == result


@pytest.mark.parametrize("kind", sorted(MEANINGS))
def test_a_body_cut_at_any_byte_is_applied_by_whole_records_or_not_at_all(kind: int) -> None:
    size = 8 if MEANINGS[kind][1] == 4 else 20
    body = bytes(range(size - 2)) + b"\0\1"
    for length in range(4 * size + 1):
        host = Host(3)
        data = (body * 4)[:length]
        if length % size:
            with pytest.raises(OSError, match="Bad message"):
                host.log.apply(4, kind, data, SAME_SLOTS, clock=1, position=1, now_ms=0)
            assert len(host.table4) + len(host.table6) == 0
        else:
            result = host.log.apply(4, kind, data, SAME_SLOTS, clock=1, position=1, now_ms=0)
            assert result.applied + result.stale == length // size


def test_a_full_table_refuses_and_counts_but_never_drops_a_live_session() -> None:
    host = Host(3, buckets=2)
    opens = [(b"\0\0\0\1", port, 1) for port in range(9)]
    results = [host.hear(4, (OPEN, session)) for session in opens]
    assert [result.refused for result in results] == [0] * 8 + [1]
    assert all(host.owner(session) == 4 for session in opens[:8])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: h.log.absorb(bytes(39), clock=1, position=1, now_ms=1), ValueError,
         "multiple of 40"),
        (lambda h: h.log.apply(65535, 0x10, b"", b"", clock=1, position=1, now_ms=1), ValueError,
         "host is 65535"),
        (lambda h: h.log.apply(4, 0x10, b"", b"x", clock=1, position=1, now_ms=1), ValueError,
         "translation is 1 bytes"),
        (lambda h: h.log.apply(4, 0x13, b"", b"", clock=1, position=1, now_ms=1), OSError,
         "Invalid"),
        (lambda h: h.log.apply(3, 0x10, b"", b"", clock=1, position=1, now_ms=1), OSError,
         "Invalid"),
        (lambda h: h.log.shard(5, 0, 100), ValueError, "family is 5"),
        (lambda h: h.log.shard(4, 0, 23), ValueError, "budget is 23"),
        (lambda h: OwnershipLog(h.table6, h.table4, 3), ValueError, "family 4"),
        (lambda h: OwnershipLog(h.table4, h.table6, 65001), ValueError, "host is 65001"),
    ],
)  # fmt: skip
def test_bad_arguments_are_errors_that_name_what_is_expected(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(Host(3))
