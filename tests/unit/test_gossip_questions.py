# SPDX-License-Identifier: BSD-2-Clause
"""Questions, denials and claims between gossip cores in a POP in memory."""

from __future__ import annotations

import pytest

from pyxdp_gossip._native import UNOWNED
from pyxdp_gossip.gossip.events import (
    AskKernel,
    KernelAnswer,
    Leave,
    MemberState,
    Misdirected,
    Misses,
)
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DatagramType
from pyxdp_gossip.session import KernelView
from tests.unit.gossip_pop import HTTP, Host, Pop, event

CLAIM, CLOSE, OPEN = EventKind.CLAIM, EventKind.CLOSE, EventKind.OPEN


def asked(host: Host, asker: int) -> list[AskKernel]:
    rows = (row for row in host.events if isinstance(row, AskKernel))
    return [row for row in rows if row.asker == asker]


def answer(pop: Pop, host: Host, asker: int, mine: bool | KernelView) -> None:
    (question,) = asked(host, asker)
    view = mine
    if not isinstance(mine, KernelView):
        view = KernelView.FULL if mine else KernelView.ABSENT
    host.core.handle_event(KernelAnswer(asker, question.number, [view]), pop.now)


def miss(pop: Pop, host: Host, client: int) -> None:
    record = event(EventKind.MISS, client)
    host.core.handle_event(Misses(record.pack()), pop.now)


def test_a_session_is_unowned_only_when_every_active_host_denied_it() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    answer(pop, second, 1, False)
    pop.run(5)
    assert first.owner(5) != UNOWNED
    answer(pop, third, 1, False)
    pop.run(5)
    assert first.owner(5) == UNOWNED
    assert first.core.counters.sessions_unowned == 1


def test_a_host_that_knows_the_session_claims_it() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    answer(pop, second, 1, False)
    answer(pop, third, 1, True)
    pop.run(5)
    assert first.owner(5) != UNOWNED
    assert list(pop.views(5)) == [3, 3, 3]


def test_a_half_open_session_is_neither_denied_nor_claimed() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    answer(pop, second, 1, False)
    answer(pop, third, 1, KernelView.HALF)
    pop.run(5)
    assert first.core.counters.sessions_unowned == 0
    assert list(pop.views(5)) == [None, None, None]


def test_the_mark_of_a_session_that_nobody_has_ends_on_time() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    answer(pop, second, 1, False)
    pop.run(5)
    assert first.owner(5) == UNOWNED
    pop.run(1100)
    assert first.owner(5) is None


@pytest.mark.parametrize("silent", [True, False])
def test_a_host_that_does_not_answer_leaves_a_doubt(silent: bool) -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    third.running = not silent
    pop.run(1000)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    answer(pop, second, 1, False)
    pop.run(1000)
    assert first.owner(5) != UNOWNED


def test_a_host_that_is_not_synced_marks_nothing() -> None:
    pop = Pop()
    host = pop.start(1)
    pop.run(5)
    miss(pop, host, 5)
    pop.run(5)
    answer(pop, host, 1, False)
    assert host.owner(5) != UNOWNED


def test_a_question_about_a_service_that_the_other_does_not_have_leaves_a_doubt() -> None:
    pop = Pop()
    first = pop.start(1)
    second = pop.start(2, services={0: HTTP})
    pop.run(1500)
    miss(pop, first, 5)
    pop.run(5)
    answer(pop, first, 1, False)
    pop.run(5)
    assert asked(second, 1) == []
    assert first.owner(5) != UNOWNED


def test_a_storm_of_misses_is_bounded_in_questions_and_memory() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    records = b"".join(event(EventKind.MISS, client).pack() for client in range(5000))
    first.core.handle_event(Misses(records), pop.now)
    pop.run(100)
    assert first.core.counters.misses_dropped == 5000 - 1024
    assert len(asked(second, 1)) <= 20 + 20


def test_one_miss_is_asked_for_once_though_its_packets_come_again() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    for _ in range(10):
        miss(pop, first, 5)
        pop.run(1)
    assert len(asked(second, 1)) == 1


def test_a_misdirected_packet_removes_the_stale_entry_at_its_sender() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(second, event(OPEN, 5))
    pop.run(5)
    second.table.remove(event(OPEN, 5).key)
    record = event(EventKind.MISDIRECTED, 5, host=1)
    second.core.handle_event(Misdirected(record.pack()), pop.now)
    pop.run(5)
    assert first.owner(5) is None
    assert first.core.counters.entries_removed == 1


def test_a_late_batch_does_not_bring_back_what_its_owner_denied() -> None:
    """Nothing but the denial told that host of the session's end."""
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.loses = lambda *_: True
    sent: list[bytes] = []
    for kind in (OPEN, CLAIM, CLOSE):
        before = len(pop.recorded)
        pop.happens(first, event(kind, 5))
        pop.run(2)
        sent += [data for data in pop.recorded[before:] if data[1] == DatagramType.LOG][:1]
    opened, claimed, _closed = sent
    source = (first.address, 7946)
    second.core.receive_datagram(claimed, source, pop.now)
    assert second.owner(5) == 1
    misdirected = event(EventKind.MISDIRECTED, 5, host=2)
    first.core.handle_event(Misdirected(misdirected.pack()), pop.now)
    for _, denial in first.core.datagrams_to_send(pop.now):
        second.core.receive_datagram(denial, source, pop.now)
    assert second.owner(5) is None
    second.core.receive_datagram(opened, source, pop.now)
    assert (second.owner(5), second.core.counters.batches_late) == (None, 1)


def test_a_host_cannot_deny_what_another_one_owns() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    pop.happens(second, event(OPEN, 5))
    pop.run(5)
    record = event(EventKind.MISDIRECTED, 5, host=1)
    third.core.handle_event(Misdirected(record.pack()), pop.now)
    pop.run(5)
    assert first.owner(5) == 2


def test_a_session_is_claimed_again_at_most_once_in_a_tenth_of_a_second() -> None:
    pop = Pop()
    first, _ = pop.start_all(1, 2)
    sent = first.core.counters.batches_sent
    for _ in range(50):
        pop.happens(first, event(CLAIM, 5), event(CLAIM, 5))
        pop.run(1)
    assert first.core.counters.batches_sent - sent <= 2
    assert first.core.counters.claims_repeated >= 98


def test_dropping_repeated_claims_keeps_the_other_events() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    rows = [event(OPEN, 1), event(CLAIM, 5), event(CLAIM, 5), event(OPEN, 2), event(CLAIM, 5)]
    pop.happens(first, *rows, event(OPEN, 3))
    pop.run(5)
    assert [second.owner(client) for client in (1, 2, 3, 5)] == [1, 1, 1, 1]
    assert first.core.counters.claims_repeated == 2


def deny_all(pop: Pop, *hosts: Host) -> None:
    miss(pop, hosts[0], 5)
    pop.run(5)
    for host in hosts:
        answer(pop, host, 1, False)
    pop.run(5)


def test_a_host_that_is_alone_marks_nothing() -> None:
    pop = Pop()
    host = pop.start(1)
    pop.run(1500)
    deny_all(pop, host)
    assert host.owner(5) != UNOWNED


def test_the_smaller_part_of_a_pop_marks_nothing() -> None:
    pop = Pop()
    first, second, third, fourth = pop.start_all(1, 2, 3, 4)
    for host in (third, fourth):
        host.running = host.up = False
    pop.run(2000)
    assert first.active() == {1, 2}
    deny_all(pop, first, second)
    assert first.owner(5) != UNOWNED


def test_hosts_that_see_other_members_do_not_speak_for_the_pop() -> None:
    pop = Pop()
    first, second, third, fourth = pop.start_all(1, 2, 3, 4)
    fourth.running = False  # the others still probe it, and it answers
    pop.run(1000)
    (first.core._roster.get(4)).state = MemberState.DEAD  # type: ignore[union-attr]
    deny_all(pop, first, second, third)
    assert first.owner(5) != UNOWNED


def test_a_restarted_agent_does_not_forget_that_its_part_is_the_smaller_one() -> None:
    pop = Pop()
    first, second, third, fourth = pop.start_all(1, 2, 3, 4)
    for host in (third, fourth):
        host.running = host.up = False
    pop.run(2000)
    first = pop.start(1)
    pop.run(2000)
    assert first.active() == {1, 2}
    deny_all(pop, first, second)
    assert first.owner(5) != UNOWNED


def test_a_host_that_starts_after_another_left_marks_nothing_for_a_while() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    third.core.handle_event(Leave(), pop.now)
    pop.run(100)
    third.running = third.up = False
    first = pop.start(1)
    pop.run(2000)
    deny_all(pop, first, second)
    assert first.owner(5) != UNOWNED


def test_nothing_is_marked_for_a_while_after_a_host_left() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    third.core.handle_event(Leave(), pop.now)
    pop.run(100)
    assert first.active() == {1, 2}
    deny_all(pop, first, second)
    assert first.owner(5) != UNOWNED
