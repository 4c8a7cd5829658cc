# SPDX-License-Identifier: BSD-2-Clause
"""The far end of a link, byte for byte: raw frames in and out, by an AF_XDP socket of our own.

A packet socket would see frames without their VLAN tags; and XDP_TX on a veth arrives only if the
far end has an XDP program, which comes with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.golden_world import TUNNEL_PORT
from tests.kernel.xsk_link import give
from tests.model import NoTransportError, NotReadableError, parse

FRAMES: Final = 4096
FRAME_SIZE: Final = 2048
FOR_RX: Final = 2048
BURST: Final = 64
WAIT_S: Final = 20.0  # until a frame that must come; a limit for a failure, not a bound on time
IP_IN_IP = (4, 41)  # IANA protocol numbers
ICMP, ICMPV6 = 1, 58
ICMPV6_TOO_BIG = 2


class Wire:
    """Sends and receives raw frames; use inside `wire`."""

    def __init__(self, umem: Umem, socket: XskSocket) -> None:
        self._umem = umem
        self._socket = socket
        self._free = [number * FRAME_SIZE for number in range(FOR_RX, FRAMES)]
        give(socket, [number * FRAME_SIZE for number in range(FOR_RX)])
        self._seen: deque[bytes] = deque()

    def send(self, *frames: bytes) -> None:
        """Puts frames on the link, in order."""
        for start in range(0, len(frames), BURST):
            self._send_burst(frames[start : start + BURST])

    def _send_burst(self, frames: tuple[bytes, ...]) -> None:
        tx = self._socket.tx
        while len(self._free) < len(frames) or tx.reserve(len(frames)) == 0:
            self._reap()
        descriptors = [(self._free.pop(), len(frame)) for frame in frames]
        for (address, length), frame in zip(descriptors, frames, strict=True):
            self._umem.frame(address, length)[:] = frame
        tx.write(descriptors)
        tx.submit(len(frames))
        while not self._socket.wakeup():
            self._reap()

    def _reap(self) -> None:
        self._socket.wakeup()
        done = self._socket.completion.peek(BURST)
        self._socket.completion.release(len(done))
        self._free += [address // FRAME_SIZE * FRAME_SIZE for address in done]

    def receive(self, timeout_s: float = WAIT_S) -> bytes | None:
        """The next frame that came, or None."""
        if not self._seen and (self._take() or self._socket.wait(timeout_s)):
            self._take()
        return self._seen.popleft() if self._seen else None

    def _take(self) -> bool:
        found = self._socket.rx.peek(BURST)
        self._seen += [bytes(self._umem.frame(*one)) for one in found]
        self._socket.rx.release(len(found))
        give(self._socket, [address // FRAME_SIZE * FRAME_SIZE for address, _ in found])
        return bool(found)

    def receive_tunnelled(self, mac: bytes) -> bytes:
        """The next frame of this source to or from the tunnel port, or with an IP packet in IP;
        others are left out."""
        while True:
            frame = self.receive()
            assert frame is not None, "no frame came"
            if frame[6:12] != mac:
                continue
            try:
                packet = parse(frame)
            except NoTransportError as error:
                if error.packet.protocol in IP_IN_IP:
                    return frame
                continue
            except NotReadableError:
                continue
            if TUNNEL_PORT in (packet.source_port, packet.destination_port):
                return frame

    def receive_told(self, mac: bytes) -> bytes:
        """The next ICMP error of this source about a packet too big; others are left out."""
        while True:
            frame = self.receive()
            assert frame is not None, "no frame came"
            if frame[6:12] == mac and _is_told(frame):
                return frame


def _is_told(frame: bytes) -> bool:
    try:
        parse(frame)
    except NoTransportError as error:
        packet = error.packet
        if packet.family == 4:
            return packet.protocol == ICMP
        return packet.protocol == ICMPV6 and frame[packet.l4] == ICMPV6_TOO_BIG
    except NotReadableError:
        pass
    return False


@contextmanager
def wire(namespace: Any, device: str) -> Iterator[Wire]:
    """Takes a device over, in its namespace; its stack sees no frame any more."""

    def start() -> tuple[Umem, XskSocket, XskProgram]:
        umem = Umem(FRAMES, frame_size=FRAME_SIZE)
        socket = XskSocket(umem, device)
        program = XskProgram(device)
        program.add(socket)
        return umem, socket, program

    umem, socket, program = namespace.run(start)
    try:
        yield Wire(umem, socket)
    finally:
        socket.close()
        namespace.run(program.close)
        umem.close()
