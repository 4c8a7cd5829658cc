# SPDX-License-Identifier: BSD-2-Clause
"""Changes frames a little, where it matters: numbers that mean something to a parser."""

from __future__ import annotations

import random

# EtherTypes' halves, IP protocols, extension headers, versions with header lengths, extremes.
TELLING_BYTES = (0, 1, 4, 5, 6, 17, 41, 43, 44, 45, 60, 0x45, 0x46, 0x60, 0x81, 0xFF)


def mutated(frame: bytes, source: random.Random) -> bytes:
    """A frame with up to three bytes changed, and sometimes cut or longer."""
    data = bytearray(frame)
    for _ in range(source.randint(0, 3)):
        data[source.randrange(12, min(len(data), 100))] = source.choice(TELLING_BYTES)
    if source.random() < 0.3:
        del data[source.randrange(len(data)) :]
    if source.random() < 0.1:
        data += source.randbytes(source.randint(1, 60))
    return bytes(data)
