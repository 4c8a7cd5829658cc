# SPDX-License-Identifier: BSD-2-Clause
"""Full datagrams of one busy host: how fast one core takes them in, and their size on the wire."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from bench.gossip_codec import FULL, events
from bench.gossip_figures import Effort, Row, row
from bench.gossip_pop import GOSSIP_PORT, GossipPop, pop_of, wait_until
from bench.world import call_inside
from pyxdp_gossip._native import OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.config import Config
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.gossip import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import SocketEvents, Synced
from pyxdp_gossip.gossip.records import EVENT, EventKind
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import HEADER, DatagramType
from pyxdp_gossip.gossip_socket import GossipSocket
from pyxdp_gossip.popbox import names

RECEIVER, SENDER = 1, 2
SENDER_ADDRESS: Final = IPv4Address(names.host_address(SENDER).ipv4)
SESSIONS_MAX: Final = 1_000_000  # open at once: opened, then closed, then opened again
FLUSH_NS: Final = 1_000_000
COUNTERS_LEFT: Final = 10_000  # seals of the join; its datagrams come before the stream's
BURST: Final = 64  # datagrams between two looks at the receiver's queue
QUEUE_MOST: Final = 6 << 20  # bytes of the 16 MiB that the receiver's socket has
LOCAL, QUEUES = 1, 4  # columns of /proc/net/udp
PAUSE_S: Final = 0.0005
ETH_P_ALL: Final = 3
CAPTURE_BYTES: Final = 64 << 20
SO_RCVBUFFORCE: Final = 33
FRAME_ROOM: Final = 2048
# Places in a frame of UDP over IPv4 without options or tags.
SOURCE: Final = slice(26, 30)
UDP_AT: Final = 34
TYPE_AT: Final = 43
BATCH_AT: Final = 1000  # a frame that is longer is no heartbeat
ORDINARY: Final = frozenset(
    ("datagrams_in", "bytes_in", "datagrams_out", "bytes_out", "batches_received")
)
HOW_STREAM: Final = (
    "end_to_end: a real agent on one core (its CPU time by its cgroup: sockets, seals, records, "
    "timers) takes in sealed datagrams of opens and closes over a veth. The sender, on the other "
    "core, waits while the receiver's socket holds 6 MB; the kernel's way to that socket "
    "is on the sender's core."
)


def new_core(config: Config, envelope: Envelope, sessions: int, now: int) -> GossipCore:
    """The core of the sending host, over tables of its own."""
    owners = OwnerStates()
    owners.activate(SENDER)
    table4, table6 = SessionTable(4, buckets_for(sessions), owners), SessionTable(6, 2, owners)
    services = dict(enumerate(config.services))
    return GossipCore(
        LocalHost(SENDER, SENDER_ADDRESS, config.dataplane.tunnel_port, services),
        envelope,
        log=OwnershipLog(table4, table6, SENDER),
        owners=owners,
        tables={4: table4, 6: table6},
        timing=config.gossip.timing,
        wall_offset=time.time_ns() - time.monotonic_ns(),
        now=now,
    )


def plain_payloads(config: Config, records: int) -> list[bytes]:
    """What a core says of so many opens and closes in full batches, before it is sealed."""
    batches = records // FULL
    sessions = min(SESSIONS_MAX // FULL, batches) * FULL
    opens = events(sessions)
    closes = bytearray(opens)
    closes[:: EVENT.size] = bytes([EventKind.CLOSE]) * sessions
    whole = opens + closes
    # Its clock begins so long ago that it ends now: one flush a batch.
    now = time.monotonic_ns() - batches * FLUSH_NS
    core = new_core(config, Envelope(SENDER, 1, 1), sessions, now)
    payloads: list[bytes] = []
    size = FULL * EVENT.size
    for number in range(batches):
        start = number * size % len(whole)
        core.handle_event(SocketEvents(whole[start : start + size]), now)
        now += FLUSH_NS
        sent = [data for _, data in core.datagrams_to_send(now)]
        payloads += [data[HEADER.size :] for data in sent if data[1] & 0x7F == DatagramType.LOG]
    if len(payloads) != batches:
        raise RuntimeError(f"{batches} batches became {len(payloads)} datagrams")
    return payloads


class Sender:
    """A host without an agent: a core that joins, then a stream that was sealed before."""

    def __init__(self, pop: GossipPop, payloads: list[bytes]) -> None:
        self._pop = pop
        config = Config.load(pop.box.agent(RECEIVER).config)
        assert isinstance(config.gossip.group, IPv4Address)
        start = (SENDER, time.time_ns(), int.from_bytes(os.urandom(8)))
        sealing = Envelope(*start, keys=config.gossip.keys)
        for _ in range(COUNTERS_LEFT):
            sealing.seal(DatagramType.LOG, b"")
        self.datagrams = [sealing.seal(DatagramType.LOG, payload) for payload in payloads]
        now = time.monotonic_ns()
        self._core = new_core(config, Envelope(*start, keys=config.gossip.keys), FULL, now)
        space = pop.box.host_namespace(SENDER)
        place = ("eth0", SENDER_ADDRESS, config.gossip.group, config.gossip.port)
        self._socket = call_inside(space, GossipSocket, *place)
        process = pop.box.agent(RECEIVER).process
        assert process is not None  # the agent runs
        self._udp = Path(f"/proc/{process.pid}/net/udp")

    def close(self) -> None:
        """Closes its sockets."""
        self._socket.close()

    def join(self) -> None:
        """Until each of the two takes the other's sessions for known."""
        synced = False
        is_active = self._pop.view(RECEIVER).owners.is_active

        def turn() -> bool:
            nonlocal synced
            for data, source in self._socket.receive(BURST):
                self._core.receive_datagram(data, source, time.monotonic_ns())
            now = time.monotonic_ns()
            self._core.handle_timer(now)
            for destination, data in self._core.datagrams_to_send(now):
                self._socket.send(destination, data)
            while (event := self._core.next_event()) is not None:
                synced = synced or isinstance(event, Synced)
            return synced and is_active(SENDER)

        wait_until("the sender has joined", turn, PAUSE_S)

    def queued(self) -> int:
        """Bytes that the receiver's sockets hold."""
        rows = (line.split() for line in self._udp.read_text().splitlines()[1:])
        mine = (row for row in rows if row[LOCAL].endswith(f":{GOSSIP_PORT:04X}"))
        return sum(int(row[QUEUES].partition(":")[2], 16) for row in mine)

    def send(self) -> None:
        """Sends all, never more than the receiver's socket has room for, and waits for the end."""
        for start in range(0, len(self.datagrams), BURST):
            while self.queued() > QUEUE_MOST:
                time.sleep(PAUSE_S)
            for data in self.datagrams[start : start + BURST]:
                self._socket.send(None, data)
        wait_until("all is read", lambda: self.queued() == 0, PAUSE_S)


@contextmanager
def sending(records: int) -> Iterator[tuple[GossipPop, Sender]]:
    """A POP of one agent and a sender that has joined, with so many records to send."""
    with pop_of(2, running=1, sessions=SESSIONS_MAX) as pop:
        config = Config.load(pop.box.agent(RECEIVER).config)
        with closing(Sender(pop, plain_payloads(config, records))) as sender:
            sender.join()
            yield pop, sender


def refused(pop: GossipPop) -> dict[str, int]:
    """The receiver's count of records that it applied, and of all that did not become one."""
    stats = pop.box.agent_stats(RECEIVER)
    gossip, sockets = stats["gossip"], stats["socket"]
    counted = {name: count for name, count in gossip.items() if name not in ORDINARY}
    return {**counted, "overflowed": sockets["overflowed"]}


def end_to_end(effort: Effort, _seed: int) -> list[Row]:
    """Records a second that one core takes in, from the socket to the table."""
    cpus = sorted(os.sched_getaffinity(0))
    with sending(effort.stream_records) as (pop, sender):
        pop.pin(RECEIVER, cpus[-1])
        os.sched_setaffinity(0, {cpus[0]})
        try:
            before = refused(pop)
            begin_us, begin = pop.cpu_us(RECEIVER), time.monotonic()
            sender.send()
            wall_s, cpu_us = time.monotonic() - begin, pop.cpu_us(RECEIVER) - begin_us
        finally:
            os.sched_setaffinity(0, set(cpus))
        after = refused(pop)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    applied = grown.pop("records_applied", 0)
    records = len(sender.datagrams) * FULL
    return [
        row(
            *("end_to_end", applied / cpu_us, "M events/CPU s", "5 M/s"),
            per_wall_s=round(applied / wall_s / 1e6, 3),
            cpu_us_per_datagram=round(cpu_us / len(sender.datagrams), 1),
            records_a_datagram=FULL,
            lost=records - applied,
            lost_by=grown,
            how=HOW_STREAM,
        )
    ]


def log_frames(capture: socket.socket) -> list[int]:
    """Lengths of the frames that carry a batch of the sender's log."""
    lengths: list[int] = []
    while True:
        try:
            frame = capture.recv(FRAME_ROOM)
        except BlockingIOError:
            return lengths
        udp = struct.unpack_from("!HH", frame, UDP_AT) if len(frame) > BATCH_AT else (0, 0)
        if udp[1] == GOSSIP_PORT and frame[SOURCE] == SENDER_ADDRESS.packed:
            is_log = frame[TYPE_AT] & 0x7F == DatagramType.LOG
            lengths += [len(frame)] if is_log and len(frame) > BATCH_AT else []


def wire_bytes(effort: Effort, _seed: int) -> list[Row]:
    """Bytes of an IPv4 OPEN in full batches, counted from frames at the receiver's port."""

    def open_capture() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BYTES)
        made.bind((names.host_port(RECEIVER), ETH_P_ALL))
        return made

    with (
        sending(effort.wire_records) as (pop, sender),
        closing(call_inside(pop.box.router_namespace(), open_capture)) as capture,
    ):
        sender.send()
        lengths = log_frames(capture)
    if len(lengths) != len(sender.datagrams):
        raise RuntimeError(f"{len(lengths)} of {len(sender.datagrams)} frames were captured")
    records = len(lengths) * FULL
    return [
        row(
            *("wire_bytes", sum(lengths) / records, "bytes/OPEN", "<= 9.5"),
            frames=len(lengths),
            frame_len=max(lengths),
            records_a_datagram=FULL,
        )
    ]
