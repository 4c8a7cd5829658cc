# SPDX-License-Identifier: BSD-2-Clause
"""Node: one host of the POP, the library's public face over the agent's thread."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from pyxdp_gossip.agent import Agent
from pyxdp_gossip.agent_thread import AgentThread
from pyxdp_gossip.config import Config
from pyxdp_gossip.explanation import Explanation
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.live_changes import change_keys, change_services
from pyxdp_gossip.live_explanation import explain_on_host
from pyxdp_gossip.node_events import EventStream
from pyxdp_gossip.session import Service, Session
from pyxdp_gossip.stats import Statistics

Answer = TypeVar("Answer")


class Node:
    """One host of the POP: attaches, joins, keeps the tables, and takes everything off again.

    Thread-safe. Use it as a context manager, in the network namespace of the host. A program that
    ends, however but by a signal, takes everything off, and so does a Node that nobody holds any
    more; what a killed process leaves stays at work, and the next start takes over. A process
    that is forked off must not use it: everything below raises RuntimeError there, and its end
    changes nothing.

    Args:
        config: of `Config.load()`.
        log: a structlog logger, or None for the default one.

    Raises (at `start` or entry):
        ConfigError: the configuration asks for what this version cannot do.
        HostError: a missing privilege, kernel feature or interface; nothing is left attached.
    """

    def __init__(self, config: Config, *, log: Any = None) -> None:
        self.config = config
        self._runner = AgentThread(config, log)
        self._agent = self._runner.agent
        weakref.finalize(self, self._runner.abandon).atexit = False  # agent_thread sees to it

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Loads, attaches and begins to join; returns as soon as that is under way.

        Raises:
            ConfigError, HostError: it cannot start; nothing is left attached.
            RuntimeError: it was started before.
        """
        self._check()
        self._runner.start()

    def stop(self, stay_attached: bool = False) -> None:
        """Leaves the POP and takes everything off the interface. Repeatable.

        Args:
            stay_attached: for an upgrade: does not leave; the host's programs stay at work, the
                others find it *silent* and go on sending strays, and the next start takes over.

        Raises:
            HostError: the agent did not stop in 10 s.
        """
        self._check()
        self._runner.stop(stay_attached)

    def _check(self) -> None:
        self._runner.check_process()

    def _call(self, function: Callable[[Agent], Answer]) -> Answer:
        return self._runner.call(function)

    @property
    def failure(self) -> Exception | None:
        """Why the node stopped by itself, or None."""
        self._check()
        return self._runner.failure

    def wait_synced(self, timeout_s: float | None = None) -> bool:
        """Waits until this host knows every member's sessions, or is alone.

        Args:
            timeout_s: seconds; None: as long as it takes.

        Returns:
            True; False if the join ended *partial*.

        Raises:
            TimeoutError: not in `timeout_s` seconds.
            GossipError: the node stopped by itself.
            RuntimeError: it was not started, or was stopped meanwhile.
        """
        self._check()
        runner, agent = self._runner, self._agent
        if runner.thread is None:
            raise RuntimeError("the node is not running")
        with runner.changed:
            done = runner.changed.wait_for(
                lambda: agent.synced is not None or runner.stopping, timeout_s
            )
        if runner.failure:
            raise runner.failure
        if not done:
            raise TimeoutError(f"not synced within {timeout_s} s")
        if agent.synced is None:
            raise RuntimeError("the node has stopped")
        return not agent.synced.partial

    @property
    def is_synced(self) -> bool:
        """Whether the join has ended, completely or *partial*."""
        self._check()
        return self._agent.synced is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the node stops by itself.

        Args:
            timeout_s: seconds; None: as long as it takes.

        Returns:
            False if it still runs after `timeout_s`.
        """
        self._check()
        if self._runner.thread:
            self._runner.thread.join(timeout_s)
        return self._runner.stopping

    def owner(self, session: Session) -> int | None:
        """The host that owns a session.

        Args:
            session: of a service of this host.

        Returns:
            A host id, or None if the table does not know it, or knows that nobody has it.

        Raises:
            ConfigError: its service is none of this host's.
            RuntimeError: the node is not running.
        """
        return self._call(lambda agent: agent.owner(session))

    def claim(self, session: Session) -> None:
        """Says that this host owns a session that no kernel socket shows (UDP, QUIC).

        It holds until `release`, or until `[gossip] idle_timeout_s` have passed without another
        claim of it: claim again while its packets come, which costs a look-up.

        Args:
            session: of a service of this host.

        Raises:
            ConfigError: its service is none of this host's.
            RuntimeError: the node is not running.
        """
        self._call(lambda agent: agent.claim(session))

    def release(self, session: Session) -> None:
        """Takes a claim back; one of another host stays.

        Args:
            session: of a service of this host.

        Raises:
            ConfigError: its service is none of this host's.
            RuntimeError: the node is not running.
        """
        self._call(lambda agent: agent.release(session))

    def members(self) -> dict[int, MemberState]:
        """The other hosts that were heard of, by id.

        Raises:
            RuntimeError: the node is not running.
        """
        return self._call(
            lambda agent: {host: member.state for host, member in agent.members.items()}
        )

    def stats(self) -> Statistics:
        """A snapshot of the data path's counters.

        Raises:
            RuntimeError: the node is not running.
        """
        return self._call(lambda agent: agent.dataplane.statistics())

    def report(self) -> dict[str, Any]:
        """Everything that is counted, as plain values for JSON.

        Raises:
            RuntimeError: the node is not running.
        """
        return self._call(lambda agent: agent.report())

    def explain(self, frame: bytes) -> Explanation:
        """What this host does with a packet, and why. Counts and sends nothing.

        By the live tables, the same C code as forwards, and the kernel's sockets where they
        count (a test run of the host's BPF program). Only the floods' budgets are left out.

        Args:
            frame: bytes from the Ethernet header on; of the router, or a tunnel packet.

        Raises:
            HostError: the kernel refused the question.
            RuntimeError: the node is not running.
        """
        return self._call(lambda agent: explain_on_host(agent.dataplane, frame))

    def drain(self) -> None:
        """Tells the POP not to expect new sessions here; owning and forwarding go on.

        Raises:
            RuntimeError: the node is not running.
        """
        self._call(lambda agent: agent.drain())

    def change_keys(self, keys: Sequence[Key]) -> None:
        """Other gossip keys, without a restart: the first seals, any opens.

        On a live group: first add the new key as the second one on all hosts, then make it the
        first on all hosts, then leave the old one out. No batch is lost.

        Args:
            keys: of `Config.load()`, or of the program's own store; one or more.

        Raises:
            ConfigError: there is none, or this POP seals nothing.
            RuntimeError: the node is not running.
        """
        self._call(lambda agent: change_keys(agent, keys))

    def change_services(self, services: Sequence[Service]) -> list[Service]:
        """Further services, without a restart: sessions of those that are served live on.

        Other hosts may be told at any time, before or after: until a host serves a service itself,
        it leaves out what others say of it.

        Args:
            services: of `Config.load()`; what is served already may be among them. Put new ones
                behind the others, for a start takes the sessions over only with the same order.

        Returns:
            The services that are not among these, and are served on: to take one away needs a
            restart.

        Raises:
            ConfigError: they are too many.
            HostError: the kernel refused.
            RuntimeError: the node is not running.
        """
        return self._call(lambda agent: change_services(agent, services))

    def events(self) -> EventStream:
        """What happens, oldest first: MemberChanged, Synced, DuplicateHost and so on.

        Returns:
            An iterator and asynchronous iterator that waits for the next event and ends when the
            node has stopped. All of them read one queue: each event goes to one reader.

        Raises:
            RuntimeError: in a process that was forked off.
        """
        self._check()
        return EventStream(self._runner.events, self._check)

    def fileno(self) -> int:
        """For select, epoll and `loop.add_reader`: readable while events wait, and at the end.

        Only look at it: `events().next_event()` takes what is there. It is valid as long as the
        Node.

        Raises:
            RuntimeError: in a process that was forked off.
        """
        self._check()
        return self._runner.events.fileno()
