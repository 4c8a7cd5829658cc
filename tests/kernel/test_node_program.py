# SPDX-License-Identifier: BSD-2-Clause
"""A Node inside a program: event loops, threads, forks, and every way in which a program ends."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pyxdp_gossip import Explanation, MemberChanged, MemberState, Node, NodeEvent, Session, Synced
from tests.kernel import test_node
from tests.kernel.agent_host import PATIENCE_S, AgentHost, wait_for
from tests.kernel.test_node import (
    CALLS,
    EVERYTHING,
    QUIC4,
    Pair,
    assert_nothing_is_left,
    both,
    node_of,
    running,
    wait_for_state,
)

ROOT = Path(__file__).resolve().parent.parent.parent
hosts = test_node.hosts
host = test_node.host

# ---- event loops ----


def test_the_descriptor_of_a_node_wakes_a_selector_and_the_end_does(hosts: Pair) -> None:
    seen: list[NodeEvent] = []
    node = node_of(hosts[0])
    poll = select.poll()
    poll.register(node, select.POLLIN)
    assert poll.poll(0) == []

    def read_until(enough: Callable[[], bool]) -> None:
        while not enough():
            assert poll.poll(PATIENCE_S * 1000), seen
            event = node.events().next_event()
            assert event is not None
            seen.append(event)

    hosts[0].namespace.run(node.start)
    try:
        read_until(lambda: Synced(partial=False) in seen)
        with running(hosts[1]):
            read_until(lambda: any(isinstance(event, MemberChanged) for event in seen))
    finally:
        node.stop()
    while (event := node.events().next_event()) is not None:
        seen.append(event)
    assert poll.poll(0) == [(node.fileno(), select.POLLIN)]


def test_events_can_be_awaited_beside_other_tasks(hosts: Pair) -> None:
    async def main(node: Node) -> list[NodeEvent]:
        async def read() -> list[NodeEvent]:
            return [event async for event in node.events()]

        def another_host_comes_and_all_ends() -> None:
            with running(hosts[1]):
                wait_for_state(node, 2, MemberState.ALIVE)
            node.stop()

        reader = asyncio.create_task(read())
        await asyncio.to_thread(another_host_comes_and_all_ends)
        return await reader

    with running(hosts[0]) as node:
        events = asyncio.run(asyncio.wait_for(main(node), PATIENCE_S))
    assert events[0] == Synced(partial=False)
    assert all(isinstance(event, NodeEvent) for event in events)
    assert {event.host for event in events if isinstance(event, MemberChanged)} == {2}


# ---- threads ----


def test_threads_that_call_while_the_node_stops_get_an_answer_or_one_clear_refusal(
    host: AgentHost,
) -> None:
    refusals = {"the node is not running", "the node has stopped"}
    begun = threading.Barrier(len(CALLS) + 1)

    def call_until_refused(call: Callable[[Node], object], node: Node) -> str:
        call(node)
        begun.wait(PATIENCE_S)
        while True:
            try:
                call(node)
            except RuntimeError as refusal:
                return str(refusal)

    with running(host) as node, ThreadPoolExecutor(len(CALLS)) as threads:
        callers = [threads.submit(call_until_refused, call, node) for call in CALLS]
        begun.wait(PATIENCE_S)
        node.stop()
        assert {caller.result(PATIENCE_S) for caller in callers} <= refusals
    assert node.failure is None
    assert_nothing_is_left(host)


# ---- forks ----


def test_after_a_fork_the_child_is_refused_and_the_parent_goes_on(host: AgentHost) -> None:
    uses: list[Callable[[Node], object]] = [
        *CALLS, Node.start, Node.stop, Node.wait_synced, Node.wait, Node.fileno, Node.events,
        lambda node: node.failure, lambda node: node.is_synced, lambda node: node.explain(b""),
        lambda node: next(stream), lambda node: stream.next_event(), lambda node: stream.fileno(),
    ]  # fmt: skip

    def refused(use: Callable[[Node], object]) -> bool:
        try:
            use(node)
        except RuntimeError as error:
            return str(error) == "a Node belongs to the process that made it; make one after fork"
        return False

    with running(host) as node:
        stream = node.events()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if all(refused(use) for use in uses) else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert node.owner(QUIC4) is None
        assert stream.next_event(PATIENCE_S) == Synced(partial=False)
        assert host.attached() == EVERYTHING


# ---- programs and their ends ----

PROGRAM = """
import gc, os, sys
import pyxdp_gossip as xg

def say_and_wait():
    print("ready", flush=True)
    sys.stdin.readline()

node = xg.Node(xg.Config.load(sys.argv[1]))
node.start()
node.wait_synced()
"""


@contextmanager
def program(host: AgentHost, text: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program with a running node, up to its line "ready"."""
    process = subprocess.Popen(
        [
            "nsenter", f"--net=/run/netns/{host.namespace.name}", sys.executable, "-c",
            PROGRAM + textwrap.dedent(text), str(host.config),
        ],
        cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    host.processes.append(process)
    assert process.stdout
    with process.stdout:
        while (line := process.stdout.readline()) != "ready\n":  # the log goes there too
            assert line, process.communicate(timeout=PATIENCE_S)
        yield process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Lets a program go on to its end; status and standard error without log lines."""
    assert process.stdin
    assert process.stderr
    process.stdin.close()
    stderr = process.stderr.read()
    return process.wait(PATIENCE_S), stderr


ENDS = {
    "the last line": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ValueError('mine')", 1),
    "an exit in a class that holds the node": ("class Holder: pass\nHolder.node = node\nexit()", 0),
    "an exit while a daemon thread reads": (
        "import threading\n"
        "threading.Thread(target=list, args=(node.events(),), daemon=True).start()", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "status"), ENDS.values(), ids=ENDS.keys())
def test_a_program_that_forgets_to_stop_leaves_nothing_attached(
    host: AgentHost, text: str, status: int
) -> None:
    with program(host, f"say_and_wait()\n{text}\n") as process:
        assert host.attached() == EVERYTHING
        found, stderr = end(process)
        assert (found, "ValueError: mine" in stderr) == (status, "ValueError" in text), stderr
    assert_nothing_is_left(host)


def test_a_node_that_nobody_holds_any_more_stops_by_itself(host: AgentHost) -> None:
    text = """
    import warnings
    warnings.simplefilter("default")
    say_and_wait()
    del node
    gc.collect()
    sys.stdin.readline()
    """
    with program(host, text) as process:
        assert host.attached() == EVERYTHING
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for(lambda: host.attached() == [], "everything to be taken off")
        assert process.poll() is None
        status, stderr = end(process)
        assert status == 0
        assert "a running Node was forgotten" in stderr
    assert_nothing_is_left(host)


@pytest.mark.parametrize("ending", ["sys.exit(0)", "del node; gc.collect(); sys.exit(0)"])
def test_a_child_that_ends_takes_nothing_off_its_parents_interface(
    host: AgentHost, ending: str
) -> None:
    text = f"""
    child = os.fork()
    if child == 0:
        {ending}
    assert os.waitpid(child, 0)[1] == 0
    say_and_wait()
    """
    with program(host, text) as process:
        assert host.attached() == EVERYTHING
        assert end(process)[0] == 0
    assert_nothing_is_left(host)


def test_a_child_may_have_a_node_of_its_own(hosts: Pair) -> None:
    text = f"""
    sys.stdout.flush()
    if os.fork() == 0:
        os.setsid()
        import ctypes
        place = os.open("/run/netns/{hosts[1].namespace.name}", os.O_RDONLY)
        assert ctypes.CDLL(None).setns(place, 0x40000000) == 0
        mine = xg.Node(xg.Config.load("{hosts[1].config}"))
        mine.start()
        mine.wait_synced()
        sys.exit(0)
    assert os.wait()[1] == 0
    say_and_wait()
    """
    with program(hosts[0], text) as process:
        assert_nothing_is_left(hosts[1])
        assert hosts[0].attached() == EVERYTHING
        assert end(process)[0] == 0
    assert_nothing_is_left(hosts[0])


# ---- explain ----


def frame_of(session: Session, flags: str = "A") -> bytes:
    """A packet of the session as the router sends it."""
    layers = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:fe") / IP(
        src=str(session.client), dst=str(session.vip)
    )
    ports = {"sport": session.client_port, "dport": session.port}
    return bytes(
        layers / (UDP(**ports) if session.protocol == "udp" else TCP(flags=flags, **ports))
    )


def agreed(node: Node, frame: bytes) -> Explanation:
    """The explanation, which the XDP program in the kernel must share."""
    found = node.explain(frame)
    run = node._call(lambda agent: agent.dataplane.test_run(frame))
    if run.action == "redirect":  # the loop writes the headers, not the program
        assert found.action == "tx"
        return found
    assert run.action == found.action
    if found.action != "drop":
        assert run.frame == found.output
    return found


def test_a_live_host_explains_what_its_program_does(hosts: Pair) -> None:
    web = Session.tcp("203.0.113.9:51000", "198.51.100.1:80")
    far = Session.tcp("203.0.113.9:51000", "198.51.100.9:80")
    with both(hosts) as (one, two):
        two.claim(QUIC4)
        wait_for(lambda: one.owner(QUIC4) == 2, "the claim")
        stray = agreed(one, frame_of(QUIC4))
        assert (stray.ending, stray.owner, stray.session) == ("stray_forwarded", 2, QUIC4)
        assert "kernel_unknown" in [step.name for step in stray.steps]
        assert agreed(two, frame_of(QUIC4)).ending == "passed_own"
        assert agreed(one, frame_of(web, "S")).ending == "passed_syn"
        assert agreed(one, frame_of(web, "A")).ending == "miss_flooded"
        assert agreed(one, frame_of(web, "F")).ending == "dropped_no_flags"
        assert agreed(one, frame_of(far)).ending == "passed_no_service"
        assert agreed(one, b"\0" * 60).ending == "passed_not_ip"


def test_a_live_host_explains_by_its_kernels_sockets(hosts: Pair) -> None:
    def connected() -> socket.socket:
        mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mine.bind(("198.51.100.1", 443))
        mine.connect(("203.0.113.9", 51000))
        return mine

    hosts[0].namespace.ip("addr add 198.51.100.1/32 dev lo")
    hosts[0].namespace.ip("route add 203.0.113.0/24 dev xg0")
    with both(hosts) as (one, two):
        two.claim(QUIC4)
        wait_for(lambda: one.owner(QUIC4) == 2, "the claim")
        held = hosts[0].namespace.run(connected)
        before = one.stats()
        found = one.explain(frame_of(QUIC4))
        assert (found.ending, found.steps[-1].name) == ("passed_stale_entry", "kernel_knows")
        assert one.stats().since(before).passed_stale_entry == 0
        agreed(one, frame_of(QUIC4))
        del held


def test_what_claims_to_be_a_tunnel_packet_is_explained_as_the_program_ends_it(
    host: AgentHost,
) -> None:
    with running(host) as node:
        inner = Session(
            IPv4Address("10.8.0.12"), 50000, IPv4Address(host.address),
            node.config.dataplane.tunnel_port, "udp",
        )  # fmt: skip
        assert node.explain(frame_of(inner)).ending == "tunnel_malformed"
        agreed(node, frame_of(inner))
