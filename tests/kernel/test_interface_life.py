# SPDX-License-Identifier: BSD-2-Clause
"""The interface goes down, up, away and comes back: the agent goes on, and so does its host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.agent_host import DEVICE, AgentHost, agent_host, wait_for
from tests.kernel.conftest import Namespace

MakeNamespace = Callable[[str], Namespace]

EVERYTHING = [
    f"XDP program on {DEVICE}", f"filter on {DEVICE}", "flood group", "pins", "sockops program"
]  # fmt: skip
FORWARDING = {"xsk": "copy", "xdp": "xdp"}


@pytest.fixture(params=sorted(FORWARDING))
def host(
    netns: MakeNamespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentHost]:
    """A host with a link to another one, whose agent runs on each plane in turn."""
    with agent_host(netns("a"), tmp_path) as made:
        made.connect(netns("b"))
        made.configure({"dataplane": {"plane": request.param}, "gossip": {"preset": "loopback"}})
        made.plane = request.param
        yield made


def make_anew(host: AgentHost, far: Namespace) -> None:
    """The interface of the same name, without its address."""
    host.namespace.ip(f"link add {DEVICE} type veth peer name {DEVICE} netns {far.name}")
    host.namespace.ip(f"link set {DEVICE} up")
    far.ip(f"link set {DEVICE} up")


def wait_interface(host: AgentHost, agent: subprocess.Popen[str], state: str) -> None:
    """Until the agent says so of its interface."""
    wait_for(lambda: host.counters(agent)["interface"] == state, f"the interface to be {state}")


def test_down_and_up_again_is_told_and_changes_nothing(host: AgentHost) -> None:
    agent = host.start_synced()
    link = host.xdp_link()
    for state in ("down", "up", "down", "up"):
        host.namespace.ip(f"link set {DEVICE} {state}")
        wait_interface(host, agent, state)
    found = host.counters(agent)
    assert (found["attached"], found["mode"]) == ("native", FORWARDING[host.plane])
    assert (found["interface_downs"], found["interface_lost"]) == (2, 0)
    assert (host.xdp_link(), host.attached()) == (link, EVERYTHING)
    host.stop(agent)
    assert host.attached() == []


def test_an_interface_that_vanishes_is_taken_up_again_once_it_has_its_address(
    host: AgentHost, netns: MakeNamespace
) -> None:
    agent = host.start_synced()
    for _ in range(2):
        host.namespace.ip(f"link del {DEVICE}")
        wait_interface(host, agent, "gone")
        assert host.ready.exists(), "its sessions live on: the host is still synced"
        make_anew(host, netns("new"))
        assert host.counters(agent)["interface"] == "gone", "nobody could answer it yet"
        assert host.xdp_program() is None
        host.namespace.ip(f"addr add {host.address}/24 dev {DEVICE}")
        wait_interface(host, agent, "up")
        wait_for(lambda: host.attached() == EVERYTHING, "everything to be attached again")
        assert host.counters(agent)["mode"] == FORWARDING[host.plane]
    host.stop(agent)
    assert host.attached() == []


def test_an_agent_without_its_interface_stops_cleanly(host: AgentHost) -> None:
    agent = host.start_synced()
    host.namespace.ip(f"link del {DEVICE}")
    wait_interface(host, agent, "gone")
    host.stop(agent)
    assert host.attached() == []


def test_hosts_find_each_other_again_after_the_interface_was_away(
    host: AgentHost, netns: MakeNamespace, tmp_path: Path
) -> None:
    with agent_host(netns("far"), tmp_path, 2) as other:
        host.namespace.ip(f"link del {DEVICE}")
        host.connect(other.namespace)
        other.namespace.ip(f"addr add {other.address}/24 dev {DEVICE}")
        other.configure({"gossip": {"preset": "loopback"}})
        agents = [host.start_synced(), other.start_synced()]

        def states() -> list[str | None]:
            one, two = (
                a.counters(p)["members"] for a, p in zip((host, other), agents, strict=True)
            )
            return [one.get("2"), two.get("1")]

        wait_for(lambda: states() == ["alive", "alive"], "both to know each other")
        host.namespace.ip(f"link del {DEVICE}")  # and with it the other end
        wait_for(lambda: states() == ["dead", "dead"], "both to miss each other")
        host.connect(other.namespace)
        other.namespace.ip(f"addr add {other.address}/24 dev {DEVICE}")
        wait_for(lambda: states() == ["alive", "alive"], "both to find each other again")
        for one, process in zip((host, other), agents, strict=True):
            assert one.attached() == EVERYTHING
            one.stop(process)
            assert one.attached() == []
