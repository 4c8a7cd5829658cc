# SPDX-License-Identifier: BSD-2-Clause
"""A killed agent is started again while nobody could tell it anything: its table goes on."""

from collections.abc import Callable
from contextlib import closing

from pyxdp_gossip.popbox import Box
from pyxdp_gossip.session import Session
from tests.box.pop import AGENTS, Pop, nothing_misdelivered
from tests.box.traffic import Connection, session_of, wait_for

MakeBox = Callable[..., Box]
FORWARDED = ("stray_forwarded",)
FLOODED = ("miss_flooded", "misdirected_flooded")


class Client:
    """One connection, the host that has it, and how the tables call it."""

    def __init__(self, box: Box, host: int, family: int) -> None:
        box.set_next_hops([host])
        self.connection = Connection(box, family).connect()
        self.host = host
        self.session: Session = session_of(self.connection.port, family)

    def ask(self) -> None:
        """A request, which its own host must answer."""
        assert self.connection.ask() == self.host

    def end(self, box: Box) -> None:
        """Closes it while its packets reach its host; the kernel there knows that at once."""
        box.set_next_hops([self.host])
        self.connection.vanish()


def opened(box: Box, *hosts: int) -> list[Client]:
    """A connection of each family on each of these hosts."""
    clients = [Client(box, host, family) for host in hosts for family in (4, 6)]
    for client in clients:
        box.set_next_hops([client.host])
        client.ask()
    return clients


def established(box: Box, host: int) -> int:
    """How many sockets of the services a host's kernel has."""
    show = ["ss", "-Htn", "state", "established", "sport", "=", ":80"]
    return len(box.run_in(box.host_namespace(host), show).splitlines())


def test_an_agent_started_among_frozen_ones_forwards_by_the_table_of_the_one_before(
    make_box: MakeBox,
) -> None:
    box = make_box(hosts=3)
    with closing(Pop(box, AGENTS)) as pop, nothing_misdelivered(box):
        kept = opened(box, 1, 2, 3)
        ended = opened(box, 1, 2, 3)
        for client in kept + ended:
            pop.wait_owner(client.session, client.host)
        before = {host: established(box, host) for host in box.host_ids}

        box.kill_agent(1)
        for host in (2, 3):
            box.freeze_agent(host)
        for client in ended:
            client.end(box)
        for host in box.host_ids:
            wait_for(
                f"the sockets of host {host} end",
                lambda host=host: established(box, host) == before[host] - 2,
            )
        box.set_next_hops([1])
        strays = [client for client in kept if client.host != 1]
        forwarded, flooded = pop.count(1, *FORWARDED), pop.count(1, *FLOODED)
        agent = box.agent(1)
        agent.spawn()
        rounds = 0
        while not agent.ready.exists() or rounds < 3:
            for client in strays:
                client.ask()
            rounds += 1
        agent.wait_ready()
        assert "maps adopted" in agent.log.read_text()
        pop.reopen(1)
        assert pop.count(1, *FORWARDED) >= forwarded + rounds * len(strays)
        assert pop.count(1, *FLOODED) == flooded, "its table knows who has them"

        for client in kept:
            entry = pop.maps(1).entry(client.session)
            assert entry is not None
            assert entry.owner == client.host
        for client in ended:
            entry = pop.maps(1).entry(client.session)
            assert (entry and entry.owner) == (None if client.host == 1 else client.host)
        for host in (2, 3):
            assert box.agent_stats(1)["members"][str(host)] == "silent"

        for host in (2, 3):
            box.thaw_agent(host)
        for client in ended:
            pop.wait_owner(client.session, None)
        for client in kept:
            pop.wait_owner(client.session, client.host)
        for client in strays:
            client.ask()
        assert pop.count(1, *FLOODED) == flooded
        for client in kept:
            client.connection.close()
