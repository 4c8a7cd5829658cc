# SPDX-License-Identifier: BSD-2-Clause
"""A quiet veth pair for AF_XDP tests, and the steps of a burst that every test would repeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.kernel.conftest import Namespace

NEAR: Final = "near0"
FAR: Final = "far0"
ETHERTYPE: Final = bytes.fromhex("88b5")  # IEEE 802: for local experiments; no stack answers it
WAIT_S: Final = 20.0  # until what must come; a limit for a failure, not a bound on time
QUEUES: Final = 2


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends of a link on which only the test's own frames run."""

    near: Namespace
    far: Namespace


def make_pair(netns: Callable[[str], Namespace], queues: int = QUEUES) -> Pair:
    """A veth pair with so many queues each; the kernel sends nothing on it by itself."""
    near, far = netns("n"), netns("f")
    count = f"numrxqueues {queues} numtxqueues {queues}"
    near.ip(f"link add {NEAR} {count} type veth peer name {FAR} {count} netns {far.name}")
    for namespace, device in ((near, NEAR), (far, FAR)):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
        namespace.ip(f"link set {device} arp off up")
    return Pair(near, far)


def payload(number: int, length: int = 60) -> bytes:
    """A frame that tells its number: broadcast, so that any end takes it."""
    head = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + ETHERTYPE + number.to_bytes(4)
    return head.ljust(length, b"\0")


def number_of(frame: bytes | memoryview) -> int:
    """The number that `payload` put in."""
    return int.from_bytes(frame[14:18])


def give(socket: XskSocket, addresses: list[int]) -> None:
    """Frames for the kernel to receive into; in zero-copy mode a driver sleeps until it is told."""
    assert socket.fill.reserve(len(addresses)) == len(addresses)
    socket.fill.write(addresses)
    socket.fill.submit(len(addresses))
    socket.wakeup()


def send(socket: XskSocket, umem: Umem, frames: list[bytes], addresses: list[int]) -> None:
    """Sends all and waits until the kernel has given every frame of the Umem back."""
    for address, frame in zip(addresses, frames, strict=True):
        umem.frame(address, len(frame))[:] = frame
    assert socket.tx.reserve(len(frames)) == len(frames)
    socket.tx.write([(a, len(f)) for a, f in zip(addresses, frames, strict=True)])
    socket.tx.submit(len(frames))
    done: list[int] = []
    while len(done) < len(frames):
        socket.wakeup()
        found = socket.completion.peek(socket.completion.size)
        socket.completion.release(len(found))
        done += found
    assert sorted(done) == sorted(addresses)


def receive(socket: XskSocket, umem: Umem, count: int) -> list[bytes]:
    """Exactly so many frames; each goes back to the fill ring."""
    frames: list[bytes] = []
    while len(frames) < count:
        assert socket.wait(WAIT_S), f"{len(frames)} of {count} frames came"
        found = socket.rx.peek(count - len(frames))
        frames += [bytes(umem.frame(*one)) for one in found]
        socket.rx.release(len(found))
        give(socket, [address for address, _ in found])
    return frames


def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds: a veth hands over in a softirq, later than the sender's call ends."""
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit, "it never came to hold"
        os.sched_yield()


@dataclass(frozen=True, slots=True)
class End:
    """An open socket, its Umem and its program at one end of the link."""

    umem: Umem
    socket: XskSocket
    program: XskProgram


@contextmanager
def end(namespace: Namespace, device: str, **options: Any) -> Iterator[End]:
    """An end whose first half of the frames is given to the kernel.

    Args:
        options: of XskSocket; `frames` is the Umem's.
    """
    umem = Umem(options.pop("frames", 256))
    skb = options.get("mode") == "skb"

    def start() -> tuple[XskProgram, XskSocket]:
        program = XskProgram(device, mode="skb" if skb else "native")
        socket = XskSocket(umem, device, **options)
        program.add(socket)
        return program, socket

    program, socket = namespace.run(start)
    try:
        give(socket, [n * umem.frame_size for n in range(umem.frames // 2)])
        yield End(umem, socket, program)
    finally:
        program.close()
        umem.close()
