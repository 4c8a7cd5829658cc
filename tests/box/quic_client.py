# SPDX-License-Identifier: BSD-2-Clause
"""A real QUIC client in a box, driven by hand: aioquic's connection without its event loop."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from pyxdp_gossip.popbox import Box
from tests.box.quic_server import ALPN
from tests.box.traffic import inside

DATAGRAM_MAX = 2048
PATIENCE_S = 20.0
LINE_BYTES = 3000  # several datagrams each way


class SilenceError(Exception):
    """Nobody answered in time."""


class QuicClient:
    """One connection of a client of the box to the VIP; its socket can be exchanged.

    Args:
        vip: of the service, IPv4 or IPv6.
        client: whose namespace it is in.
    """

    def __init__(self, box: Box, vip: str, port: int, client: int = 1) -> None:
        self._space = box.client_namespace(client)
        self._peer = (vip, port)
        self._received = bytearray()
        self._connected = False
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN], server_name="pop", verify_mode=ssl.CERT_NONE
        )
        self.quic = QuicConnection(configuration=configuration)
        self.socket = self._open()
        self._stream = 0

    def _open(self) -> socket.socket:
        with inside(self._space):
            family = socket.AF_INET6 if ":" in self._peer[0] else socket.AF_INET
            made = socket.socket(family, socket.SOCK_DGRAM)
        made.connect(self._peer)
        return made

    def close(self) -> None:
        self.socket.close()

    def rebind(self) -> None:
        """Another port from now on, as behind a NAT that forgot the first."""
        self.socket.close()
        self.socket = self._open()

    def begin(self) -> None:
        """Sends the first flight."""
        self.quic.connect(self._peer, now=time.monotonic())
        self._stream = self.quic.get_next_available_stream_id()
        self._send()

    def connect(self) -> None:
        """The whole handshake, until the server has confirmed it."""
        self.begin()
        self.finish()

    def finish(self) -> None:
        """The rest of the handshake."""
        self._until(lambda: self._connected)

    def receive_one(self) -> None:
        """Takes one datagram in, and does not answer it."""
        self.socket.settimeout(PATIENCE_S)
        self.quic.receive_datagram(self.socket.recv(DATAGRAM_MAX), self._peer, now=time.monotonic())

    def ask(self, patience_s: float = PATIENCE_S) -> int:
        """Sends a line and checks every byte of the answer; the host that answered."""
        line = os.urandom(LINE_BYTES // 2).hex().encode() + b"\n"
        self.quic.send_stream_data(self._stream, line)
        self._until(lambda: self._received.endswith(b"\n"), patience_s)
        host, _, echoed = bytes(self._received).partition(b" ")
        self._received.clear()
        assert echoed == line
        return int(host)

    def settle(self) -> None:
        """Gives up the answer of a question that timed out, once it is there."""
        self._until(lambda: self._received.endswith(b"\n"))
        self._received.clear()

    def _send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(now=time.monotonic()):
            self.socket.send(data)

    def _until(self, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            self._send()
            self._take_events()
            if done():
                return
            now = time.monotonic()
            if now >= deadline:
                raise SilenceError
            timer = self.quic.get_timer()
            self.socket.settimeout(max(0.001, min(deadline, timer or deadline) - now))
            try:
                data = self.socket.recv(DATAGRAM_MAX)
            except TimeoutError:
                self.quic.handle_timer(now=time.monotonic())
                continue
            except ConnectionRefusedError as error:
                raise SilenceError from error
            self.quic.receive_datagram(data, self._peer, now=time.monotonic())

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self._connected = True
            elif isinstance(event, events.StreamDataReceived):
                self._received += event.data
            elif isinstance(event, events.ConnectionTerminated):
                raise AssertionError(f"the connection ended: {event}")
