# SPDX-License-Identifier: BSD-2-Clause
"""Node: one host of the POP, the library's public face over the agent's thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar

from pyxdp_gossip.agent import Agent
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.session import Session
from pyxdp_gossip.stats import Statistics

Answer = TypeVar("Answer")

STOP_TIMEOUT_S: Final = 10.0  # the agent's loop turns many times a second; more is a bug
CALL_TIMEOUT_S: Final = 10.0


class Node:
    """One host of the POP: attaches, joins, keeps the tables, and takes everything off again.

    Thread-safe; refuses to be used in a process that was forked off. Use it as a context
    manager, in the network namespace of the host.

    Args:
        config: of `Config.load()`.
        log: a structlog logger, or None for the default one.

    Raises (at `start` or entry):
        ConfigError: the configuration asks for what this version cannot do.
        HostError: a missing privilege, kernel feature or interface; nothing is left attached.
    """

    def __init__(self, config: Config, *, log: Any = None) -> None:
        self.config = config
        self._agent = Agent(config, log=log)
        self._calls: SimpleQueue[tuple[Callable[[Agent], Any], Future[Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._turning = False  # the agent can be woken
        self._stopping = False
        self._stay_attached = False
        self._gate = threading.Lock()  # over _turning, _stopping and _calls
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Loads, attaches and begins to join; returns as soon as that is under way."""
        self._check()
        if self._thread:
            raise RuntimeError("the node was started already")
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="pyxdp-gossip", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self, stay_attached: bool = False) -> None:
        """Leaves the POP and takes everything off the interface. Repeatable.

        Args:
            stay_attached: for an upgrade: does not leave; the host's programs stay at work, the
                others find it *silent* and go on sending strays, and the next start takes over.
        """
        self._check()
        with self._gate:
            if self._thread and not self._stopping:
                self._stay_attached = stay_attached
                self._stopping = True
                self._wake()
        if self._thread:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                raise HostError(
                    f"the agent did not stop in {STOP_TIMEOUT_S:.0f} s; end the process, "
                    "its programs stay attached for the next start"
                )

    def _wake(self) -> None:
        if self._turning:  # else the loop begins by looking
            self._agent.wake()

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a Node belongs to the process that made it; make one after fork")

    # ---- the agent's thread ----

    def _run(self, started: Future[None]) -> None:
        try:
            with self._agent as agent:
                started.set_result(None)
                self._turn(agent)
        except Exception as error:  # handed to the caller's thread, whatever it is
            self._failure = error
            if not started.done():
                started.set_exception(error)
        finally:
            with self._gate:
                self._stopping = True
                self._refuse_calls()
            with self._changed:
                self._changed.notify_all()

    def _turn(self, agent: Agent) -> None:
        with self._gate:
            self._turning = True
        try:
            while not self._stopping:
                agent.run_once()
                self._answer_calls()
                with self._changed:
                    self._changed.notify_all()
            agent.stop(self._stay_attached)
        finally:
            with self._gate:  # nobody calls or wakes an agent that is going
                self._stopping = True

    def _answer_calls(self) -> None:
        while not self._calls.empty():
            function, future = self._calls.get()
            try:
                future.set_result(function(self._agent))
            except Exception as error:  # handed to the caller's thread, whatever it is
                future.set_exception(error)

    def _refuse_calls(self) -> None:
        while not self._calls.empty():
            _, future = self._calls.get()
            future.set_exception(self._failure or RuntimeError("the node has stopped"))

    def _call(self, function: Callable[[Agent], Answer]) -> Answer:
        self._check()
        future: Future[Answer] = Future()
        with self._gate:
            if self._thread is None or self._stopping:
                raise self._failure or RuntimeError("the node is not running")
            self._calls.put((function, future))
            self._wake()
        return future.result(CALL_TIMEOUT_S)

    # ---- the public face ----

    @property
    def failure(self) -> Exception | None:
        """Why the node stopped by itself, or None."""
        return self._failure

    def wait_synced(self, timeout_s: float | None = None) -> bool:
        """Waits until this host knows every member's sessions, or is alone.

        Returns:
            True; False if the join ended *partial*.

        Raises:
            TimeoutError: not in `timeout_s` seconds.
            GossipError: the node stopped by itself.
            RuntimeError: it was not started, or was stopped meanwhile.
        """
        self._check()
        if self._thread is None:
            raise RuntimeError("the node is not running")
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._agent.synced is not None or self._stopping, timeout_s
            )
        if self._failure:
            raise self._failure
        if not done:
            raise TimeoutError(f"not synced within {timeout_s} s")
        if self._agent.synced is None:
            raise RuntimeError("the node has stopped")
        return not self._agent.synced.partial

    @property
    def is_synced(self) -> bool:
        """Whether the join has ended, completely or *partial*."""
        return self._agent.synced is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the node stops by itself; False if it still runs after `timeout_s`."""
        self._check()
        if self._thread:
            self._thread.join(timeout_s)
        return self._stopping

    def owner(self, session: Session) -> int | None:
        """The host that owns a session, or None if the table does not know it."""
        return self._call(lambda agent: agent.owner(session))

    def claim(self, session: Session) -> None:
        """Says that this host owns a session that no kernel socket shows (UDP, QUIC)."""
        self._call(lambda agent: agent.claim(session))

    def release(self, session: Session) -> None:
        """Takes a claim back."""
        self._call(lambda agent: agent.release(session))

    def members(self) -> dict[int, MemberState]:
        """The other hosts that were heard of, by id."""
        return self._call(
            lambda agent: {host: member.state for host, member in agent.members.items()}
        )

    def stats(self) -> Statistics:
        """A snapshot of the data path's counters."""
        return self._call(lambda agent: agent.dataplane.statistics())

    def report(self) -> dict[str, Any]:
        """Everything that is counted, as plain values for JSON."""
        return self._call(lambda agent: agent.report())

    def drain(self) -> None:
        """Tells the POP not to expect new sessions here; owning and forwarding go on."""
        self._call(lambda agent: agent.drain())

    def events(self) -> Iterator[object]:
        """Yields what happens, oldest first: MemberChanged, Synced, DuplicateHost, …

        Waits for the next one; ends when the node stops.
        """
        self._check()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._agent.events or self._stopping)
            with contextlib.suppress(IndexError):
                yield self._agent.events.popleft()
                continue
            if self._stopping:
                return
