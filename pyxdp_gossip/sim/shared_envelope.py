# SPDX-License-Identifier: BSD-2-Clause
"""Opens each datagram once for all its receivers, and watches that none is accepted twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.messages import Message
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import Header, decode_header, decode_payload
from pyxdp_gossip.key_file import Key

Name = tuple[int, int, int]  # sender, salt, counter
KEPT = 4096  # datagrams: what is on its way at one moment; replays of older ones open anew


class Reader:
    """What the receivers of one POP share: payloads that were opened, by the datagram's bytes."""

    def __init__(self) -> None:
        self._opened: dict[bytes, tuple[Header, list[Message], Name]] = {}

    def known(self, data: bytes) -> tuple[Header, list[Message], Name] | None:
        """What an authentic datagram says, if somebody opened it before."""
        return self._opened.get(data)

    def note(self, data: bytes, header: Header, messages: list[Message]) -> Name:
        """A datagram was opened; its name, one object for all that keep it."""
        if len(self._opened) >= KEPT:
            del self._opened[next(iter(self._opened))]
        name = (header.sender, header.salt, header.counter)
        self._opened[data] = (header, messages, name)
        return name


class SharedEnvelope(Envelope):
    """An envelope whose key ring and replay windows are its own; only the work is shared.

    Args:
        reader: shared by the POP.
        accepted_twice: told of a datagram that this start accepted before.
    """

    def __init__(
        self,
        host: int,
        incarnation: int,
        salt: int,
        keys: Sequence[Key],
        reader: Reader,
        accepted_twice: Callable[[Header], None],
    ) -> None:
        super().__init__(host, incarnation, salt, keys=keys)
        self._reader = reader
        self._accepted_twice = accepted_twice
        self._accepted: set[Name] = set()

    def read(self, data: bytes) -> tuple[Header, list[Message]]:
        known = self._reader.known(data)
        header = decode_header(data) if known is None else known[0]
        if header.key_id not in self._secrets:
            raise PeerError("unknown_key")
        if header.version not in self.versions:
            raise PeerError("unknown_version")
        if known is None:
            messages = decode_payload(self._decrypt(header, data))
            name = self._reader.note(data, header, messages)
        else:
            _, messages, name = known
        self._check_replay(header)
        if name in self._accepted:
            self._accepted_twice(header)
        self._accepted.add(name)
        return header, messages
