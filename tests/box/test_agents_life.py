# SPDX-License-Identifier: BSD-2-Clause
"""Agents that start late, die, freeze, return, leave or meet their double: sessions live on."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyxdp_gossip.popbox import Box, BoxError, agents, leftovers
from pyxdp_gossip.popbox.agents import Settings
from pyxdp_gossip.popbox.commands import run
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.host_maps import program_id
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.traffic import Connection, session_of, start_storm, wait_for

MakeBox = Callable[..., Box]
MakePop = Callable[..., Pop]
STORM_PACKETS = 150_000
STORM_BUDGET_PPS = 500
SHORT_LINGER = """
import sys
from dataclasses import replace
from pyxdp_gossip import cli, config
config.PRESETS = {name: replace(timing, linger_s=2) for name, timing in config.PRESETS.items()}
sys.argv[0] = "pyxdp-gossip"
cli.main()
"""


def state_of(box: Box, teller: int, host: int) -> str | None:
    """What one agent thinks of another host."""
    members: dict[str, str] = box.agent_stats(teller)["members"]
    return members.get(str(host))


def wait_state(box: Box, teller: int, host: int, state: str) -> None:
    wait_for(f"host {teller} says {state} of {host}", lambda: state_of(box, teller, host) == state)


def open_everywhere(box: Box) -> list[Connection]:
    """Twelve connections, four on each host; the tables may or may not know them."""
    opened = []
    for host in box.host_ids:
        box.set_next_hops([host])
        for family in (4, 6, 4, 6):
            connection = Connection(box, family).connect()
            assert connection.ask() == host
            opened.append(connection)
    return opened


def ask_everywhere(box: Box, connections: list[Connection]) -> None:
    """Each connection is asked by way of each host, and always its owner answers."""
    for host in box.host_ids:
        box.set_next_hops([host])
        for number, connection in enumerate(connections):
            assert connection.ask() == box.host_ids[number // 4]


@pytest.fixture
def make_pop(make_box: MakeBox) -> Iterator[MakePop]:
    """Makes a box with an agent on every host."""
    with ExitStack() as stack:

        def make(settings: Settings | None = None, **arguments: int) -> Pop:
            pop = Pop(make_box(**arguments), AGENTS, settings)
            stack.callback(pop.close)
            return pop

        yield make


def test_killed_and_frozen_agents_cost_no_connection(make_pop: MakePop) -> None:
    pop = make_pop(hosts=3)
    box = pop.box
    with nothing_misdelivered(box), Crowd(box, connections=60, seed=1) as crowd:
        crowd.wait_ready()
        change_hops(box, 2, 1, crowd)
        box.kill_agent(1)
        wait_state(box, 2, 1, "silent")
        assert pop.count(1, "probe_answered") > 0
        forwarded = pop.count(1, "stray_forwarded")
        box.set_next_hops([1, 2])
        change_hops(box, 3, 2, crowd)
        assert pop.count(1, "stray_forwarded") > forwarded, "a dead agent's table goes on"
        while_dead = open_everywhere(box)
        ask_everywhere(box, while_dead)
        program = program_id(box, 1)
        pop.reopen(1)
        box.start_agent(1)
        assert program_id(box, 1) != program, "the new agent's program took the old one's place"
        wait_state(box, 2, 1, "alive")
        pop.wait_owner(session_of(while_dead[0].port), 1)
        box.freeze_agent(2)
        wait_state(box, 3, 2, "silent")
        while_frozen = open_everywhere(box)
        change_hops(box, 3, 3, crowd)
        ask_everywhere(box, while_dead)
        ask_everywhere(box, while_frozen)
        box.thaw_agent(2)
        wait_state(box, 3, 2, "alive")
        pop.wait_owner(session_of(while_frozen[4].port), 2)
        change_hops(box, 2, 4, crowd)
        ask_everywhere(box, while_frozen)
        assert_nothing_broke(crowd.finish())
    for connection in while_dead + while_frozen:
        connection.close()


def test_a_storm_of_unknown_acks_starves_no_live_session(make_pop: MakePop) -> None:
    # A budget that any machine's storm exceeds: the test is of the budgets, not of speed.
    small = {"dataplane": {"flood_new_rate_pps": STORM_BUDGET_PPS}}
    pop = make_pop(settings=small, hosts=3, clients=2)
    box = pop.box
    for host in box.host_ids:
        box.kill_agent(host)
    box.client_ids = (1,)  # the crowd's; client 2 storms
    with nothing_misdelivered(box), Crowd(box, connections=40, seed=1) as crowd:
        crowd.wait_ready()
        box.client_ids = (1, 2)
        change_hops(box, 1, 1, crowd)
        brought = pop.count_all("delivered_flood")
        storm = start_storm(box, 2, STORM_PACKETS)
        change_hops(box, 4, 2, crowd)
        assert storm.popen.wait() == 0, storm.log_tail()
        assert pop.count_all("miss_over_budget_new") > STORM_PACKETS // 4
        assert pop.count_all("miss_over_budget_seen") == 0, "who sends again has its own budget"
        assert pop.count_all("delivered_flood") > brought
        assert_nothing_broke(crowd.finish())


def entries(box: Box) -> dict[int, tuple[int, int]]:
    """The number of IPv4 and of IPv6 entries in each host's table, by its agent."""
    tables = {host: box.agent_stats(host)["table"] for host in box.live_hosts()}
    return {host: (table["v4"], table["v6"]) for host, table in tables.items()}


def sockets(box: Box) -> tuple[int, int]:
    """Established sockets of the services in all hosts' kernels, IPv4 and IPv6."""
    found = [0, 0]
    for host in box.live_hosts():
        for index, version in enumerate(("-4", "-6")):
            show = ["ss", "-Htn", version, "state", "established", "sport", "=", ":80"]
            found[index] += len(box.run_in(box.host_namespace(host), show).splitlines())
    return found[0], found[1]


def wait_tables(box: Box, expected: tuple[int, int]) -> None:
    """Until every host's table holds exactly so many entries."""
    wanted = dict.fromkeys(box.live_hosts(), expected)
    wait_for(f"tables of {expected}", lambda: entries(box) == wanted)


def test_sessions_older_than_the_agents_live_and_are_forgotten_when_they_end(
    make_box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_short_linger(_module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", SHORT_LINGER, *arguments]

    monkeypatch.setattr(agents, "python_command", with_short_linger)
    box = make_box(hosts=3)
    older = open_everywhere(box)
    with Crowd(box, connections=60, seed=1) as crowd:
        crowd.wait_ready()
        pop = Pop(box, AGENTS)
        with nothing_misdelivered(box):
            assert sockets(box) == (66, 6)
            wait_tables(box, (66, 6))
            change_hops(box, 5, 1, crowd)
            ask_everywhere(box, older)
            assert pop.count_all("stray_forwarded") > 100
            assert_nothing_broke(crowd.finish())
    for connection in older:
        connection.close()
    wait_tables(box, (0, 0))


def test_every_table_equals_all_kernels_sockets(make_pop: MakePop) -> None:
    pop = make_pop(hosts=3)
    box = pop.box
    kept = open_everywhere(box)
    with nothing_misdelivered(box):
        with Crowd(box, connections=60, seed=2) as crowd:
            crowd.wait_ready()
            gone = open_everywhere(box)
            change_hops(box, 3, 2, crowd)
            for connection in gone:
                connection.close()
            assert_nothing_broke(crowd.finish())
        wait_tables(box, (6, 6))
        assert sockets(box) == (6, 6)
        for number, connection in enumerate(kept):
            session = session_of(connection.port, (4, 6)[number % 2])
            assert pop.owners(session) == {box.host_ids[number // 4]}
        box.set_next_hops([2])
        assert [connection.ask(close=True) for connection in kept][::4] == [1, 2, 3]
        for number, connection in enumerate(kept):
            session = session_of(connection.port, (4, 6)[number % 2])
            connection.close()
            pop.wait_lingering(session)
    assert sockets(box) == (0, 0)


def attached(box: Box, host: int) -> dict[str, bool]:
    """What an agent leaves on its host while it works."""
    space = box.host_namespace(host)
    links = json.loads(box.run_in(space, ["ip", "-j", "link", "show", "eth0"]))
    pins = leftovers.pin_folder(os.getpid()) / f"host-{host}"
    cgroup = run("sockops", ["bpftool", "-j", "cgroup", "show", str(box.host_cgroup(host))])
    return {
        "xdp": "xdp" in links[0],
        "qdisc": "clsact" in box.run_in(space, ["tc", "qdisc", "show", "dev", "eth0"]),
        "group": "239.192.7.2" in box.run_in(space, ["ip", "addr", "show"]),
        "membership": "239.192.7." in box.run_in(space, ["ip", "maddr", "show", "dev", "eth0"]),
        "sockops": bool(cgroup.strip()) and bool(json.loads(cgroup)),
        "pins": pins.exists(),
    }


def program_exists(identifier: int) -> bool:
    try:
        run("a program", ["bpftool", "prog", "show", "id", str(identifier)])
    except BoxError:
        return False
    return True


def test_an_agent_that_is_asked_to_stop_leaves_nothing_behind(make_pop: MakePop) -> None:
    box = make_pop(hosts=2).box
    programs = [program_id(box, 1), program_id(box, 1, "sockops")]
    assert set(attached(box, 1).values()) == {True}
    assert box.stop_agent(1) == 0
    assert [name for name, there in attached(box, 1).items() if there] == []
    wait_for("the programs are freed", lambda: not any(map(program_exists, programs)))
    wait_state(box, 2, 1, "left")
    assert set(attached(box, 2).values()) == {True}
    box.start_agent(1)
    wait_state(box, 2, 1, "alive")
    assert set(attached(box, 1).values()) == {True}


def test_the_younger_of_two_hosts_with_one_id_stops(make_pop: MakePop) -> None:
    pop = make_pop(hosts=3)
    box = pop.box
    assert box.stop_agent(3) == 0
    box.set_next_hops([1, 2])
    with nothing_misdelivered(box), Crowd(box, connections=40, seed=1) as crowd:
        crowd.wait_ready()
        with pytest.raises(BoxError, match="agent of host 3 ended with status 2"):
            box.start_agent(3, {"host": {"id": 1}})
        log = box.agent(3).log.read_text().splitlines()
        said = [line for line in log if "host id 1 is taken" in line]
        assert len(said) == 1
        assert not any("Traceback" in line for line in log)
        assert "duplicate host id" in box.agent(1).log.read_text()
        assert [name for name, there in attached(box, 3).items() if there] == []
        for hops in ([2, 1], [1], [2], [1, 2]):
            box.set_next_hops(hops)
            crowd.wait_report()
            crowd.wait_report()
        assert state_of(box, 2, 1) == "alive"
        assert_nothing_broke(crowd.finish())
