# SPDX-License-Identifier: BSD-2-Clause
"""The value types that name a session and a service."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

Address = IPv4Address | IPv6Address
Protocol = Literal["tcp", "udp"]

PORT_MAX = 65535  # RFC 9293 section 3.1, RFC 768: ports have 16 bits


class KernelView(IntEnum):
    """What a kernel's sockets say of a session and one of its segments."""

    ABSENT = 0
    """No socket with these addresses and ports, listeners apart."""
    IN_DOUBT = 1
    """There is a socket, but the segment does not fit it; or the kernel could not be asked."""
    HALF = 2
    """It opens or closes, or has a valid SYN cookie: known, but nothing to claim."""
    FULL = 3
    """A full socket holds it, and the segment fits."""


def parse_endpoint(text: str) -> tuple[Address, int]:
    """Read `203.0.113.9:443` or `[2001:db8::9]:443`.

    Returns:
        The address and the port, 1..65535.

    Raises:
        ValueError: the text is no address with a port; says what was expected.

    Source: RFC 3986 section 3.2.2 (brackets around an IPv6 address).
    """
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    digits = port_text.isascii() and port_text.isdigit() and len(port_text) <= 5
    port = int(port_text) if digits else 0
    if not colon or address is None or bracketed != (address.version == 6):
        raise ValueError(f"{text!r}: expected ADDRESS:PORT, an IPv6 address in [brackets]")
    if not 1 <= port <= PORT_MAX:
        raise ValueError(f"{text!r}: the port must be 1..{PORT_MAX}")
    return address, port


def format_endpoint(address: Address, port: int) -> str:
    """Write what `parse_endpoint` reads."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@lru_cache(maxsize=4096)
def packed16(address: Address) -> bytes:
    """16 bytes, network order; an IPv4 address as IPv4-mapped (RFC 4291 section 2.5.5.2)."""
    if isinstance(address, IPv4Address):
        return b"\x00" * 10 + b"\xff\xff" + address.packed
    return address.packed


@lru_cache(maxsize=4096)  # a heartbeat says its sender's address each time
def unpacked16(data: bytes) -> Address:
    """The inverse of `packed16`; `data` is (16,) bytes."""
    address = IPv6Address(data)
    return address.ipv4_mapped or address


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A (VIP, port, protocol) that the POP answers for.

    Attributes:
        quic: of UDP: its connection ids name their owners (`quic_lb`). No part of what a service
            is: two that differ in this only are the same.
    """

    vip: Address
    port: int
    protocol: Protocol
    quic: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.protocol} {format_endpoint(self.vip, self.port)}"


@dataclass(frozen=True, slots=True)
class Session:
    """One client's connection to a service."""

    client: Address
    client_port: int
    vip: Address
    port: int
    protocol: Protocol

    def __post_init__(self) -> None:
        if self.client.version != self.vip.version:
            raise ValueError(f"client {self.client} and VIP {self.vip} are of different families")
        if self.protocol not in ("tcp", "udp"):
            raise ValueError(f"protocol is {self.protocol!r}, expected 'tcp' or 'udp'")
        for port in (self.client_port, self.port):
            if not 1 <= port <= PORT_MAX:
                raise ValueError(f"port is {port}, expected 1..{PORT_MAX}")

    @classmethod
    def tcp(cls, client: str, service: str) -> Session:
        """`Session.tcp("203.0.113.9:51000", "198.51.100.1:443")`.

        Args:
            client: ADDRESS:PORT of the client, an IPv6 address in [brackets].
            service: VIP:PORT of the service.

        Raises:
            ValueError: an endpoint cannot be read, or the families differ.
        """
        return cls(*parse_endpoint(client), *parse_endpoint(service), "tcp")

    @classmethod
    def udp(cls, client: str, service: str) -> Session:
        """Like `tcp`, for a UDP service.

        Args:
            client: ADDRESS:PORT of the client, an IPv6 address in [brackets].
            service: VIP:PORT of the service.

        Raises:
            ValueError: an endpoint cannot be read, or the families differ.
        """
        return cls(*parse_endpoint(client), *parse_endpoint(service), "udp")

    @property
    def service(self) -> Service:
        """The service that the session belongs to."""
        return Service(self.vip, self.port, self.protocol)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.client.version

    def __str__(self) -> str:
        client = format_endpoint(self.client, self.client_port)
        return f"{self.protocol} {client} -> {format_endpoint(self.vip, self.port)}"
