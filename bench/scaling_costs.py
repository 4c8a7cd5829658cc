# SPDX-License-Identifier: BSD-2-Clause
"""Unit costs for bench/scaling_formulas.py: one core of a receiving host with a thousand members,
one of a sending host, and a socket on loopback; CPU time of this process, a minute."""

from __future__ import annotations

import selectors
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import islice
from typing import Final

from bench.gossip_codec import FULL, OPEN4, RECORD_BYTES, bodies_of, events, open_bodies
from bench.gossip_memory import own_parts
from bench.scaling_formulas import ENVELOPE_BYTES, Costs
from pyxdp_gossip._native import DatagramReader, OwnershipLog, OwnerStates, SessionTable
from pyxdp_gossip.dataplane_settings import buckets_for
from pyxdp_gossip.gossip.core import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import SocketEvents
from pyxdp_gossip.gossip.member import Start
from pyxdp_gossip.gossip.messages import Batch, Heartbeat, HostState
from pyxdp_gossip.gossip.records import EVENT
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import ROOM_MAX, DatagramType, encode_message, encode_section
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Service
from pyxdp_gossip.sim.acquainted import acquaint, conclude
from pyxdp_gossip.timing import Timing

KEYS: Final = (Key(1, bytes(range(32))),)
SERVICES: Final = {0: Service(IPv4Address("198.51.100.1"), 443, "tcp")}
OWN: Final = 1
FIRST_PEER: Final = 2
PORT: Final = 7946
NOW: Final = 10**12
NEW: Final = 250  # the first client of the records that are measured; the table has the ones before
MS: Final = 1_000_000
BURST: Final = 64
SMALL, LARGE = b"x" * 110, b"x" * 1400  # datagrams for sockets
SO_MEMINFO: Final = 55
WATCHED: Final = 5  # descriptors that an agent waits for


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: members of the receiver, sessions in its table before, repeats."""

    members: int = 1000
    table: int = 10_000_000
    repeats: int = 7


FULL_EFFORT: Final = Effort()
QUICK: Final = Effort(members=50, table=10_000, repeats=2)


def address_of(host: int) -> IPv4Address:
    """An underlay address."""
    return IPv4Address("10.8.0.0") + host


def new_core(sessions: int) -> tuple[GossipCore, OwnershipLog]:
    """A host's core over a table for so many sessions; its own join is over."""
    owners = OwnerStates()
    owners.activate(OWN)
    table4, table6 = SessionTable(4, buckets_for(sessions), owners), SessionTable(6, 2, owners)
    log = OwnershipLog(table4, table6, OWN)
    core = GossipCore(
        LocalHost(OWN, address_of(OWN), 6080, SERVICES),
        Envelope(OWN, 1, 1, keys=KEYS),
        log=log,
        owners=owners,
        tables={4: table4, 6: table6},
        timing=Timing(),
        wall_offset=0,
        now=NOW,
    )
    conclude(core)
    return core, log


class Receiver:
    """A core, and the hosts that it hears: envelopes that seal what they would say."""

    def __init__(self, effort: Effort) -> None:
        rounds = effort.repeats + 1
        room = effort.table + effort.members * rounds * (FULL + 1)
        self.core, log = new_core(room)
        hosts = range(FIRST_PEER, FIRST_PEER + effort.members)
        self.peers = {host: Envelope(host, 1, host, keys=KEYS) for host in hosts}
        self._fill(log, effort.table)
        self._numbers = dict.fromkeys(hosts, 0)
        self._fresh = open_bodies(NEW << 16)
        before = own_parts()[0]
        for host in hosts:
            start, reach = Start(host, 1, host), (str(address_of(host)), PORT)
            acquaint(self.core, start, address_of(host), reach, SERVICES, NOW)
        self.take(self.beats())
        self.member_bytes = (own_parts()[0] - before) / effort.members

    def _fill(self, log: OwnershipLog, sessions: int) -> None:
        log.begin_owner(OWN, OWN)
        step = 1_000_000
        for start in range(0, sessions, step):
            count = min(step, sessions - start)
            body = bodies_of(start // len_of_portion(), count)
            log.apply(FIRST_PEER, OPEN4, body, bytes(2), clock=1, position=1, now_ms=1)

    def beats(self) -> list[tuple[int, bytes]]:
        """A heartbeat of each host: nothing said yet."""
        return [
            (host, envelope.seal(DatagramType.LOG, encode_message(_beat(host))))
            for host, envelope in self.peers.items()
        ]

    def batches(self, records: int) -> list[tuple[int, bytes]]:
        """A batch of each host, of so many new sessions."""
        size = records * RECORD_BYTES
        whole = b"".join(islice(self._fresh, len(self.peers) * records // len_of_portion() + 1))
        made = []
        for place, (host, envelope) in enumerate(self.peers.items()):
            self._numbers[host] += 1
            payload = encode_message(Batch(self._numbers[host], NOW)) + encode_section(
                OPEN4, whole[place * size : (place + 1) * size]
            )
            made.append((host, envelope.seal(DatagramType.LOG, payload)))
        return made

    def take(self, datagrams: Sequence[tuple[int, bytes]]) -> float:
        """Microseconds a datagram, seal and all."""
        sources = {host: (str(address_of(host)), PORT) for host in self.peers}
        receive = self.core.receive_datagram
        begin = time.thread_time_ns()
        for host, data in datagrams:
            receive(data, sources[host], NOW)
        return us_each(begin, len(datagrams))

    def open(self, datagrams: Sequence[tuple[int, bytes]], envelope: Envelope) -> float:
        """Microseconds a datagram, of the seal alone."""
        begin = time.thread_time_ns()
        for _, data in datagrams:
            envelope.open(data)
        return us_each(begin, len(datagrams))


def _beat(host: int) -> Heartbeat:
    return Heartbeat(HostState.ACTIVE, 6080, 0, address_of(host), 0, 0)


def len_of_portion() -> int:
    """Sessions of one portion of `open_bodies`."""
    return len(next(open_bodies(0))) // RECORD_BYTES


def us_each(begin_ns: int, count: int) -> float:
    """Microseconds since then, for each of so many."""
    return (time.thread_time_ns() - begin_ns) / 1e3 / count


def line(small: float, at_small: int, large: float, at_large: int) -> tuple[float, float]:
    """What is there at nothing, and what each one adds; neither below zero."""
    each = max(0.0, (large - small) / (at_large - at_small))
    return max(0.0, small - each * at_small), each


# ---- the parts ----


def received(effort: Effort) -> Iterator[tuple[str, list[float]]]:
    """Heartbeats, batches and records as they come in, without their seals; and the seals."""
    receiver = Receiver(effort)
    opener = Envelope(OWN, 2, 2, keys=KEYS)
    figures: dict[str, list[float]] = {"open": [], "open_byte": [], "batch": [], "record": []}
    for turn in range(effort.repeats + 1):
        small, large = receiver.batches(1), receiver.batches(FULL)
        opened = receiver.open(small, opener), receiver.open(large, opener)
        taken = receiver.take(small), receiver.take(large)
        if turn == 0:
            continue  # the first of each sender derives its keys
        seal = line(opened[0], len(small[0][1]), opened[1], len(large[0][1]))
        rest = line(taken[0] - opened[0], 1, taken[1] - opened[1], FULL)
        for name, value in zip(figures, (*seal, *rest), strict=True):
            figures[name].append(value)
    yield from figures.items()
    yield "member_bytes", [receiver.member_bytes]
    yield "turn", [turn_us(receiver.core) for _ in range(effort.repeats)]


def beats_taken(effort: Effort) -> list[float]:
    """Of hosts that said nothing yet: their digests are compared, and equal."""
    receiver = Receiver(Effort(effort.members, 1000, effort.repeats))
    opener = Envelope(OWN, 2, 2, keys=KEYS)
    receiver.open(receiver.beats(), opener)
    found = []
    for _ in range(effort.repeats):
        beats = receiver.beats()
        opened = receiver.open(beats, opener)
        found.append(max(0.0, receiver.take(beats) - opened))
    return found


def turn_us(core: GossipCore, turns: int = 2000) -> float:
    """A turn in which nothing is due: a look at the descriptors, and the core's questions."""
    with selectors.DefaultSelector() as selector:
        pairs = [socket.socketpair() for _ in range(WATCHED)]
        for one, _ in pairs:
            selector.register(one, selectors.EVENT_READ)
        core.handle_timer(NOW)
        while core.datagrams_to_send(NOW):
            pass
        begin = time.thread_time_ns()
        for _ in range(turns):
            core.next_timer()
            selector.select(0)
            core.handle_timer(NOW)
            core.next_event()
            core.datagrams_to_send(NOW)
        taken = us_each(begin, turns)
        for pair in pairs:
            for one in pair:
                one.close()
    return taken


def said(effort: Effort) -> Iterator[tuple[str, list[float]]]:
    """Own records as they become batches, and the seals written."""
    envelope = Envelope(OWN, 3, 3, keys=KEYS)
    whole = events(effort.members * (FULL + 1))
    figures: dict[str, list[float]] = {"seal": [], "seal_byte": [], "say": [], "tell": []}
    for _ in range(effort.repeats):
        sealed = [_sealed(envelope, size) for size in (64, ROOM_MAX.payload)]
        at_zero, a_byte = line(
            *(sealed[0], 64 + ENVELOPE_BYTES, sealed[1], ROOM_MAX.payload + ENVELOPE_BYTES)
        )
        figures["seal"].append(at_zero)
        figures["seal_byte"].append(a_byte)
        core, _log = new_core(effort.members * (FULL + 1) * 2)
        one, full = (_told(core, whole, size, effort.members, at) for size, at in
                     ((1, NOW + MS), (FULL, NOW + (effort.members + 1) * 2 * MS)))  # fmt: skip
        sizes = [ENVELOPE_BYTES + RECORD_BYTES * count for count in (1, FULL)]
        say, tell = line(
            *(one - at_zero - a_byte * sizes[0], 1, full - at_zero - a_byte * sizes[1], FULL)
        )
        figures["say"].append(say)
        figures["tell"].append(tell)
    yield from figures.items()


def _sealed(envelope: Envelope, size: int, count: int = 2000) -> float:
    payload = bytes(size)
    begin = time.thread_time_ns()
    for _ in range(count):
        envelope.seal(DatagramType.LOG, payload)
    return us_each(begin, count)


def _told(core: GossipCore, whole: bytes, records: int, batches: int, now: int) -> float:
    """Microseconds a batch of so many new records, a flush interval apart, seal and all."""
    size = records * EVENT.size
    offset = 0 if records == 1 else batches * EVENT.size
    begin = time.thread_time_ns()
    for number in range(batches):
        start = offset + number * size
        core.handle_event(SocketEvents(whole[start : start + size]), now)
        now += 2 * MS
        core.datagrams_to_send(now)
    return us_each(begin, batches)


def sockets(effort: Effort) -> Iterator[tuple[str, list[float]]]:
    """Loopback: sending goes all the way into the other socket, as the kernel has it there."""
    figures: dict[str, list[float]] = {"send": [], "receive": [], "truesize": []}
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other,
    ):
        other.bind(("127.0.0.1", 0))
        target = other.getsockname()
        reader = DatagramReader(other.fileno())
        for _ in range(effort.repeats * 20):
            begin = time.thread_time_ns()
            for _ in range(BURST):
                one.sendto(SMALL, target)
            figures["send"].append(us_each(begin, BURST))
            held = other.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
            figures["truesize"].append(struct.unpack_from("=I", held)[0] / BURST)
            begin = time.thread_time_ns()
            count = len(reader.read(BURST))
            figures["receive"].append(us_each(begin, count))
    yield from figures.items()


def measure(effort: Effort) -> dict[str, list[float]]:
    """Samples of each field of `Costs`."""
    parts: tuple[Callable[[Effort], Iterator[tuple[str, list[float]]]], ...] = (
        received, said, sockets,
    )  # fmt: skip
    samples = {name: values for part in parts for name, values in part(effort)}
    return {**samples, "beat": beats_taken(effort)}


def costs_of(samples: dict[str, list[float]]) -> Costs:
    """Their medians."""
    return Costs(**{name: statistics.median(values) for name, values in samples.items()})
