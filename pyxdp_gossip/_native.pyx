# SPDX-License-Identifier: BSD-2-Clause
# cython: language_level=3, embedsignature=False
"""The boundary to C: checks every argument, owns memory, turns -errno into exceptions.

Each class has one writer: call its methods from one thread at a time. `SessionTable.find_burst`
may run in any thread beside the writer.
"""

import os
import weakref
from array import array
from dataclasses import dataclass

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

cdef enum:
    XG_HOST_ABSENT = 65534  # above every host id, below the mark "unowned"

ABSENT = XG_HOST_ABSENT  # find_burst: no valid entry
UNOWNED = XG_HOST_UNOWNED  # find_burst and get: the mark "no host has this session"
LINGER = XG_META_LINGER  # flag: closed, kept for the last packets
SERVICE_UNKNOWN = XG_SERVICE_UNKNOWN  # in a translation: not a service of this host
OWNER_STATES_BYTES = XG_OWNERS * sizeof(xg_owner_state)
EVENT_BYTES = sizeof(xg_event)
HASH_KEY_BYTES = 16
LAYOUT_DIGEST = XG_LAYOUT_DIGEST  # of every header that says what lies in the BPF maps

# Epochs have 8 bits. After this many of one owner's changes every table is swept, so that no
# entry lives to see its epoch again; the few left over pay for the previous epoch's entries.
EPOCHS_BETWEEN_SWEEPS = 250

# All that one call of encode can have to say: an ending and an OPEN of each session, 6 headers.
ENCODE_MAX = XG_BATCH_MAX * 2 * XG_RECORD6_LEN + 6 * XG_SECTION_HEADER_LEN
SECTION_MIN = XG_RECORD6_LEN + XG_SECTION_HEADER_LEN  # one record of the larger kind
SECTION_MAX = 65535 + XG_SECTION_HEADER_LEN  # a section's length field has 16 bits


# ---- arguments ----

cdef int check(int rc) except -1:
    """The only place where a C return code becomes an exception."""
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


cdef const u8[::1] octets(object data):
    """Any contiguous buffer as octets."""
    return memoryview(data).cast("B")


cdef const u8 *start(const u8[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef int need(object name, Py_ssize_t length, Py_ssize_t expected) except -1:
    if length != expected:
        raise ValueError(f"{name} is {length} bytes, expected {expected}")
    return 0


cdef u16 host_of(object host, bint unowned_allowed=False) except? 0:
    if not 0 <= host <= XG_HOST_MAX and not (unowned_allowed and host == XG_HOST_UNOWNED):
        raise ValueError(f"host is {host}, expected 0..{XG_HOST_MAX}")
    return host


cdef u32 low32(object number) except? 0:
    """Times and log positions are compared modulo 2^32."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number & 0xFFFFFFFF


cdef u16 u16_of(object name, object number) except? 0:
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"{name} is {number}, expected 0..65535")
    return number


def pack_key4(address not None, port, slot):
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
    cdef const u8[::1] view = octets(address)
    need("IPv4 address", view.shape[0], 4)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little"))


def pack_key6(address not None, port, slot):
    """Key of an IPv6 session: (16,) bytes address in, (24,) bytes `struct xg_key6` out.

    Raises:
        ValueError: a length or a range is wrong.
    """
    cdef const u8[::1] view = octets(address)
    need("IPv6 address", view.shape[0], 16)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little") + bytes(4))


def session_hash(hash_key not None, key not None):
    """SipHash-1-3 of a key: the low 32 bits choose the buckets, the high ones are the check.

    Args:
        hash_key: (16,) bytes.
        key: (8,) or (24,) bytes.

    Raises:
        ValueError: a length is wrong.

    Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012.
    """
    cdef const u8[::1] secret = octets(hash_key)
    cdef const u8[::1] view = octets(key)
    cdef u64 words[XG_KEY_WORDS_MAX]
    cdef u64 secret_words[2]
    need("hash key", secret.shape[0], HASH_KEY_BYTES)
    memcpy(secret_words, &secret[0], sizeof(secret_words))
    if view.shape[0] == 8:
        memcpy(words, &view[0], 8)
        return xg_hash4(secret_words, words[0])
    need("key", view.shape[0], 24)
    memcpy(words, &view[0], 24)
    return xg_hash6(secret_words, words)


include "_native_table.pxi"


# ---- OwnershipLog ----

@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What became of one section's records; the stub has a sentence for each field."""

    applied: int
    stale: int
    lost: int
    unknown_service: int
    refused: int
    rivals: bytes
    rivals_dropped: int


cdef class OwnershipLog:
    """Ownership records to and from the two session tables.

    Own events go in with `absorb` and out as record sections with `encode`; another host's
    sections go in with `apply`. A section is kind u8, flags u8, length u16 (network order),
    body.

    Args:
        table4, table6: the session tables.
        host_id: this host, active in the tables' owners before its entries count.

    Raises:
        ValueError: wrong families or host id.
    """

    cdef SessionTable _table4
    cdef SessionTable _table6
    cdef xg_batch *_batch
    cdef u16 _host

    def __cinit__(self, SessionTable table4 not None, SessionTable table6 not None, host_id):
        if table4._family != 4 or table6._family != 6:
            raise ValueError("expected a table of family 4 and one of family 6")
        self._host = host_of(host_id)
        self._table4 = table4
        self._table6 = table6
        check(xg_batch_create(&self._batch))

    def __dealloc__(self):
        xg_batch_destroy(self._batch)

    cdef xg_tables _tables(self):
        cdef xg_tables tables
        tables.v4 = self._table4._table
        tables.v6 = self._table6._table
        return tables

    cdef int _write(self) except -1:
        self._table4._write()
        return self._table6._write()

    def absorb(self, events not None, *, u64 clock, position, now_ms):
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
        cdef const u8[::1] view = octets(events)
        cdef xg_moment moment
        self._write()
        if view.shape[0] % EVENT_BYTES:
            raise ValueError(f"events are {view.shape[0]} bytes, expected a multiple of "
                             f"{EVENT_BYTES}")
        moment.clock = clock
        moment.position = low32(position)
        moment.now_ms = low32(now_ms)
        return xg_batch_absorb(self._batch, self._tables(), self._host, start(view),
                               view.shape[0] // EVENT_BYTES, &moment)

    @property
    def pending(self):
        """Sessions that `encode` still has to tell about, 0..256."""
        return xg_batch_pending(self._batch)

    @property
    def ignored(self):
        """Events of other kinds or families, and CLAIMs of sessions that linger already."""
        return c_batch_counts(self._batch).ignored

    @property
    def refused(self):
        """Own OPENs that the own table had no room for; the others were told all the same."""
        return c_batch_counts(self._batch).refused

    @property
    def cancelled(self):
        """Sessions opened and closed inside one flush: nobody was told."""
        return c_batch_counts(self._batch).cancelled

    def encode(self, budget):
        """Record sections of at most `budget` bytes; what did not fit stays pending."""
        cdef Py_ssize_t room = max(0, min(budget, ENCODE_MAX))
        cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
        cdef size_t length = xg_batch_encode(self._batch, <u8 *>PyBytes_AS_STRING(out), room)
        return out[:length]

    def shard(self, int family, u64 cursor, budget):
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
        cdef Py_ssize_t room = max(0, min(budget, SECTION_MAX))
        cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
        cdef size_t length
        if family not in (4, 6):
            raise ValueError(f"family is {family}, expected 4 or 6")
        if room < SECTION_MIN:
            raise ValueError(f"budget is {budget} bytes, expected {SECTION_MIN} or more")
        table = self._table4 if family == 4 else self._table6
        length = xg_shard_encode((<SessionTable>table)._table, self._host, &cursor,
                                 <u8 *>PyBytes_AS_STRING(out), room)
        return out[:length], None if cursor == XG_SLOT_END else cursor

    def apply(self, sender, kind, body not None, translation not None, *, u64 clock, position,
              now_ms):
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
        cdef const u8[::1] body_view = octets(body)
        cdef const u8[::1] translation_view = octets(translation)
        cdef xg_section section
        cdef xg_moment moment
        cdef xg_apply_result result
        cdef xg_event rivals[XG_RIVALS_MAX]
        cdef xg_tables tables = self._tables()
        cdef int rc
        self._write()
        if translation_view.shape[0] % 2:
            raise ValueError(f"translation is {translation_view.shape[0]} bytes, expected 2 for "
                             "each service")
        section.sender = host_of(sender)
        section.kind = kind
        section.body = start(body_view)
        section.len = body_view.shape[0]
        section.translation = start(translation_view)
        section.translation_count = translation_view.shape[0] // 2
        moment.clock = clock
        moment.position = low32(position)
        moment.now_ms = low32(now_ms)
        self._table4._busy = self._table6._busy = True
        with nogil:
            rc = xg_apply(tables, self._host, &section, &moment, &result, rivals)
        self._table4._busy = self._table6._busy = False
        check(rc)
        return ApplyResult(result.applied, result.stale, result.lost_conflicts,
                           result.unknown_service, result.refused,
                           PyBytes_FromStringAndSize(<char *>rivals,
                                                     result.rivals * sizeof(xg_event)),
                           result.rivals_dropped)


include "_native_packets.pxi"
include "_native_loop.pxi"
include "_native_explain.pxi"
