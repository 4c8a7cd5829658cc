# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: the session table and the states of its owners.


# ---- OwnerStates ----

cdef class OwnerStates:
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
        """From now on `host` may own sessions and get strays."""
        self._store(host_of(host), 0, XG_OWNER_ACTIVE, 0)

    def deactivate(self, host):
        """All entries of `host` are void until it is activated again, or a sweep clears them."""
        self._store(host_of(host), 0, 0, XG_OWNER_ACTIVE)

    def void(self, host):
        """Make all entries of `host` void, in O(1): its epoch grows by one.

        Once in EPOCHS_BETWEEN_SWEEPS changes of one host's epoch, all tables are swept first,
        so that no old entry comes to life when the 8-bit epoch comes round.
        """
        self._store(host_of(host), 1, 0, XG_OWNER_PREVIOUS)

    def new_epoch(self, host):
        """The epoch of `host` grows by one; entries of the last count until `drop_previous`."""
        self._store(host_of(host), 1, XG_OWNER_PREVIOUS, 0)

    def drop_previous(self, host):
        """Entries of the previous epoch of `host` are void now."""
        self._store(host_of(host), 0, 0, XG_OWNER_PREVIOUS)

    def set_template(self, host, index):
        """Which header template leads to a host.

        Args:
            host: 0..65000.
            index: of the template, 0..65534; None: none leads there.

        Raises:
            ValueError: an argument is out of range.
        """
        cdef u16 number = host_of(host)
        cdef xg_owner_state state = xg_owner_load(&self._states[number])
        if index is not None and not 0 <= index < XG_NO_TEMPLATE:
            raise ValueError(f"template index is {index}, expected 0..{XG_NO_TEMPLATE - 1}")
        state.template_index = XG_NO_TEMPLATE if index is None else index
        xg_owner_store(&self._states[number], state)

    def is_active(self, host):
        """Whether `host` may own sessions and get strays."""
        return bool(xg_owner_load(&self._states[host_of(host)]).flags & XG_OWNER_ACTIVE)

    def state(self, host):
        """Of `host`: (epoch, flags XG_OWNER_*, template index or 65535)."""
        cdef xg_owner_state state = xg_owner_load(&self._states[host_of(host)])
        return state.epoch, state.flags, state.template_index


# ---- SessionTable ----

@dataclass(frozen=True, slots=True)
class Entry:
    """What the table says about one session; the stub has a sentence for each field."""

    owner: int
    flags: int
    epoch: int
    opened_at: int
    position: int
    changed_at_ms: int


cdef class SessionTable:
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

    cdef xg_session_table *_table
    cdef OwnerStates _owners
    cdef u8[::1] _memory
    cdef int _family
    cdef size_t _memory_bytes
    cdef Py_ssize_t _key_len
    cdef u32 _cursor
    cdef bint _busy  # a writer is at work without the GIL
    cdef object __weakref__

    def __cinit__(self, int family, buckets, OwnerStates owners not None, *, memory=None,
                  hash_key=None, bint adopt=False):
        cdef u64 secret[2]
        cdef const u8[::1] secret_view
        cdef void *place = NULL
        self._memory_bytes = SessionTable.required_bytes(family, buckets)
        self._family = family
        self._key_len = 8 if family == 4 else 24
        self._owners = owners
        if adopt and (memory is None or hash_key is not None):
            raise ValueError("adopt=True needs memory= and takes the hash key that lies there")
        if memory is not None:
            self._memory = memoryview(memory).cast("B")
            if <size_t>self._memory.shape[0] < self._memory_bytes:
                raise ValueError(f"table memory is {self._memory.shape[0]} bytes, expected at "
                                 f"least {self._memory_bytes}")
            place = &self._memory[0]
        secret_view = octets(os.urandom(HASH_KEY_BYTES) if hash_key is None else hash_key)
        need("hash key", secret_view.shape[0], HASH_KEY_BYTES)
        memcpy(secret, &secret_view[0], sizeof(secret))
        check(xg_session_table_create(&self._table, family, buckets, place, self._memory_bytes,
                                      owners._states, NULL if adopt else secret))
        owners._tables.add(self)

    def __dealloc__(self):
        xg_session_table_destroy(self._table)

    @staticmethod
    def required_bytes(int family, buckets):
        """Bytes of shared memory: one header and `buckets` buckets, each 64 (v4) or 128 (v6).

        Args:
            family: 4 or 6.
            buckets: an even number, 2..2**26.

        Raises:
            ValueError: no table has this shape.
        """
        cdef size_t needed = 0
        if 0 < buckets <= 0xFFFFFFFF:
            needed = xg_session_table_bytes(family, buckets)
        if not needed:
            raise ValueError(f"family {family}, {buckets} buckets: expected family 4 or 6 and an "
                             "even number of buckets from 2 to 67108864")
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
        entry = self.get(key)
        if entry is not None and entry.owner != UNOWNED and not entry.flags & XG_META_LINGER:
            return False
        self.put(key, UNOWNED, now_ms=now_ms)
        return True

    def remove(self, key not None):
        """Forget a session.

        Args:
            key: (8,) or (24,) bytes.

        Returns:
            Whether there was a valid entry.

        Raises:
            ValueError: wrong key length.
        """
        cdef u64 words[XG_KEY_WORDS_MAX]
        self._write()
        self._load_key(key, words)
        return bool(xg_session_table_remove(self._table, words))

    def get(self, key not None):
        """The valid entry of the session, or None. For the writer's thread.

        Args:
            key: (8,) or (24,) bytes.

        Raises:
            ValueError: wrong key length.
        """
        cdef u64 words[XG_KEY_WORDS_MAX]
        cdef u64 meta
        cdef xg_session_cold cold
        self._load_key(key, words)
        if xg_session_table_get(self._table, words, &meta, &cold) < 0:
            return None
        return Entry(xg_meta_owner(meta), xg_meta_flags(meta) & XG_META_LINGER,
                     xg_meta_epoch(meta), cold.opened_at, cold.position, cold.changed_at_ms)

    def find_burst(self, keys not None):
        """Owners of many sessions, without the GIL, beside the writer.

        Args:
            keys: (n * 8,) or (n * 24,) bytes.

        Returns:
            array("H"), shape (n,): a host id, UNOWNED or ABSENT.

        Raises:
            ValueError: the length is no multiple of a key's.
        """
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
        cdef u64 before = xg_session_table_used(self._table)
        self._write()
        if buckets < 1:
            raise ValueError(f"buckets is {buckets}, expected 1 or more")
        self._cursor = xg_session_table_sweep(self._table, self._cursor,
                                              min(buckets, 0xFFFFFFFF), low32(now_ms),
                                              linger_ms, unowned_ms)
        return before - xg_session_table_used(self._table)

    def renew(self, now_ms):
        """After `adopt=True`, and before any other change: entries of an owner's previous epoch
        become ones of its present epoch, what lingers begins its time anew, and marks "unowned"
        are gone.

        Args:
            now_ms: as in `put`.
        """
        self._write()
        xg_session_table_renew(self._table, low32(now_ms))

    @property
    def family(self):
        """4 or 6."""
        return self._family

    @property
    def memory_bytes(self):
        """Shared memory that the table uses, bytes."""
        return self._memory_bytes

    def __len__(self):
        """Used slots; those of void entries count until they are swept or overwritten."""
        return xg_session_table_used(self._table)

    @property
    def capacity(self):
        """Slots: 4 * buckets."""
        return xg_session_table_capacity(self._table)

    @property
    def refused(self):
        """Puts that found no room among live sessions."""
        return xg_session_table_refused(self._table)

    @property
    def evicted(self):
        """Lingering or unowned entries that made room for others."""
        return xg_session_table_evicted(self._table)

    @property
    def moves(self):
        """Entries moved to their other bucket to make room."""
        return xg_session_table_moves(self._table)
