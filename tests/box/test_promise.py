# SPDX-License-Identifier: BSD-2-Clause
"""The promise, packet by packet: with agents, and with the attached programs alone."""

import threading
import time
from collections.abc import Iterator

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import (
    AGENTS,
    NO_AGENT,
    Pop,
    assert_nothing_broke,
    change_hops,
    nothing_misdelivered,
)
from tests.box.traffic import (
    FAMILIES,
    VIPS,
    Connection,
    RawClient,
    hide_raw_ports,
    lost,
    session_of,
    wait_for,
)

BROUGHT = ("delivered_stray", "delivered_flood")
SHORT_CONNECTIONS = 2000
SHORT_THREADS = 4
PAUSES_S = (0.05, 0.1)  # between two changes of the next hops, in turn


@pytest.fixture(scope="module", params=[NO_AGENT, AGENTS])
def pop(request: pytest.FixtureRequest) -> Iterator[Pop]:
    with Box(hosts=3, clients=2) as box:
        hide_raw_ports(box)
        made = Pop(box, request.param)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, pop: Pop) -> int:
    """Both families; the crowd takes the VIP of the box."""
    chosen: int = request.param
    pop.box.vip = VIPS[chosen]
    return chosen


_ports = iter(range(20000, 29000))


@pytest.fixture
def client(pop: Pop, family: int) -> Iterator[RawClient]:
    """A crafted connection that has not begun; no other test has its port."""
    with RawClient(pop.box, next(_ports), family) as made:
        yield made


def established(box: Box, port: int) -> list[int]:
    """The hosts whose kernel holds an established socket of a client's port."""
    show = ["ss", "-Htn", "state", "established", "dport", "=", f":{port}"]
    return [host for host in box.host_ids if box.run_in(box.host_namespace(host), show).strip()]


def test_connections_live_through_harsh_changes(pop: Pop, family: int) -> None:
    flooded = pop.count_all("miss_flooded")
    brought = pop.count_all(*BROUGHT)
    with nothing_misdelivered(pop.box), Crowd(pop.box, connections=60, seed=family) as crowd:
        crowd.wait_ready()
        change_hops(pop.box, 6, family, crowd)
        assert_nothing_broke(crowd.finish())
    assert pop.count_all(*BROUGHT) - brought > 100
    if pop.mode == NO_AGENT:
        assert pop.count_all("miss_flooded") - flooded > 100
        assert pop.count_all("stray_forwarded", "passed_own", "passed_unowned") == 0


class ShortConnections:
    """Connections of one request each, one after another, in a few threads."""

    def __init__(self, box: Box, family: int) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._box, self._family = box, family
        share = SHORT_CONNECTIONS // SHORT_THREADS
        self._threads = [
            threading.Thread(target=self._work, args=(share, number % 2 == 0))
            for number in range(SHORT_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, count: int, server_closes: bool) -> None:
        for _ in range(count):
            connection = Connection(self._box, self._family)
            try:
                connection.connect().ask(close=server_closes)
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()
            self.done += 1

    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)


def test_short_connections_live_while_the_next_hops_never_rest(pop: Pop, family: int) -> None:
    orders = ([1, 2, 3], [3, 1, 2], [2, 3], [2, 3, 1], [1, 3])
    brought = pop.count_all(*BROUGHT)
    with nothing_misdelivered(pop.box):
        short = ShortConnections(pop.box, family)
        changes = 0
        while short.running():
            pop.box.set_next_hops(orders[changes % len(orders)])
            time.sleep(PAUSES_S[changes % 2])
            changes += 1
    assert short.failures == []
    assert changes > 2
    assert pop.count_all(*BROUGHT) > brought


def test_a_syn_sent_twice_to_two_hosts_opens_one_connection(pop: Pop, client: RawClient) -> None:
    box = pop.box
    with nothing_misdelivered(box):
        box.set_next_hops([1])
        client.send("S")
        first = client.expect_synack()
        box.set_next_hops([2])
        client.send_again("S", back=1)
        second = client.expect_synack()
        assert first.seq != second.seq, "two hosts have answered"
        brought = pop.count(1, "delivered_flood")
        client.accept(first)
        client.send("A")
        assert client.ask() == 1
        assert pop.count(1, "delivered_flood") > brought
        assert established(box, client.port) == [1]


def test_a_syn_that_the_kernel_sends_again_elsewhere_opens_one_connection(pop: Pop) -> None:
    box = pop.box
    box.set_next_hops([1])
    connection = Connection(box, port=next(_ports) + 10000)
    no_synack = f"ip saddr {names.VIP4} tcp sport 80 tcp flags & (syn | ack) == syn | ack"
    before = box.observed().syn_acks
    connection.socket.setblocking(False)
    with lost(box, box.client_namespace(1), "input", no_synack):
        assert connection.socket.connect_ex((names.VIP4, names.VIP_PORT)) != 0
        wait_for("host 1 has answered", lambda: box.observed().syn_acks > before)
        box.set_next_hops([2])
    connection.socket.settimeout(15.0)
    with nothing_misdelivered(box):
        wait_for("connected", lambda: _is_connected(connection))
        owner = connection.ask()
        box.set_next_hops([3])
        assert connection.ask() == owner
        assert established(box, connection.port) == [owner]
        connection.close()


def _is_connected(connection: Connection) -> bool:
    try:
        connection.socket.getpeername()
    except OSError:
        return False
    return True


def test_the_last_ack_of_the_handshake_may_come_to_another_host(
    pop: Pop, client: RawClient
) -> None:
    box = pop.box
    with nothing_misdelivered(box):
        box.set_next_hops([1])
        client.send("S")
        client.accept(client.expect_synack())
        brought = pop.count(1, "delivered_flood")
        box.set_next_hops([2])
        client.send("A")
        wait_for("established", lambda: established(box, client.port) == [1])
        assert pop.count(1, "delivered_flood") > brought
        assert client.ask() == 1


def test_the_last_fin_may_come_to_another_host(pop: Pop, client: RawClient, family: int) -> None:
    box = pop.box
    with nothing_misdelivered(box):
        box.set_next_hops([1])
        client.connect()
        session = session_of(client.port, family)
        pop.wait_owner(session, 1)  # an OPEN and its CLOSE in one batch cancel: nobody is told
        assert client.ask(close=True) == 1
        client.expect_fin()
        pop.wait_lingering(session)
        brought = pop.count(1, *BROUGHT)
        box.set_next_hops([2])
        client.send("FA")
        client.expect_ack()
        box.set_next_hops([3])
        client.send_again("FA", back=1)  # the ACK was lost: now to a socket in TIME_WAIT
        client.expect_ack()
        assert pop.count(1, *BROUGHT) == brought + 2


@pytest.mark.parametrize("closer", ["client", "server"])
def test_a_clients_port_is_used_again_at_once_on_another_host(
    pop: Pop, client: RawClient, family: int, closer: str
) -> None:
    box = pop.box
    session = session_of(client.port, family)
    with nothing_misdelivered(box):
        box.set_next_hops([1])
        client.connect()
        assert client.ask(close=closer == "server") == 1
        if closer == "server":
            client.expect_fin()
            client.send("FA")
            client.expect_ack()
        else:
            client.send("FA")
            client.expect_fin()
        with RawClient(box, client.port, family) as again:
            again.seq = client.seq + 100000 & 0xFFFFFFFF
            box.set_next_hops([2])
            again.connect()
            owner = again.ask()
            pop.wait_owner(session, owner)
            brought = pop.count_all(*BROUGHT)
            for hop in (3, 1, 2):
                box.set_next_hops([hop])
                assert again.ask() == owner
            assert pop.count_all(*BROUGHT) > brought
            if pop.mode == NO_AGENT:
                assert owner == 2


def test_a_client_that_vanished_comes_again_with_its_port(pop: Pop) -> None:
    box = pop.box
    box.set_next_hops([1])
    first = Connection(box, port=next(_ports) + 10000).connect()
    assert first.ask() == 1
    port = first.port
    pop.wait_owner(session_of(port), 1)
    with lost(box, box.client_namespace(1), "output", f"tcp sport {port}"):
        first.vanish()
    box.set_next_hops([2])
    with nothing_misdelivered(box):
        again = Connection(box, port=port).connect()
        owner = again.ask()
        pop.wait_owner(session_of(port), owner)
        for hop in (1, 3, 2):
            box.set_next_hops([hop])
            assert again.ask() == owner
        again.close()
    if pop.mode == NO_AGENT:
        assert owner == 2, "nobody told host 2 of the stale socket"


def test_a_stale_socket_does_not_answer_for_a_newer_connection(
    pop: Pop, client: RawClient, family: int
) -> None:
    box = pop.box
    session = session_of(client.port, family)
    box.set_next_hops([1])
    client.connect()
    assert client.ask() == 1
    pop.wait_owner(session, 1)
    if pop.mode == AGENTS:  # host 2 never heard of it
        pop.forget(2, session)
    with nothing_misdelivered(box), RawClient(box, client.port, family) as newer:
        box.set_next_hops([2])
        newer.connect()
        assert newer.ask() == 2
        assert established(box, client.port) == [1, 2]
        pop.wait_owner(session, 2)
        brought = pop.count(2, *BROUGHT)
        for hop in (1, 3, 1):
            box.set_next_hops([hop])
            assert newer.ask() == 2
        assert pop.count(2, *BROUGHT) >= brought + 3


@pytest.fixture
def _cookies_on_host_1(pop: Pop) -> Iterator[None]:
    """The secret is the kernel's: any other host with cookies would accept them too."""
    for host, value in ((1, 2), (2, 0), (3, 0)):
        pop.box.set_tcp_syncookies(host, value)
    yield
    for host in (1, 2, 3):
        pop.box.set_tcp_syncookies(host, 0)


def cookies_received(box: Box, host: int) -> int:
    """How many connections a host's kernel has opened by a SYN cookie."""
    rows = box.run_in(box.host_namespace(host), ["cat", "/proc/net/netstat"]).splitlines()
    return int(dict(zip(rows[0].split(), rows[1].split(), strict=True))["SyncookiesRecv"])


@pytest.mark.usefixtures("_cookies_on_host_1")
def test_a_syn_cookie_that_comes_to_another_host_is_accepted(pop: Pop, client: RawClient) -> None:
    box = pop.box
    before = cookies_received(box, 1)
    with nothing_misdelivered(box):
        box.set_next_hops([1])
        client.send("S")
        client.accept(client.expect_synack())
        brought = pop.count(1, "delivered_flood")
        box.set_next_hops([2])
        client.send("A")
        wait_for("established", lambda: established(box, client.port) == [1])
        assert pop.count(1, "delivered_flood") > brought
        assert cookies_received(box, 1) == before + 1
        assert client.ask() == 1
