# SPDX-License-Identifier: BSD-2-Clause
"""The life of an agent as its operator sees it: signals, ready file, systemd, kill -9, restart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxdp_gossip.key_file import parse_keys
from tests.kernel.agent_host import DEVICE, PATIENCE_S, ROOT, AgentHost, agent_host, wait_for
from tests.kernel.conftest import Namespace

MakeNamespace = Callable[[str], Namespace]
FAR_DEVICE = "far0"
EVERYTHING = [
    f"XDP program on {DEVICE}", f"filter on {DEVICE}", "flood group", "pins", "sockops program"
]  # fmt: skip


@pytest.fixture
def far(netns: MakeNamespace) -> Namespace:
    """Where the other end of the host's interface is."""
    return netns("far")


@pytest.fixture
def host(netns: MakeNamespace, far: Namespace, tmp_path: Path) -> Iterator[AgentHost]:
    """A host that an agent can run on."""
    with agent_host(netns("h"), tmp_path) as made:
        made.connect(far, FAR_DEVICE)
        yield made


def gossip(*words: str) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pyxdp_gossip", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def test_keygen_prints_one_valid_line_and_never_the_same() -> None:
    first, second = gossip("keygen"), gossip("keygen", "--id", "7")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.count("\n") == second.stdout.count("\n") == 1
    (key,), (other,) = parse_keys(first.stdout, "first"), parse_keys(second.stdout, "second")
    assert (key.id, other.id) == (1, 7)
    assert key.secret != other.secret
    assert first.stderr == second.stderr == ""


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--version",), ("run", "--help")])
def test_help_and_version_are_no_errors(words: tuple[str, ...]) -> None:
    done = gossip(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pyxdp-gossip" in done.stdout


def test_the_installed_command_is_the_same_program() -> None:
    script = Path(sys.executable).with_name("pyxdp-gossip")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == gossip("--version").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_cleanly_with_status_0(host: AgentHost, number: signal.Signals) -> None:
    agent = host.start_synced()
    assert host.attached() == EVERYTHING
    host.stop(agent, number)
    assert host.attached() == []
    assert not host.ready.exists()
    assert host.stats.exists()


def test_a_signal_while_the_host_still_joins_leaves_cleanly(host: AgentHost) -> None:
    agent = host.start()
    wait_for(lambda: "sockops program" in host.attached(), "the first attachment")
    assert not host.ready.exists()
    host.stop(agent)
    assert host.attached() == []


def test_a_running_agent_has_not_what_it_does_not_use(host: AgentHost) -> None:
    agent = host.start_synced()
    host.counters(agent)
    mapped = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "/_native." in mapped
    for library in ("/_ssl.", "/_hashlib.", "/_sqlite3.", "/_asyncio."):
        assert library not in mapped
    host.stop(agent)


def test_sigusr1_writes_the_counters_and_the_agent_goes_on(host: AgentHost) -> None:
    agent = host.start_synced()
    counters = host.counters(agent)
    assert (counters["host"], counters["attached"], counters["synced"]) == (1, "native", True)
    assert counters["gossip"]
    assert host.counters(agent)["socket"]["sent"] >= counters["socket"]["sent"]
    assert agent.poll() is None
    assert sorted(path.name for path in host.folder.glob("ready*")) == ["ready", "ready.stats.json"]
    host.stop(agent)


def test_the_ready_file_of_a_killed_agent_goes_before_the_next_one_is_synced(
    host: AgentHost,
) -> None:
    agent = host.start_synced()
    agent.kill()
    agent.wait(PATIENCE_S)
    assert host.ready.exists()
    successor = host.start()
    wait_for(lambda: not host.ready.exists() or host.is_ready(successor), "the old file's end")
    wait_for(lambda: host.is_ready(successor), "the ready file")
    host.stop(successor)


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told_when_the_host_is_synced_and_when_it_stops(
    host: AgentHost, abstract: bool
) -> None:
    name = f"@xg-{os.getpid()}-notify" if abstract else str(host.folder / "notify")
    # In the host's namespace: an abstract name belongs to one.
    with host.namespace.run(socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1) if abstract else name)
        manager.settimeout(PATIENCE_S)
        agent = host.start(environment={"NOTIFY_SOCKET": name})
        assert manager.recv(64) == b"READY=1"
        assert host.is_ready(agent)
        host.stop(agent)
        assert manager.recv(64) == b"STOPPING=1"


def test_a_notify_socket_that_nobody_reads_is_logged_and_survived(host: AgentHost) -> None:
    agent = host.start_synced(environment={"NOTIFY_SOCKET": str(host.folder / "nobody")})
    agent.send_signal(signal.SIGTERM)
    stderr = agent.communicate(timeout=PATIENCE_S)[1]
    assert agent.returncode == 0
    assert "NOTIFY_SOCKET takes nothing" in stderr
    assert host.attached() == []


def test_after_kill_9_everything_stays_and_the_next_agent_takes_its_place(
    host: AgentHost,
) -> None:
    agent = host.start_synced()
    program, before = host.xdp_program(), host.attached()
    link = host.xdp_link()
    agent.kill()
    agent.wait(PATIENCE_S)
    assert (host.xdp_program(), host.attached()) == (program, before)
    successor = host.start_synced()
    assert host.xdp_program() != program
    assert host.xdp_link() == link  # replaced in place: no packet went between
    assert host.attached() == before
    host.stop(successor)
    assert host.attached() == []


def test_a_signal_while_a_successor_still_joins_takes_the_killed_agents_programs_off_too(
    host: AgentHost,
) -> None:
    agent = host.start_synced()
    sockops = host.sockops_program()
    agent.kill()
    agent.wait(PATIENCE_S)
    successor = host.start()
    wait_for(lambda: host.sockops_program() != sockops, "the first thing that is taken over")
    host.stop(successor)
    assert host.attached() == []


def test_a_successor_that_may_not_start_leaves_the_killed_agents_program_at_work(
    host: AgentHost,
) -> None:
    agent = host.start_synced()
    program = host.xdp_program()
    agent.kill()
    agent.wait(PATIENCE_S)
    host.configure({"host": {"address": "10.9.9.9"}})
    assert "check [host] address" in host.refusal()
    assert host.xdp_program() == program
    host.configure({})
    successor = host.start_synced()
    host.stop(successor)
    assert host.attached() == []


def test_after_kill_9_an_interface_that_was_made_anew_gets_a_program_of_its_own(
    host: AgentHost, far: Namespace
) -> None:
    agent = host.start_synced()
    agent.kill()
    agent.wait(PATIENCE_S)
    host.namespace.ip(f"link del {DEVICE}")
    host.connect(far, FAR_DEVICE)
    assert host.xdp_program() is None
    successor = host.start_synced()
    assert host.xdp_program() is not None
    host.stop(successor)
    assert host.attached() == []


def test_after_kill_9_another_id_on_the_interface_is_told_whose_program_is_there(
    host: AgentHost,
) -> None:
    agent = host.start_synced()
    agent.kill()
    agent.wait(PATIENCE_S)
    other = host.pins.with_name("host-9")
    host.configure({"host": {"id": 9}, "dataplane": {"pins": str(other)}})
    assert "another id goes with its pins" in host.refusal()
    assert not other.exists()
    host.configure({})
    host.stop(host.start_synced())
    assert host.attached() == []
