# SPDX-License-Identifier: BSD-2-Clause
"""A full datagram of the gossip: written and sealed, opened and read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from bench.gossip_codec import FULL, OPEN4, bodies_of
from bench.micro.conftest import Timed
from pyxdp_gossip.gossip.messages import Batch
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import (
    DatagramType,
    decode_payload,
    encode_message,
    encode_section,
)
from pyxdp_gossip.key_file import Key

SENDER, RECEIVER = 1, 2
KEYS: Final = (Key(1, bytes(range(32))),)
RECORDS: Final = bodies_of(0, FULL)
ENCODED, DECODED = "datagram encoded", "datagram decoded"
SEALED, OPENED = "datagram sealed", "datagram opened"
COPIED: Final = "floor: its bytes copied"


def payload() -> bytes:
    """A batch and its records, as `gossip.own_log` puts them together."""
    return encode_message(Batch(1, 1)) + encode_section(OPEN4, RECORDS)


def sealed() -> Iterator[bytes]:
    """Datagrams of one host; each counter may be used once."""
    envelope, plain = Envelope(SENDER, 1, 1, keys=KEYS), payload()
    while True:
        yield envelope.seal(DatagramType.LOG, plain)


def test_encode(timed: Timed) -> None:
    timed(ENCODED, payload, 1, "datagram")


def test_decode(timed: Timed) -> None:
    plain = payload()
    assert len(decode_payload(plain)) == 2
    timed(DECODED, lambda: decode_payload(plain), 1, "datagram")


def test_seal(timed: Timed) -> None:
    datagrams = sealed()
    timed(SEALED, lambda: next(datagrams), 1, "datagram")


def test_open(timed: Timed) -> None:
    """With what a receiver checks: header, seal, window, version."""
    datagrams, receiver = sealed(), Envelope(RECEIVER, 2, 2, keys=KEYS)

    def next_one() -> tuple[Any, ...]:
        return tuple(itertools.islice(datagrams, 1))

    timed(OPENED, receiver.open, 1, "datagram", before=next_one)


def test_encode_floor(timed: Timed) -> None:
    plain = payload()
    timed(ENCODED, lambda: bytearray(plain), 1, "datagram", case=COPIED)


def test_decode_floor(timed: Timed) -> None:
    plain = payload()
    timed(DECODED, lambda: bytearray(plain), 1, "datagram", case=COPIED)


def test_seal_floor(timed: Timed) -> None:
    datagram = next(sealed())
    timed(SEALED, lambda: bytearray(datagram), 1, "datagram", case=COPIED)


def test_open_floor(timed: Timed) -> None:
    datagram = next(sealed())
    timed(OPENED, lambda: bytearray(datagram), 1, "datagram", case=COPIED)
