# SPDX-License-Identifier: BSD-2-Clause
"""The thread that an agent runs in: its start and end, calls into it, and what it tells.

Knows nothing of the `Node` that uses it, so that a forgotten Node can be collected while its
thread runs. Whoever forgets to stop it leaves nothing attached: the interpreter's end stops all
agents of this process, and none of the process that it was forked from.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from pyxdp_gossip.agent import Agent
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.node_events import EventQueue, NodeEvent

Answer = TypeVar("Answer")

STOP_TIMEOUT_S: Final = 10.0  # the agent's loop turns many times a second; more is a bug
CALL_TIMEOUT_S: Final = 10.0

_running: set[AgentThread] = set()


class AgentThread:
    """One agent and its thread. Thread-safe.

    Args:
        config: of `Config.load()`.
        log: a structlog logger, or None.
    """

    def __init__(self, config: Config, log: Any) -> None:
        self.agent = Agent(config, log=log)
        self.events = EventQueue()
        self.failure: Exception | None = None
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.stopping = False
        self.calls: SimpleQueue[tuple[Callable[[Agent], Any], Future[Any]]] = SimpleQueue()
        self._turning = False  # the agent can be woken
        self._stay_attached = False
        # Over _turning, stopping and calls. Re-entrant: the garbage collector may find a
        # forgotten Node, and ask its agent to stop, in any line of this very thread.
        self._gate = threading.RLock()
        self._process = os.getpid()

    def check_process(self) -> None:
        """Refuses a process that was forked off: it has no agent, and must touch none.

        Raises:
            RuntimeError: it was.
        """
        if os.getpid() != self._process:
            raise RuntimeError("a Node belongs to the process that made it; make one after fork")

    def start(self) -> None:
        """Starts the thread; returns once everything is loaded and the join has begun."""
        if self.thread:
            raise RuntimeError("the node was started already")
        started: Future[None] = Future()
        self.thread = threading.Thread(
            target=self._run, args=(started,), name="pyxdp-gossip", daemon=True
        )
        _running.add(self)
        self.thread.start()
        started.result()

    def stop(self, stay_attached: bool = False) -> None:
        """Asks the agent to stop, and waits until it has."""
        self.ask_to_stop(stay_attached)
        if self.thread:
            self.thread.join(STOP_TIMEOUT_S)
            if self.thread.is_alive():
                raise HostError(
                    f"the agent did not stop in {STOP_TIMEOUT_S:.0f} s; end the process, "
                    "its programs stay attached for the next start"
                )

    def abandon(self) -> None:
        """The Node was collected: stops its agent if it still runs, without waiting for it."""
        if os.getpid() != self._process or self.thread is None or self.stopping:
            return
        self.ask_to_stop(False)
        warnings.warn("a running Node was forgotten; use `with` or stop()", ResourceWarning, 2)

    def ask_to_stop(self, stay_attached: bool) -> None:
        """Makes the agent stop, and does not wait for it."""
        with self._gate:
            if self.thread and not self.stopping:
                self._stay_attached = stay_attached
                self.stopping = True
                self._wake()

    def call(self, function: Callable[[Agent], Answer]) -> Answer:
        """Runs a function in the agent's thread, and returns or raises what it does."""
        self.check_process()
        future: Future[Answer] = Future()
        with self._gate:
            if self.thread is None or self.stopping:
                raise self.failure or RuntimeError("the node is not running")
            self.calls.put((function, future))
            self._wake()
        return future.result(CALL_TIMEOUT_S)

    def _wake(self) -> None:
        if self._turning:  # else the loop begins by looking
            self.agent.wake()

    # ---- in the thread ----

    def _run(self, started: Future[None]) -> None:
        try:
            with self.agent as agent:
                started.set_result(None)
                self._turn(agent)
        except Exception as error:  # handed to the caller's thread, whatever it is
            self.failure = error
            if not started.done():
                started.set_exception(error)
        finally:
            with self._gate:
                self.stopping = True
                self._refuse_calls()
            self._tell()
            self.events.close()
            with self.changed:
                self.changed.notify_all()
            _running.discard(self)

    def _turn(self, agent: Agent) -> None:
        with self._gate:
            self._turning = True
        try:
            while not self.stopping:
                agent.run_once()
                self._answer_calls()
                self._tell()
                with self.changed:
                    self.changed.notify_all()
            agent.stop(self._stay_attached)
        finally:
            with self._gate:  # nobody calls or wakes an agent that is going
                self.stopping = True

    def _tell(self) -> None:
        """Passes on the core's events that are for the program; the others were for the agent."""
        while self.agent.events:
            event = self.agent.events.popleft()
            if isinstance(event, NodeEvent):
                self.events.put(event)

    def _answer_calls(self) -> None:
        while not self.calls.empty():
            function, future = self.calls.get()
            try:
                future.set_result(function(self.agent))
            except Exception as error:  # handed to the caller's thread, whatever it is
                future.set_exception(error)

    def _refuse_calls(self) -> None:
        while not self.calls.empty():
            _, future = self.calls.get()
            future.set_exception(self.failure or RuntimeError("the node has stopped"))


def _stop_all() -> None:
    """The interpreter ends: nothing of this process stays attached."""
    agents = tuple(_running)
    for agent in agents:
        agent.ask_to_stop(False)  # all at once, so that the slowest says how long it takes
    for agent in agents:
        agent.stop()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_running.clear)
