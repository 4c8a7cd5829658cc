# SPDX-License-Identifier: BSD-2-Clause
"""What the caller tells the gossip core, and what the core tells the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pyxdp_gossip.gossip.messages import Versions
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Address, KernelView, Service


class MemberState(Enum):
    """What this host thinks of another one; the first four are *active*."""

    ALIVE = "alive"
    DRAINING = "draining"
    SUSPECT = "suspect"  # heartbeats missed; being probed
    SILENT = "silent"  # the agent is down, the host answers probes
    DEAD = "dead"  # neither
    LEFT = "left"

    @property
    def active(self) -> bool:
        """Whether the host may own sessions and gets strays."""
        return self not in (MemberState.DEAD, MemberState.LEFT)


# ---- from the core to the caller ----


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A host is new, has another state, or another tunnel end."""

    host: int
    state: MemberState
    address: Address
    tunnel_port: int


@dataclass(frozen=True, slots=True)
class ProbeWanted:
    """Ask the host's XDP program whether it is there; answer with `ProbeAnswered`."""

    host: int
    address: Address
    tunnel_port: int
    nonce: int


@dataclass(frozen=True, slots=True)
class Synced:
    """This host knows every member's sessions; `partial`: some did not come in time."""

    partial: bool


@dataclass(frozen=True, slots=True)
class DuplicateHost:
    """Another host has this id. `fatal`: this one is the younger and must stop."""

    fatal: bool
    address: tuple[str, int]


@dataclass(frozen=True, slots=True)
class IncompatibleHost:
    """A host and the others have no version of the gossip in common: it is not taken in.

    `theirs` is what it reads, or, if nothing of it can be read, what it writes.
    """

    host: int
    address: tuple[str, int]
    theirs: Versions
    ours: Versions

    def __str__(self) -> str:
        return (
            f"host {self.host} at {self.address[0]} speaks version {self.theirs} of the gossip, "
            f"this one {self.ours}: it is not taken in; upgrade by way of a release that reads both"
        )


@dataclass(frozen=True, slots=True)
class AskKernel:
    """Does this kernel know these sessions? Answer with `KernelAnswer` of the same numbers.

    `questions` are struct xg_event records, kind MISS, with this host's service slots.
    `asker` may be this host itself.
    """

    asker: int
    number: int
    questions: bytes


@dataclass(frozen=True, slots=True)
class UnknownService:
    """`records` of a host's batch are about services that this host does not have."""

    host: int
    records: int


OutgoingEvent = (
    MemberChanged
    | ProbeWanted
    | Synced
    | DuplicateHost
    | IncompatibleHost
    | AskKernel
    | UnknownService
)


# ---- from the caller to the core ----


@dataclass(frozen=True, slots=True)
class SocketEvents:
    """struct xg_event records of kind OPEN, CLOSE, CLOSE_LINGER and CLAIM."""

    records: bytes


@dataclass(frozen=True, slots=True)
class Misses:
    """struct xg_event records of kind MISS: flooded packets nobody is known to own."""

    records: bytes


@dataclass(frozen=True, slots=True)
class Misdirected:
    """struct xg_event records of kind MISDIRECTED: a host sent what this kernel does not know."""

    records: bytes


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The host's XDP program answered the probe with this nonce."""

    host: int
    nonce: int


@dataclass(frozen=True, slots=True)
class KernelAnswer:
    """The answer to `AskKernel`: what this kernel says of each question's session.

    One that it knows is not denied; only what a full socket holds is claimed, for nothing would
    tell the end of the others.
    """

    asker: int
    number: int
    views: Sequence[KernelView]


@dataclass(frozen=True, slots=True)
class ServicesChanged:
    """This host's services after a reload: slot → service. Slots never change their service."""

    services: Mapping[int, Service]


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """This host's keys after a reload: the first sends, any opens. Never empty."""

    keys: Sequence[Key]


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The longest UDP payload, in bytes, that the network carries whole."""

    datagram_max: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell everyone not to expect new sessions here."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Tell everyone that this host goes; the core is silent after it."""


IncomingEvent = (
    SocketEvents
    | Misses
    | Misdirected
    | ProbeAnswered
    | KernelAnswer
    | ServicesChanged
    | KeysChanged
    | PathChanged
    | Drain
    | Leave
)
