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
from collections.abc import Iterator
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
        cpu_s: CPU time of the sending thread; an XDP forwarder's and the sink's is in it.
        sent: frames that the sender redirected into the veth.
        good: frames that came back as they should.
        other: anything else that came back.
    """

    at_s: float
    cpu_s: float
    sent: int
    good: int
    other: int


class Link:
    """A fresh veth pair, the sender's program and a sink at the sender's end."""

    def __init__(self, world: World, traffic: BpfObject, cpu: int) -> None:
        self.world = world
        self._traffic = traffic
        self._cpu = cpu
        self._program = traffic.program_fd("bench_send")
        self._sending: mmap.mmap = traffic.maps["sending"].memory()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._clock: int | None = None
        signal.signal(INTERRUPT, lambda *_: None)  # a signal without a handler interrupts nothing

    @contextmanager
    def up(self, sink: str, sessions: int, seed: int, outer_len: int) -> Iterator[None]:
        """The pair exists, with the sink attached; afterwards it and its programs are gone.

        Args:
            outer_len: bytes of headers in front of what comes back.
        """
        world = self.world
        host = world.namespace(HOST)
        pair = f"link add {SENDER_DEVICE} address {SENDER_MAC.hex(':')} mtu {LINK_MTU} type veth"
        peer = f"peer name {HOST_DEVICE} address {HOST_MAC.hex(':')} mtu {LINK_MTU} netns {host}"
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
        self._sending[: SENDING.size] = SENDING.pack(
            0, 0, 0, ifindex, state, shift, first, ip_sum, 0, frame
        )
        want = EXPECTED.pack(SENDER_MAC, outer_len, VIP.packed)
        self._traffic.maps["expected"].update(bytes(4), want)
        empty = bytes(PER_CPU.size * possible_cpus())
        for which in (0, 1):
            self._traffic.maps["sunk"].update(which.to_bytes(4, "little"), empty)

    def counts(self) -> Counts:
        """What was counted up to now."""
        sunk = []
        at_s = time.monotonic()
        cpu_s = time.clock_gettime(self._clock) if self._clock is not None else 0.0
        (sent,) = PER_CPU.unpack_from(self._sending)
        for which in (0, 1):
            size = PER_CPU.size * possible_cpus()
            values = self._traffic.maps["sunk"].lookup(which.to_bytes(4, "little"), size)
            sunk.append(sum(value for (value,) in PER_CPU.iter_unpack(values or b"")))
        return Counts(at_s, cpu_s, sent, *sunk)

    @contextmanager
    def sending(self, rate_pps: float | None) -> Iterator[None]:
        """Sends flat out, or at a rate, from a thread of its own."""
        interval_ns = int(1e9 / rate_pps) if rate_pps else 0
        self._sending[8:16] = interval_ns.to_bytes(8, "little")
        self._stopping.clear()
        self._failure = None
        thread = threading.Thread(target=self._send)
        thread.start()
        self._clock = time.pthread_getcpuclockid(thread.ident or 0)
        try:
            yield
        finally:
            self._clock = None
            self._stopping.set()
            while thread.is_alive():  # again, should the signal come between two system calls
                signal.pthread_kill(thread.ident or 0, INTERRUPT)
                thread.join(INTERRUPT_AGAIN_S)
        if self._failure:
            raise self._failure

    def _send(self) -> None:
        try:
            enter(self.world.namespace(SENDER))
            os.sched_setaffinity(0, {self._cpu})
            while not self._stopping.is_set():
                with contextlib.suppress(InterruptedError):
                    programs.run_live(self._program, CHUNK)
        except BaseException as failure:
            self._failure = failure

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
