# SPDX-License-Identifier: BSD-2-Clause
"""What a node tells its program: one bounded queue, read by iterating, awaiting or polling."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyxdp_gossip.gossip.events import (
    DuplicateHost,
    IncompatibleHost,
    MemberChanged,
    Synced,
    UnknownService,
)
from pyxdp_gossip.interface_watch import InterfaceChanged
from pyxdp_gossip.queue_watch import QueuesChanged

EVENTS_KEPT: Final = 4096
"""Events that wait for a reader; of 500 hosts each can change its state eight times."""


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The queue was full, nobody read: `count` events, the oldest ones, are lost.

    Comes in the place of what is lost. `Node.members()` says how things are now.
    """

    count: int


NodeEvent = (
    MemberChanged
    | Synced
    | DuplicateHost
    | IncompatibleHost
    | UnknownService
    | InterfaceChanged
    | QueuesChanged
    | EventsLost
)
"""What `Node.events()` yields."""

if TYPE_CHECKING:
    import asyncio

    _Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class EventQueue:
    """The node's one queue. Thread-safe.

    Args:
        limit: events that it holds, 1 or more; beyond them the oldest are dropped and counted.
    """

    def __init__(self, limit: int = EVENTS_KEPT) -> None:
        self._limit = limit
        self._events: deque[NodeEvent] = deque()
        self._untold = 0  # lost since the last EventsLost
        self._closed = False
        self._waiters: list[_Waiter] = []
        self._changed = threading.Condition()
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False
        self.lost = 0
        weakref.finalize(self, os.close, self._signal).atexit = False  # a late put() writes to it

    def fileno(self) -> int:
        """Readable while `take()` has something to give, and from the end on."""
        return self._signal

    def put(self, event: NodeEvent) -> None:
        """Adds an event and wakes all readers."""
        with self._changed:
            self._events.append(event)
            if len(self._events) > self._limit:
                self._events.popleft()
                self._untold += 1
                self.lost += 1
            self._wake()

    def close(self) -> None:
        """No event will follow: readers end once they have read what is there."""
        with self._changed:
            self._closed = True
            self._wake()

    def take(self) -> NodeEvent | None:
        """The oldest event, without waiting; None: there is none."""
        with self._changed:
            if self._untold:
                event: NodeEvent | None = EventsLost(self._untold)
                self._untold = 0
            else:
                event = self._events.popleft() if self._events else None
            if self._signalled and not self._events and not self._closed:
                os.eventfd_read(self._signal)
                self._signalled = False
            return event

    def wait(self, timeout_s: float | None) -> NodeEvent | None:
        """The oldest event; None: the end, or none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed, timeout_s)
            return self.take()

    async def wait_async(self) -> NodeEvent | None:
        """The oldest event, without blocking the running event loop; None: the end."""
        import asyncio  # whoever awaits has it; nobody else needs it

        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                event = self.take()
                if event is not None or self._closed:
                    return event
                waiter: _Waiter = (loop, loop.create_future())
                self._waiters.append(waiter)
            try:
                await waiter[1]
            finally:  # a reader that was cancelled
                with self._changed, contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def _wake(self) -> None:
        """All readers look again: one that gives up or is cancelled takes nobody's turn."""
        if not self._signalled:
            os.eventfd_write(self._signal, 1)
            self._signalled = True
        self._changed.notify_all()
        waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class EventStream(Iterator[NodeEvent], AsyncIterator[NodeEvent]):
    """A node's events, oldest first: `for event in stream`, `async for event in stream`.

    Both wait for the next event and end when the node has stopped and all was read. All streams
    of a node read its one queue: with several readers, in threads or tasks, each event goes to
    exactly one of them. Of events that nobody reads, the newest 4096 are kept; an `EventsLost`
    says how many are not. Made by `Node.events()`; keeps the node alive.
    """

    def __init__(self, queue: EventQueue, check: Callable[[], None]) -> None:
        self._queue = queue
        self._check = check

    def __next__(self) -> NodeEvent:
        self._check()
        event = self._queue.wait(None)
        if event is None:
            raise StopIteration
        return event

    async def __anext__(self) -> NodeEvent:
        self._check()
        event = await self._queue.wait_async()
        if event is None:
            raise StopAsyncIteration
        return event

    def next_event(self, timeout_s: float | None = 0) -> NodeEvent | None:
        """The oldest event.

        Args:
            timeout_s: how long to wait for one, in seconds; 0: not at all; None: until the end.

        Returns:
            None if none came in time, or the node has stopped.

        Raises:
            RuntimeError: in a process that was forked off.
        """
        self._check()
        return self._queue.wait(timeout_s) if timeout_s != 0 else self._queue.take()

    def fileno(self) -> int:
        """As `Node.fileno()`.

        Raises:
            RuntimeError: in a process that was forked off.
        """
        self._check()
        return self._queue.fileno()

    @property
    def lost(self) -> int:
        """Events lost so far because nobody read them.

        Raises:
            RuntimeError: in a process that was forked off.
        """
        self._check()
        return self._queue.lost
