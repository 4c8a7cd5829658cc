# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets as data: scapy, which builds them, would take a minute for it in the guest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.model_formats import FLAVOURS, Flavour

PLACE: Final = "/golden.json"
LENGTHS: Final = (0, 1, 99, 1200)


@dataclass(frozen=True, slots=True)
class Row:
    """What a test over a link needs of a row of tests/golden.py."""

    description: str
    frame: bytes
    ending: str
    output: bytes
    agent_alive: bool


def written() -> bytes:
    """All rows that have a flood template; on the machine that has scapy."""
    from tests.golden import plain_rows
    from tests.golden_formats import format_rows
    from tests.golden_quic import quic_rows
    from tests.golden_too_big import too_big_rows
    from tests.golden_tunnel import tunnel_rows

    return json.dumps(
        {
            "link": _data([*plain_rows(), *tunnel_rows()]),
            "more": _data([*too_big_rows(), *quic_rows()]),
            "formats": [_data(format_rows(flavour)) for flavour in FLAVOURS],
            "inner": {family: _openings(family) for family in (4, 6)},
        }
    ).encode()


def _data(rows: Iterable[Any]) -> list[Any]:
    return [
        [one.description, one.frame.hex(), one.ending, one.output.hex(), one.agent_alive]
        for one in rows
        if one.flood
    ]


def _openings(family: int) -> list[str]:
    from scapy.packet import Raw

    from tests.golden import ip, tcp, udp
    from tests.golden_world import State

    return [
        bytes(ip(family, tos=tos) / transport / Raw((bytes(range(256)) * 5)[:length])).hex()
        for length in LENGTHS
        for transport, tos in ((tcp(State.ABSENT, "S"), 2), (udp(State.ABSENT), 0))
    ]


@cache
def _read() -> Any:
    return json.loads(Path(PLACE).read_text())


def _rows(data: Iterable[Any]) -> tuple[Row, ...]:
    return tuple(
        Row(description, bytes.fromhex(frame), ending, bytes.fromhex(output), alive)
        for description, frame, ending, output, alive in data
    )


@cache
def golden_rows() -> tuple[Row, ...]:
    """The rows, in the guest, that a test can judge over a link."""
    return _rows(_read()["link"])


@cache
def more_rows() -> tuple[Row, ...]:
    """What is too big for its path, and QUIC."""
    return _rows(_read()["more"])


@cache
def rows_of(flavour: Flavour) -> tuple[Row, ...]:
    """The rows of one tunnel format."""
    return _rows(_read()["formats"][FLAVOURS.index(flavour)])


def openings(family: int) -> list[bytes]:
    """IP packets that open a session: SYNs and datagrams of several lengths."""
    return [bytes.fromhex(one) for one in _read()["inner"][str(family)]]
