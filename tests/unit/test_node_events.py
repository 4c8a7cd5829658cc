# SPDX-License-Identifier: BSD-2-Clause
"""The queue of a node's events: bounded, read by iterating, awaiting or polling."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyxdp_gossip.gossip.events import Synced, UnknownService
from pyxdp_gossip.node_events import EventQueue, EventsLost, EventStream, NodeEvent

PATIENCE_S = 60.0  # a machine under load; nothing here is measured


def numbered(count: int) -> list[NodeEvent]:
    """Events that can be told apart."""
    return [UnknownService(host=1, records=number) for number in range(count)]


def no_check() -> None:
    """The node's process."""


def filled(count: int, **how: int) -> EventQueue:
    queue = EventQueue(**how)
    for event in numbered(count):
        queue.put(event)
    return queue


def is_readable(queue: EventQueue) -> bool:
    return select.select([queue], [], [], 0)[0] == [queue]


def test_events_come_in_order_and_the_stream_ends_when_closed() -> None:
    queue = filled(3)
    queue.close()
    stream = EventStream(queue, no_check)
    assert list(stream) == numbered(3)
    assert list(stream) == []
    assert stream.next_event() is stream.next_event(None) is None


def test_next_event_does_not_wait_unless_told() -> None:
    stream = EventStream(filled(1), no_check)
    assert [stream.next_event(), stream.next_event(), stream.next_event(0.001)] == [
        *numbered(1), None, None,
    ]  # fmt: skip


def test_a_full_queue_keeps_the_newest_and_says_what_it_lost() -> None:
    queue = filled(5, limit=2)
    stream = EventStream(queue, no_check)
    assert (stream.lost, stream.next_event()) == (3, EventsLost(3))
    queue.put(Synced(partial=False))
    queue.close()
    assert list(stream) == [EventsLost(1), numbered(5)[4], Synced(partial=False)]
    assert stream.lost == 4


def test_the_descriptor_is_readable_while_events_wait_and_at_the_end() -> None:
    queue = EventQueue(limit=2)
    assert not is_readable(queue)
    for event in numbered(3):
        queue.put(event)
    readable = []
    while is_readable(queue):
        readable.append(queue.take())
    assert readable == [EventsLost(1), *numbered(3)[1:]]
    queue.put(Synced(partial=True))
    queue.close()
    assert is_readable(queue)
    assert queue.take() == Synced(partial=True)
    assert is_readable(queue)
    assert queue.take() is None


def test_the_descriptor_goes_with_the_queue() -> None:
    queue = EventQueue()
    descriptor = queue.fileno()
    assert os.fstat(descriptor)
    del queue
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_threads_that_read_at_once_get_each_event_once() -> None:
    queue = EventQueue()
    with ThreadPoolExecutor(8) as threads:
        readers = [
            threads.submit(list, EventStream(queue, no_check)) for _ in range(8)
        ]  # fmt: skip
        for event in numbered(2000):
            queue.put(event)
        queue.close()
        shares = [reader.result(PATIENCE_S) for reader in readers]
    assert Counter(event for share in shares for event in share) == Counter(numbered(2000))
    for share in shares:
        assert share == sorted(share, key=lambda event: event.records)  # type: ignore[union-attr]


async def collected(queue: EventQueue) -> list[NodeEvent]:
    return [event async for event in EventStream(queue, no_check)]


def test_tasks_that_read_at_once_get_each_event_once() -> None:
    queue = EventQueue()

    def write() -> None:
        for event in numbered(2000):
            queue.put(event)
        queue.close()

    async def main() -> list[list[NodeEvent]]:
        readers = asyncio.gather(*(collected(queue) for _ in range(5)))
        await asyncio.sleep(0)  # all of them wait
        writer = threading.Thread(target=write)
        writer.start()
        shares = await readers
        writer.join()
        return shares

    shares = asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert Counter(event for share in shares for event in share) == Counter(numbered(2000))


def test_a_reader_that_is_cancelled_takes_no_event_with_it() -> None:
    queue = EventQueue()

    async def main() -> list[NodeEvent]:
        stream = EventStream(queue, no_check)
        given_up = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        queue.put(Synced(partial=False))
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        queue.close()
        return await collected(queue)

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE_S)) == [Synced(partial=False)]


def test_a_loop_that_was_closed_is_not_missed() -> None:
    queue = EventQueue()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(anext(EventStream(queue, no_check)))  # type: ignore[arg-type]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    queue.put(Synced(partial=False))
    assert queue.take() == Synced(partial=False)
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_stream_asks_first_whether_this_process_may_read() -> None:
    queue = filled(1)

    def refuse() -> None:
        raise RuntimeError("not yours")

    stream = EventStream(queue, refuse)
    for use in (
        lambda: next(stream), stream.next_event, stream.fileno, lambda: stream.lost,
        lambda: asyncio.run(collected_by(stream)),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="not yours"):
            use()
    assert queue.take() == numbered(1)[0]


async def collected_by(stream: EventStream) -> list[NodeEvent]:
    return [event async for event in stream]
