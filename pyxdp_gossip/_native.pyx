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
    """The 8-byte key of an IPv4 session; see _native.pyi."""
    cdef const u8[::1] view = octets(address)
    need("IPv4 address", view.shape[0], 4)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little"))


def pack_key6(address not None, port, slot):
    """The 24-byte key of an IPv6 session; see _native.pyi."""
    cdef const u8[::1] view = octets(address)
    need("IPv6 address", view.shape[0], 16)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little") + bytes(4))


def session_hash(hash_key not None, key not None):
    """SipHash-1-3 of a key of either family; see _native.pyi."""
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


# ---- OwnerStates ----

cdef class OwnerStates:
    """What every table entry of one owner depends on; see _native.pyi."""

    cdef u8[::1] _memory
    cdef xg_owner_state *_states
    cdef bytearray _changes  # epochs used up by each owner since the last sweep of all tables
    cdef object _tables
    cdef object __weakref__

    def __cinit__(self, memory=None):
        cdef xg_owner_state state
        if memory is None:
            memory = bytearray(OWNER_STATES_BYTES)
        self._memory = memoryview(memory).cast("B")
        need("owner states", self._memory.shape[0], OWNER_STATES_BYTES)
        self._states = <xg_owner_state *>&self._memory[0]
        if <size_t>self._states % sizeof(xg_owner_state):
            raise ValueError("owner states must lie at a multiple of 8 bytes")
        self._changes = bytearray(XG_OWNERS)
        self._tables = weakref.WeakSet()
        for host in range(XG_OWNERS):
            state = xg_owner_load(&self._states[host])
            if state.epoch == 0 and state.flags == 0 and state.template_index == 0:
                state.template_index = XG_NO_TEMPLATE
                xg_owner_store(&self._states[host], state)

    cdef int _store(self, u16 host, int epoch_step, u8 set_flags, u8 clear_flags) except -1:
        cdef xg_owner_state state = xg_owner_load(&self._states[host])
        if epoch_step and self._changes[host] >= EPOCHS_BETWEEN_SWEEPS:
            self._sweep_tables()
        state.epoch = <u8>(state.epoch + epoch_step)
        state.flags = (state.flags & ~clear_flags) | set_flags
        xg_owner_store(&self._states[host], state)
        self._changes[host] += epoch_step
        return 0

    cdef int _sweep_tables(self) except -1:
        for table in self._tables:
            (<SessionTable>table)._sweep_void()
        self._changes = bytearray(XG_OWNERS)
        return 0

    def activate(self, host):
        self._store(host_of(host), 0, XG_OWNER_ACTIVE, 0)

    def deactivate(self, host):
        self._store(host_of(host), 0, 0, XG_OWNER_ACTIVE)

    def void(self, host):
        self._store(host_of(host), 1, 0, XG_OWNER_PREVIOUS)

    def new_epoch(self, host):
        self._store(host_of(host), 1, XG_OWNER_PREVIOUS, 0)

    def drop_previous(self, host):
        self._store(host_of(host), 0, 0, XG_OWNER_PREVIOUS)

    def set_template(self, host, index):
        cdef u16 number = host_of(host)
        cdef xg_owner_state state = xg_owner_load(&self._states[number])
        if index is not None and not 0 <= index < XG_NO_TEMPLATE:
            raise ValueError(f"template index is {index}, expected 0..{XG_NO_TEMPLATE - 1}")
        state.template_index = XG_NO_TEMPLATE if index is None else index
        xg_owner_store(&self._states[number], state)

    def is_active(self, host):
        return bool(xg_owner_load(&self._states[host_of(host)]).flags & XG_OWNER_ACTIVE)

    def state(self, host):
        cdef xg_owner_state state = xg_owner_load(&self._states[host_of(host)])
        return state.epoch, state.flags, state.template_index


# ---- SessionTable ----

@dataclass(frozen=True, slots=True)
class Entry:
    """What the table says about one session; see _native.pyi."""

    owner: int
    flags: int
    epoch: int
    opened_at: int
    position: int
    changed_at_ms: int


cdef class SessionTable:
    """Session to owner; see _native.pyi."""

    cdef xg_session_table *_table
    cdef OwnerStates _owners
    cdef u8[::1] _memory
    cdef readonly int family
    cdef readonly size_t memory_bytes
    cdef Py_ssize_t _key_len
    cdef u32 _cursor
    cdef bint _busy  # a writer is at work without the GIL
    cdef object __weakref__

    def __cinit__(self, int family, buckets, OwnerStates owners not None, *, memory=None,
                  hash_key=None, bint adopt=False):
        cdef u64 secret[2]
        cdef const u8[::1] secret_view
        cdef void *place = NULL
        self.memory_bytes = SessionTable.required_bytes(family, buckets)
        self.family = family
        self._key_len = 8 if family == 4 else 24
        self._owners = owners
        if adopt and (memory is None or hash_key is not None):
            raise ValueError("adopt=True needs memory= and takes the hash key that lies there")
        if memory is not None:
            self._memory = memoryview(memory).cast("B")
            if <size_t>self._memory.shape[0] < self.memory_bytes:
                raise ValueError(f"table memory is {self._memory.shape[0]} bytes, expected at "
                                 f"least {self.memory_bytes}")
            place = &self._memory[0]
        secret_view = octets(os.urandom(HASH_KEY_BYTES) if hash_key is None else hash_key)
        need("hash key", secret_view.shape[0], HASH_KEY_BYTES)
        memcpy(secret, &secret_view[0], sizeof(secret))
        check(xg_session_table_create(&self._table, family, buckets, place, self.memory_bytes,
                                      owners._states, NULL if adopt else secret))
        owners._tables.add(self)

    def __dealloc__(self):
        xg_session_table_destroy(self._table)

    @staticmethod
    def required_bytes(int family, buckets):
        cdef size_t needed = 0
        if 0 < buckets <= 0xFFFFFFFF:
            needed = xg_session_table_bytes(family, buckets)
        if not needed:
            raise ValueError(f"family {family}, {buckets} buckets: expected family 4 or 6 and a "
                             "power of two from 2 to 67108864")
        return needed

    cdef int _write(self) except -1:
        """Begin of every change: two writers would corrupt the table."""
        if self._busy:
            raise RuntimeError("the session table has one writer: another thread is changing it")
        return 0

    cdef int _load_key(self, object key, u64 *words) except -1:
        cdef const u8[::1] view = octets(key)
        need("key", view.shape[0], self._key_len)
        memcpy(words, &view[0], self._key_len)
        return 0

    cdef int _sweep_void(self) except -1:
        self._write()
        xg_session_table_sweep_void(self._table)
        return 0

    def put(self, key not None, owner, *, flags=0, u64 opened_at=0, position=0, now_ms=0):
        cdef u64 words[XG_KEY_WORDS_MAX]
        cdef xg_session_claim claim
        self._write()
        self._load_key(key, words)
        if flags not in (0, XG_META_LINGER):
            raise ValueError(f"flags is {flags}, expected 0 or LINGER")
        claim.owner = host_of(owner, True)
        claim.flags = flags
        claim.opened_at = opened_at
        claim.position = low32(position)
        claim.now_ms = low32(now_ms)
        check(xg_session_table_put(self._table, words, &claim))

    def mark_unowned(self, key not None, now_ms):
        entry = self.get(key)
        if entry is not None and entry.owner != UNOWNED and not entry.flags & XG_META_LINGER:
            return False
        self.put(key, UNOWNED, now_ms=now_ms)
        return True

    def remove(self, key not None):
        cdef u64 words[XG_KEY_WORDS_MAX]
        self._write()
        self._load_key(key, words)
        return bool(xg_session_table_remove(self._table, words))

    def get(self, key not None):
        cdef u64 words[XG_KEY_WORDS_MAX]
        cdef u64 meta
        cdef xg_session_cold cold
        self._load_key(key, words)
        if xg_session_table_get(self._table, words, &meta, &cold) < 0:
            return None
        return Entry(xg_meta_owner(meta), xg_meta_flags(meta) & ~XG_META_USED,
                     xg_meta_epoch(meta), cold.opened_at, cold.position, cold.changed_at_ms)

    def find_burst(self, keys not None):
        cdef const u8[::1] view = octets(keys)
        cdef Py_ssize_t count = view.shape[0] // self._key_len
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i
        cdef u64 metas[XG_BURST_MAX]
        cdef unsigned int burst
        cdef u16[::1] owners
        if view.shape[0] % self._key_len:
            raise ValueError(f"keys are {view.shape[0]} bytes, expected a multiple of "
                             f"{self._key_len}")
        result = array("H", bytes(2 * count))
        if count == 0:
            return result
        owners = result
        with nogil:
            while at < count:
                burst = <unsigned int>min(count - at, <Py_ssize_t>XG_BURST_MAX)
                xg_session_table_find_burst(self._table, &view[at * self._key_len], burst, metas)
                for i in range(burst):
                    owners[at + i] = xg_meta_owner(metas[i]) if metas[i] else XG_HOST_ABSENT
                at += burst
        return result

    def sweep(self, buckets, now_ms, *, linger_ms, unowned_ms):
        cdef u64 before = xg_session_table_used(self._table)
        self._write()
        if buckets < 1:
            raise ValueError(f"buckets is {buckets}, expected 1 or more")
        self._cursor = xg_session_table_sweep(self._table, self._cursor,
                                              min(buckets, 0xFFFFFFFF), low32(now_ms),
                                              linger_ms, unowned_ms)
        return before - xg_session_table_used(self._table)

    def __len__(self):
        return xg_session_table_used(self._table)

    @property
    def capacity(self):
        return xg_session_table_capacity(self._table)

    @property
    def refused(self):
        return xg_session_table_refused(self._table)

    @property
    def evicted(self):
        return xg_session_table_evicted(self._table)

    @property
    def moves(self):
        return xg_session_table_moves(self._table)


# ---- OwnershipLog ----

@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What became of one section's records; see _native.pyi."""

    applied: int
    stale: int
    lost: int
    unknown_service: int
    refused: int
    rivals: bytes
    rivals_dropped: int


cdef class OwnershipLog:
    """Ownership records to and from the session tables; see _native.pyi."""

    cdef SessionTable _table4
    cdef SessionTable _table6
    cdef xg_batch *_batch
    cdef u16 _host

    def __cinit__(self, SessionTable table4 not None, SessionTable table6 not None, host_id):
        if table4.family != 4 or table6.family != 6:
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
        return xg_batch_pending(self._batch)

    @property
    def ignored(self):
        return c_batch_counts(self._batch).ignored

    @property
    def refused(self):
        return c_batch_counts(self._batch).refused

    @property
    def cancelled(self):
        return c_batch_counts(self._batch).cancelled

    def encode(self, budget):
        cdef Py_ssize_t room = max(0, min(budget, ENCODE_MAX))
        cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
        cdef size_t length = xg_batch_encode(self._batch, <u8 *>PyBytes_AS_STRING(out), room)
        return out[:length]

    def shard(self, int family, u64 cursor, budget):
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
