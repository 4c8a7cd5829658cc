# SPDX-License-Identifier: BSD-2-Clause
"""Probes of other hosts' XDP programs, and their answers."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from pyxdp_gossip.gossip.events import ProbeAnswered, ProbeWanted
from pyxdp_gossip.gossip_socket import ProbeSocket
from pyxdp_gossip.routing import Routing
from pyxdp_gossip.session import Address
from pyxdp_gossip.templates import probe_payload, probe_reply_nonce

PROBES_WAITING: Final = 1024


class Probes:
    """Sends what the core wants to know, and takes only answers to what was asked.

    Args:
        probe_socket: bound to this host's underlay address.
        routing: knows the cookies.
    """

    def __init__(self, probe_socket: ProbeSocket, routing: Routing) -> None:
        self._socket = probe_socket
        self._routing = routing
        self._asked: dict[int, tuple[int, Address]] = {}

    def send(self, wanted: ProbeWanted) -> None:
        """Ask one host; whoever asks for more than wait forgets the oldest."""
        while len(self._asked) >= PROBES_WAITING:
            self._asked.pop(next(iter(self._asked)))
        self._asked[wanted.nonce] = (wanted.host, wanted.address)
        payload = probe_payload(self._routing.probe_cookie(wanted.address), wanted.nonce)
        self._socket.send(wanted.address, wanted.tunnel_port, payload)

    def receive(self) -> Iterator[ProbeAnswered]:
        """The answers that came: of the host that was asked, with a cookie of one of its keys."""
        for payload, (address, _) in self._socket.receive():
            cookies = self._routing.reply_cookies(ip_address(address))
            nonces = (probe_reply_nonce(payload, cookie) for cookie in cookies)
            nonce = next(filter(None, nonces), None)
            host, expected = self._asked.pop(nonce, (0, None)) if nonce else (0, None)
            if nonce and expected == ip_address(address):
                yield ProbeAnswered(host, nonce)
