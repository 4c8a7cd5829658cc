# SPDX-License-Identifier: BSD-2-Clause
"""Real TCP connections between two namespaces, and frames made from their real numbers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from tests.golden import ethernet, ip
from tests.golden_world import CLIENTS, OWN_MAC, PORT, VIPS
from tests.kernel.dataplane_fixture import OUTSIDE

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
RECV_QUEUE, SEND_QUEUE = 1, 2
REPAIR_ON, REPAIR_OFF_WITHOUT_PROBE = 1, -1
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
ETH_P_ALL = 0x0003

# A client window below 64 KiB: the oldest fitting acknowledgement is then 64 KiB back, exactly.
SMALL_BUFFER = 4096

# Longer than the kernel takes for anything here; a test that waits for it has failed.
PATIENCE_S = 10.0
MASK32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Numbers:
    """A socket's `write_seq` and `rcv_nxt`."""

    write_seq: int
    rcv_nxt: int


def numbers(connection: socket.socket) -> Numbers:
    """Reads both from the kernel, by TCP_REPAIR; nothing is sent."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_ON)
    found = []
    for queue in (SEND_QUEUE, RECV_QUEUE):
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        value = connection.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ)
        found.append(value & MASK32)
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_WITHOUT_PROBE)
    # Leaving repair mode clears it, and the next listener could not bind beside this socket.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return Numbers(*found)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Waits until the kernel has done something that it does by itself."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.002)


def listen(family: int, port: int = PORT) -> socket.socket:
    """A listener on the VIP; call it in the host's namespace."""
    listener = socket.socket(FAMILIES[family])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((str(VIPS[family]), port))
    listener.listen(16)
    return listener


def connect(family: int, client_port: int) -> socket.socket:
    """A connection to the VIP; call it in the client's namespace."""
    client = socket.socket(FAMILIES[family])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.settimeout(PATIENCE_S)
    client.bind((str(CLIENTS[family]), client_port))
    client.connect((str(VIPS[family]), PORT))
    return client


class Connection:
    """One live connection: both ends, and frames from the client as the router would bring them."""

    def __init__(self, pair: tuple[Any, Any], family: int, client_port: int) -> None:
        self.inside, self.outside = pair
        self.family, self.client_port = family, client_port
        self.listener = self.inside.run(listen, family)
        self.client = self.outside.run(connect, family, client_port)
        self.server, _ = self.listener.accept()

    def segment(self, flags: str, *, seq: int | None = None, ack: int | None = None) -> bytes:
        """A segment of the client; the numbers are the next ones unless given."""
        return segment(self.family, self.client_port, flags, *self._numbers(seq, ack))

    def _numbers(self, seq: int | None, ack: int | None) -> tuple[int, int]:
        if seq is not None and ack is not None:
            return seq, ack
        real = numbers(self.server)
        return (real.rcv_nxt if seq is None else seq, real.write_seq if ack is None else ack)

    def state(self) -> str:
        """The host's state of this connection in the words of `ss`, "" if there is none."""
        words = f"ss -Htan sport = :{PORT} and dport = :{self.client_port}"
        return str(self.inside.exec(words)).partition(" ")[0]

    def wait_for_state(self, state: str) -> None:
        """Waits until the host's end is in a state."""
        wait_for(f"{state}, is {self.state()}", lambda: self.state() == state)

    def close(self) -> None:
        """Closes all three sockets."""
        for end in (self.client, self.server, self.listener):
            end.close()


def segment(family: int, client_port: int, flags: str, seq: int, ack: int) -> bytes:
    """A client's segment to the VIP."""
    transport = TCP(sport=client_port, dport=PORT, flags=flags, seq=seq & MASK32, ack=ack & MASK32)
    return bytes(ethernet() / ip(family) / transport)


@contextmanager
def connected(pair: tuple[Any, Any], family: int, client_port: int) -> Iterator[Connection]:
    """A live connection, closed afterwards."""
    connection = Connection(pair, family, client_port)
    try:
        yield connection
    finally:
        connection.close()


class Wire:
    """The client's end of the link for crafted frames; open it in the client's namespace."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((device, 0))
        self._socket.settimeout(PATIENCE_S)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self, wanted: Callable[[Any], bool]) -> Any:
        """The next frame of the host that is wanted, read by scapy."""
        while True:
            layers = Ether(self._socket.recv(65536))
            if layers.src == OWN_MAC.hex(":") and wanted(layers):
                return layers

    def close(self) -> None:
        self._socket.close()


class HalfOpen:
    """A handshake whose last segment is still to come: SYN sent by hand, SYN-ACK read."""

    CLIENT_ISN = 0x10203040

    def __init__(self, pair: tuple[Any, Any], family: int, client_port: int) -> None:
        inside, outside = pair
        self.family, self.client_port = family, client_port
        # The client's own stack must not answer the SYN-ACK with a reset.
        table = "ip" if family == 4 else "ip6"
        self._quiet = f"nft delete table {table} quiet"
        self._outside = outside
        outside.exec(f"nft add table {table} quiet")
        outside.exec(f"nft add chain {table} quiet out {{ type filter hook output priority 0 ; }}")
        outside.exec(f"nft add rule {table} quiet out tcp sport {client_port} drop")
        self.listener = inside.run(listen, family)
        wire = outside.run(Wire, OUTSIDE)
        try:
            wire.send(self.segment("S", seq=self.CLIENT_ISN, ack=0))
            answer = wire.receive(self._is_answer)
        finally:
            wire.close()
        self.host_isn = answer[TCP].seq

    def _is_answer(self, layers: Any) -> bool:
        return TCP in layers and layers[TCP].dport == self.client_port

    def segment(self, flags: str, *, seq: int = CLIENT_ISN + 1, ack: int) -> bytes:
        return segment(self.family, self.client_port, flags, seq, ack)

    def close(self) -> None:
        self.listener.close()
        self._outside.exec(self._quiet)
