# SPDX-License-Identifier: BSD-2-Clause
"""Types of the C core; the docstrings of what is public are those of the module itself.

Buffers are contiguous and of any item type unless a format is named. `position` and `now_ms`
may be any non-negative integer; they are kept and compared modulo 2^32. Clocks are the hybrid
logical clock, 64 bits. One writer: every method but `SessionTable.find_burst` belongs to one
thread at a time.
"""

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import Buffer, disjoint_base

from pyxdp_gossip._native_loop import FLOOD_COPIES as FLOOD_COPIES
from pyxdp_gossip._native_loop import QUEUE_BYTES as QUEUE_BYTES
from pyxdp_gossip._native_loop import QUEUES as QUEUES
from pyxdp_gossip._native_loop import FloodList as FloodList
from pyxdp_gossip._native_loop import XskLoop as XskLoop
from pyxdp_gossip._native_loop import give_up_queues as give_up_queues
from pyxdp_gossip._native_loop import sum_counters as sum_counters
from pyxdp_gossip.tunnel_receiver import TunnelReceiver

ABSENT: int
"""In `find_burst`: no valid entry."""
UNOWNED: int
"""The owner of the short-lived mark "no host has this session"."""
LINGER: int
"""Flag of an entry: closed, kept for the session's last packets, first to be evicted."""
SERVICE_UNKNOWN: int
"""In a translation: this host does not have the service."""
OWNER_STATES_BYTES: int
EVENT_BYTES: int
HASH_KEY_BYTES: int
LAYOUT_DIGEST: int
"""64 bits of every header that says what lies in the BPF maps, and how."""
EPOCHS_BETWEEN_SWEEPS: int

def pack_key4(address: Buffer, port: int, slot: int) -> bytes: ...
def pack_key6(address: Buffer, port: int, slot: int) -> bytes: ...
def session_hash(hash_key: Buffer, key: Buffer) -> int: ...

QUIC_LAYOUTS: int
"""Places of layouts of connection ids: one for each value of their first three bits."""
QUIC_LAYOUT_BYTES: int
"""Bytes of `struct xg_quic_lb`."""

def pack_quic_layout(server_id_length: int, nonce_length: int, key: Buffer | None = None) -> bytes:
    """`struct xg_quic_lb`, with the schedule of the (16,) bytes key; None: not encrypted.

    Raises:
        ValueError: the key has another length.
        OSError: EINVAL: no id has these lengths.
    """

def quic_owner(layouts: Buffer, datagram: Buffer) -> int | None:
    """The host that a datagram's connection id names, or None.

    Args:
        layouts: (8 * 184,) bytes, rows of `struct xg_quic_lb`.
        datagram: from the first byte of its QUIC header on.

    Raises:
        ValueError: `layouts` is no whole array.
    """

@disjoint_base
class OwnerStates:
    """The state of all 65536 owners, which every table entry depends on.

    One change is one aligned 64-bit store: a reader sees epoch, activity and template of one
    moment. Every method raises ValueError if `host` is not 0..65000.

    Args:
        memory: (524288,) writable bytes, such as an mmapped BPF array; None: own memory. What it
            holds is kept: a restarted agent finds its owners as it left them. Owners that were
            never touched get "no template".

    Raises:
        ValueError: the length or the alignment (8 bytes) of `memory` is wrong.
    """

    def __init__(self, memory: Buffer | None = None) -> None: ...
    def activate(self, host: int) -> None:
        """From now on `host` may own sessions and get strays."""

    def deactivate(self, host: int) -> None:
        """All entries of `host` are void until it is activated again, or a sweep clears them."""

    def void(self, host: int) -> None:
        """Make all entries of `host` void, in O(1): its epoch grows by one.

        Once in EPOCHS_BETWEEN_SWEEPS changes of one host's epoch, all tables are swept first,
        so that no old entry comes to life when the 8-bit epoch comes round.
        """

    def new_epoch(self, host: int) -> None:
        """The epoch of `host` grows by one; entries of the last count until `drop_previous`."""

    def drop_previous(self, host: int) -> None:
        """Entries of the previous epoch of `host` are void now."""

    def set_template(self, host: int, index: int | None) -> None:
        """Which header template leads to a host.

        Args:
            host: 0..65000.
            index: of the template, 0..65534; None: none leads there.

        Raises:
            ValueError: an argument is out of range.
        """

    def is_active(self, host: int) -> bool:
        """Whether `host` may own sessions and get strays."""

    def state(self, host: int) -> tuple[int, int, int]:
        """Of `host`: (epoch, flags XG_OWNER_*, template index or 65535)."""

@dataclass(frozen=True, slots=True)
class Entry:
    """What the table says about one session."""

    owner: int
    """Host id, or UNOWNED."""
    flags: int
    """0 or LINGER."""
    epoch: int
    opened_at: int
    """Clock of the OPEN."""
    position: int
    """Of the owner's log, modulo 2^32."""
    changed_at_ms: int
    """When it began to linger or was marked, modulo 2^32; 0 of an open session."""

@disjoint_base
class SessionTable:
    """Session to owner: bounded, one writer, many readers, in memory that BPF may share.

    Makes an empty table of 4 * `buckets` entries. Keys are `pyxdp_gossip.session_key()`'s.

    Args:
        family: 4 or 6.
        buckets: an even number, 2..2**26.
        owners: shared by all tables of one host.
        memory: at least `required_bytes(family, buckets)` writable bytes, 8-byte aligned; None:
            own anonymous memory.
        hash_key: (16,) bytes; None: random. A known one lets an attacker choose clients that
            collide.
        adopt: keep the valid entries that an earlier table left in `memory`, with clock and
            position 0, and its hash key.

    Raises:
        ValueError: an argument is out of range or a buffer has the wrong length.
        OSError: ENOMEM; EINVAL, `memory` is not aligned; EUCLEAN, nothing to adopt in it.
    """

    @property
    def family(self) -> int:
        """4 or 6."""

    @property
    def memory_bytes(self) -> int:
        """Shared memory that the table uses, bytes."""

    def __init__(
        self,
        family: int,
        buckets: int,
        owners: OwnerStates,
        *,
        memory: Buffer | None = None,
        hash_key: Buffer | None = None,
        adopt: bool = False,
    ) -> None: ...
    @staticmethod
    def required_bytes(family: int, buckets: int) -> int:
        """Bytes of shared memory: one header and `buckets` buckets, each 64 (v4) or 128 (v6).

        Args:
            family: 4 or 6.
            buckets: an even number, 2..2**26.

        Raises:
            ValueError: no table has this shape.
        """

    def put(
        self,
        key: Buffer,
        owner: int,
        *,
        flags: int = 0,
        opened_at: int = 0,
        position: int = 0,
        now_ms: int = 0,
    ) -> None:
        """Put or overwrite. The claim of a host that is not active is void until it is.

        Args:
            key: (8,) or (24,) bytes.
            owner: host id 0..65000, or UNOWNED.
            flags: 0, or LINGER.
            opened_at: clock of the OPEN, 0..2**64-1.
            position: of the owner's log; kept modulo 2**32.
            now_ms: any clock in ms, the one of `sweep`; kept modulo 2**32.

        Raises:
            ValueError: wrong key length, owner or flags.
            OSError: ENOSPC, the neighbourhood is full of live sessions; counted in `refused`.
        """

    def mark_unowned(self, key: Buffer, now_ms: int) -> bool:
        """Mark that no host has the session.

        Args:
            key: (8,) or (24,) bytes.
            now_ms: as in `put`.

        Returns:
            False, and no mark, if a host claimed it since.

        Raises:
            ValueError: wrong key length.
            OSError: ENOSPC, as with `put`.
        """

    def remove(self, key: Buffer) -> bool:
        """Forget a session.

        Args:
            key: (8,) or (24,) bytes.

        Returns:
            Whether there was a valid entry.

        Raises:
            ValueError: wrong key length.
        """

    def get(self, key: Buffer) -> Entry | None:
        """The valid entry of the session, or None. For the writer's thread.

        Args:
            key: (8,) or (24,) bytes.

        Raises:
            ValueError: wrong key length.
        """

    def find_burst(self, keys: Buffer) -> array[int]:
        """Owners of many sessions, without the GIL, beside the writer.

        Args:
            keys: (n * 8,) or (n * 24,) bytes.

        Returns:
            array("H"), shape (n,): a host id, UNOWNED or ABSENT.

        Raises:
            ValueError: the length is no multiple of a key's.
        """

    def sweep(self, buckets: int, now_ms: int, *, linger_ms: int, unowned_ms: int) -> int:
        """Clear, in the next `buckets` buckets, what is void or expired.

        An entry goes one whole round of the table after its time at the latest: sweep all
        buckets once in half of the shorter time, and that is one and a half times the time.

        Args:
            buckets: 1 or more.
            now_ms: as in `put`.
            linger_ms: how long a lingering entry is kept.
            unowned_ms: how long a mark "unowned" is kept.

        Returns:
            How many entries were cleared.

        Raises:
            ValueError: `buckets` is below 1.
        """

    def renew(self, now_ms: int) -> None:
        """After `adopt=True`, and before any other change: entries of an owner's previous epoch
        become ones of its present epoch, what lingers begins its time anew, and marks "unowned"
        are gone.

        Args:
            now_ms: as in `put`.
        """

    def __len__(self) -> int:
        """Used slots; those of void entries count until they are swept or overwritten."""

    @property
    def capacity(self) -> int:
        """Slots: 4 * buckets."""

    @property
    def refused(self) -> int:
        """Puts that found no room among live sessions."""

    @property
    def evicted(self) -> int:
        """Lingering or unowned entries that made room for others."""

    @property
    def moves(self) -> int:
        """Entries moved to their other bucket to make room."""

class ApplyResult(NamedTuple):
    """What became of one section's records; each is in exactly one of the first five."""

    applied: int
    stale: int
    """Older than what the table says, or the CLOSE of a session that the sender does not own."""
    lost: int
    """OPENs of a session for which another host's OPEN is the newer one."""
    unknown_service: int
    refused: int
    """No room in the table."""
    rivals: bytes
    """`struct xg_event` CLAIMs, (n * 40,) bytes, n <= 64: lost OPENs of this host's sessions."""
    rivals_dropped: int
    """Lost OPENs of this host's sessions beyond the 64."""

@disjoint_base
class OwnershipLog:
    """Ownership records to and from the two session tables; see its docstrings."""

    def __init__(
        self,
        table4: SessionTable,
        table6: SessionTable,
        host_id: int,
        *,
        digest_buckets: int = ...,
        statements: int = ...,
    ) -> None: ...
    def absorb(self, events: Buffer, *, clock: int, position: int, now_ms: int) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def ignored(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    def encode(self, budget: int) -> bytes: ...
    def shard(self, family: int, cursor: int, budget: int) -> tuple[bytes, int | None]: ...
    def apply(
        self,
        sender: int,
        kind: int,
        body: Buffer,
        translation: Buffer,
        *,
        clock: int,
        position: int,
        now_ms: int,
        keep_closed: bool = False,
    ) -> ApplyResult: ...
    @property
    def digest_buckets(self) -> int: ...
    def set_services(self, ids: Buffer) -> None: ...
    def begin_owner(self, owner: int, digest_key: int) -> None: ...
    def forget_owner(self, owner: int) -> None: ...
    def drop_closed(self, owner: int) -> None: ...
    def settle(self) -> None: ...
    def digest(self, owner: int) -> tuple[int, int]: ...
    def digest_sums(self, owner: int) -> bytes: ...
    def select(self, bitmap: Buffer) -> tuple[bytes, bytes]: ...
    def prune(self, owner: int, bitmap: Buffer, position: int) -> int: ...
    def deny(self, owner: int, family: int, key: Buffer, *, keep_closed: bool = False) -> bool: ...
    def reconcile(self, dump: Buffer, now: int) -> bytes: ...
    def sweep_statements(self, now_ms: int, linger_ms: int) -> None: ...
    @property
    def statements(self) -> int: ...
    @property
    def statements_dropped(self) -> int: ...

def counter_list() -> tuple[tuple[str, str, str], ...]: ...

@disjoint_base
class EventRing:
    """Reads a BPF ring buffer of 40-byte `struct xg_event` records in bursts.

    Args:
        fd: the map's descriptor; it must outlive the ring.
        size: the map's max_entries, bytes, a power of two.

    Raises:
        OSError: the ring cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None: ...
    def read(self, limit: int) -> bytes:
        """At most `limit` records, oldest first: (n * 40,) bytes; b"" if there are none."""

@disjoint_base
class Forwarder:
    """Decides and encapsulates bursts of frames on plain buffers, as the AF_XDP loop does.

    Asks no kernel: what it decides is right for frames of which this host's sockets know
    nothing. Not thread-safe.

    Args:
        host: this host's id.
        table4, table6: the session tables.
        owners: the owners' states, the tables' own.
        templates: (n * 128,) bytes of `struct xg_template`; kept, read at each burst.
        services: (n * 24,) bytes of `struct xg_service`.
        flood_template: index into `templates`, or None.
        own_is_known: sessions that the table gives this host are passed, as if its kernel knew
            them.
        quic: (8 * 184,) bytes of `struct xg_quic_lb`, or None; kept, read at each burst.
        can_fragment: what is too big for its path and has no DF is sent in fragments, as by a
            loop; else its sender is told, as by the XDP program alone.
        receiver: a `TunnelReceiver`, which opens tunnel packets for this host; None: they are
            packets as any others.
    """

    def __init__(
        self,
        host: int,
        table4: SessionTable,
        table6: SessionTable,
        owners: OwnerStates,
        templates: Buffer,
        services: Buffer,
        flood_template: int | None = None,
        own_is_known: bool = False,
        quic: Buffer | None = None,
        can_fragment: bool = True,
        receiver: TunnelReceiver | None = None,
    ) -> None: ...
    def forward(self, frames: list[bytes]) -> list[tuple[str, bytes]]:
        """Handles at most 64 frames.

        Args:
            frames: bytes, each from the Ethernet header on.

        Returns:
            A list of (ending, frame): the name of a counter, and the bytes to pass or send. What
            is to be sent in fragments is left as it came: `fragments` makes them.

        Raises:
            ValueError: more than 64 frames.
        """

    def fragments(self, frame: bytes) -> list[bytes]:
        """The frames that a frame is sent in, if `forward` says "fragmented"; else none. Counted.

        Args:
            frame: bytes from the Ethernet header on.
        """

    def counters(self) -> dict[str, int]:
        """Name to count since the forwarder was made."""

SERVICE_PLACES: int
"""Of the services' array in the BPF programs."""

def service_places(services: Buffer, places: int | None = None) -> bytes: ...
def step_names() -> tuple[str, ...]: ...
def explain_steps(
    forwarder: Forwarder, frame: Buffer, kernel_knows: bool | None = None
) -> tuple[
    str,
    bytes,
    tuple[bytes, int, bytes, int, int, int] | None,
    list[tuple[str, int, int]],
    bytes | None,
    bytes,
]: ...
def apply_template(template: Buffer, frame: Buffer, mark: int = 0) -> bytes: ...

DATAGRAM_ROOM: int
"""Bytes of the longest datagram that is read whole."""

@disjoint_base
class DatagramReader:
    """Reads what waits in one UDP socket; see its docstrings."""

    def __init__(self, fd: int) -> None: ...
    def read(self, most: int) -> list[tuple[bytes, tuple[str, int]]]: ...
    @property
    def overflows(self) -> int: ...
