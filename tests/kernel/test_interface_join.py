# SPDX-License-Identifier: BSD-2-Clause
"""The interface vanishes when it suits least: during the join, or to return in one moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyxdp_gossip import InterfaceChanged, InterfaceState, Node, NodeEvent, Synced
from pyxdp_gossip.agent import HANDLERS, Agent
from tests.kernel import test_node
from tests.kernel.agent_host import DEVICE, PATIENCE_S, AgentHost, wait_for
from tests.kernel.conftest import Namespace
from tests.kernel.test_node import EVERYTHING, Pair, assert_nothing_is_left, running

MakeNamespace = Callable[[str], Namespace]
GONE = InterfaceChanged(DEVICE, InterfaceState.GONE)
UP = InterfaceChanged(DEVICE, InterfaceState.UP)
hosts = test_node.hosts
host = test_node.host


def make_anew(host: AgentHost, far: Namespace, options: str = "") -> None:
    """The interface of the same name and address."""
    host.namespace.ip(f"link add {DEVICE} {options} type veth peer name new0 netns {far.name}")
    host.namespace.ip(f"link set {DEVICE} up")
    host.namespace.ip(f"addr add {host.address}/24 dev {DEVICE}")
    far.ip("link set new0 up")


def index_of(host: AgentHost) -> int:
    """The interface's index."""
    return int(host.namespace.ip(f"-o link show dev {DEVICE}").split(":")[0])


def read_until(node: Node, wanted: NodeEvent) -> None:
    """Takes what the node tells, up to this."""
    seen: list[NodeEvent] = []
    while wanted not in seen:
        event = node.events().next_event(PATIENCE_S)
        assert event is not None, f"no {wanted} after {seen}; failure: {node.failure!r}"
        seen.append(event)


@pytest.fixture(params=["noticed", "not noticed yet"])
def vanishing(
    hosts: Pair, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[], None]:
    """Arms the interface to vanish right before an agent hears that it is synced."""
    whole = HANDLERS[Synced]

    def vanish_first(agent: Agent, event: Synced, now: int) -> None:
        if agent.synced is None:
            hosts[0].namespace.ip(f"link del {DEVICE}")
            if request.param == "noticed":
                agent._refresh_routing()
                assert agent.watch.state is InterfaceState.GONE
        whole(agent, event, now)

    return lambda: monkeypatch.setitem(HANDLERS, Synced, vanish_first)


def leave_predecessor(host: AgentHost) -> Path:
    """A program at work whose maps are not adopted; returns its pin."""
    with running(host) as node:
        node.stop(stay_attached=True)
    (host.pins / "maps" / "owners").unlink()
    return host.pins / "xdp"


def assert_goes_on(host: AgentHost, node: Node, far: Namespace) -> None:
    """The node lives, and attaches once the interface is back."""
    read_until(node, GONE)
    assert (node.failure, node.is_synced) == (None, True)
    make_anew(host, far)
    read_until(node, UP)
    wait_for(lambda: host.attached() == EVERYTHING, "everything to be attached again")
    assert node.failure is None


def test_an_interface_that_vanishes_before_the_join_ends_does_not_end_the_agent(
    host: AgentHost, netns: MakeNamespace, vanishing: Callable[[], None]
) -> None:
    vanishing()
    with running(host) as node:
        assert_goes_on(host, node, netns("new"))
    assert_nothing_is_left(host)


def test_nor_does_one_that_vanishes_while_a_predecessor_is_to_be_replaced(
    host: AgentHost, netns: MakeNamespace, vanishing: Callable[[], None]
) -> None:
    leave_predecessor(host)
    vanishing()
    with running(host) as node:
        assert_goes_on(host, node, netns("new"))
    assert_nothing_is_left(host)


def test_a_stop_while_the_interface_is_away_takes_a_dead_predecessors_pin_as_well(
    host: AgentHost, vanishing: Callable[[], None]
) -> None:
    pin = leave_predecessor(host)
    vanishing()
    with running(host) as node:
        read_until(node, GONE)
        assert not pin.exists()
    assert host.attached() == []


def test_an_interface_made_anew_with_the_same_index_is_a_new_one(
    host: AgentHost, netns: MakeNamespace
) -> None:
    far = netns("new")
    with running(host) as node:
        index = index_of(host)

        def exchange() -> None:
            host.namespace.ip(f"link del {DEVICE}")
            make_anew(host, far, f"index {index}")

        node._call(lambda agent: exchange())  # in the agent's thread: it cannot look in between
        assert index_of(host) == index
        read_until(node, UP)
        wait_for(lambda: host.attached() == EVERYTHING, "everything to be attached again")
        assert "239.192.7.1" in host.namespace.ip(f"maddr show dev {DEVICE}"), "gossip is deaf"
    assert_nothing_is_left(host)


def test_a_program_hears_of_its_nodes_interface_and_losses_are_counted(
    host: AgentHost, netns: MakeNamespace
) -> None:
    with running(host) as node:
        for state in (InterfaceState.DOWN, InterfaceState.UP):
            host.namespace.ip(f"link set {DEVICE} {state.value}")
            read_until(node, InterfaceChanged(DEVICE, state))
        assert node.report()["interface_lost"] == 0
        for lost in (1, 2):
            host.namespace.ip(f"link del {DEVICE}")
            read_until(node, GONE)
            assert node.report()["interface_lost"] == lost
            make_anew(host, netns(f"new{lost}"))
            read_until(node, UP)
    assert_nothing_is_left(host)
