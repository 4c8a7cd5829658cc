# SPDX-License-Identifier: BSD-2-Clause
"""What waits to be sent: bounded, paced, sealed when it is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.messages import Message
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import PAYLOAD_MAX, ROOM_MAX, DatagramType, encode_message

Reach = tuple[str, int]
Destination = Reach | None  # None: the group

WAITING_MAX = 16_384  # 22 MiB: a resync of a million sessions; beyond it the oldest go
TAKEN_MAX = 64  # datagrams a call, so that a resync does not drown the readers' sockets


class Outbox:
    """Datagrams in order; nothing is sealed before it goes, so a dropped one costs no counter.

    `room` says what fits into one; it shrinks with the network's MTU. `version_for` says in which
    version a destination's datagrams are written.
    """

    def __init__(self, envelope: Envelope, tally: Tally) -> None:
        self._envelope = envelope
        self._tally = tally
        self._waiting: deque[tuple[Destination, DatagramType, bytes]] = deque()
        self.room = ROOM_MAX
        lowest = envelope.versions.lowest
        self.version_for: Callable[[Destination], int] = lambda _destination: lowest

    def put(
        self,
        destination: Destination,
        kind: DatagramType,
        *messages: Message,
        records: bytes = b"",
    ) -> None:
        """Queue one datagram of whole sections; `records` come from the codec, last."""
        self.put_payload(destination, kind, b"".join(map(encode_message, messages)) + records)

    def put_payload(self, destination: Destination, kind: DatagramType, payload: bytes) -> None:
        """Queue one datagram of sections that are encoded already."""
        assert len(payload) <= PAYLOAD_MAX, "a sender broke its section's budget"
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._tally.add("outgoing_dropped")
        self._waiting.append((destination, kind, payload))

    def take(self) -> list[tuple[Destination, bytes]]:
        """The next datagrams, sealed, at most `TAKEN_MAX`."""
        taken: list[tuple[Destination, bytes]] = []
        while self._waiting and len(taken) < TAKEN_MAX:
            destination, kind, payload = self._waiting.popleft()
            data = self._envelope.seal(kind, payload, self.version_for(destination))
            taken.append((destination, data))
            self._tally.add("datagrams_out")
            self._tally.add("bytes_out", len(data))
        return taken

    def __len__(self) -> int:
        return len(self._waiting)
