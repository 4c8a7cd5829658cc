# SPDX-License-Identifier: BSD-2-Clause
"""How the box starts, stops, freezes and questions agents: against a stand-in for the agent."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxdp_gossip.popbox import Box, BoxError, agents, cgroups

MakeBox = Callable[..., Box]

STAND_IN = """
import json, os, pathlib, signal, sys, tomllib
config, ready = pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[5])
host = tomllib.loads(config.read_text())["host"]
if host.get("address") == "wrong":
    sys.exit("pyxdp-gossip: host.address: wrong")
def write_stats(*_):
    stats = pathlib.Path(f"{ready}.stats.json")
    draft = stats.with_suffix(".new")
    draft.write_text(json.dumps({"dataplane": {"stray_forwarded": host["id"]}, "mode": "xdp"}))
    draft.rename(stats)
def leave(*_):
    write_stats()
    sys.exit(0)
signal.signal(signal.SIGUSR1, write_stats)
signal.signal(signal.SIGTERM, leave)
ready.touch()
while True:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-c", STAND_IN, *arguments[1:]]

    monkeypatch.setattr(agents, "python_command", command)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_agent_runs_in_its_hosts_namespace_and_cgroup(make_box: MakeBox) -> None:
    box = make_box(hosts=2, proxy="none")
    box.start_agents()
    for host in (1, 2):
        process = box.agent(host).process
        assert process is not None
        namespace = Path(f"/run/netns/{box.host_namespace(host)}").stat().st_ino
        assert Path(f"/proc/{process.pid}/ns/net").stat().st_ino == namespace
        assert cgroups.processes(box.host_cgroup(host)) == [process.pid]
        assert tomllib.loads(box.agent(host).config.read_text())["host"]["id"] == host


def test_an_agents_counters_are_asked_for_and_left_at_its_stop(make_box: MakeBox) -> None:
    box = make_box(hosts=2, proxy="none")
    box.start_agent(2)
    assert box.agent_stats(2)["dataplane"] == {"stray_forwarded": 2}
    assert box.stop_agent(2) == 0
    assert box.agent_stats(2)["mode"] == "xdp"
    with pytest.raises(BoxError, match="host 1 left no counters"):
        box.agent_stats(1)


def test_an_agent_is_frozen_thawed_killed_and_started_again(make_box: MakeBox) -> None:
    box = make_box(hosts=1, proxy="none")
    box.start_agent(1)
    process = box.agent(1).process
    assert process is not None
    box.freeze_agent(1)
    process.wait_until(lambda: state(process.pid) == "T", "stopped", 5.0)
    box.thaw_agent(1)
    process.wait_until(lambda: state(process.pid) == "S", "thawed", 5.0)
    box.kill_agent(1)
    assert cgroups.has_ended(process.pid)
    box.start_agent(1)
    assert box.agent(1).process is not process


def test_an_agent_that_does_not_start_is_shown_with_its_own_words(make_box: MakeBox) -> None:
    box = make_box(hosts=1, proxy="none")
    with pytest.raises(BoxError, match=r"agent of host 1 ended with status 1: .*host\.address"):
        box.start_agent(1, {"host": {"address": "wrong"}})


def test_settings_are_added_to_the_configuration(make_box: MakeBox) -> None:
    box = make_box(hosts=1, proxy="none")
    box.start_agent(1, {"metrics": {"listen": "127.0.0.1:9469"}, "dataplane": {"plane": "xsk"}})
    tables = tomllib.loads(box.agent(1).config.read_text())
    assert tables["metrics"] == {"listen": "127.0.0.1:9469"}
    assert tables["dataplane"]["plane"] == "xsk"
    assert tables["dataplane"]["cgroup"] == str(box.host_cgroup(1))
