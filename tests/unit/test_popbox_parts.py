# SPDX-License-Identifier: BSD-2-Clause
"""The pure parts of the box: addresses, changes, counts, configurations, refusals."""

import io
import json
import os
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pyxdp_gossip.config import Config
from pyxdp_gossip.popbox import Box, BoxError, agents, commands, names, routes
from pyxdp_gossip.popbox.changes import NEXT_HOPS_MIN, ChangeSource, reorder
from pyxdp_gossip.popbox.client import Outcome
from pyxdp_gossip.popbox.comparison import DemoOptions, DemoResult, PhaseResult
from pyxdp_gossip.popbox.crowd import Tally, tally
from pyxdp_gossip.popbox.demo import demo_command, result_table, verdict
from pyxdp_gossip.popbox.observer import Observed


@given(hosts=st.integers(3, 16), seed=st.integers(0, 2**32))
def test_changes_never_leave_fewer_than_two_next_hops(hosts: int, seed: int) -> None:
    source = ChangeSource(range(1, hosts + 1), seed)
    before: tuple[int, ...] = tuple(range(1, hosts + 1))
    for _ in range(20):
        change = source.draw()
        assert len(change.hosts) == len(set(change.hosts)) >= NEXT_HOPS_MIN
        assert change.hosts != before, "each change changes something"
        before = change.hosts


@given(hosts=st.integers(3, 16), seed=st.integers(0, 2**32), count=st.integers(0, 8))
def test_a_withdrawn_host_never_comes_back(hosts: int, seed: int, count: int) -> None:
    source = ChangeSource(range(1, hosts + 1), seed)
    for _ in range(count):
        before = source.draw()
    victim = source.draw_victim()
    assert count == 0 or victim in before.hosts
    assert victim not in source.withdraw(victim).hosts
    for _ in range(20):
        change = source.draw()
        assert victim not in change.hosts
        assert len(change.hosts) >= NEXT_HOPS_MIN


def test_the_same_seed_gives_the_same_changes() -> None:
    first, second, other = (ChangeSource((1, 2, 3, 4), seed) for seed in (5, 5, 6))
    drawn = [first.draw() for _ in range(10)]
    assert drawn == [second.draw() for _ in range(10)]
    assert drawn != [other.draw() for _ in range(10)]


@given(size=st.integers(2, 16), source=st.randoms(use_true_random=False))
def test_reordering_moves_every_host(size: int, source: object) -> None:
    hosts = tuple(range(size))
    moved = reorder(hosts, source)  # type: ignore[arg-type]
    assert sorted(moved) == list(hosts)
    assert all(left != right for left, right in zip(hosts, moved, strict=True))


def test_changes_need_two_hosts_alive() -> None:
    with pytest.raises(BoxError, match="need 2 or more"):
        ChangeSource((1,), 1)
    with pytest.raises(BoxError, match="need 2 or more"):
        ChangeSource((1, 2), 1).draw_victim()


def test_a_connection_of_a_killed_host_is_counted_apart() -> None:
    outcomes = [
        Outcome("requests", owner=1),
        Outcome("requests", owner=2, broken="owner_died", owner_died=True),
        Outcome("requests", owner=2, broken="ConnectionResetError"),
        Outcome("requests", owner=1, broken="eof"),
        Outcome("download", owner=None, broken="stalled", wrong_bytes=True),
    ]
    count = tally(outcomes)
    assert (count.connections, count.broken, count.broken_owner_died) == (5, 3, 1)
    assert count.wrong_bytes == 1
    assert count.reasons == {"eof": 1, "stalled": 1, "ConnectionResetError": 1}


@pytest.mark.parametrize("hosts", [[], [1, 1]])
def test_next_hops_are_named_once_each(hosts: list[int]) -> None:
    with pytest.raises(BoxError, match="each once"):
        routes.change(hosts, "plain")


def test_an_unknown_kind_of_next_hops_is_refused() -> None:
    with pytest.raises(BoxError, match="use one of plain, group, resilient"):
        routes.change([1], "magic")  # type: ignore[arg-type]


def test_addresses_of_all_hosts_differ() -> None:
    every = [names.host_address(host) for host in range(1, names.HOSTS_MAX + 1)]
    for field in ("mac", "ipv4", "ipv6"):
        assert len({getattr(address, field) for address in every}) == names.HOSTS_MAX


@pytest.mark.parametrize(
    "arguments",
    [{"hosts": 0}, {"hosts": 65}, {"clients": -1}, {"clients": 9}, {"proxy": "apache"}],
)
def test_a_box_refuses_what_it_cannot_build(arguments: dict[str, object]) -> None:
    with pytest.raises(BoxError, match="use"):
        Box(**arguments)  # type: ignore[arg-type]


def test_the_agents_configuration_is_one_that_the_agent_reads(tmp_path: Path) -> None:
    folder = tmp_path / "h3"
    agents.write_key_file(tmp_path / "gossip.key")
    tables = agents.default_settings(3, folder, Path("/sys/fs/bpf/x"), Path("/cgroup/h3"))
    text = agents.to_toml(tables)
    assert tomllib.loads(text) == tables
    config = Config.from_dict(tomllib.loads(text), folder=tmp_path)
    assert config.host.id == 3
    assert config.warnings == ()
    assert [service.port for service in config.services] == [80, 80]


def test_without_multicast_an_agent_is_told_of_the_others(tmp_path: Path) -> None:
    agents.write_key_file(tmp_path / "gossip.key")
    members = ["10.8.0.11", "10.8.0.12"]
    tables = agents.default_settings(3, tmp_path / "h3", Path("/p"), Path("/c"), members)
    config = Config.from_dict(tomllib.loads(agents.to_toml(tables)), folder=tmp_path)
    assert config.gossip.group is None
    assert [str(member) for member in config.gossip.members] == members


def test_the_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "gossip.key"
    agents.write_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.shutil, "which", lambda program, path: None)
    with pytest.raises(BoxError, match="nginx not found; run: apt-get install nginx-light"):
        commands.require_programs("nginx")


def test_the_demo_says_in_one_line_that_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(demo_command, [])
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if "pyxdp-gossip demo:" in line]
    assert lines == ["pyxdp-gossip demo: network namespaces need root; run it with sudo"]


@pytest.mark.parametrize("option", ["--hosts=2", "--connections=0", "--changes=0"])
def test_the_demo_refuses_numbers_outside_its_limits(option: str) -> None:
    result = CliRunner().invoke(demo_command, [option])
    assert result.exit_code == 2
    assert "use " in result.output


def test_the_demo_finds_a_missing_folder_before_it_runs(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo_command, ["--json", str(tmp_path / "none" / "demo.json")])
    assert result.exit_code == 2
    assert "no such folder; make it first" in result.output


def test_the_table_shows_both_phases() -> None:
    result = DemoResult(DemoOptions(), phase(300, 900, 0, ""), phase(0, 0, 0, "xdp"), 30.0)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result_table(result))
    text = console.export_text()
    assert "with pyxdp-gossip (xdp)" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert ["broken", "300", "0"] in rows
    assert ["broken, their owner was killed", "-", "9"] in rows
    assert ["misdelivered", "900", "0"] in rows


def phase(broken: int, misdelivered: int, wrong_bytes: int, mode: str) -> PhaseResult:
    clients = Tally(400, broken, 9, wrong_bytes, 1000, 10**6, {})
    return PhaseResult(clients, Observed(10, 1, 0, misdelivered, 0, 0), 5, 6, mode, victim=2)


@pytest.mark.parametrize(
    ("broken", "misdelivered", "wrong_bytes", "good"),
    [(0, 0, 0, True), (1, 0, 0, False), (0, 1, 0, False), (0, 0, 1, False)],
)
def test_the_result_is_good_only_if_the_promise_held(
    broken: int, misdelivered: int, wrong_bytes: int, good: bool
) -> None:
    after = phase(broken, misdelivered, wrong_bytes, "xdp")
    result = DemoResult(DemoOptions(), phase(300, 900, 0, ""), after, 30.0)
    assert result.good is good
    assert verdict(result).startswith("FAILED") is not good


def test_the_result_has_the_keys_that_others_rely_on() -> None:
    result = DemoResult(DemoOptions(), phase(300, 900, 0, ""), phase(0, 0, 0, "xdp"), 30.0)
    answer = json.loads(json.dumps(result.as_json()))
    assert {"hosts", "connections", "changes", "seed", "baseline", "gossip"} <= set(answer)
    assert answer["baseline"]["broken"] == 300
    gossip = answer["gossip"]
    assert gossip["broken"] == 0
    assert gossip["broken_owner_died"] == 9
    assert gossip["strays_forwarded"] == 5
    assert gossip["flooded"] == 6
    assert gossip["misdelivered"] == 0
    assert gossip["mode"] == "xdp"
