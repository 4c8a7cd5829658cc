# SPDX-License-Identifier: BSD-2-Clause
"""Types and contracts of the C core.

Buffers are contiguous and of any item type unless a format is named. `position` and `now_ms`
may be any non-negative integer; they are kept and compared modulo 2^32. Clocks are the hybrid
logical clock, 64 bits. One writer: every method but `SessionTable.find_burst` belongs to one
thread at a time.
"""

from array import array
from dataclasses import dataclass

from typing_extensions import Buffer

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
EPOCHS_BETWEEN_SWEEPS: int

def pack_key4(address: Buffer, port: int, slot: int) -> bytes:
    """Key of an IPv4 session.

    Args:
        address: (4,) bytes of the client, network order.
        port: of the client, 0..65535.
        slot: of the service on this host, 0..65535.

    Returns:
        (8,) bytes, `struct xg_key4`.

    Raises:
        ValueError: a length or a range is wrong.
    """

def pack_key6(address: Buffer, port: int, slot: int) -> bytes:
    """Key of an IPv6 session: (16,) bytes address in, (24,) bytes `struct xg_key6` out.

    Raises:
        ValueError: a length or a range is wrong.
    """

def session_hash(hash_key: Buffer, key: Buffer) -> int:
    """SipHash-1-3 of a key: the low 32 bits choose the buckets, the high ones are the check.

    Args:
        hash_key: (16,) bytes.
        key: (8,) or (24,) bytes.

    Raises:
        ValueError: a length is wrong.

    Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012.
    """

class OwnerStates:
    """The state of all 65536 owners, which every table entry depends on.

    One change is one aligned 64-bit store: a reader sees epoch, activity and template of one
    moment. Every method raises ValueError if the host is not 0..65000.
    """

    def __init__(self, memory: Buffer | None = None) -> None:
        """Use `memory` ((524288,) writable bytes, such as an mmapped BPF array), or own memory.

        What `memory` holds is kept: a restarted agent finds its owners as it left them. Owners
        that were never touched get "no template".

        Raises:
            ValueError: the length or the alignment (8 bytes) is wrong.
        """

    def activate(self, host: int) -> None:
        """The host may own sessions and get strays."""

    def deactivate(self, host: int) -> None:
        """All its entries are void until it is activated again, unless a sweep clears them."""

    def void(self, host: int) -> None:
        """Make all its entries void, in O(1): its epoch grows by one.

        Once in EPOCHS_BETWEEN_SWEEPS changes of one host's epoch, all tables are swept first,
        so that no old entry comes to life when the 8-bit epoch comes round.
        """

    def new_epoch(self, host: int) -> None:
        """Its epoch grows by one; entries of the one before count until `drop_previous`."""

    def drop_previous(self, host: int) -> None:
        """Entries of the previous epoch are void now."""

    def set_template(self, host: int, index: int | None) -> None:
        """Which header template leads to the host (0..65534); None: none does.

        Raises:
            ValueError: the index is out of range.
        """

    def is_active(self, host: int) -> bool: ...
    def state(self, host: int) -> tuple[int, int, int]:
        """(epoch, flags XG_OWNER_*, template index or 65535)."""

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
    """When it was put or began to linger, modulo 2^32."""

class SessionTable:
    """Session to owner: bounded, one writer, many readers, in memory that BPF may share."""

    family: int
    memory_bytes: int
    """Shared memory that the table uses."""

    def __init__(
        self,
        family: int,
        buckets: int,
        owners: OwnerStates,
        *,
        memory: Buffer | None = None,
        hash_key: Buffer | None = None,
        adopt: bool = False,
    ) -> None:
        """Make an empty table of 4 * `buckets` entries.

        Args:
            family: 4 or 6.
            buckets: a power of two, 2..2**26.
            owners: shared by all tables of one host.
            memory: at least `required_bytes(family, buckets)` writable bytes, 8-byte aligned;
                None: own anonymous memory.
            hash_key: (16,) bytes; None: random. A known one lets an attacker choose clients
                that collide.
            adopt: keep the valid entries that an earlier table left in `memory`, with clock
                and position 0, and its hash key.

        Raises:
            ValueError: an argument is out of range or a buffer has the wrong length.
            OSError: ENOMEM; EINVAL, `memory` is not aligned; EUCLEAN, nothing to adopt in it.
        """

    @staticmethod
    def required_bytes(family: int, buckets: int) -> int:
        """Bytes of shared memory: one header and `buckets` buckets, each 64 (v4) or 128 (v6).

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

        Raises:
            ValueError: wrong key length, owner or flags.
            OSError: ENOSPC, the neighbourhood is full of live sessions; counted in `refused`.
        """

    def mark_unowned(self, key: Buffer, now_ms: int) -> bool:
        """Mark that no host has the session. False, and no mark, if a host claimed it since.

        Raises:
            ValueError: wrong key length.
            OSError: ENOSPC, as with `put`.
        """

    def remove(self, key: Buffer) -> bool:
        """Whether there was a valid entry.

        Raises:
            ValueError: wrong key length.
        """

    def get(self, key: Buffer) -> Entry | None:
        """The valid entry of the session. For the writer's thread.

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
        """Clear, in the next `buckets` buckets, what is void or expired. Returns how many.

        An entry goes one whole round of the table after its time at the latest: sweep all
        buckets once in half of the shorter time, and that is one and a half times the time.

        Raises:
            ValueError: `buckets` is below 1.
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

@dataclass(frozen=True, slots=True)
class ApplyResult:
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

class OwnershipLog:
    """Ownership records to and from the two session tables.

    Own events go in with `absorb` and out as record sections with `encode`; another host's
    sections go in with `apply`. A section is kind u8, flags u8, length u16 (network order),
    body.
    """

    def __init__(self, table4: SessionTable, table6: SessionTable, host_id: int) -> None:
        """`host_id` must be active in the tables' owners before its entries count.

        Raises:
            ValueError: wrong families or host id.
        """

    def absorb(self, events: Buffer, *, clock: int, position: int, now_ms: int) -> int:
        """Enter own events (OPEN, CLOSE, CLOSE_LINGER, CLAIM) and note what to tell.

        Args:
            events: (n * 40,) bytes, `struct xg_event`.
            clock: becomes the clock of the OPENs among them.
            position: number of the batch that will carry them.

        Returns:
            How many events were consumed. Fewer than n: 256 sessions are pending; `encode`
            and call again with the rest.

        Raises:
            ValueError: the length is no multiple of 40.
        """

    @property
    def pending(self) -> int:
        """Sessions that `encode` still has to tell about, 0..256."""

    @property
    def ignored(self) -> int:
        """Events of other kinds or families, and CLAIMs of sessions that linger already."""

    @property
    def refused(self) -> int:
        """Own OPENs that the own table had no room for; the others were told all the same."""

    @property
    def cancelled(self) -> int:
        """Sessions opened and closed inside one flush: nobody was told."""

    def encode(self, budget: int) -> bytes:
        """Record sections of at most `budget` bytes; what did not fit stays pending."""

    def shard(self, family: int, cursor: int, budget: int) -> tuple[bytes, int | None]:
        """Own sessions of one family that do not linger, as one OPEN section.

        Args:
            cursor: 0 to begin with, then what the last call returned.
            budget: bytes, 24 or more.

        Returns:
            The section, and the next cursor or None at the end. The section may be empty, at
            the end, or where 2**20 slots in a row held nothing: then just go on.

        Raises:
            ValueError: the family or the budget is wrong.
        """

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
    ) -> ApplyResult:
        """Enter one section of another host, without the GIL.

        Args:
            sender: host id, another than this host's.
            kind: 0x10 OPEN4, 0x11 CLOSE4, 0x12 LINGER4, 0x18 OPEN6, 0x19 CLOSE6, 0x1a LINGER6.
            body: a row of records, 8 bytes each in IPv4, 20 in IPv6.
            translation: native u16 for each service index of the sender: the own slot, or
                SERVICE_UNKNOWN.
            clock: of the sender's batch.
            position: of that batch in the sender's log.

        Raises:
            ValueError: sender out of range, or half an item in `translation`.
            OSError: EBADMSG, the body is no row of records and nothing was applied; EINVAL,
                unknown kind, or the sender is this host.
        """

def counter_list() -> tuple[tuple[str, str, str], ...]:
    """The data path's counters in the order of the maps: (name, action, sentence)."""

class EventRing:
    """Reads a BPF ring buffer of 40-byte `struct xg_event` records in bursts."""

    def __init__(self, fd: int, size: int) -> None: ...
    def read(self, limit: int) -> bytes:
        """At most `limit` records, oldest first: (n * 40,) bytes."""

class Forwarder:
    """Decides and encapsulates bursts of frames on plain buffers, as the AF_XDP loop does."""

    def __init__(
        self,
        host: int,
        table4: SessionTable,
        table6: SessionTable,
        owners: OwnerStates,
        templates: Buffer,
        services: Buffer,
        flood_template: int | None = None,
    ) -> None: ...
    def forward(self, frames: list[bytes]) -> list[tuple[str, bytes]]:
        """Handles at most 64 frames; gives (ending, frame) for each."""
    def counters(self) -> dict[str, int]:
        """Name to count since the forwarder was made."""

def step_names() -> tuple[str, ...]:
    """The names of all that a step of an explanation can find, in the order of csrc/explain.h."""

def explain_steps(
    forwarder: Forwarder, frame: Buffer, kernel_knows: bool | None = None
) -> tuple[str, bytes, tuple[bytes, int, bytes, int, int, int] | None, list[tuple[str, int, int]]]:
    """What `Forwarder.forward` does with one frame, and the steps to it; counts nothing.

    Args:
        frame: bytes from the Ethernet header on.
        kernel_knows: whether this host's kernel knows the session; None: nobody was asked.

    Returns:
        (ending, frame as it leaves, packet, steps). The packet is None if it cannot be read, else
        (client, client port, VIP, port, IP protocol, TCP flags); a step is (name, value, bound).
    """

def apply_template(template: Buffer, frame: Buffer, mark: int = 0) -> bytes:
    """The frame with a template's headers in the place of its Ethernet header.

    Args:
        template: (128,) bytes, `struct xg_template`.
        frame: bytes from the Ethernet header on, with a TCP or UDP packet.
        mark: bits to set in the shim's mark.

    Raises:
        ValueError: the frame cannot be read, or would exceed the template's MTU.
    """

def reconcile(
    table4: SessionTable, table6: SessionTable, host: int, dump: Buffer, now: int
) -> bytes:
    """What the tables missed of the kernel's sockets: (m * 40,) bytes of OPEN and CLOSE events."""

QUEUES: int
"""RX queues of one interface that may have a loop."""
QUEUE_BYTES: int
"""Bytes of `struct xg_queue`."""
FLOOD_COPIES: int
"""Hosts beyond the flood group that may get copies."""

def sum_counters(per_cpu: Buffer, queues: Buffer) -> tuple[int, ...]:
    """The data path's counters, the XDP program's and the loops' together.

    Args:
        per_cpu: (cpus * counters * 8,) bytes, as the per-CPU map gives them.
        queues: (n * QUEUE_BYTES,) bytes, rows of `struct xg_queue`.

    Returns:
        One number for each counter, in the order of `counter_list`.

    Raises:
        ValueError: a buffer is no whole number of rows.
    """

class FloodList:
    """Where floods go: to the group, and a copy to each host that it does not reach."""

    def __init__(self) -> None: ...
    def set(self, group: int | None, copies: list[int]) -> None:
        """Publish template indices, each 0..65535; while loops read: at a change a host may miss
        one copy, or get one twice.

        Args:
            group: of the flood group; None: there is none.
            copies: of the hosts beyond it.

        Raises:
            ValueError: an index is out of range, or there are more than FLOOD_COPIES.
        """

class XskLoop:
    """The AF_XDP loop of one RX queue: RX burst, forward, TX, completion, fill.

    It has frames with the kernel and publishes its credit as soon as it is made. `run` belongs to
    one thread and drops the GIL; `shut` and `stop` may be called from any other. All raise
    RuntimeError after `close`.
    """

    def __init__(
        self,
        *,
        host: int,
        table4: SessionTable,
        table6: SessionTable,
        owners: OwnerStates,
        templates: Buffer,
        services: Buffer,
        flood: FloodList,
        address: bytes,
        tunnel_port: int,
        queue: Buffer,
        fill: int,
        completion: int,
        rx: int,
        tx: int,
        umem: int,
        first_frame: int,
        frames: int,
        frame_size: int,
        driver_frames: int,
        fd: int,
        keep: object = None,
    ) -> None:
        """Make a loop over rings that libxdp made; all memory must outlive it.

        Args:
            templates: (n * 128,) bytes of `struct xg_template`, read at each burst.
            services: (n * 24,) bytes of `struct xg_forward_service`.
            address: (4,) bytes, this host's in the underlay.
            queue: (QUEUE_BYTES,) writable bytes, shared with the XDP program.
            fill, completion, rx, tx: addresses of libxdp's ring structs.
            umem: address of the UMEM's memory.
            first_frame, frames: the frames of the UMEM that are this loop's alone.
            frame_size: bytes of a chunk, a power of two.
            driver_frames: of the frames with the kernel, those that are never handed over.
            fd: of the socket.
            keep: kept alive with the loop.

        Raises:
            ValueError: a buffer has another length.
            OSError: EINVAL, too few frames for the rings, or a bad chunk size; ENOMEM.
        """

    def run(self) -> None:
        """Work until `stop`, then finish what was handed over, at most half a second.

        Raises:
            RuntimeError: it runs already.
            OSError: poll() failed.
        """

    def shut(self) -> None:
        """End the credit: from now on the XDP program sends by itself."""

    def stop(self) -> None:
        """Make `run` finish and return."""

    def frames(self) -> tuple[int, int, int]:
        """Frames free, with the kernel for receiving, and for sending; while it does not run.

        Raises:
            RuntimeError: it runs.
            OSError: EUCLEAN, they do not add up or the rings disagree: a bug.
        """

    def close(self) -> None:
        """Forget the rings, before their memory goes. Repeatable.

        Raises:
            RuntimeError: it runs.
        """
