# SPDX-License-Identifier: BSD-2-Clause
"""Agents on the pins of earlier ones: what they say of them, and that there is one at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxdp_gossip import kernel_mounts
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.pins import FolderLock
from tests.kernel.agent_host import PATIENCE_S, AgentHost, agent_host
from tests.kernel.conftest import Namespace

Maker = Callable[[str], Namespace]


@pytest.fixture
def agent(netns: Maker, tmp_path: Path) -> Iterator[AgentHost]:
    """A host for agents, its far end connected to nobody."""
    with agent_host(netns("a"), tmp_path) as made:
        made.connect(netns("r"))
        yield made


def killed(host: AgentHost) -> None:
    """An agent was there, and nothing but its process is gone."""
    process = host.start_synced()
    process.kill()
    process.communicate(timeout=PATIENCE_S)


def log_of_next(host: AgentHost) -> str:
    """What the next one says until it is stopped."""
    process = host.start_synced()
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0
    assert host.attached() == []
    return str(log)


def test_an_agent_says_in_one_line_that_it_goes_on_with_its_predecessors_maps(
    agent: AgentHost,
) -> None:
    killed(agent)
    assert (agent.pins / "maps" / "stamp").exists()
    log = log_of_next(agent)
    assert log.count("maps adopted") == 1
    assert "maps rebuilt" not in log
    assert "maps" not in log_of_next(agent), "a clean stop leaves nothing to adopt"


def test_an_agent_says_in_one_line_why_it_does_not(agent: AgentHost) -> None:
    killed(agent)
    agent.configure({"table": {"sessions_v4": 100_000}})
    log = log_of_next(agent)
    assert log.count("maps rebuilt") == 1
    assert "the size of the session table changed" in log
    assert "maps adopted" not in log


def test_of_two_agents_on_one_pin_folder_the_second_is_refused(agent: AgentHost) -> None:
    first = agent.start_synced()
    program = agent.xdp_program()
    refusal = agent.refusal()
    assert refusal == (
        f"another agent runs with the pins {agent.pins}: stop it first, or give each its own "
        "[dataplane] pins"
    )
    assert agent.xdp_program() == program
    first.kill()
    first.communicate(timeout=PATIENCE_S)
    assert log_of_next(agent).count("maps adopted") == 1


def test_the_lock_of_a_pin_folder_goes_with_its_process_even_if_a_forked_one_lives_on(
    netns: Maker,
) -> None:
    folder = kernel_mounts.BPFFS / "pyxdp-gossip" / f"test-{os.getpid()}-lock"
    lock = FolderLock(folder)
    with pytest.raises(HostError, match="another agent runs"):
        FolderLock(folder)
    end, keep = os.pipe()
    runs, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(keep)
        os.write(tell, b"!")
        os.read(end, 1)  # until the parent lets go
        os._exit(0)
    os.close(end)
    os.read(runs, 1)
    try:
        with pytest.raises(HostError, match="another agent runs"):
            FolderLock(folder)  # the child's own copies are closed, the parent's is not
        lock.forget()  # as the kernel does when the parent dies
        second = FolderLock(folder)
        second.close()
        second.close()
        assert not folder.exists()
    finally:
        for descriptor in (keep, runs, tell):
            os.close(descriptor)
        assert os.waitpid(child, 0)[1] == 0
    FolderLock(folder).close()
