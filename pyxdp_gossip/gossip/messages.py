# SPDX-License-Identifier: BSD-2-Clause
"""What hosts tell each other: one value type for each section of a datagram."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pyxdp_gossip.session import Address, Service

VERSION_MAX = 255  # one byte in the header


class HostState(IntEnum):
    """What a host says of itself."""

    JOINING = 1
    ACTIVE = 2
    DRAINING = 3


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the wire format that a host reads: `lowest` and `highest`, and all between.

    It writes each of them, too.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest <= VERSION_MAX:
            raise ValueError(f"versions are {self}, expected 1 <= lowest <= highest <= 255")

    def __contains__(self, version: int) -> bool:
        return self.lowest <= version <= self.highest

    def __and__(self, other: Versions) -> Versions | None:
        """Those that both read, if there are any."""
        lowest, highest = max(self.lowest, other.lowest), min(self.highest, other.highest)
        return Versions(lowest, highest) if lowest <= highest else None

    def __str__(self) -> str:
        return f"{self.lowest}..{self.highest}"

    def all(self) -> range:
        """Each of them, the lowest first."""
        return range(self.lowest, self.highest + 1)


OURS = Versions(1, 1)
"""What this package reads and writes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Number of a log batch, without gaps in an incarnation, and the clock of its OPENs."""

    number: int
    clock: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A host's state, where its tunnel ends, and how its log stands.

    After batch `last_batch` the host has `sessions` open ones, and the sums of its digest add up
    to `digest`: so a lost tail shows, and so does any difference.
    """

    state: HostState
    tunnel_port: int
    last_batch: int
    address: Address
    digest: int = 0
    sessions: int = 0
    versions: Versions = OURS


@dataclass(frozen=True, slots=True)
class Services:
    """A part of a host's dictionary: index in its log → service.

    A new `generation` voids what was told before; parts of one generation add up.
    """

    generation: int
    entries: tuple[tuple[int, Service], ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """Tell me who you are; with `pull`, and send me your shard under the name `request`; with
    `members`, and whom you know."""

    request: int
    pull: bool
    members: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to one HELLO of one incarnation of one host."""

    request: int
    host: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member as another one knows it."""

    host: int
    tunnel_port: int
    incarnation: int
    address: Address


@dataclass(frozen=True, slots=True)
class Members:
    """The other active hosts that the sender knows, the silent ones included."""

    entries: tuple[MemberEntry, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """Datagram `number` (from 0) of a shard, as of log position `position`."""

    request: int
    number: int
    position: int


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """The shard named `request` has `count` datagrams, the last as of log position `position`."""

    request: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class Nack:
    """Batches of the receiver's log that the sender misses: (first number, how many)."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """The batches before `lowest` are no longer kept: compare digests instead."""

    lowest: int


@dataclass(frozen=True, slots=True)
class AskSums:
    """Multicast the sums of your digest."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums `first`.. of the sender's digest, which has `buckets`, after batch `position`."""

    position: int
    first: int
    buckets: int
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PullBuckets:
    """Send your sessions in these buckets of the digest, as a shard named `request`.

    `bitmap`: bit b is bit b & 7 of byte b >> 3; one bit for each bucket.
    """

    request: int
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class Accusation:
    """The sender neither hears this incarnation of a host, nor does the host answer probes."""

    host: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """The sender goes; its sessions are void."""


@dataclass(frozen=True, slots=True)
class Question:
    """A session somebody looks for, by the asker's service index.

    `address` is (16,) bytes, an IPv4 client in the first four, the rest zero.
    """

    family: int
    index: int
    client_port: int
    seq: int
    ack: int
    address: bytes


@dataclass(frozen=True, slots=True)
class WhoHas:
    """A numbered batch of questions to all active hosts."""

    number: int
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Bit i of `not_mine`: the sender's kernel has no socket of question i's session.

    `view` names the set of hosts that may own sessions, as the sender sees it.
    """

    number: int
    not_mine: int
    view: int


@dataclass(frozen=True, slots=True)
class Stray:
    """A session, by the teller's service index; `address` as in `Question`."""

    family: int
    index: int
    client_port: int
    address: bytes


@dataclass(frozen=True, slots=True)
class NotMine:
    """Packets of these sessions came from you, and the sender's kernel does not know them."""

    strays: tuple[Stray, ...]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """To one incarnation of the sender's own id: you are the younger of two, stop."""

    host: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Records:
    """A section of ownership records, which only the codec reads."""

    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A section of a later version; skipped and counted."""

    kind: int


Message = (
    Batch
    | Heartbeat
    | Services
    | Hello
    | Welcome
    | Members
    | Shard
    | ShardEnd
    | Leaving
    | WhoHas
    | Answer
    | NotMine
    | Duplicate
    | Nack
    | Gone
    | AskSums
    | Sums
    | PullBuckets
    | Accusation
    | Records
    | Unknown
)
