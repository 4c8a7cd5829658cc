# SPDX-License-Identifier: BSD-2-Clause
"""Keys of running agents, read again by SIGUSR2: nobody is lost, and the old key opens nothing."""

from __future__ import annotations

import base64
import signal
import subprocess

from tests.kernel import test_node
from tests.kernel.agent_host import AgentHost, wait_for
from tests.kernel.test_node import Pair

hosts = test_node.hosts

OLD = f"1 {base64.b64encode(bytes(range(32))).decode()}\n"
NEW = f"2 {base64.b64encode(bytes(range(1, 33))).decode()}\n"
Running = list[tuple[AgentHost, subprocess.Popen[str]]]


def rotate(running: Running, text: str) -> None:
    """Writes the key file of both hosts, and has it read."""
    for host, process in running:
        (host.folder / "gossip.key").write_text(text)
        process.send_signal(signal.SIGUSR2)


def gossip(host: AgentHost, process: subprocess.Popen[str]) -> dict[str, int]:
    found: dict[str, int] = host.counters(process)["gossip"]
    return found


def wait_for_traffic(running: Running) -> None:
    """Each heard of the other after this moment: heartbeats come ten times a second."""
    before = [gossip(*row)["datagrams_in"] for row in running]
    for row, count in zip(running, before, strict=True):
        wait_for(lambda row=row, count=count: gossip(*row)["datagrams_in"] > count + 20, "traffic")


def test_three_reloads_change_the_key_and_nobody_is_lost(hosts: Pair) -> None:
    running = [(host, host.start_synced()) for host in hosts]
    for text in (OLD + NEW, NEW + OLD, NEW):
        rotate(running, text)
        wait_for_traffic(running)
    for host, process in running:
        found = host.counters(process)
        assert set(found["members"].values()) == {"alive"}
        counts = found["gossip"]
        assert (counts["bad_seal"], counts["unknown_key"]) == (0, 0)
    for host, process in running:
        host.stop(process)


def test_a_wrong_key_file_changes_nothing_and_is_said_in_one_line(hosts: Pair) -> None:
    host = hosts[0]
    process = host.start_synced()
    (host.folder / "gossip.key").write_text("what is this\n")
    process.send_signal(signal.SIGUSR2)
    assert host.counters(process)["synced"]
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    (line,) = (line for line in stderr.splitlines() if "not reloaded" in line)
    assert "gossip.key:1: expected" in line
