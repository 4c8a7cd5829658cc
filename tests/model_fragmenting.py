# SPDX-License-Identifier: BSD-2-Clause
"""The model's part on fragments that a loop makes of what is too big for its path (RFC 791).

Written from the documentation, slow on purpose, like model.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.model_formats import checksum

if TYPE_CHECKING:
    from tests.model import Packet

MTU_MIN: Final = 124
"""The longest IPv4 header, 60, and the longest TCP header in whole units of 8, 64."""
PIECES_MAX: Final = 64
BYTES_MAX: Final = 65535
END, NOP, COPIED = 0, 1, 0x80
ICMP: Final = 1
"""An error is not cut: its receiver needs the quote."""


def cut(data: bytes, mtu: int) -> list[bytes]:
    """The fragments of an IPv4 packet with DF clear that is larger than `mtu`, or none."""
    length = 4 * (data[0] & 15)
    header, payload = data[:length], data[length:]
    flags = int.from_bytes(header[6:8])
    room = (mtu - length) // 8 * 8
    if mtu < MTU_MIN or flags & 0x4000 or (flags & 0x1FFF) * 8 + len(payload) > BYTES_MAX:
        return []
    parts = [payload[at : at + room] for at in range(0, len(payload), room)]
    if len(parts) > PIECES_MAX:
        return []
    found = []
    for number, part in enumerate(parts):
        said = flags + number * room // 8
        if number + 1 < len(parts):
            said |= 0x2000
        mine = bytearray(header[:20] + (_copied(header[20:]) if number else header[20:]))
        mine[2:4], mine[6:8] = (length + len(part)).to_bytes(2), said.to_bytes(2)
        found.append(_summed(bytes(mine), header) + part)
    return found


def _copied(options: bytes) -> bytes:
    """Options for later fragments: those without the copy flag become no-operations."""
    out, at = bytearray(options), 0
    while at < len(out) and out[at] != END:
        if out[at] == NOP:
            at += 1
            continue
        size = out[at + 1] if at + 1 < len(out) else 0
        if size < 2 or at + size > len(out):
            break
        if not out[at] & COPIED:
            out[at : at + size] = bytes([NOP]) * size
        at += size
    return bytes(out)


def _summed(header: bytes, came: bytes) -> bytes:
    """The header with its checksum; one that came with a wrong one is as wrong again."""
    blank = header[:10] + bytes(2) + header[12:]
    wrong_by = (0xFFFF - checksum(came)) % 0xFFFF  # the sum of all words, which should be none
    total = (checksum(blank) + wrong_by) % 0xFFFF or 0xFFFF if wrong_by else checksum(blank)
    return header[:10] + total.to_bytes(2) + header[12:]


def pieces(packet: Packet, frame: bytes, mtu: int) -> list[tuple[Packet, bytes]]:
    """The fragments of the packet in a frame, each as a packet and the bytes from its IP header
    on; none if it may not be cut."""
    data = frame[packet.l3 : packet.l3 + packet.length]
    if packet.family != 4 or data[9] == ICMP:
        return []
    header = packet.l4 - packet.l3
    return [
        (replace(packet, l3=0, l4=header, length=len(piece)), piece) for piece in cut(data, mtu)
    ]
