# SPDX-License-Identifier: BSD-2-Clause
"""A host whose start takes long has asked nobody meanwhile: its silence says nothing."""

from tests.unit.gossip_pop import Pop


def test_the_wait_for_others_begins_with_the_first_hello() -> None:
    pop = Pop()
    pop.start_all(1, 2)
    late = pop.start(3)
    late.running = False  # loading and attaching its programs
    pop.run(2 * pop.timing.alone_ms)
    late.inbox.clear()  # its socket did not read yet, and the buffer was small
    late.running = True
    pop.run(1)
    assert late.synced() == [], "nobody was asked yet"
    pop.run(1000)
    assert late.synced() == [False]
    assert late.active() == {1, 2, 3}


def test_who_starts_late_and_is_alone_says_so_after_the_usual_wait() -> None:
    pop = Pop()
    late = pop.start(3)
    late.running = False
    pop.run(2 * pop.timing.alone_ms)
    late.running = True
    pop.run(pop.timing.alone_ms - 10)
    assert late.synced() == []
    pop.run(20)
    assert late.synced() == [False]
