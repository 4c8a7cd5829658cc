# SPDX-License-Identifier: BSD-2-Clause
"""What one sender can make a host send: bounded each, and never to a correct joiner's harm."""

from __future__ import annotations

from gossip_pop import Host, Pop, event

from pyxdp_gossip.gossip.events import AskKernel
from pyxdp_gossip.gossip.messages import Hello, Message, PullBuckets, Question, WhoHas
from pyxdp_gossip.gossip.rates import NS_PER_S, BucketPerName
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DatagramType, encode_message
from pyxdp_gossip.timing import PRESETS, Timing

LAN = PRESETS["lan"]
ALL_BUCKETS = bytes([255]) * 128
QUESTION = Question(4, 0, 50_000, 1, 2, bytes(16))


def storm(pop: Pop, source: Host, target: Host, message: Message, count: int) -> None:
    """So many datagrams of an authentic host at once, whatever its own core thinks."""
    kind = DatagramType.QUESTION if isinstance(message, WhoHas) else DatagramType.MEMBERSHIP
    for _ in range(count):
        data = source.core._envelope.seal(kind, encode_message(message))
        target.core.receive_datagram(data, (source.address, 7946), pop.now)


def test_the_limits_are_those_of_the_docstrings() -> None:
    assert LAN.hellos_per_s == 4 * 1000 // 100 == 40
    assert LAN.bucket_pulls_per_s == 1000 // (2 * 100) == 5
    assert LAN.questions_burst == 20 + 200 * 300 // 1000 == 80
    assert Timing(digest_retry_ms=60_000).bucket_pulls_per_s == 1


def test_each_name_has_a_bucket_of_its_own_and_few_are_kept() -> None:
    buckets = BucketPerName(10, 2, 2)
    assert [buckets.take("a", 0) for _ in range(3)] == [True, True, False]
    assert [buckets.take("b", 0) for _ in range(3)] == [True, True, False]
    assert buckets.take("a", NS_PER_S // 10)
    assert buckets.take("c", NS_PER_S // 10)  # "b" goes: "a" was used later
    assert not buckets.take("a", NS_PER_S // 10)
    assert buckets.take("b", NS_PER_S // 10)


def test_a_storm_of_hellos_is_answered_so_often_and_leaves_others_theirs() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    before = first.core.counters.datagrams_out
    storm(pop, second, first, Hello(7, True), 500)
    pop.run(20)
    # A WELCOME and a dictionary each; and a few heartbeats, and the one shard asked for last.
    assert first.core.counters.datagrams_out - before <= 2 * LAN.hellos_per_s + 10
    assert first.core.counters.hellos_refused == 500 - LAN.hellos_per_s
    third = pop.start(3)
    pop.run(600)
    assert third.synced() == [False]
    storm(pop, second, first, Hello(7, False), 500)
    assert first.core.counters.hellos_refused < 1000 - LAN.hellos_per_s  # time fills it again


def test_a_joiner_that_gets_no_answers_may_ask_on_and_joins_in_the_end() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(first, *(event(EventKind.OPEN, client) for client in range(300)))
    pop.run(20)
    pop.loses = lambda _source, target, _data: target == "10.8.0.3"
    third = pop.start(3)
    pop.run(6000)
    assert not any(host.core.counters.hellos_refused for host in (first, second))
    pop.loses = lambda source, target, data: (
        target == "10.8.0.3" and data[1] == DatagramType.SNAPSHOT
    )
    pop.run(6000)  # it is welcomed now, but each shard that it asks for is lost
    assert not any(host.core.counters.hellos_refused for host in (first, second))
    assert third.core.counters.shards_retried >= 10
    pop.loses = lambda *_: False
    pop.run(3500)  # the longest wait between two tries
    assert third.owner(299) == 1
    assert third.synced()[-1] is False


def test_twenty_hosts_that_start_together_refuse_nothing() -> None:
    pop = Pop()
    hosts = pop.start_all(*range(1, 21))
    assert [host.synced() for host in hosts] == [[False]] * 20
    assert sum(host.core.counters.hellos_refused for host in hosts) == 0


def test_a_storm_of_pulls_looks_through_the_table_a_few_times() -> None:
    pop = Pop()
    first, second = pop.start_all(1, 2)
    pop.happens(first, event(EventKind.OPEN, 1))
    pop.run(5)
    storm(pop, second, first, PullBuckets(7, ALL_BUCKETS), 100)
    assert first.core.counters.pulls_limited == 100 - 2 * LAN.bucket_pulls_per_s
    pop.run(1000)
    storm(pop, second, first, PullBuckets(7, ALL_BUCKETS), 100)
    assert first.core.counters.pulls_limited == 200 - 3 * LAN.bucket_pulls_per_s


def test_a_storm_of_questions_does_not_become_one_of_kernel_look_ups() -> None:
    pop = Pop()
    first, second, third = pop.start_all(1, 2, 3)
    storm(pop, second, first, WhoHas(9, (QUESTION, QUESTION)), 200)
    storm(pop, third, first, WhoHas(9, (QUESTION,)), 1)
    pop.run(1)
    asked = [row.asker for row in first.events if isinstance(row, AskKernel)]
    assert (asked.count(2), asked.count(3)) == (LAN.questions_burst, 1)
    assert first.core.counters.questions_dropped == 2 * (200 - LAN.questions_burst)
