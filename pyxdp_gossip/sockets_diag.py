# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's TCP sockets of our services, as session events: by dump, and as they are destroyed.

The one place in Python that loops over sessions: it runs at start and after an overflow, and in
batches of what was closed. Records are `struct xg_event` of csrc/xg_types.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from pyxdp_gossip.netlink_socket import (
    DUMP_ATTEMPTS,
    HEADER,
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    SOL_NETLINK,
    InterruptedDumpError,
    NetlinkError,
    NetlinkSocket,
    host_error,
    messages,
)

Address = IPv4Address | IPv6Address
Services = Mapping[tuple[Address, int], int]

SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_REQ_BYTECODE = 1
INET_DIAG_BC_JMP = 1
INET_DIAG_BC_S_EQ = 11
NETLINK_ADD_MEMBERSHIP = 1  # include/uapi/linux/netlink.h; not in the socket module
NETLINK_DROP_MEMBERSHIP = 2
SKNLGRP_INET_TCP_DESTROY = 1
SKNLGRP_INET6_TCP_DESTROY = 3
SO_NETNS_COOKIE = 71

EVENT_OPEN = 1
EVENT_CLOSE_LINGER = 3

TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2 = 1, 4, 5
TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING = 8, 9, 11
LIVE_STATES = sum(
    1 << state
    for state in (
        TCP_ESTABLISHED,
        TCP_FIN_WAIT1,
        TCP_FIN_WAIT2,
        TCP_CLOSE_WAIT,
        TCP_LAST_ACK,
        TCP_CLOSING,
    )
)

# A socket closed in FIN_WAIT2 lives on as a small TIME_WAIT socket, which the dump reports in
# state FIN_WAIT2, told apart by this timer only. Its session is closed: no second CLOSE will come.
TIMER_TIME_WAIT = 3

# inet_diag_req_v2: family, protocol, extensions, pad, states; then a socket id that is all wild.
REQUEST = struct.Struct("=BBBxI48x")
# nlmsghdr; inet_diag_msg as far as the addresses: family, state, timer, retrans, ports, source,
# destination.
RECORD = struct.Struct("=16xBxBx2s2s16s16s")
EVENT = struct.Struct("=BBH2sHII16sQ")
BYTECODE = struct.Struct("=BBH")
ATTRIBUTE = struct.Struct("=HH")

# A filter for that many ports is 48 KiB and still fits the 16-bit jumps; with more ports the
# kernel hands over every socket and the loop here sorts them out.
FILTERED_PORTS_MAX = 4000

V4_MAPPED = bytes(10) + b"\xff\xff"
NO_PORT = bytes(2)
NO_ADDRESS = bytes(16)

# About 2000 closed sockets may wait to be read; past it the kernel drops and we say so.
DESTROY_RECEIVE_BUFFER = 4 << 20
# Datagrams (one closed socket each) of one `read`, so that a storm of closes cannot hold the
# caller; the descriptor stays readable for the rest.
DESTROY_BATCH = 4096


def slots_of(services: Services) -> dict[tuple[bytes, bytes], int]:
    """(source port, source address) as they stand in an inet_diag_msg → service slot."""
    slots = {}
    for (address, port), slot in services.items():
        local = port.to_bytes(2, "big")
        slots[local, address.packed.ljust(16, b"\0")] = slot
        if address.version == 4:
            slots[local, V4_MAPPED + address.packed] = slot
    return slots


def port_filter(ports: list[int]) -> bytes:
    """inet_diag bytecode that accepts sockets whose local port is one of `ports`.

    A port is three operations of 4 bytes: if equal (S_EQ and its operand), jump to the end, else
    go on with the next; behind the last one an "else" jumps past the end, which means refused.

    Source: linux/inet_diag.h; net/ipv4/inet_diag.c, inet_diag_bc_run.
    """
    step = 3 * BYTECODE.size
    length = step * len(ports)
    code = bytearray()
    for number, port in enumerate(ports):
        rest = length - number * step
        miss = step if number + 1 < len(ports) else rest + BYTECODE.size
        code += BYTECODE.pack(INET_DIAG_BC_S_EQ, 2 * BYTECODE.size, miss)
        code += BYTECODE.pack(0, 0, port)
        code += BYTECODE.pack(INET_DIAG_BC_JMP, BYTECODE.size, rest - 2 * BYTECODE.size)
    return bytes(code)


def _dump_request(family: int, ports: list[int]) -> bytes:
    if len(ports) > FILTERED_PORTS_MAX:
        return dump_request(family, socket.IPPROTO_TCP, LIVE_STATES)
    code = port_filter(ports)
    attribute = ATTRIBUTE.pack(ATTRIBUTE.size + len(code), INET_DIAG_REQ_BYTECODE) + code
    return dump_request(family, socket.IPPROTO_TCP, LIVE_STATES, attribute)


def dump_request(family: int, protocol: int, states: int, attributes: bytes = b"") -> bytes:
    """Asks inet_diag for all sockets of a protocol that are in one of these states (bits)."""
    body = REQUEST.pack(family, protocol, 0, states) + attributes
    flags = NLM_F_REQUEST | NLM_F_DUMP
    return HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body


def established_sockets(services: Services, now: int) -> bytes:
    """One OPEN record for each live TCP socket of a service, in both families.

    Live are ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING, TIME_WAIT in
    none of its forms. The kernel filters by port and state; each socket that is left costs about
    3.5 us, 1 us of it the kernel's (19,500 sockets, one core of a small virtual machine).

    Args:
        services: (VIP, port) → service slot; TCP services only.
        now: CLOCK_MONOTONIC in ns, the `at_ns` of every record.

    Returns:
        40-byte `struct xg_event` records, in no order. A socket that opens or closes meanwhile
        may be missing or there; the sockops events, followed since before the call, say which.

    Raises:
        HostError: the kernel has no inet_diag, or refused.
    """
    if not services:
        return b""
    slots = slots_of(services)
    ports = sorted({port for _address, port in services})
    return b"".join(
        _family_events(_dump_request(family, ports), slots, now)
        for family in (socket.AF_INET, socket.AF_INET6)
    )


def _family_events(request: bytes, slots: dict[tuple[bytes, bytes], int], now: int) -> bytes:
    with NetlinkSocket(NETLINK_SOCK_DIAG) as netlink:
        for _attempt in range(DUMP_ATTEMPTS):
            events: list[bytes] = []
            try:
                for _kind, message in netlink.dump(request):
                    event = socket_event(message, slots, EVENT_OPEN, now)
                    if event is not None:
                        events.append(event)
            except InterruptedDumpError:
                continue
            except NetlinkError as error:
                raise host_error(error, "read the TCP sockets (inet_diag)") from error
            break
        return b"".join(events)


def socket_event(
    message: memoryview, slots: dict[tuple[bytes, bytes], int], event: int, now: int
) -> bytes | None:
    """The 40-byte record of one inet_diag_msg, or None if it is no session of a service."""
    if len(message) < RECORD.size:
        return None
    family, timer, local, remote, source, destination = RECORD.unpack_from(message)
    slot = slots.get((local, source))
    if slot is None or timer == TIMER_TIME_WAIT or remote == NO_PORT:
        return None
    if family == socket.AF_INET:
        return EVENT.pack(event, 4, slot, remote, 0, 0, 0, destination, now)
    if destination.startswith(V4_MAPPED):
        return EVENT.pack(event, 4, slot, remote, 0, 0, 0, destination[12:], now)
    return EVENT.pack(event, 6, slot, remote, 0, 0, 0, destination, now)


def is_aborted_session(message: memoryview, slots: dict[tuple[bytes, bytes], int]) -> bool:
    """Whether an inet_diag_msg is what is left of a service's session that was aborted here.

    close() with SO_LINGER 0 (nginx and HAProxy do so after a timeout) disconnects the socket, and
    the kernel then forgets the client's port, and the VIP if the listener was bound to no address.
    A listener differs by having no remote address.
    """
    if len(message) < RECORD.size:
        return False
    _family, _timer, local, remote, source, destination = RECORD.unpack_from(message)
    if remote != NO_PORT or destination == NO_ADDRESS:
        return False
    if source == NO_ADDRESS:
        return any(port == local for port, _address in slots)
    return (local, source) in slots


class DestroyListener:
    """Hears of every TCP socket that the kernel frees, and reports those of the services.

    For sockets that were accepted before the sockops program was attached: nothing else tells
    their end. A socket is freed when the application has closed it too, so a client that came
    again with the same port may have a new socket by then: check with the kernel before a report
    is taken as the end of a session that is newer than the listener.

    Attributes:
        overflows: how often the kernel dropped reports; after each, compare with
            `established_sockets`.
        unnamed: sessions of a service that were aborted here, whose reports no longer name the
            client; the same remedy.

    Raises:
        HostError: the kernel has no inet_diag, or refused the subscription.
    """

    def __init__(self, services: Services) -> None:
        self._slots = slots_of(services)
        groups = 1 << (SKNLGRP_INET_TCP_DESTROY - 1) | 1 << (SKNLGRP_INET6_TCP_DESTROY - 1)
        self._netlink = NetlinkSocket(NETLINK_SOCK_DIAG, groups, DESTROY_RECEIVE_BUFFER)
        self._netlink.socket.setblocking(False)
        self.overflows = 0
        self.unnamed = 0

    def change_services(self, services: Services) -> None:
        """Reports the sockets of these services from now on."""
        self._slots = slots_of(services)

    def listen(self, wanted: bool) -> None:
        """Hears of further sockets, or of none: each that ends wakes the reader otherwise.

        Raises:
            HostError: the kernel refused.
        """
        option = NETLINK_ADD_MEMBERSHIP if wanted else NETLINK_DROP_MEMBERSHIP
        try:
            for group in (SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY):
                self._netlink.socket.setsockopt(SOL_NETLINK, option, group)
        except OSError as error:
            raise host_error(error, "hear of destroyed sockets") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket, readable while reports wait; -1 once closed."""
        return self._netlink.socket.fileno()

    def read(self, now: int) -> bytes:
        """CLOSE_LINGER records, 40 bytes each, of what was destroyed; b"" if nothing was.

        Args:
            now: CLOCK_MONOTONIC in ns, the `at_ns` of every record.
        """
        events: list[bytes] = []
        for _datagram in range(DESTROY_BATCH):
            try:
                datagram = self._netlink.receive()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break
                self.overflows += 1
                continue
            for kind, _flags, _sequence, message in messages(datagram):
                if kind == SOCK_DIAG_BY_FAMILY:
                    event = socket_event(message, self._slots, EVENT_CLOSE_LINGER, now)
                    if event is not None:
                        events.append(event)
                    elif is_aborted_session(message, self._slots):
                        self.unnamed += 1
        return b"".join(events)

    def close(self) -> None:
        self._netlink.close()


def netns_cookie() -> int:
    """The 64-bit cookie of the current network namespace, as BPF programs see it.

    Raises:
        HostError: the kernel is older than 5.14.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            value = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError as error:
            raise host_error(error, "read the network namespace's cookie (Linux 5.14)") from error
    return int.from_bytes(value, sys.byteorder)
