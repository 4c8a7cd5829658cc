# SPDX-License-Identifier: BSD-2-Clause
"""Client traffic under a test's full control: kernel sockets, crafted TCP, losses and storms."""

import ctypes
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.processes import Process
from pyxdp_gossip.popbox.proxy import SMALL_BYTES
from pyxdp_gossip.session import Session

CLONE_NEWNET: Final = 0x40000000
ETH_P_ALL: Final = 3
RAW_PORTS: Final = range(20000, 30000)  # below the kernel's own choice, which begins at 32768
PATIENCE_S: Final = 15.0  # for what takes milliseconds: a test that waits so long has failed
POLL_S: Final = 0.01
MASK32: Final = 0xFFFFFFFF
WINDOW: Final = 65000
# Offsets in an untagged IPv4 frame without options.
IP_ID, IP_SOURCE_LOW, TCP_PORT, TCP_SEQ = 18, 28, 34, 38
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
VIPS: Final = {4: names.VIP4, 6: names.VIP6}

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Waits until something that takes its own time has happened."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(POLL_S)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread is in a network namespace; a socket made there stays there."""
    with (
        open("/proc/thread-self/ns/net", "rb") as home,
        open(f"/run/netns/{namespace}", "rb") as there,
    ):
        try:
            assert _libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert _libc.setns(home.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def lost(box: Box, namespace: str, hook: str, rule: str) -> Iterator[None]:
    """What an nftables rule matches on its way in or out of a namespace is lost meanwhile."""
    table = f"loss_{hook}"
    chain = f"chain only {{ type filter hook {hook} priority 0; {rule} drop; }}"
    box.run_in(namespace, ["nft", "-f", "-"], f"table inet {table} {{\n{chain}\n}}\n")
    try:
        yield
    finally:
        box.run_in(namespace, ["nft", "delete", "table", "inet", table])


def session_of(port: int, family: int = 4, client: int = 1) -> Session:
    """The session of a client's connection to the box's VIP."""
    address = names.client_address(client)
    if family == 4:
        return Session.tcp(f"{address.ipv4}:{port}", f"{names.VIP4}:{names.VIP_PORT}")
    return Session.tcp(f"[{address.ipv6}]:{port}", f"[{names.VIP6}]:{names.VIP_PORT}")


def request_bytes(close: bool) -> bytes:
    ending = "Connection: close\r\n" if close else ""
    return f"GET /small HTTP/1.1\r\nHost: vip\r\n{ending}\r\n".encode()


def complete_answer(data: bytes) -> int | None:
    """The host that gave a complete, good answer; None: there is more to come."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or len(body) < SMALL_BYTES:
        return None
    assert data.startswith(b"HTTP/1.1 200 "), data[:80]
    assert len(body) == SMALL_BYTES
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(fields[b"X-Host"])


class Connection:
    """One connection by the client's kernel; `port` 0: the kernel chooses."""

    def __init__(self, box: Box, family: int = 4, port: int = 0, client: int = 1) -> None:
        with inside(box.client_namespace(client)):
            self.socket = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("", port))
        self._vip = (VIPS[family], names.VIP_PORT)

    def connect(self) -> Self:
        self.socket.connect(self._vip)
        return self

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def ask(self, *, close: bool = False) -> int:
        """One request; the host that answered it."""
        self.socket.sendall(request_bytes(close))
        data = b""
        while (host := complete_answer(data)) is None:
            chunk = self.socket.recv(4096)
            assert chunk, "the connection ended in the middle of an answer"
            data += chunk
        return host

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """Gone at once, by an RST (which a test makes lost)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class RawClient:
    """One TCP connection of crafted packets, each sent when the test says so.

    The client's kernel must not see the answers: see `hide_raw_ports`.
    """

    def __init__(self, box: Box, port: int, family: int = 4, client: int = 1) -> None:
        assert port in RAW_PORTS
        address = names.client_address(client)
        source = address.ipv4 if family == 4 else address.ipv6
        layer = IP if family == 4 else IPv6
        self._lower = Ether(src=address.mac, dst=names.client_gateway_mac(client)) / layer(
            src=source, dst=VIPS[family]
        )
        self._layer = layer
        self.port = port
        self.seq = random.randrange(1 << 32)
        self.ack = 0
        self.fin_seen = False
        with inside(box.client_namespace(client)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.bind(("eth0", ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, flags: str, payload: bytes = b"") -> None:
        """One packet with the present numbers; `seq` goes on by what it takes."""
        self.send_again(flags, payload)
        self.seq = self.seq + len(payload) + ("S" in flags) + ("F" in flags) & MASK32

    def send_again(self, flags: str, payload: bytes = b"", *, back: int = 0) -> None:
        """One packet `back` octets before the present number, which stays as it is."""
        header = TCP(
            sport=self.port,
            dport=names.VIP_PORT,
            flags=flags,
            seq=(self.seq - back) & MASK32,
            ack=self.ack if "A" in flags else 0,
            window=WINDOW,
        )
        self._socket.send(bytes(self._lower / header / payload))

    def send_stale_ack(self) -> None:
        """An acknowledgement of what no host ever sent: of another connection of this port."""
        present, self.ack = self.ack, self.ack + (1 << 30) & MASK32
        self.send_again("A")
        self.ack = present

    def receive(self, what: str, wanted: Callable[[Any], bool]) -> Any:
        """The next TCP packet of this connection that is wanted; a reset fails the test."""
        deadline = time.monotonic() + PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = Ether(self._socket.recv(2048))
            except TimeoutError:
                break
            tcp = frame.getlayer(TCP)
            if tcp is None or tcp.dport != self.port or tcp.sport != names.VIP_PORT:
                continue
            assert "R" not in tcp.flags, f"a reset in place of {what}"
            if wanted(tcp):
                return tcp
        raise AssertionError(f"waited in vain: {what}")

    def expect_synack(self) -> Any:
        """The next SYN-ACK; it is not answered."""
        return self.receive("a SYN-ACK", lambda tcp: tcp.flags == "SA" and tcp.ack == self.seq)

    def accept(self, synack: Any) -> None:
        """Goes on by this SYN-ACK; nothing is sent."""
        self.ack = synack.seq + 1 & MASK32

    def connect(self) -> None:
        """The whole handshake."""
        self.send("S")
        self.accept(self.expect_synack())
        self.send("A")

    def ask(self, *, close: bool = False) -> int:
        """One request, its answer acknowledged packet by packet; the host that answered."""
        self.send("PA", request_bytes(close))
        data = b""
        while (host := complete_answer(data)) is None:
            tcp = self.receive("data", self._is_next)
            payload = payload_of(tcp)
            data += payload
            self.ack = self.ack + len(payload) + ("F" in tcp.flags) & MASK32
            self.fin_seen = "F" in tcp.flags
            self.send("A")
        return host

    def _is_next(self, tcp: Any) -> bool:
        return bool(payload_of(tcp)) and tcp.seq == self.ack

    def expect_fin(self) -> None:
        """The host's FIN, acknowledged."""
        if not self.fin_seen:
            self.receive("a FIN", lambda tcp: "F" in tcp.flags and tcp.seq == self.ack)
            self.ack = self.ack + 1 & MASK32
            self.send("A")

    def expect_ack(self) -> None:
        """An acknowledgement of everything sent so far."""
        self.receive("an ACK", lambda tcp: "A" in tcp.flags and tcp.ack == self.seq)


def payload_of(tcp: Any) -> bytes:
    """Without the padding that Ethernet's least length may have added: none on a veth."""
    return bytes(tcp.payload)


def hide_raw_ports(box: Box, client: int = 1) -> None:
    """Makes the client's kernel blind for the answers to its crafted connections."""
    ports = f"{RAW_PORTS.start}-{RAW_PORTS.stop - 1}"
    rule = f"tcp sport {names.VIP_PORT} tcp dport {ports} drop"
    chain = f"chain only {{ type filter hook input priority 0; {rule}; }}"
    space = box.client_namespace(client)
    box.run_in(space, ["nft", "-f", "-"], f"table inet raw_ports {{\n{chain}\n}}\n")


def start_storm(box: Box, client: int, packets: int) -> Process:
    """A process that sends so many ACKs of sessions that nobody has, then ends."""
    argv = [sys.executable, str(Path(__file__).resolve()), str(client), str(packets)]
    return box.start_on_client(client, "storm", argv)


def storm(client: int, packets: int) -> None:
    """No two of one session: random ports of random addresses in 203.0.0.0/16.

    Each field that changes has a complement that changes with it, so that both checksums stay.
    """
    lower = Ether(src=names.client_address(client).mac, dst=names.client_gateway_mac(client))
    lower /= IP(src="203.0.0.0", dst=names.VIP4, id=0xFFFF)
    numbers = {"seq": MASK32, "ack": 1, "window": WINDOW}
    frame = bytearray(bytes(lower / TCP(sport=0, dport=names.VIP_PORT, flags="A", **numbers)))
    source = random.Random(client)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", ETH_P_ALL))
        for _ in range(packets):
            host, port = source.getrandbits(16), source.randrange(1024, 65536)
            struct.pack_into("!H", frame, IP_ID, 0xFFFF - host)
            struct.pack_into("!H", frame, IP_SOURCE_LOW, host)
            struct.pack_into("!H", frame, TCP_PORT, port)
            struct.pack_into("!HH", frame, TCP_SEQ, 0xFFFF - port, 0xFFFF - host)
            sender.send(frame)


if __name__ == "__main__":
    storm(int(sys.argv[1]), int(sys.argv[2]))
