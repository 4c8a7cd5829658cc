# SPDX-License-Identifier: BSD-2-Clause
"""A service comes to one host after the other, live: nothing breaks, and all know its sessions."""

import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.crowd import Crowd
from pyxdp_gossip.session import Session
from tests.box.host_maps import program_id
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.traffic import Connection, wait_for

MakeBox = Callable[..., Box]
NEW_PORT, OTHER_PORT = 8080, 8081
# The last host gets two services at once, so that the one that all have is in another slot there.
ADDED = {1: (NEW_PORT,), 2: (NEW_PORT,), 3: (OTHER_PORT, NEW_PORT)}
SLOT = {1: 2, 2: 2, 3: 3}
SERVE = """
import socket, sys, threading

def serve(client):
    while client.recv(1):
        client.sendall(sys.argv[3].encode())
    client.close()

listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class NewConnection(Connection):
    """A connection to the service that is new; its host answers each byte with its id."""

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._vip = (names.VIP4, NEW_PORT)
        self.connect()
        self.host = self.ask()
        address = names.client_address(1).ipv4
        self.session = Session.tcp(f"{address}:{self.port}", f"{names.VIP4}:{NEW_PORT}")

    def ask(self, *, close: bool = False) -> int:
        self.socket.sendall(b"?")
        answer = self.socket.recv(16)
        assert answer, "the connection ended in place of an answer"
        return int(answer)


@pytest.fixture
def pop(make_box: MakeBox) -> Iterator[Pop]:
    """A box whose hosts all listen on the new port, which no agent knows."""
    made = Pop(make_box(hosts=3), AGENTS)
    for host in made.box.host_ids:
        argv = [sys.executable, "-c", SERVE, names.VIP4, str(NEW_PORT), str(host)]
        made.box.start_on_host(host, "new service", argv)
    show = ["ss", "-Htln", "sport", "=", f":{NEW_PORT}"]
    for host in made.box.host_ids:
        space = made.box.host_namespace(host)
        wait_for("the listener", lambda space=space: made.box.run_in(space, show).strip() != "")
    yield made
    made.close()


def open_on(box: Box, host: int) -> NewConnection:
    """A connection to the new service of this very host."""
    box.set_next_hops([host])
    connection = NewConnection(box)
    assert connection.host == host
    return connection


def add_services(box: Box, host: int) -> None:
    """Writes them into a host's configuration, and has it read."""
    agent = box.agent(host)
    with agent.config.open("a") as file:
        for port in ADDED[host]:
            file.write(f'[[service]]\nvip = "{names.VIP4}"\nport = {port}\nprotocol = "tcp"\n')
    agent.signal(signal.SIGUSR2)
    wait_for("the reload", lambda: "services added" in agent.log.read_text())


def owners(pop: Pop, connection: NewConnection) -> list[int | None]:
    """What the tables of all hosts say."""
    entries = (pop.maps(h).entry(connection.session, SLOT[h]) for h in pop.box.host_ids)
    return [None if entry is None else entry.owner for entry in entries]


def test_a_rolling_reload_brings_a_service_and_breaks_nothing(pop: Pop) -> None:
    box = pop.box
    programs = [program_id(box, host) for host in box.host_ids]
    opened = [open_on(box, host) for host in box.host_ids]  # before any agent is told
    with nothing_misdelivered(box), Crowd(box, connections=60, seed=8) as crowd:
        box.set_next_hops(box.host_ids)
        crowd.wait_ready()
        for host in box.host_ids:
            add_services(box, host)
            change_hops(box, 3, host, crowd)
            opened += [open_on(box, other) for other in box.host_ids]  # some are told, some not
        for connection in opened:
            expected = [connection.host] * 3
            wait_for("all know it", lambda c=connection, e=expected: owners(pop, c) == e)
        change_hops(box, 3, 9, crowd)
        assert_nothing_broke(crowd.finish())
    flooded = pop.count_all("miss_flooded")
    for host in box.host_ids:
        box.set_next_hops([host])
        for connection in opened:
            assert connection.ask() == connection.host
    assert pop.count_all("miss_flooded") == flooded
    assert [program_id(box, host) for host in box.host_ids] == programs
    for connection in opened:
        connection.close()
    for connection in opened:  # those from before the reload are told by nobody but the kernel
        wait_for("its end", lambda c=connection: is_over(pop, c))


def is_over(pop: Pop, connection: NewConnection) -> bool:
    """No table shows it as open."""
    entries = (pop.maps(h).entry(connection.session, SLOT[h]) for h in pop.box.host_ids)
    return all(entry is None or entry.flags for entry in entries)
