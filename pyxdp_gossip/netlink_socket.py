# SPDX-License-Identifier: BSD-2-Clause
"""One netlink conversation: send a request, read its reply, acknowledgement or dump.

The messages are pyroute2's classes; the socket is not. From 0.9 on pyroute2's sockets run on
asyncio: the synchronous ones keep a loop and a socket per thread, cannot be called where a loop
runs already (an application that awaits `Node.events()`), and belong to the namespace of the
thread that made them. A kernel answers on a plain socket at once, so a socket a call is simpler:
it costs about 10 us, has no state to share between threads, and always speaks to the calling
thread's current network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Self

from pyxdp_gossip.errors import HostError

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1

SOL_NETLINK = 270
NETLINK_EXT_ACK = 11

# Not in Python's socket module: like SO_RCVBUF, but past net.core.rmem_max (CAP_NET_ADMIN).
SO_RCVBUFFORCE = 33

# The kernel fills at most 32 KiB of a dump into one datagram; a single reply (a link with many
# attributes) stays below that as well.
RECEIVE_BYTES = 64 * 1024

# How often a dump that the kernel calls interrupted (something changed meanwhile) is repeated.
# Each repetition reads everything anew, so a change that comes faster than this many dumps is
# not a snapshot but a storm, and the last dump is as good as any other.
DUMP_ATTEMPTS = 5

HEADER = struct.Struct("=IHHII")
ERROR_CODE = struct.Struct("=i")
ATTRIBUTE = struct.Struct("=HH")


class NetlinkError(OSError):
    """The kernel refused a request; `errno` says why, `strerror` also with the kernel's words."""


def host_error(error: OSError, what: str) -> HostError:
    """The exception an operator sees for a refused request.

    Args:
        error: what the kernel answered.
        what: the thing that was tried, as in "cannot {what}: ...".
    """
    if error.errno in (errno.EPERM, errno.EACCES):
        return HostError(f"cannot {what}: CAP_NET_ADMIN is missing; run as root")
    return HostError(f"cannot {what}: {error.strerror}")


def messages(buffer: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """The netlink messages of one datagram: (type, flags, sequence number, whole message)."""
    offset = 0
    while offset + HEADER.size <= len(buffer):
        length, kind, flags, sequence, _port = HEADER.unpack_from(buffer, offset)
        if length < HEADER.size or offset + length > len(buffer):
            return
        yield kind, flags, sequence, buffer[offset : offset + length]
        offset += (length + 3) & ~3


def attributes(message: memoryview, offset: int) -> Iterator[tuple[int, memoryview]]:
    """(type, value) of the attributes of one message that start at `offset`; none is decoded."""
    while offset + ATTRIBUTE.size <= len(message):
        length, kind = ATTRIBUTE.unpack_from(message, offset)
        if length < ATTRIBUTE.size:
            return
        yield kind, message[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def encode(
    message_class: Any, kind: int, flags: int, fields: dict[str, Any], values: list[Any]
) -> bytes:
    """One request from a pyroute2 message class; `values` are its attributes."""
    message = message_class()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = values
    message["header"]["type"] = kind
    message["header"]["flags"] = flags | NLM_F_REQUEST
    message["header"]["sequence_number"] = 1
    message.encode()
    return bytes(message.data)


def decode(message_class: Any, data: memoryview) -> Any:
    """A pyroute2 message of `data`, one whole netlink message."""
    message = message_class(bytes(data))
    message.decode()
    return message


class NetlinkSocket:
    """A netlink socket in the network namespace of the calling thread; a context manager.

    Args:
        protocol: NETLINK_ROUTE or NETLINK_SOCK_DIAG.
        groups: bit n - 1 joins multicast group n.
        receive_buffer: bytes the kernel may queue; 0 keeps the system's default.

    Raises:
        HostError: the kernel has no such netlink family.
    """

    def __init__(self, protocol: int, groups: int = 0, receive_buffer: int = 0) -> None:
        try:
            self.socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
            )
        except OSError as error:
            raise host_error(error, f"open a netlink socket (protocol {protocol})") from error
        try:
            self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            if receive_buffer:
                self._enlarge(receive_buffer)
            self.socket.bind((0, groups))
        except OSError as error:
            self.socket.close()
            raise host_error(error, f"bind a netlink socket (protocol {protocol})") from error
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _enlarge(self, receive_buffer: int) -> None:
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    def receive(self) -> memoryview:
        """One datagram, valid until the next call.

        Raises:
            OSError: ENOBUFS, the kernel dropped datagrams of a group; EAGAIN if non-blocking.
        """
        return self._buffer[: self.socket.recv_into(self._buffer)]

    def request(self, message: bytes) -> memoryview | None:
        """Sends one request and returns its reply, or None for a bare acknowledgement.

        Raises:
            NetlinkError: the kernel refused.
        """
        self.socket.send(message)
        while True:
            for kind, flags, _sequence, data in messages(self.receive()):
                if kind == NLMSG_ERROR:
                    raise_if_refused(data, flags)
                    return None
                return data

    def dump(self, message: bytes) -> Iterator[tuple[int, memoryview]]:
        """(type, message) of each entry of a dump; a view is valid until the next one is taken.

        Raises:
            NetlinkError: the kernel refused.
            InterruptedDumpError: entries changed meanwhile, so some may be missing or double.
        """
        self.socket.send(message)
        interrupted = False
        while True:
            for kind, flags, _sequence, data in messages(self.receive()):
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_ERROR:
                    raise_if_refused(data, flags)
                elif kind == NLMSG_DONE:
                    if interrupted:
                        raise InterruptedDumpError
                    return
                else:
                    yield kind, data

    def dump_all(self, message_class: Any, message: bytes) -> list[Any]:
        """A whole dump, decoded; repeated while the kernel calls it interrupted."""
        for _attempt in range(DUMP_ATTEMPTS):
            found = []
            try:
                for _kind, data in self.dump(message):
                    found.append(decode(message_class, data))
            except InterruptedDumpError:
                continue
            return found
        return found


def decoded_reply(netlink: NetlinkSocket, message_class: Any, question: bytes) -> Any:
    """The reply to a question, as a pyroute2 message.

    Raises:
        NetlinkError: the kernel refused, or sent no reply.
    """
    reply = netlink.request(question)
    if reply is None:
        raise NetlinkError(errno.ENODATA, "the kernel acknowledged a question without an answer")
    return decode(message_class, reply)


class InterruptedDumpError(Exception):
    """The dumped table changed while it was read (NLM_F_DUMP_INTR)."""


def raise_if_refused(data: memoryview, flags: int) -> None:
    """Raises NetlinkError if `data`, an NLMSG_ERROR message, carries an error."""
    (code,) = ERROR_CODE.unpack_from(data, HEADER.size)
    if code == 0:
        return
    said = extended_text(data, flags)
    text = os.strerror(-code) + (f" ({said})" if said else "")
    raise NetlinkError(-code, text)


def extended_text(data: memoryview, flags: int) -> str:
    """The kernel's own words in an NLMSG_ERROR message, or "".

    Source: Documentation/userspace-api/netlink/intro.rst, "Extended ACK".
    """
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = HEADER.size + ERROR_CODE.size
    (echoed,) = struct.unpack_from("=I", data, start)
    offset = start + (HEADER.size if flags & NLM_F_CAPPED else (echoed + 3) & ~3)
    for kind, value in attributes(data, offset):
        if kind == NLMSGERR_ATTR_MSG:
            return bytes(value).rstrip(b"\0").decode("utf-8", "replace")
    return ""
