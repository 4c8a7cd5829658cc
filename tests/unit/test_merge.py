# SPDX-License-Identifier: BSD-2-Clause
"""The merge of owners' statements: the C codec against a plain model, in every order."""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip import _native

OPEN, LINGER, CLOSE = 3, 2, 1  # of one position, the greater is the later
KINDS = {OPEN: (0x10, 0x18), LINGER: (0x12, 0x1A), CLOSE: (0x11, 0x19)}
SAME_SLOTS = array("H", range(8))
SERVICE_IDS = array("Q", range(100, 108)).tobytes()
KEYS = {4: 1000, 5: 2000, 6: 3000}
SESSIONS = [(family, port) for family in (4, 6) for port in (1, 2)]

Session = tuple[int, int]


@dataclass(frozen=True)
class Said:
    """One statement of an owner."""

    owner: int
    session: Session
    position: int
    kind: int
    clock: int = 0


def body_of(session: Session) -> bytes:
    family, port = session
    return (b"\x0a\0\0\1" if family == 4 else bytes(15) + b"\1") + struct.pack(">HH", port, 2)


def key_of(session: Session) -> bytes:
    family, port = session
    if family == 4:
        return _native.pack_key4(b"\x0a\0\0\1", port, 2)
    return _native.pack_key6(bytes(15) + b"\1", port, 2)


class Observer:
    """A host that hears statements; all three owners are active."""

    def __init__(self, *, statements: int = 64, buckets: int = 64) -> None:
        self.owners = _native.OwnerStates()
        self.tables = {
            4: _native.SessionTable(4, buckets, self.owners),
            6: _native.SessionTable(6, buckets, self.owners),
        }
        self.log = _native.OwnershipLog(
            self.tables[4], self.tables[6], 3, digest_buckets=16, statements=statements
        )
        self.log.set_services(SERVICE_IDS)
        for owner, key in KEYS.items():
            self.owners.activate(owner)
            self.log.begin_owner(owner, key)

    def hear(self, said: Said, keep_closed: bool = True) -> _native.ApplyResult:
        family = said.session[0]
        return self.log.apply(
            *(said.owner, KINDS[said.kind][family == 6], body_of(said.session), SAME_SLOTS),
            clock=said.clock,
            position=said.position,
            now_ms=0,
            keep_closed=keep_closed,
        )

    def view(self) -> dict[Session, tuple[int, bool]]:
        """Session → owner, and whether it lingers."""
        entries = {session: self.tables[session[0]].get(key_of(session)) for session in SESSIONS}
        return {
            session: (entry.owner, bool(entry.flags & _native.LINGER))
            for session, entry in entries.items()
            if entry is not None
        }

    def digests(self) -> dict[int, tuple[int, int]]:
        return {owner: self.log.digest(owner) for owner in KEYS}


class Model:
    """What the rules say, in a dictionary: session → owner → (position, kind, clock)."""

    def __init__(self) -> None:
        self.said: dict[Session, dict[int, tuple[int, int, int]]] = {}

    def hear(self, said: Said) -> None:
        by_owner = self.said.setdefault(said.session, {})
        position, kind, clock = by_owner.get(said.owner, (-1, 0, 0))
        later = max((position, kind), (said.position, said.kind))
        by_owner[said.owner] = (*later, max(clock, said.clock))

    def view(self) -> dict[Session, tuple[int, bool]]:
        shown = {}
        for session, by_owner in self.said.items():
            ranks = [
                (kind, clock if kind == OPEN else 0, owner)
                for owner, (_, kind, clock) in by_owner.items()
                if kind != CLOSE
            ]
            if ranks:
                kind, _, owner = max(ranks)
                shown[session] = (owner, kind == LINGER)
        return shown

    def digests(self) -> dict[int, tuple[int, int]]:
        """By another observer that hears nothing but what is open."""
        fresh = Observer()
        for session, by_owner in self.said.items():
            for owner, (position, kind, clock) in by_owner.items():
                if kind == OPEN:
                    fresh.hear(Said(owner, session, position, OPEN, clock))
        return fresh.digests()


statements = st.builds(
    Said,
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(SESSIONS),
    st.integers(1, 6),
    st.sampled_from([OPEN, LINGER, CLOSE]),
)


def dated(rows: Iterable[Said]) -> list[Said]:
    """The clock of an owner's OPENs grows with its log; some are a shard's, without a date."""
    return [
        Said(row.owner, row.session, row.position, row.kind, row.position * 10 + row.owner % 3)
        if row.kind == OPEN and row.position % 3
        else row
        for row in rows
    ]


@settings(deadline=None, max_examples=300)
@given(st.lists(statements, max_size=24), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_end_in_the_same_view_and_digests(
    rows: list[Said], random: object
) -> None:
    heard = dated(rows)
    model = Model()
    for said in heard:
        model.hear(said)
    again = heard + heard[: len(heard) // 2]
    random.shuffle(again)  # type: ignore[attr-defined]
    for order in (heard, heard[::-1], again):
        observer = Observer()
        for said in order:
            observer.hear(said)
        assert observer.view() == model.view()
        assert observer.digests() == model.digests()


@settings(deadline=None, max_examples=100)
@given(st.lists(statements, max_size=16))
def test_settling_shows_what_is_left_when_an_owner_goes(rows: list[Said]) -> None:
    heard = dated(rows)
    observer, model = Observer(), Model()
    for said in heard:
        observer.hear(said)
        if said.owner != 5:
            model.hear(said)
    observer.owners.void(5)
    observer.owners.deactivate(5)
    observer.log.forget_owner(5)
    observer.log.settle()
    assert observer.view() == model.view()
    assert observer.log.digest(5) == (0, 0)


# ---- every state of two owners and one session ----

ONE = SESSIONS[0]


def histories(owner: int, clocks: tuple[int, int]) -> list[list[Said]]:
    """What an owner's log can say of one session, in order, up to four batches long."""
    first, second = clocks
    tails: list[list[tuple[int, int]]] = [
        [],
        [(CLOSE, 0)],
        [(LINGER, 0)],
        [(CLOSE, 0), (OPEN, second)],
        [(LINGER, 0), (OPEN, second)],
        [(CLOSE, 0), (OPEN, second), (CLOSE, 0)],
        [(LINGER, 0), (OPEN, second), (LINGER, 0)],
        [(OPEN, second), (CLOSE, 0)],
    ]
    return [
        [
            Said(owner, ONE, position, kind, clock)
            for position, (kind, clock) in enumerate([(OPEN, first), *tail], 1)
        ]
        for tail in tails
    ]


def truth(*logs: Sequence[Said]) -> dict[Session, tuple[int, bool]]:
    model = Model()
    for said in itertools.chain(*logs):
        model.hear(said)
    return model.view()


def test_every_order_of_two_owners_histories_ends_in_the_truth() -> None:
    """Loss and repair, reordering and repetition: each is an order of the same statements, some
    of them twice. Every order of every pair of histories is tried."""
    states = 0
    for clocks4, clocks5 in (((1, 3), (2, 4)), ((2, 3), (1, 4)), ((1, 2), (3, 4))):
        for left, right in itertools.product(histories(4, clocks4), histories(5, clocks5)):
            together = [*left, *right]
            if len(together) > 6:
                continue
            expected = truth(left, right)
            for order in itertools.permutations(together):
                observer = Observer(statements=8, buckets=2)
                for said in (*order, order[0]):  # the first one comes again at the end
                    observer.hear(said)
                    states += 1
                assert observer.view() == expected, order
    assert states > 50_000


@pytest.mark.parametrize("ends", [CLOSE, LINGER])
def test_a_restart_in_every_place_of_the_other_owners_history_ends_in_the_truth(ends: int) -> None:
    """The second start of owner 4 says only what is open then; its first one's entries count
    until that is complete."""
    states = 0
    for right in histories(5, (2, 4)):
        for reopened in (False, True):
            for cut in range(len(right) + 1):
                observer = Observer()
                observer.hear(Said(4, ONE, 7, OPEN, 1))
                for said in right[:cut]:
                    observer.hear(said)
                observer.owners.new_epoch(4)
                observer.log.begin_owner(4, 77)
                again = [Said(4, ONE, 1, OPEN, 3)] if reopened else []
                for said in (*again, *right[cut:]):
                    observer.hear(said)
                    states += 1
                observer.owners.drop_previous(4)
                observer.log.settle()
                if reopened:
                    observer.hear(Said(4, ONE, 2, ends))
                    again.append(Said(4, ONE, 2, ends))
                assert observer.view() == truth(again, right)
    assert states > 40


# ---- single rules ----


def test_a_close_that_came_first_keeps_its_open_out_only_if_it_is_kept() -> None:
    for keep, owner in ((True, None), (False, 4)):
        observer = Observer()
        observer.hear(Said(4, ONE, 2, CLOSE), keep_closed=keep)
        observer.hear(Said(4, ONE, 1, OPEN, 1))
        assert observer.view().get(ONE, (None,))[0] == owner
        assert observer.log.statements == (1 if keep else 0)
    observer = Observer()
    observer.hear(Said(4, ONE, 2, CLOSE))
    observer.log.drop_closed(4)
    assert observer.log.statements == 0


def test_without_room_a_statement_is_dropped_counted_and_missing_in_the_digest() -> None:
    observer = Observer(statements=1)
    for session in SESSIONS[:2]:
        observer.hear(Said(5, session, 1, OPEN, 9))
        observer.hear(Said(4, session, 1, OPEN, 1))  # loses
    assert (observer.log.statements, observer.log.statements_dropped) == (1, 1)
    assert (observer.log.digest(4)[1], observer.log.digest(5)[1]) == (1, 2)


def test_pruning_closes_what_a_pull_came_without() -> None:
    observer = Observer()
    for position, session in enumerate(SESSIONS, 1):
        observer.hear(Said(4, session, position, OPEN, 1))
    observer.hear(Said(5, SESSIONS[0], 1, OPEN, 0))  # lost, and comes to light
    assert observer.log.prune(4, b"\xff\xff", 3) == 2
    assert observer.view() == {SESSIONS[0]: (5, False)} | dict.fromkeys(SESSIONS[2:], (4, False))
    assert observer.log.digest(4)[1] == 2
    assert observer.log.prune(4, bytes(2), 99) == 0


def test_an_owner_without_a_digest_has_nothing_in_any_bucket() -> None:
    observer = Observer()
    observer.log.forget_owner(4)
    observer.owners.activate(3)
    observer.log.forget_owner(3)
    observer.hear(Said(4, ONE, 1, OPEN, 1))
    row = struct.pack("<BBH2sHII16sQ", 1, 4, 2, b"\0\2", 0, 0, 0, b"\x0a\0\0\1", 0)
    observer.log.absorb(row, clock=5, position=1, now_ms=0)
    assert observer.log.prune(4, b"\xff\xff", 9) == 0
    assert observer.view() == {ONE: (4, False), SESSIONS[1]: (3, False)}
    assert observer.log.select(b"\xff\xff") == (b"", b"")
    observer.log.begin_owner(4, 7)
    observer.hear(Said(4, ONE, 1, OPEN, 1))
    assert observer.log.prune(4, b"\xff\xff", 9) == 1


def test_denying_forgets_one_statement_and_shows_the_next() -> None:
    observer = Observer()
    observer.hear(Said(4, ONE, 1, OPEN, 1))
    observer.hear(Said(5, ONE, 1, OPEN, 2))
    assert not observer.log.deny(6, 4, key_of(ONE))
    assert observer.log.deny(5, 4, key_of(ONE))
    assert observer.view() == {ONE: (4, False)}
    assert observer.digests() == {4: observer.log.digest(4), 5: (0, 0), 6: (0, 0)}
    assert observer.log.deny(4, 4, key_of(ONE))
    assert observer.view() == {}


@pytest.mark.parametrize("rival_at", [None, 1, 9])
def test_an_older_open_does_not_bring_back_what_was_denied(rival_at: int | None) -> None:
    """Wherever the denied one was: in the table, or behind a rival's."""
    observer = Observer()
    observer.hear(Said(4, ONE, 5, OPEN, 5))
    if rival_at is not None:
        observer.hear(Said(5, ONE, 1, OPEN, rival_at))
    assert observer.log.deny(4, 4, key_of(ONE), keep_closed=True)
    assert not observer.log.deny(4, 4, key_of(ONE), keep_closed=True)  # nor does it forget that
    observer.hear(Said(4, ONE, 3, OPEN, 3))
    assert observer.view() == ({} if rival_at is None else {ONE: (5, False)})
    assert observer.log.digest(4) == (0, 0)
    observer.hear(Said(4, ONE, 6, OPEN, 10))  # a later one is another session
    assert observer.view() == {ONE: (4, False)}


def test_denying_what_nothing_was_said_of_keeps_nothing() -> None:
    observer = Observer()
    assert not observer.log.deny(4, 4, key_of(ONE), keep_closed=True)
    observer.hear(Said(4, ONE, 3, OPEN, 3))
    observer.owners.new_epoch(4)
    observer.log.begin_owner(4, 77)
    # Of another start's log: its positions say nothing about this one's.
    assert observer.log.deny(4, 4, key_of(ONE), keep_closed=True)
    assert observer.log.statements == 0


def test_what_lingers_beside_the_table_ends_in_time() -> None:
    observer = Observer()
    observer.hear(Said(4, ONE, 1, LINGER))
    observer.hear(Said(5, ONE, 1, OPEN, 2))
    assert (observer.view(), observer.log.statements) == ({ONE: (5, False)}, 1)
    observer.log.sweep_statements(59_999, 60_000)
    assert observer.log.statements == 1
    observer.log.sweep_statements(60_000, 60_000)
    assert observer.log.statements == 0


def test_a_select_tells_what_the_digest_counts_and_nothing_else() -> None:
    observer = Observer(buckets=256)
    observer.owners.activate(3)
    observer.log.begin_owner(3, 5)
    events = b"".join(
        struct.pack("<BBH2sHII16sQ", 1, 4, 2, struct.pack(">H", port), 0, 0, 0, b"\1\2\3\4", 0)
        for port in range(500)
    )
    at = 0
    while at < 500:
        at += observer.log.absorb(events[at * 40 :], clock=1, position=1, now_ms=0)
        observer.log.encode(1400)
    found: set[bytes] = set()
    for bucket in range(16):
        rows4, rows6 = observer.log.select((1 << bucket).to_bytes(2, "little"))
        rows = {rows4[start : start + 8] for start in range(0, len(rows4), 8)}
        assert len(rows4) == 8 * len(rows)
        assert not rows & found
        assert rows6 == b""
        found |= rows
    assert len(found) == observer.log.digest(3)[1] == 500
    sums = struct.unpack("=16Q", observer.log.digest_sums(3))
    assert sum(sums) % (1 << 64) == observer.log.digest(3)[0]
    with pytest.raises(ValueError, match="bitmap is 3 bytes, expected 2"):
        observer.log.select(bytes(3))


def test_a_close_is_told_even_if_its_open_found_no_room_anywhere() -> None:
    host = Observer(statements=1, buckets=2)
    for port in range(1, 40):
        host.hear(Said(4, (4, port), 1, OPEN, 5))
    row = struct.pack("<BBH2sHII16sQ", 1, 4, 2, b"\0\1", 0, 0, 0, b"\x63\0\0\0", 0)
    claimed, closed = b"\4" + row[1:], b"\2" + row[1:]
    host.log.absorb(row, clock=9, position=1, now_ms=0)
    assert host.log.encode(1400)[0] == 0x10
    host.log.absorb(claimed + closed, clock=10, position=2, now_ms=0)
    assert host.log.encode(1400)[0] == 0x11
