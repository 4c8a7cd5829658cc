# SPDX-License-Identifier: BSD-2-Clause
"""A POP whose network carries no multicast: the gossip and the floods go to each host by itself."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.agents import GOSSIP_PORT
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.table_truth import wait_truth
from tests.box.traffic import Connection, inside, lost, session_of, wait_for

MakeBox = Callable[..., Box]
Fetch = Callable[[Box, int, int], list[int]]

HOSTS = 4
DEAF, KILLED = 3, 1
FEW = 5
ASKED = 30  # times; each is relayed by one of three hosts, drawn anew
CONNECTIONS = 80
SHORT = 40
SMALL = {"table": {"sessions_v4": 4096, "sessions_v6": 4096}}
GROUP = "239.192.7.77"
PORT = 7777
TUNNEL_PORT = 6080


@pytest.fixture
def pop(make_box: MakeBox) -> Iterator[Pop]:
    """Four hosts with an agent each, told of each other by their configuration."""
    made = Pop(make_box(hosts=HOSTS, multicast=False), AGENTS, SMALL)
    yield made
    made.close()


def wait_states(box: Box, tellers: tuple[int, ...], wanted: dict[int, str]) -> None:
    """Until these hosts' agents say so of all others."""

    def agreed() -> bool:
        for teller in tellers:
            said = box.agent_stats(teller)["members"]
            others = {str(host): state for host, state in wanted.items() if host != teller}
            if said != others:
                return False
        return True

    wait_for(f"all say {wanted}", agreed)


@pytest.mark.parametrize("multicast", [True, False])
def test_the_network_carries_multicast_only_where_it_should(
    make_box: MakeBox, multicast: bool
) -> None:
    box = make_box(hosts=2, proxy="none", multicast=multicast)
    source, target = (names.host_address(host).ipv4 for host in box.host_ids)
    with inside(box.host_namespace(2)):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(box.host_namespace(1)):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(15.0)
        receiver.bind(("", PORT))
        joined = socket.inet_aton(GROUP) + socket.inet_aton(target)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        sender.sendto(b"to the group", (GROUP, PORT))
        sender.sendto(b"to the host", (target, PORT))
        first = receiver.recv(100)
    assert first == (b"to the group" if multicast else b"to the host")


def ask_by_all_hops(box: Box, connections: list[Connection]) -> None:
    """Each connection is answered by its owner, whichever host its packets come to."""
    owners = [connection.ask() for connection in connections]
    for hop in box.host_ids:
        box.set_next_hops([hop])
        assert [connection.ask() for connection in connections] == owners
    box.set_next_hops(box.host_ids)


def test_connections_live_while_an_agent_is_killed_and_another_hears_nothing(
    pop: Pop, fetch: Fetch
) -> None:
    box = pop.box
    deaf = f'iifname "eth0" udp dport {GOSSIP_PORT}'
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=1) as crowd:
        crowd.wait_ready()
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, 3, 1, crowd)
        assert pop.count_all("delivered_stray") > 0
        with lost(box, box.host_namespace(DEAF), "input", deaf):
            untold = [Connection(box, family).connect() for family in (4, 6) * FEW]
            ask_by_all_hops(box, untold)
            assert pop.count(DEAF, "miss_flooded") > 0
            change_hops(box, 2, 2, crowd)
        box.kill_agent(KILLED)
        assert len(fetch(box, 4, SHORT)) == SHORT  # some open and close there, untold
        untold += [Connection(box, family).connect() for family in (4, 6) * FEW]
        ask_by_all_hops(box, untold)
        assert pop.count(KILLED, "miss_relayed") > 0
        change_hops(box, 2, 3, crowd)
        box.start_agent(KILLED, SMALL)
        assert wait_truth(box) == CONNECTIONS + len(untold)
        change_hops(box, 2, 4, crowd)
        assert_nothing_broke(crowd.finish())
        ask_by_all_hops(box, untold)
        for connection in untold:
            connection.close()
    assert wait_truth(box) == 0


@pytest.fixture
def connection(pop: Pop) -> Iterator[Connection]:
    """One that host 1 owns, that host 2 does not know, and whose packets come to host 2."""
    pop.box.set_next_hops([1])
    made = Connection(pop.box).connect()
    assert made.ask() == 1
    pop.wait_owner(session_of(made.port), 1)
    pop.box.set_next_hops([2])
    yield made
    made.close()


def wait_sums(pop: Pop, *equal: tuple[str, str, int]) -> None:
    """Until the first counter of each row is so many times the second, over all hosts."""

    def agree() -> bool:
        return all(pop.count_all(one) == times * pop.count_all(two) for one, two, times in equal)

    wait_for(f"{equal}", agree)


def test_a_miss_is_copied_to_each_host_and_one_takes_it(pop: Pop, connection: Connection) -> None:
    session = session_of(connection.port)
    with nothing_misdelivered(pop.box):
        pop.forget(2, session)
        assert connection.ask() == 1
        assert pop.count(2, "miss_flooded") > 0
        pop.ask_until_healed(connection, session, 1)
    wait_sums(
        pop,
        ("flood_copies", "miss_flooded", HOSTS - 2),  # the frame itself goes to one host
        ("delivered_flood", "miss_flooded", 1),
        ("flood_unknown", "miss_flooded", HOSTS - 2),
    )


def test_without_its_loop_a_host_has_its_misses_flooded_by_another_one(
    pop: Pop, connection: Connection
) -> None:
    box, session = pop.box, session_of(connection.port)
    with nothing_misdelivered(box):
        box.kill_agent(2)
        pop.forget(2, session)
        for _ in range(ASKED):
            assert connection.ask() == 1
        assert pop.count(2, "miss_relayed") > ASKED
        assert pop.count_all("misdirected_flooded") > 0, "each was sent to the owner by chance"
        wait_sums(pop, ("delivered_flood", "miss_relayed", 1))
        assert pop.count_all("miss_flooded", "misdirected_dropped") == 0
        box.start_agent(2, SMALL)
        pop.ask_until_healed(connection, session, 1)


def test_hosts_that_were_told_of_one_other_find_all_and_find_them_again(
    make_box: MakeBox,
) -> None:
    box = make_box(hosts=HOSTS, proxy="none", multicast=False)
    first, second = (names.host_address(host).ipv4 for host in (1, 2))
    alive = dict.fromkeys(box.host_ids, "alive")
    box.start_agent(1, {"gossip": {"members": [second]}})
    box.start_agents([2, 3, 4], {"gossip": {"members": [first]}})
    wait_states(box, box.host_ids, alive)
    with ExitStack() as stack:
        for host in box.host_ids:
            others = [4] if host != 4 else [1, 2, 3]
            addresses = ", ".join(names.host_address(other).ipv4 for other in others)
            rule = f"ip daddr {{ {addresses} }} udp dport {{ {GOSSIP_PORT}, {TUNNEL_PORT} }}"
            stack.enter_context(lost(box, box.host_namespace(host), "output", rule))
        wait_states(box, (1, 2, 3), alive | {4: "dead"})
        wait_states(box, (4,), dict.fromkeys(box.host_ids, "dead"))
    wait_states(box, box.host_ids, alive)
    assert box.agent_stats(4)["socket"]["send_failed"] > 0
