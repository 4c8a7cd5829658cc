# SPDX-License-Identifier: BSD-2-Clause
"""A capture through the C forwarder: what becomes of each frame, and the frames that leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple, Protocol

from pyxdp_gossip.capture import Captured
from pyxdp_gossip.forwarder import Forwarder
from pyxdp_gossip.pop_state import PopState
from pyxdp_gossip.session import Address
from pyxdp_gossip.stats import ENDINGS, SENTENCES
from pyxdp_gossip.templates import MARK_FLOOD, MARK_HOP, HeaderTemplate

BURST: Final = 64  # XG_BURST
FLOODED: Final = {"miss_flooded": MARK_FLOOD, "misdirected_flooded": MARK_FLOOD | MARK_HOP}
"""What is copied in a POP without a flood group, and the marks of the copies."""
VLAN: Final = b"\x81\x00"
IPV4: Final = b"\x08\x00"
IPV6: Final = b"\x86\xdd"


class Source(Protocol):
    """Where frames come from: `capture.Capture`, or a test's list."""

    damage: str

    def read(self, limit: int) -> list[Captured]: ...


class Outcome(NamedTuple):
    """What became of one frame.

    Attributes:
        number: of the frame in its capture, from 1 on.
        output: the frame as it is passed or sent; of a dropped one, as it came.
        to: address that it is sent to; None: it is not sent, or not by IP.
    """

    number: int
    captured: Captured
    ending: str
    output: bytes
    to: Address | None

    @property
    def action(self) -> str:
        return ENDINGS[self.ending]


@dataclass(slots=True)
class Replay:
    """The sums of a replay.

    Attributes:
        frames: read and judged; the sum of `endings`.
        endings: how many frames ended in each counter that is not 0, in the order of stats.h.
        cut: frames of which the capture has only the first bytes.
        flood_copies: further packets of floods, in a POP without a flood group.
        sent_to: address to frames sent there, copies included.
        damage: why the capture was not read to its end; "": it was.
    """

    frames: int = 0
    endings: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0
    flood_copies: int = 0
    sent_to: Counter[Address] = field(default_factory=Counter)
    damage: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "frames": self.frames,
            "endings": [
                {
                    "name": name,
                    "action": ENDINGS[name],
                    "frames": count,
                    "sentence": SENTENCES[name],
                }
                for name, count in self.endings.items()
            ],
            "cut": self.cut,
            "flood_copies": self.flood_copies,
            "sent_to": {str(address): count for address, count in sorted(self.sent_to.items())},
            "damage": self.damage,
        }


def replay(
    source: Source, forwarder: Forwarder, state: PopState, see: Callable[[Outcome], None]
) -> Replay:
    """Puts each frame through the forwarder, a burst at a time.

    Args:
        forwarder: made of `state`, and counting from 0.
        see: is told of each frame in order; copies of a flood come behind it, with its number.
    """
    total = Replay()
    copies = state.flood_copies
    while burst := source.read(BURST):
        results = forwarder.forward([captured.frame for captured in burst])
        for captured, (ending, output) in zip(burst, results, strict=True):
            total.frames += 1
            total.cut += captured.is_cut
            to = destination_of(output) if ENDINGS[ending] == "tx" else None
            outcome = Outcome(total.frames, captured, ending, output, to)
            tell(total, outcome, see)
            if copies and ending in FLOODED:
                for copy in flood_copies(outcome, copies):
                    total.flood_copies += 1
                    tell(total, copy, see)
    counted = forwarder.counters()
    total.endings = {name: counted[name] for name in ENDINGS if counted[name]}
    total.damage = source.damage
    return total


def tell(total: Replay, outcome: Outcome, see: Callable[[Outcome], None]) -> None:
    """Notes where a frame goes, and shows it."""
    if outcome.to is not None:
        total.sent_to[outcome.to] += 1
    see(outcome)


def flood_copies(sent: Outcome, headers: Sequence[HeaderTemplate]) -> Iterable[Outcome]:
    """The other packets of a flood without a group; too big for a path, it is left out."""
    packet = sent.output[len(headers[0].header) :]
    frame = bytes(12) + (IPV4 if packet[0] >> 4 == 4 else IPV6) + packet
    for other in headers[1:]:
        try:
            output = other.apply(frame, mark=FLOODED[sent.ending])
        except ValueError:
            continue
        yield sent._replace(output=output, to=destination_of(output))


def destination_of(sent: bytes) -> Address | None:
    """Where a sent frame goes by its first IP header; None: it begins with no such header."""
    ip = 18 if sent[12:14] == VLAN else 14
    if sent[ip - 2 : ip] == IPV4 and len(sent) >= ip + 20:
        return IPv4Address(sent[ip + 16 : ip + 20])
    if sent[ip - 2 : ip] == IPV6 and len(sent) >= ip + 40:
        return IPv6Address(sent[ip + 24 : ip + 40])
    return None
