# SPDX-License-Identifier: BSD-2-Clause
"""Which sockets wait for a service's clients, by sock_diag."""

from __future__ import annotations

import socket

from pyxdp_gossip.netlink_socket import (
    HEADER,
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    InterruptedDumpError,
    NetlinkError,
    NetlinkSocket,
    host_error,
)
from pyxdp_gossip.session import Service
from pyxdp_gossip.sockets_diag import (
    NO_ADDRESS,
    RECORD,
    REQUEST,
    SOCK_DIAG_BY_FAMILY,
    V4_MAPPED,
)

TCP_CLOSE, TCP_LISTEN = 7, 10  # an unconnected UDP socket is in the first


def is_served(service: Service) -> bool:
    """Whether a socket of this network namespace listens for a service, at its VIP or any address.

    Raises:
        HostError: the kernel has no inet_diag for the protocol, or refused.
    """
    return any(_takes(service, port, source) for port, source in _waiting(service.protocol))


def _takes(service: Service, port: bytes, source: bytes) -> bool:
    packed = service.vip.packed
    own = {packed.ljust(16, b"\0"), V4_MAPPED + packed if len(packed) == 4 else packed}
    return port == service.port.to_bytes(2) and (source == NO_ADDRESS or source in own)


def _waiting(protocol: str) -> list[tuple[bytes, bytes]]:
    """(port, address padded to 16 bytes) of each socket, in network order."""
    number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    states = 1 << (TCP_LISTEN if protocol == "tcp" else TCP_CLOSE)
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = REQUEST.pack(family, number, 0, states)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        head = HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, flags, 1, 0)
        try:
            with NetlinkSocket(NETLINK_SOCK_DIAG) as netlink:
                for _kind, message in netlink.dump(head + body):
                    _family, _timer, local, _remote, source, _to = RECORD.unpack_from(message)
                    found.append((local, source))
        except InterruptedDumpError:
            continue  # what was seen is there
        except NetlinkError as error:
            raise host_error(error, f"read the {protocol} sockets (inet_diag)") from error
    return found
