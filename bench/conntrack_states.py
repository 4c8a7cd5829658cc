# SPDX-License-Identifier: BSD-2-Clause
"""States for the kernel's connection tracking, entered by netlink messages that were made before.

Source: linux/netfilter/nfnetlink_conntrack.h of the kernel.
"""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from ipaddress import IPv4Address
from typing import Final

NETLINK_NETFILTER: Final = 12
CT_NEW: Final = 1 << 8  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
NLMSG_ERROR: Final = 2
FLAGS: Final = 0x1 | 0x400 | 0x200  # REQUEST, CREATE, EXCL; no answer but an error's
NESTED: Final = 0x8000
ORIGINAL, REPLY, STATUS, PROTOINFO, TIMEOUT = 1, 2, 3, 4, 7
TUPLE_IP, TUPLE_PROTO = 1, 2
ESTABLISHED: Final = 3
LIVE: Final = 0x2 | 0x4 | 0x8  # SEEN_REPLY, ASSURED, CONFIRMED
TIMEOUT_S: Final = 3600
HEADER: Final = struct.Struct("=IHHII")
FAMILY: Final = bytes([socket.AF_INET, 0, 0, 0])
PORTS: Final = 50_000
FIRST_PORT: Final = 1024
FIRST_CLIENT: Final = IPv4Address("10.128.0.0")
VIP, VIP_PORT = IPv4Address("198.51.100.1"), 443
MESSAGES: Final = 128  # a system call
ROOM: Final = 8192


def _attribute(kind: int, body: bytes) -> bytes:
    whole = struct.pack("=HH", 4 + len(body), kind) + body
    return whole.ljust(-(-len(whole) // 4) * 4, b"\0")


def _tuple(kind: int, source: tuple[bytes, int], destination: tuple[bytes, int]) -> bytes:
    addresses = _attribute(1, source[0]) + _attribute(2, destination[0])
    ports = [struct.pack("!H", port) for _, port in (source, destination)]
    protocol = _attribute(1, bytes([socket.IPPROTO_TCP]))
    protocol += _attribute(2, ports[0]) + _attribute(3, ports[1])
    inner = _attribute(TUPLE_IP | NESTED, addresses) + _attribute(TUPLE_PROTO | NESTED, protocol)
    return _attribute(kind | NESTED, inner)


def message(number: int) -> bytes:
    """An established TCP connection of client `number` to the service."""
    client = (FIRST_CLIENT + number // PORTS).packed, FIRST_PORT + number % PORTS
    service = VIP.packed, VIP_PORT
    tcp = _attribute(1 | NESTED, _attribute(1, bytes([ESTABLISHED])))
    body = (
        FAMILY
        + _tuple(ORIGINAL, client, service)
        + _tuple(REPLY, service, client)
        + _attribute(STATUS, struct.pack("!I", LIVE))
        + _attribute(PROTOINFO | NESTED, tcp)
        + _attribute(TIMEOUT, struct.pack("!I", TIMEOUT_S))
    )
    return HEADER.pack(HEADER.size + len(body), CT_NEW, FLAGS, number, 0) + body


def prepared(count: int) -> list[bytes]:
    """What enters so many states: messages in portions, one for each system call."""
    made = [message(number) for number in range(count)]
    return [b"".join(made[at : at + MESSAGES]) for at in range(0, count, MESSAGES)]


def open_socket() -> socket.socket:
    """In the calling thread's namespace, whose states it enters.

    Raises:
        OSError: this kernel has no such netlink.
    """
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    made.bind((0, 0))
    made.setblocking(False)
    return made


def check(opened: socket.socket) -> None:
    """Raises OSError if the kernel refused a state since the last call."""
    try:
        answer = opened.recv(ROOM)
    except BlockingIOError:
        return
    _, kind, _, number, _ = HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, HEADER.size)
    if kind == NLMSG_ERROR and code:
        raise OSError(-code, f"the kernel refused state {number}")


def enter(opened: socket.socket, portions: list[bytes]) -> None:
    """Enters states flat out; the kernel takes each portion within the call."""
    for portion in portions:
        opened.send(portion)
        check(opened)


def missing() -> str | None:
    """Why no state can be entered here."""
    try:
        with closing(open_socket()):
            return None
    except OSError as error:
        return f"this kernel has no nf_conntrack_netlink ({error.strerror})"
