# SPDX-License-Identifier: BSD-2-Clause
"""Node, the library's public face: its life, its answers, and what it leaves attached."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip import Config, ConfigError, HostError, Node, Session
from pyxdp_gossip.agent import Agent
from pyxdp_gossip.config import IDLE_TIMEOUT_S
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.gossip.events import MemberChanged, MemberState, Synced
from pyxdp_gossip.stats import ENDINGS
from tests.kernel.agent_host import DEVICE, PATIENCE_S, AgentHost, agent_host, wait_for
from tests.kernel.conftest import Namespace

Pair = tuple[AgentHost, AgentHost]
EVERYTHING = [
    f"XDP program on {DEVICE}", f"filter on {DEVICE}", "flood group", "pins", "sockops program"
]  # fmt: skip
SERVICES = [
    {"vip": "198.51.100.1", "port": 80, "protocol": "tcp"},
    {"vip": "198.51.100.1", "port": 443, "protocol": "udp"},
    {"vip": "2001:db8:100::1", "port": 443, "protocol": "udp"},
]
QUIC4 = Session.udp("203.0.113.9:51000", "198.51.100.1:443")
QUIC6 = Session.udp("[2001:db8:c::9]:51000", "[2001:db8:100::1]:443")
NO_SERVICE = Session.udp("203.0.113.9:51000", "198.51.100.1:444")


@pytest.fixture
def hosts(netns: Callable[[str], Namespace], tmp_path: Path) -> Iterator[Pair]:
    """Two hosts on one link."""
    with agent_host(netns("a"), tmp_path, 1) as one, agent_host(netns("b"), tmp_path, 2) as two:
        one.connect(two.namespace)
        two.namespace.ip(f"addr add {two.address}/24 dev {DEVICE}")
        for host in (one, two):
            host.tables["service"] = SERVICES
            host.config.write_text("")
            configure(host)
        yield one, two


def configure(host: AgentHost, **changes: Any) -> None:
    """Writes the configuration; `changes` are keys of [host]."""
    services = host.tables.pop("service")
    host.configure({"host": changes})
    text = host.config.read_text()
    for service in services:
        rows = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
                for key, value in service.items()]  # fmt: skip
        text += "\n".join(["[[service]]", *rows, ""])
    host.config.write_text(text)
    host.tables["service"] = services


@pytest.fixture
def host(hosts: Pair) -> AgentHost:
    """The one of them that the test is about."""
    return hosts[0]


def node_of(host: AgentHost) -> Node:
    """A node that was not started."""
    return Node(Config.load(host.config))


@contextmanager
def running(host: AgentHost) -> Iterator[Node]:
    """A node of this process in the host's namespace, synced; stopped afterwards."""
    node = node_of(host)
    host.namespace.run(node.start)  # its threads stay in the namespace where they were made
    try:
        node.wait_synced(PATIENCE_S)
        yield node
    finally:
        node.stop()


@contextmanager
def both(hosts: Pair) -> Iterator[tuple[Node, Node]]:
    """Nodes on both hosts that know each other."""
    with running(hosts[0]) as one, running(hosts[1]) as two:
        wait_for_state(one, 2, MemberState.ALIVE)
        wait_for_state(two, 1, MemberState.ALIVE)
        yield one, two


def wait_for_state(node: Node, host: int, state: MemberState) -> None:
    """Waits until a node thinks this of another host."""
    wait_for(lambda: node.members().get(host) is state, f"host {host} to be {state.value}")


def assert_nothing_is_left(host: AgentHost) -> None:
    """On the interface, the cgroup and in the neighbour table."""
    assert host.attached() == []
    assert "managed" not in host.namespace.ip("neigh show").split()


# ---- start and stop ----


def test_a_node_alone_is_synced_attached_and_takes_everything_off(host: AgentHost) -> None:
    with running(host) as node:
        assert node.wait_synced() is True
        assert (node.is_synced, node.failure, node.members()) == (True, None, {})
        assert host.attached() == EVERYTHING
        assert node.wait(0) is False
    assert_nothing_is_left(host)
    assert (node.wait(), node.failure) == (True, None)


def test_a_node_is_its_own_context_manager(host: AgentHost) -> None:
    def use() -> int | None:
        with node_of(host) as node:
            assert node.wait_synced(PATIENCE_S)
            return node.owner(QUIC4)

    assert host.namespace.run(use) is None
    assert_nothing_is_left(host)


def test_stop_is_repeatable_and_a_node_starts_once(host: AgentHost) -> None:
    node = node_of(host)
    node.stop()
    host.namespace.run(node.start)
    with pytest.raises(RuntimeError, match="started already"):
        node.start()
    node.stop()
    node.stop()
    node.stop(stay_attached=True)
    assert_nothing_is_left(host)
    with pytest.raises(RuntimeError, match="started already"):
        node.start()


CALLS: list[Callable[[Node], object]] = [
    lambda node: node.owner(QUIC4),
    lambda node: node.claim(QUIC4),
    lambda node: node.release(QUIC4),
    lambda node: node.members(),
    lambda node: node.stats(),
    lambda node: node.report(),
    lambda node: node.drain(),
]


def test_calls_before_the_start_and_after_the_stop_are_refused(host: AgentHost) -> None:
    node = node_of(host)
    for call in (*CALLS, lambda node: node.wait_synced()):
        with pytest.raises(RuntimeError, match="not running"):
            call(node)
    host.namespace.run(node.start)
    node.stop()
    for call in CALLS:
        with pytest.raises(RuntimeError, match="not running"):
            call(node)


def test_a_wait_for_synced_ends_when_the_node_is_stopped(host: AgentHost) -> None:
    node = node_of(host)
    host.namespace.run(node.start)
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            node.wait_synced()
        except RuntimeError as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    node.stop()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert node.is_synced or [str(error) for error in failures] == ["the node has stopped"]


@contextmanager
def slow_start(host: AgentHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node whose start lasts as long as the block."""
    in_start, go_on = threading.Event(), threading.Event()
    whole = Agent._start

    def slow(agent: Agent) -> None:
        in_start.set()
        assert go_on.wait(PATIENCE_S)
        whole(agent)

    monkeypatch.setattr(Agent, "_start", slow)
    node = node_of(host)
    with ThreadPoolExecutor() as threads:
        started = threads.submit(host.namespace.run, node.start)
        assert in_start.wait(PATIENCE_S)
        try:
            yield node
        finally:
            go_on.set()
            started.result(PATIENCE_S)


def test_a_wait_for_synced_that_takes_too_long_is_a_timeout(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_start(host, monkeypatch) as node, pytest.raises(TimeoutError, match="within 0 s"):
        node.wait_synced(0)
    node.stop()


def test_a_call_while_the_node_starts_is_answered_once_it_has(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor() as threads:
        with slow_start(host, monkeypatch) as node:
            answer = threads.submit(node.owner, QUIC4)
            wait_for(lambda: not node._runner.calls.empty(), "the call")
        assert answer.result(PATIENCE_S) is None
        node.stop()
    assert_nothing_is_left(host)


def test_a_stop_while_the_node_starts_ends_it_and_refuses_what_waits(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor() as threads:
        with slow_start(host, monkeypatch) as node:
            answer = threads.submit(node.owner, QUIC4)
            wait_for(lambda: not node._runner.calls.empty(), "the call")
            stopped = threads.submit(node.stop)
            wait_for(lambda: node._runner.stopping, "the stop")
        stopped.result(PATIENCE_S)
        with pytest.raises(RuntimeError, match="the node has stopped"):
            answer.result(PATIENCE_S)
    assert node.failure is None
    assert_nothing_is_left(host)


# ---- failures ----


def test_a_start_that_fails_raises_and_leaves_nothing(host: AgentHost) -> None:
    configure(host, interface="gone0")
    node = node_of(host)
    with pytest.raises(HostError, match="no interface 'gone0'"):
        host.namespace.run(node.start)
    assert isinstance(node.failure, HostError)
    assert node.wait(PATIENCE_S) is True
    for call in (*CALLS, lambda node: node.wait_synced()):
        with pytest.raises(HostError, match="no interface 'gone0'"):
            call(node)
    node.stop()
    assert_nothing_is_left(host)


@pytest.mark.parametrize("step", ["attach_sessions", "attach_packets"])
def test_a_start_that_fails_at_the_last_step_takes_off_what_was_attached(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = getattr(Dataplane, step)

    def broken(plane: Dataplane) -> str:
        whole(plane)
        raise HostError("the kernel refused")

    monkeypatch.setattr(Dataplane, step, broken)
    node = node_of(host)
    with pytest.raises(HostError, match="the kernel refused"):
        host.namespace.run(node.start)
    node.stop()
    assert_nothing_is_left(host)
    monkeypatch.undo()
    with running(host):
        assert host.attached() == EVERYTHING
    assert_nothing_is_left(host)


def test_a_loop_that_fails_is_told_and_leaves_the_programs_at_work_for_the_next_node(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(host) as node:
        link, program = host.xdp_link(), host.xdp_program()

        def broken() -> None:
            raise OSError("it broke")

        monkeypatch.setattr(node._agent, "run_once", broken)
        assert node.wait(PATIENCE_S) is True
        assert str(node.failure) == "it broke"
        for call in (*CALLS, lambda node: node.wait_synced()):
            with pytest.raises(OSError, match="it broke"):
                call(node)
        assert list(node.events()) == [Synced(partial=False)]
    assert host.attached() == EVERYTHING
    assert (host.xdp_link(), host.xdp_program()) == (link, program)
    with running(host):
        assert (host.xdp_link(), host.attached()) == (link, EVERYTHING)
        assert host.xdp_program() != program
    assert_nothing_is_left(host)


def test_a_call_that_fails_is_the_callers_and_the_node_goes_on(host: AgentHost) -> None:
    with running(host) as node:
        for call in (node.owner, node.claim, node.release):
            with pytest.raises(ConfigError, match=r"198\.51\.100\.1:444 is no service"):
                call(NO_SERVICE)
        node.claim(QUIC4)
        assert (node.owner(QUIC4), node.failure) == (1, None)


# ---- upgrade ----


def test_a_node_that_stays_attached_is_replaced_by_the_next_on_the_same_link(
    host: AgentHost,
) -> None:
    with running(host) as node:
        link, program = host.xdp_link(), host.xdp_program()
        node.stop(stay_attached=True)
        assert node.failure is None
    assert host.attached() == EVERYTHING
    assert (host.xdp_link(), host.xdp_program()) == (link, program)
    with running(host):
        assert (host.xdp_link(), host.attached()) == (link, EVERYTHING)
        assert host.xdp_program() != program
    assert_nothing_is_left(host)


def test_a_host_whose_node_stayed_attached_is_silent_until_the_next_one_speaks(
    hosts: Pair,
) -> None:
    with running(hosts[1]) as other:
        with running(hosts[0]) as node:
            node.claim(QUIC4)
            wait_for(lambda: other.owner(QUIC4) == 1, "the claim")
            node.stop(stay_attached=True)
        wait_for_state(other, 1, MemberState.SILENT)
        assert other.owner(QUIC4) == 1
        with running(hosts[0]):
            wait_for_state(other, 1, MemberState.ALIVE)
        wait_for_state(other, 1, MemberState.LEFT)
    assert_nothing_is_left(hosts[0])


def test_sighup_ends_the_agent_for_an_upgrade_with_the_programs_at_work(host: AgentHost) -> None:
    agent = host.start_synced()
    link, program = host.xdp_link(), host.xdp_program()
    host.stop(agent, signal.SIGHUP)
    assert not host.ready.exists()
    assert host.attached() == EVERYTHING
    assert (host.xdp_link(), host.xdp_program()) == (link, program)
    successor = host.start_synced()
    assert host.xdp_link() == link
    assert host.xdp_program() != program
    host.stop(successor)
    assert_nothing_is_left(host)


# ---- two hosts ----


@pytest.mark.parametrize("session", [QUIC4, QUIC6], ids=["IPv4", "IPv6"])
def test_a_claim_and_its_release_are_known_at_both_hosts(hosts: Pair, session: Session) -> None:
    with both(hosts) as (one, two):
        assert (one.owner(session), two.owner(session)) == (None, None)
        one.claim(session)
        one.claim(session)
        assert one.owner(session) == 1
        wait_for(lambda: two.owner(session) == 1, "the claim at the other host")
        one.release(session)
        wait_for(lambda: one.owner(session) is None, "the release")
        wait_for(lambda: two.owner(session) is None, "the release at the other host")
        two.claim(session)
        wait_for(lambda: one.owner(session) == 2, "the claim of the other host")


def test_a_claim_that_was_not_made_again_in_time_is_released(hosts: Pair) -> None:
    fresh = Session.udp("203.0.113.9:51002", "198.51.100.1:443")
    with both(hosts) as (one, two):
        for session in (QUIC4, QUIC6, fresh):
            one.claim(session)
        wait_for(lambda: two.owner(fresh) == 1, "the claims at the other host")

        def grow_old(agent: Agent) -> None:
            long_ago = time.monotonic_ns() - IDLE_TIMEOUT_S * 10**9
            agent.claims.keep(agent._locate(QUIC4)[1], long_ago)
            agent.claim(QUIC6)  # the application claims these again
            agent.claim(fresh)

        one._call(grow_old)
        for node in (one, two):
            wait_for(lambda node=node: node.owner(QUIC4) is None, "the end of the idle one")
            assert (node.owner(QUIC6), node.owner(fresh)) == (1, 1)


def test_a_release_of_what_another_host_owns_changes_nothing(hosts: Pair) -> None:
    with both(hosts) as (one, two):
        one.claim(QUIC4)
        one.claim(QUIC6)
        wait_for(lambda: two.owner(QUIC6) == 1, "the claims at the other host")
        two.release(QUIC4)
        two.claim(Session.udp("203.0.113.9:51001", "198.51.100.1:443"))
        marker = Session.udp("203.0.113.9:51001", "198.51.100.1:443")
        wait_for(lambda: one.owner(marker) == 2, "what was told later")
        assert (one.owner(QUIC4), two.owner(QUIC4)) == (1, 1)


def test_a_host_that_joins_later_learns_the_claims_and_one_that_leaves_takes_them_along(
    hosts: Pair,
) -> None:
    with running(hosts[1]) as two:
        with running(hosts[0]) as one:
            one.claim(QUIC4)
            two.claim(QUIC6)
            assert one.wait_synced() is True
            wait_for(lambda: one.owner(QUIC6) == 2, "the claim of the one that was there")
            wait_for(lambda: two.owner(QUIC4) == 1, "the claim of the one that came")
        wait_for_state(two, 1, MemberState.LEFT)
        assert two.owner(QUIC4) is None
        assert two.owner(QUIC6) == 2
    for host in hosts:
        assert_nothing_is_left(host)


def test_a_draining_host_is_seen_so_and_keeps_what_it_owns(hosts: Pair) -> None:
    with both(hosts) as (one, two):
        one.claim(QUIC4)
        one.drain()
        wait_for_state(two, 1, MemberState.DRAINING)
        wait_for(lambda: two.owner(QUIC4) == 1, "the claim")


def test_a_snapshot_of_the_counters_grows_with_traffic_and_adds_up(hosts: Pair) -> None:
    with both(hosts) as (one, _):
        before = one.stats()
        with hosts[1].namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(3):
                sender.sendto(bytes([number]), (hosts[0].address, 9))
        wait_for(
            lambda: one.stats().since(before)["passed_no_service"] >= 3, "the datagrams counted"
        )
        after = one.stats()
        assert after.frames == sum(after[name] for name in ENDINGS)
        report = one.report()
        assert (report["host"], report["attached"], report["members"]) == (
            1,
            "native",
            {"2": "alive"},
        )
        assert set(report["dataplane"]) == set(after.counters)


def test_events_come_in_order_and_end_with_the_node(hosts: Pair) -> None:
    found: Future[list[object]] = Future()
    with running(hosts[0]) as one:
        reader = threading.Thread(target=lambda: found.set_result(list(one.events())))
        reader.start()
        with running(hosts[1]):
            wait_for_state(one, 2, MemberState.ALIVE)
        wait_for_state(one, 2, MemberState.LEFT)
        assert not found.done()
    events = found.result(PATIENCE_S)
    reader.join(PATIENCE_S)
    assert events[0] == Synced(partial=False)
    states = [event.state for event in events if isinstance(event, MemberChanged)]
    assert (states[0], states[-1]) == (MemberState.ALIVE, MemberState.LEFT)
    assert list(one.events()) == []
