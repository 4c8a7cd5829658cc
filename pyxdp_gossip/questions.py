# SPDX-License-Identifier: BSD-2-Clause
"""Turns a peer's question into the frame that the kernel's view is asked with (pure)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Final

from pyxdp_gossip.gossip.records import EVENT
from pyxdp_gossip.session import Service

TCP_ACK: Final = 0x10
ETHERTYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}


def frames(events: bytes, services: Mapping[int, Service]) -> Iterator[bytes | None]:
    """One minimal frame a question, from the client to the service, with its seq and ack.

    Args:
        events: (n * 40,) bytes of `struct xg_event`.
        services: this host's slots.

    Yields:
        A frame from Ethernet to TCP, no payload, checksums zero; None for an unknown slot and for
        UDP, whose unconnected sockets could not confirm a session.
    """
    for _, family, slot, port, _, seq, ack, address, _ in EVENT.iter_unpack(events):
        service = services.get(slot)
        if service is None or service.protocol != "tcp" or service.vip.version != family:
            yield None
            continue
        tcp = struct.pack("!2sHIIBBHHH", port, service.port, seq, ack, 0x50, TCP_ACK, 0xFFFF, 0, 0)
        yield bytes(12) + ETHERTYPES[family] + _ip(family, address, service, len(tcp)) + tcp


def _ip(family: int, client: bytes, service: Service, payload_len: int) -> bytes:
    if isinstance(service.vip, IPv4Address):
        return struct.pack(
            "!BBHHHBBH4s4s",
            0x45, 0, 20 + payload_len, 0, 0, 64, 6, 0, client[:4], service.vip.packed,
        )  # fmt: skip
    return struct.pack("!IHBB16s16s", 6 << 28, payload_len, 6, 64, client, service.vip.packed)
