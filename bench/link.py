# SPDX-License-Identifier: BSD-2-Clause
"""The veth between a frame sender and a forwarder: both ends, what is sent, what comes back."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from bench import programs
from bench.world import World, enter
from pyxdp_gossip.bpf_object import BpfObject, possible_cpus

SENDER, HOST = "send", "host"  # the two namespaces
SENDER_DEVICE, HOST_DEVICE = "sn0", "xg0"
SENDER_MAC, HOST_MAC = bytes.fromhex("02000a080002"), bytes.fromhex("02000a080001")
HOST_ADDRESS, PEER_ADDRESS = IPv4Address("10.8.0.1"), IPv4Address("10.8.0.2")
VIP, PORT = IPv4Address("198.51.100.1"), 443
TUNNEL_PORT: Final = 6080
FIRST_CLIENT: Final = IPv4Address("11.0.0.0")
PORTS_A_CLIENT: Final = 16  # as in traffic.bpf.c
FIRST_PORT: Final = 1024
LINK_MTU: Final = 1600

CHUNK: Final = 1 << 26  # frames a system call: it costs 20 ms; a signal ends it sooner
DRAIN_S: Final = 0.2
INTERRUPT: Final = signal.SIGURG  # ignored by default, so a late one does no harm
INTERRUPT_AGAIN_S: Final = 0.05

SENDING: Final = struct.Struct("<QQQIIIIII60s4x")  # struct sending
EXPECTED: Final = struct.Struct("<6sH4s")  # struct expected
PER_CPU: Final = struct.Struct("<Q")


def client_keys() -> list[bytes]:
    """(6,) bytes a port of one client; the clients' addresses go in front."""
    return [struct.pack("!H", FIRST_PORT + number) for number in range(PORTS_A_CLIENT)]


def make_frame() -> tuple[bytes, int]:
    """A 60-byte TCP ACK to the VIP, client and checksum to be filled in, and its header's sum."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, bytes(4), VIP.packed)
    tcp = struct.pack("!HHIIBBHHH", 0, PORT, 1, 1, 0x50, 0x10, 0xFFFF, 0, 0)
    frame = HOST_MAC + SENDER_MAC + b"\x08\x00" + ip + tcp
    return frame.ljust(programs.FRAME_BYTES, b"\0"), sum(struct.unpack("!10H", ip))


@dataclass(frozen=True, slots=True)
class Counts:
    """What the two ends counted since the link was made.

    Attributes:
        at_s: when, on the monotonic clock.
        cpu_s: CPU time of the sending threads; an XDP forwarder's and the sink's is in it.
        sent: frames that the sender redirected into the veth.
        good: frames that came back as they should.
        other: anything else that came back.
    """

    at_s: float
    cpu_s: float
    sent: int
    good: int
    other: int


class Sender:
    """What sends from one CPU, by a program and a state of its own."""

    def __init__(self, world: World, traffic: BpfObject, cpu: int) -> None:
        self._world = world
        self._cpu = cpu
        self._program = traffic.program_fd("bench_send")
        self._sending: mmap.mmap = traffic.maps["sending"].memory()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def prepare(self, packed: bytes) -> None:
        """A struct sending: what it sends from now on."""
        self._sending[: SENDING.size] = packed

    @property
    def sent(self) -> int:
        """Frames since `prepare`."""
        return int.from_bytes(self._sending[: PER_CPU.size], "little")

    @property
    def cpu_s(self) -> float:
        """CPU time of its thread; 0 while there is none."""
        if self._thread is None or self._thread.ident is None:
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def start(self, interval_ns: int) -> None:
        """Flat out, or with so long between two frames."""
        self._sending[8:16] = interval_ns.to_bytes(8, "little")
        self._stopping.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        """Returns once it has ended; raises what made it fail."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        while thread and thread.is_alive():  # again, should it come between two system calls
            signal.pthread_kill(thread.ident or 0, INTERRUPT)
            thread.join(INTERRUPT_AGAIN_S)
        if self._failure:
            raise self._failure

    def _send(self) -> None:
        try:
            enter(self._world.namespace(SENDER))
            os.sched_setaffinity(0, {self._cpu})
            while not self._stopping.is_set():
                with contextlib.suppress(InterruptedError):
                    programs.run_live(self._program, CHUNK)
        except BaseException as failure:
            self._failure = failure


class Link:
    """A fresh veth pair, the senders' programs and a sink at the senders' end.

    Args:
        traffic: an object for each sender; the first one's sinks count.
        cpus: of the senders. A frame's RX queue is its sender's CPU modulo the queues, of which
            there are as many.
    """

    def __init__(self, world: World, traffic: Sequence[BpfObject], cpus: Sequence[int]) -> None:
        self.world = world
        self._traffic = traffic[0]
        self.queues = len(cpus)
        self._senders = [Sender(world, one, cpu) for one, cpu in zip(traffic, cpus, strict=True)]
        signal.signal(INTERRUPT, lambda *_: None)  # a signal without a handler interrupts nothing

    @contextmanager
    def up(self, sink: str, sessions: int, seed: int, outer_len: int) -> Iterator[None]:
        """The pair exists, with the sink attached; afterwards it and its programs are gone.

        Args:
            outer_len: bytes of headers in front of what comes back.
        """
        world = self.world
        host = world.namespace(HOST)
        like = f"mtu {LINK_MTU} numtxqueues {self.queues} numrxqueues {self.queues}"
        pair = f"link add {SENDER_DEVICE} address {SENDER_MAC.hex(':')} {like} type veth"
        peer = f"peer name {HOST_DEVICE} address {HOST_MAC.hex(':')} {like} netns {host}"
        world.ip(SENDER, f"{pair} {peer}")
        try:
            for short, device in ((SENDER, SENDER_DEVICE), (HOST, HOST_DEVICE)):
                world.ip(short, f"link set {device} up")
            world.ip(HOST, f"addr add {HOST_ADDRESS}/24 dev {HOST_DEVICE}")
            index = world.call(SENDER, socket.if_nametoindex, SENDER_DEVICE)
            self._prepare(index, sessions, seed, outer_len)
            attach = programs.attached(self._traffic.program_fd(sink), index)
            world.call(SENDER, attach.__enter__)
            try:
                yield
            finally:
                attach.__exit__(None, None, None)
        finally:
            world.ip(SENDER, f"link del {SENDER_DEVICE}")

    def _prepare(self, ifindex: int, sessions: int, seed: int, outer_len: int) -> None:
        frame, ip_sum = make_frame()
        shift = 32 - (sessions.bit_length() - 1)
        state = seed * 2654435761 & 0xFFFFFFFF
        first = int(FIRST_CLIENT)
        for number, sender in enumerate(self._senders):
            begin = state + number & 0xFFFFFFFF
            sender.prepare(SENDING.pack(0, 0, 0, ifindex, begin, shift, first, ip_sum, 0, frame))
        want = EXPECTED.pack(SENDER_MAC, outer_len, VIP.packed)
        self._traffic.maps["expected"].update(bytes(4), want)
        empty = bytes(PER_CPU.size * possible_cpus())
        for which in (0, 1):
            self._traffic.maps["sunk"].update(which.to_bytes(4, "little"), empty)

    def counts(self) -> Counts:
        """What was counted up to now."""
        sunk = []
        at_s = time.monotonic()
        cpu_s = sum(sender.cpu_s for sender in self._senders)
        sent = sum(sender.sent for sender in self._senders)
        for which in (0, 1):
            size = PER_CPU.size * possible_cpus()
            values = self._traffic.maps["sunk"].lookup(which.to_bytes(4, "little"), size)
            sunk.append(sum(value for (value,) in PER_CPU.iter_unpack(values or b"")))
        return Counts(at_s, cpu_s, sent, *sunk)

    @contextmanager
    def sending(self, rate_pps: float | None) -> Iterator[None]:
        """Sends flat out, or at a rate in all, from a thread for each queue."""
        interval_ns = int(1e9 * self.queues / rate_pps) if rate_pps else 0
        with contextlib.ExitStack() as stack:
            for sender in self._senders:
                stack.callback(sender.stop)
                sender.start(interval_ns)
            yield

    def device_statistics(self) -> dict[str, int]:
        """The kernel's own counters of the forwarder's interface (`ethtool -S`)."""
        lines = self.world.exec(HOST, f"ethtool -S {HOST_DEVICE}").splitlines()
        pairs = (line.rpartition(":") for line in lines)
        return {name.strip(): int(value) for name, _, value in pairs if value.strip().isdigit()}

    def tx_dropped(self) -> int:
        """Frames that the forwarder sent and the sender's full ring refused, by XDP_TX or by an
        AF_XDP socket: the kernel's own count."""
        shown = json.loads(self.world.exec(HOST, f"ip -j -s link show {HOST_DEVICE}"))
        return int(shown[0]["stats64"]["tx"]["dropped"])
