# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets as data: scapy, which builds them, would take a minute for it in the guest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PLACE: Final = "/golden.json"


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
    from tests.golden_tunnel import tunnel_rows

    rows = [row for row in (*plain_rows(), *tunnel_rows()) if row.flood]
    return json.dumps(
        [
            [one.description, one.frame.hex(), one.ending, one.output.hex(), one.agent_alive]
            for one in rows
        ]
    ).encode()


@cache
def golden_rows() -> tuple[Row, ...]:
    """The rows, in the guest."""
    return tuple(
        Row(description, bytes.fromhex(frame), ending, bytes.fromhex(output), alive)
        for description, frame, ending, output, alive in json.loads(Path(PLACE).read_text())
    )
