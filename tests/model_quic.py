# SPDX-License-Identifier: BSD-2-Clause
"""The model's reading of QUIC connection ids, written from the drafts: hexadecimal digits are the
half octets that the cipher works on. The second opinion on csrc/quic_lb.h and quic_lb.py.

Source: draft-ietf-quic-load-balancers-21; RFC 9000 section 17; RFC 9369 section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.model import Packet

HOST_MAX = 65000
ID_MAX = 20

# Version → type bits → may the client have chosen the id? Retry is sent by servers only.
LONG_TYPES: Final = {
    b"\x00\x00\x00\x01": {0: True, 1: True, 2: False},  # Initial, 0-RTT, Handshake
    b"\x6b\x33\x43\xcf": {1: True, 2: True, 3: False},
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How an id is made: lengths in octets, and the key, (16,) bytes or None."""

    server_id: int
    nonce: int
    key: bytes | None = None


def _aes(key: bytes, block: bytes, *, back: bool = False) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.ECB())
    one = cipher.decryptor() if back else cipher.encryptor()
    return one.update(block) + one.finalize()


def _xor(left: str, right: str) -> str:
    """Of as many digits as the left one has."""
    return f"{int(left, 16) ^ int(right[: len(left)], 16):0{len(left)}x}"


def _expand(length: int, number: int, half: str) -> bytes:
    octets = bytes.fromhex(half)
    return octets + bytes(14 - len(octets)) + bytes([length, number])


def opened(layout: Layout, body: bytes) -> bytes:
    """Server id and nonce: the load balancer's actions of section 5.5."""
    if layout.key is None:
        return body
    if len(body) == 16:
        return _aes(layout.key, body, back=True)
    length, digits = len(body), body.hex()
    pad = "0" * (length % 2)
    left, right = digits[:length], digits[length:]
    for number in (4, 3, 2, 1):
        if number % 2:
            result = _aes(layout.key, _expand(length, number, left + pad)).hex()
            right = _xor(right, result[len(pad) :])
        else:
            result = _aes(layout.key, _expand(length, number, pad + right)).hex()
            left = _xor(left, result)
    return bytes.fromhex(left + right)


def connection_id(datagram: bytes) -> tuple[bytes, bool] | None:
    """The destination id, or what begins with it, and whether the client may have chosen it."""
    if not datagram:
        return None
    if not datagram[0] & 0x80:
        return datagram[1 : 1 + ID_MAX], False
    clients = LONG_TYPES.get(datagram[1:5], {}).get(datagram[0] >> 4 & 3)
    if clients is None or len(datagram) < 6 or datagram[5] > ID_MAX:
        return None
    cid = datagram[6 : 6 + datagram[5]]
    return (cid, clients) if len(cid) == datagram[5] else None


def host_named(layouts: Mapping[int, Layout], datagram: bytes) -> int | None:
    """The host that a datagram's connection id names."""
    found = connection_id(datagram)
    if found is None or not found[0]:
        return None
    cid, may_be_clients = found
    layout = layouts.get(cid[0] >> 5)
    if layout is None or len(cid) <= layout.server_id + layout.nonce:
        return None
    if may_be_clients and cid[0] & 0x1F != len(cid) - 1:
        return None
    body = cid[1 : 1 + layout.server_id + layout.nonce]
    host = int(opened(layout, body)[: layout.server_id].hex(), 16)
    return host if host <= HOST_MAX else None


def reader(
    slots: frozenset[int], layouts: Mapping[int, Layout]
) -> Callable[[int, bytes, Packet], int | None]:
    """What a World asks: the host that a packet to the service of a slot names."""

    def named(slot: int, frame: bytes, packet: Packet) -> int | None:
        if slot not in slots:
            return None
        length = int.from_bytes(frame[packet.l4 + 4 : packet.l4 + 6])
        end = min(packet.l4 + length, packet.l3 + packet.length)
        return host_named(layouts, frame[packet.l4 + 8 : end])

    return named
