# SPDX-License-Identifier: BSD-2-Clause
"""A forwarder that is offered far more than it can send: every frame is accounted for, both queues
are served, and the host's own connections go on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from bench import programs
from bench.forwarders import fill, settings
from bench.link import (
    EXPECTED,
    FIRST_CLIENT,
    HOST,
    HOST_ADDRESS,
    HOST_DEVICE,
    HOST_MAC,
    LINK_MTU,
    PORT,
    SENDER,
    SENDER_DEVICE,
    SENDER_MAC,
    SENDING,
    VIP,
    make_frame,
)
from bench.world import World, enter
from pyxdp_gossip._native import QUEUE_BYTES
from pyxdp_gossip.bpf_object import BpfObject, possible_cpus
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.encapsulation import ETH_LEN, overhead
from pyxdp_gossip.stats import ENDINGS, NAMES, Statistics
from tests.box.traffic import wait_for

CLIENT = "client"  # a namespace with a link of its own to the host
CLIENT_ADDRESS = "203.0.113.1"
SESSIONS = 1 << 14
FRAMES = 1 << 20  # of each sender; several seconds of what the host can forward
REQUESTS = 200
QUEUES = 2


class Sender:
    """Live frames, flat out, from one CPU; a veth takes them on the RX queue of that number."""

    def __init__(self, world: World, cpu: int) -> None:
        self.traffic: BpfObject = programs.load("traffic")
        self._world = world
        self._cpu = cpu
        self._sending = self.traffic.maps["sending"].memory()
        self._thread = threading.Thread(target=self._send)
        self._failure: BaseException | None = None
        frame, ip_sum = make_frame()
        index = world.call(SENDER, socket.if_nametoindex, SENDER_DEVICE)
        shift = 32 - (SESSIONS.bit_length() - 1)
        self._sending[: SENDING.size] = SENDING.pack(
            0, 0, 0, index, cpu + 1, shift, int(FIRST_CLIENT), ip_sum, 0, frame
        )

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()
        if self._failure:
            raise self._failure

    def _send(self) -> None:
        try:
            enter(self._world.namespace(SENDER))
            os.sched_setaffinity(0, {self._cpu})
            programs.run_live(self.traffic.program_fd("bench_send"), FRAMES)
        except BaseException as failure:
            self._failure = failure


def make_links(world: World) -> None:
    """The link under load, with two RX queues at the host's end, and the clients' link."""
    host = world.namespace(HOST)
    queues = f"numtxqueues {QUEUES} numrxqueues {QUEUES}"
    pair = f"link add {SENDER_DEVICE} address {SENDER_MAC.hex(':')} mtu {LINK_MTU} {queues}"
    peer = f"peer name {HOST_DEVICE} address {HOST_MAC.hex(':')} mtu {LINK_MTU} {queues}"
    world.ip(SENDER, f"{pair} type veth {peer} netns {host}")
    world.ip(CLIENT, f"link add cl0 type veth peer name hc0 netns {host}")
    for short, device in (
        (SENDER, SENDER_DEVICE), (HOST, HOST_DEVICE), (HOST, "hc0"), (CLIENT, "cl0"),
    ):  # fmt: skip
        world.ip(short, f"link set {device} up")
    world.ip(HOST, f"addr add {HOST_ADDRESS}/24 dev {HOST_DEVICE}")
    world.ip(HOST, f"addr add {VIP}/32 dev lo")
    world.ip(HOST, f"route add {CLIENT_ADDRESS}/32 dev hc0")
    world.ip(CLIENT, f"addr add {CLIENT_ADDRESS}/32 dev cl0")
    world.ip(CLIENT, f"route add {VIP}/32 dev cl0")


def device(world: World) -> dict[str, int]:
    """What the kernel counted at the host's end: frames seen by XDP, and frames not sent."""
    lines = world.exec(HOST, f"ethtool -S {HOST_DEVICE}").splitlines()
    found = {line.rpartition(":")[0].strip(): line.rpartition(":")[2].strip() for line in lines}
    shown = json.loads(world.exec(HOST, f"ip -j -s link show {HOST_DEVICE}"))[0]
    seen = sum(int(found[f"rx_queue_{queue}_xdp_packets"]) for queue in range(QUEUES))
    return {"xdp_packets": seen, "tx_dropped": shown["stats64"]["tx"]["dropped"]}


@contextlib.contextmanager
def echo(listener: socket.socket) -> Iterator[None]:
    """The host's own service: sends back what one client sends."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


def sunk(traffic: BpfObject) -> int:
    """Frames that came back as they should."""
    size = 8 * possible_cpus()
    values = traffic.maps["sunk"].lookup(bytes(4), size) or bytes(size)
    return sum(memoryview(values).cast("Q"))


def by_queue(plane: Dataplane, queue: int) -> int:
    """Frames that the loop of a queue has ended."""
    words = plane._queues[queue * QUEUE_BYTES : (queue + 1) * QUEUE_BYTES].cast("Q")
    return sum(words[16 + index] for index, name in enumerate(NAMES) if name in ENDINGS)


def ended(found: Statistics) -> int:
    return sum(found[name] for name in ENDINGS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < QUEUES, reason="needs two CPUs to send from")
def test_a_flooded_forwarder_loses_nothing_that_no_counter_names() -> None:
    with World(SENDER, HOST, CLIENT) as world, contextlib.ExitStack() as stack:
        make_links(world)
        listener = stack.enter_context(world.call(HOST, socket.create_server, (str(VIP), PORT)))
        plane = Dataplane(settings(world, SESSIONS, {"plane": "xsk"}))
        world.call(HOST, plane.open)
        stack.callback(plane.close)
        stack.callback(world.call, HOST, plane.detach)
        fill(plane, SESSIONS)
        world.call(HOST, plane.attach_packets)
        senders = [Sender(world, cpu) for cpu in sorted(os.sched_getaffinity(0))[:QUEUES]]
        sink = senders[0].traffic
        want = EXPECTED.pack(SENDER_MAC, ETH_LEN + overhead("gue", 4), VIP.packed)
        sink.maps["expected"].update(bytes(4), want)
        index = world.call(SENDER, socket.if_nametoindex, SENDER_DEVICE)
        attached = programs.attached(sink.program_fd("bench_sink_tunnel"), index)
        world.call(SENDER, attached.__enter__)
        stack.callback(attached.__exit__, None, None, None)
        check_overload(world, plane, senders, listener)


def check_overload(
    world: World, plane: Dataplane, senders: list[Sender], listener: socket.socket
) -> None:
    before = device(world)
    with echo(listener):
        client = world.call(CLIENT, socket.create_connection, (str(VIP), PORT))
        for sender in senders:
            sender.start()
        with client:
            for number in range(REQUESTS):
                client.sendall(number.to_bytes(4, "big"))
                assert client.recv(4) == number.to_bytes(4, "big")
        for sender in senders:
            sender.join()

    def at_rest() -> bool:
        found = plane.statistics()
        return found["handed_over"] == sum(by_queue(plane, queue) for queue in range(QUEUES))

    wait_for("every frame handed over has ended", at_rest)
    plane._close_plane()  # the loops finish what they send
    found, after = plane.statistics(), device(world)
    rose = {what: after[what] - before[what] for what in after}
    assert rose["xdp_packets"] > FRAMES // 4, "the senders' frames hardly came in"
    assert ended(found) == rose["xdp_packets"], "a frame ended in no counter, or in two"
    assert found["stray_forwarded"] == ended(found) - found["loop_lost"]
    assert found["handed_over"] > 0
    assert found["loop_behind"] > 0, "the loops were never behind: this was no overload"
    good = sunk(senders[0].traffic)
    lost = rose["tx_dropped"]  # the far end's ring was full; XDP_TX is in it
    assert found["stray_forwarded"] == good + lost
    served = [by_queue(plane, queue) for queue in range(QUEUES)]
    assert min(served) > max(served) // 20, f"one queue starves: {served}"
    assert found["loop_lost"] == 0
