# SPDX-License-Identifier: BSD-2-Clause
"""The gossip's sockets: multicast and unicast UDP on one port, and the probes' socket."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from pyxdp_gossip._native import DatagramReader
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.session import Address, format_endpoint

RECEIVE_BUFFER = 8 << 20  # bytes: a second of 64 hosts' shards while this agent is not run
SEND_BUFFER = 8 << 20  # bytes: without a group, a burst for each of 50 hosts
PROBE_ROOM = 256  # bytes of a probe's answer
HOPS = 1  # multicast gossip stays in its broadcast domain
SO_RXQ_OVFL = 40  # include/uapi/asm-generic/socket.h; not in the socket module
IP_MULTICAST_ALL = 49  # include/uapi/linux/in.h
IPV6_MULTICAST_ALL = 29  # include/uapi/linux/in6.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

# The network's state of this moment; the datagram is lost, as any may be.
_EXPECTED = frozenset(
    {
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EPERM, errno.EACCES),
        *(errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.ENODEV),
        *(errno.EMSGSIZE, errno.EINVAL, errno.EHOSTDOWN),
    }
)


@dataclass(frozen=True, slots=True)
class SocketCounters:
    """What the sockets counted since they were opened."""

    sent: int = 0
    """Datagrams that the kernel took."""
    send_failed: int = 0
    """Datagrams that the kernel refused: no route, no buffer, a firewall."""
    received: int = 0
    """Datagrams handed over."""
    receive_failed: int = 0
    """Errors that the kernel reported instead of a datagram."""
    overflowed: int = 0
    """Datagrams that the kernel dropped because this agent did not read in time."""


class GossipSocket:
    """Multicast to the group and unicast to hosts, both on the gossip's port.

    Without a group, what is for all goes to each address of `set_everyone` by unicast. Not
    thread-safe. A context manager; `filenos` are for poll().

    Args:
        interface: device that the group is joined on and sent from.
        address: this host's underlay address, of the group's family; what peers answer to.
        group: multicast address; None: no multicast in or out.
        port: UDP port of both.

    Raises:
        HostError: a socket cannot be opened; says which and what to do.
    """

    def __init__(self, interface: str, address: Address, group: Address | None, port: int) -> None:
        self._sent = self._send_failed = self._received = self._receive_failed = 0
        self._port = port
        self._everyone: tuple[tuple[str, int], ...] = ((str(group), port),) if group else ()
        self._address, self._joined = address, group
        self._sockets: list[socket.socket] = []
        self._readers: dict[int, DatagramReader] = {}
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            raise HostError(
                f"interface {interface!r} does not exist; `ip link` lists those that do"
            ) from None
        try:
            self._unicast = self._open(address, port)
            if group is not None:
                self._set_multicast_out(self._unicast, index, address)
                self._member = self._open(group, port)
                self._join(self._member, index, group)
            self._index = index
        except OSError as error:
            self.close()
            where = format_endpoint(address, port)
            raise HostError(
                f"gossip socket {where} on {interface}: {error.strerror}; {_advice(error)}"
            ) from None

    def _open(self, address: Address, port: int) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sockets.append(opened)
        if address.is_multicast:
            # Several agents of one machine (a box, a test) may follow one group.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for forced, bounded, size in (
            (SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
            (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
        ):
            try:
                opened.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, bounded, size)
        opened.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        opened.bind((str(address), port))
        self._readers[opened.fileno()] = DatagramReader(opened.fileno())
        return opened

    def _set_multicast_out(self, opened: socket.socket, index: int, address: Address) -> None:
        if address.version == 4:
            request = struct.pack("=4s4si", bytes(4), address.packed, index)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            level = socket.IPPROTO_IPV6
            opened.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
            opened.setsockopt(level, socket.IPV6_MULTICAST_HOPS, HOPS)
            opened.setsockopt(level, socket.IPV6_MULTICAST_LOOP, 0)

    def _join(self, opened: socket.socket, index: int, group: Address) -> None:
        if group.version == 4:
            request = struct.pack("=4s4si", group.packed, bytes(4), index)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            # Only what came by this interface, not what others joined for.
            opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        else:
            request = struct.pack("=16si", group.packed, index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)

    def rejoin(self, interface: str) -> None:
        """Sends by and listens on an interface that was made anew, under the same name.

        Raises:
            HostError: it is gone again, or cannot do multicast.
        """
        try:
            index = socket.if_nametoindex(interface)
            if self._joined is not None:
                self._set_multicast_out(self._unicast, index, self._address)
                self._leave(self._member, self._index, self._joined)
                self._join(self._member, index, self._joined)
            self._index = index
        except OSError as error:
            what = f"gossip socket on {interface}: {error.strerror}; {_advice(error)}"
            raise HostError(what) from None

    def _leave(self, opened: socket.socket, index: int, group: Address) -> None:
        """A socket's memberships outlive their device: they count against its limit (20), and
        one of the same index would pass for the new device's."""
        with contextlib.suppress(OSError):  # an earlier try left already
            if group.version == 4:
                request = struct.pack("=4s4si", group.packed, bytes(4), index)
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)
            else:
                request = struct.pack("=16si", group.packed, index)
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, request)

    @property
    def filenos(self) -> tuple[int, ...]:
        """Descriptors that become readable."""
        return tuple(opened.fileno() for opened in self._sockets)

    @property
    def counters(self) -> SocketCounters:
        """A snapshot."""
        return SocketCounters(
            sent=self._sent,
            send_failed=self._send_failed,
            received=self._received,
            receive_failed=self._receive_failed,
            overflowed=sum(reader.overflows for reader in self._readers.values()),
        )

    def set_everyone(self, addresses: Iterable[Address]) -> None:
        """Whom a datagram for all reaches from now on, where there is no group.

        Args:
            addresses: the other hosts', each of which listens on the same port.
        """
        assert self._joined is None, "a group reaches everyone"
        hosts = sorted({str(address) for address in addresses if address != self._address})
        self._everyone = tuple((host, self._port) for host in hosts)

    def send(self, destination: tuple[str, int] | None, data: bytes) -> None:
        """Send one datagram, to everyone if `destination` is None; never blocks or raises.

        A datagram that cannot be sent is counted: the gossip treats it as any lost one.
        """
        for target in self._everyone if destination is None else (destination,):
            self._send_one(target, data)

    def _send_one(self, target: tuple[str, int], data: bytes) -> None:
        try:
            self._unicast.sendto(data, target)
        except OSError as error:
            if error.errno not in _EXPECTED:
                raise
            self._send_failed += 1
        else:
            self._sent += 1

    def receive(self, most: int, fileno: int | None = None) -> list[tuple[bytes, tuple[str, int]]]:
        """At most `most` datagrams that wait, with their sources; empty if none does.

        Args:
            most: 64 or fewer of one socket.
            fileno: of the socket that poll() showed; None: of both.
        """
        readers = self._readers.values() if fileno is None else (self._readers[fileno],)
        received: list[tuple[bytes, tuple[str, int]]] = []
        for reader in readers:
            try:
                received += reader.read(most - len(received))
            except OSError as error:
                if error.errno not in _EXPECTED:
                    raise
                self._receive_failed += 1
        self._received += len(received)
        return received

    def close(self) -> None:
        """Close both sockets; the kernel leaves the group."""
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()
        self._readers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _advice(error: OSError) -> str:
    advice = {
        errno.EADDRINUSE: "another agent runs with this address: stop it",
        errno.EADDRNOTAVAIL: "the interface does not have this address: check [host] address",
        errno.ENODEV: "the interface cannot do multicast: choose another one in [host]",
        errno.EACCES: "run it as root",
        errno.EPERM: "run it as root",
    }
    return advice.get(error.errno or 0, "check [host] and [gossip] of the configuration")


class ProbeSocket:
    """An ordinary UDP socket that asks hosts' XDP programs whether they are there.

    Args:
        address: this host's underlay address: the cookie is over it.

    Raises:
        HostError: the address is not this machine's.
    """

    def __init__(self, address: Address) -> None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind((str(address), 0))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"probe socket on {address}: {error.strerror}; {_advice(error)}"
            ) from None

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def send(self, address: Address, port: int, payload: bytes) -> bool:
        """Send one probe; False if the kernel refused it: then there is no answer either."""
        try:
            self._socket.sendto(payload, (str(address), port))
        except OSError as error:
            if error.errno not in _EXPECTED:
                raise
            return False
        return True

    def receive(self, most: int = 64) -> list[tuple[bytes, tuple[str, int]]]:
        """At most `most` answers that wait. A closed port's ICMP error is no answer."""
        received: list[tuple[bytes, tuple[str, int]]] = []
        for _ in range(most):
            try:
                data, source = self._socket.recvfrom(PROBE_ROOM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _EXPECTED:
                    raise
                continue
            received.append((data, (source[0], source[1])))
        return received

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
