# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: ownership records, the ledger, the digests.

# ---- OwnershipLog ----

class ApplyResult(NamedTuple):
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

    Beside the tables it keeps what they do not show: claims that lost against another owner's,
    and what closed before an older OPEN came; and of each owner a digest of its open sessions.

    Args:
        table4, table6: the session tables.
        host_id: this host, active in the tables' owners before its entries count.
        digest_buckets: sums of a digest, a power of two from 2 to 8192, the same on all hosts.
        statements: room for what the tables do not show, 1..2**24.

    Raises:
        ValueError: wrong families, host id or sizes.
        MemoryError: no room for the statements.
    """

    cdef SessionTable _table4
    cdef SessionTable _table6
    cdef xg_batch *_batch
    cdef xg_ledger *_ledger
    cdef u16 _host

    def __cinit__(self, SessionTable table4 not None, SessionTable table6 not None, host_id, *,
                  u32 digest_buckets=DIGEST_BUCKETS, u32 statements=STATEMENTS):
        cdef int rc
        if table4._family != 4 or table6._family != 6:
            raise ValueError("expected a table of family 4 and one of family 6")
        self._host = host_of(host_id)
        self._table4 = table4
        self._table6 = table6
        check(xg_batch_create(&self._batch))
        rc = xg_ledger_create(&self._ledger, digest_buckets, statements)
        if rc == -EINVAL:
            raise ValueError(f"digest_buckets is {digest_buckets}, expected a power of two from 2 "
                             f"to 8192; statements is {statements}, expected 1..16777216")
        check(rc)

    def __dealloc__(self):
        xg_batch_destroy(self._batch)
        xg_ledger_destroy(self._ledger)

    cdef xg_tables _tables(self):
        cdef xg_tables tables
        tables.v4 = self._table4._table
        tables.v6 = self._table6._table
        tables.ledger = self._ledger
        return tables

    cdef int _start_writing(self) except -1:
        """Before the GIL is dropped; the calls that follow find the tables busy."""
        self._write()
        self._table4._busy = self._table6._busy = True
        return 0

    cdef void _stop_writing(self) noexcept:
        self._table4._busy = self._table6._busy = False

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
        length = xg_shard_encode(self._tables(), family, self._host, &cursor,
                                 <u8 *>PyBytes_AS_STRING(out), room)
        return out[:length], None if cursor == XG_SLOT_END else cursor

    def apply(self, sender, kind, body not None, translation not None, *, u64 clock, position,
              now_ms, bint keep_closed=False):
        """Enter one section of another host, without the GIL.

        Args:
            sender: host id, another than this host's.
            kind: 0x10 OPEN4, 0x11 CLOSE4, 0x12 LINGER4, 0x18 OPEN6, 0x19 CLOSE6, 0x1a LINGER6.
            body: a row of records, 8 bytes each in IPv4, 20 in IPv6.
            translation: native u16 for each service index of the sender: the own slot, or
                SERVICE_UNKNOWN.
            clock: of the sender's batch.
            position: of that batch in the sender's log.
            keep_closed: batches of the sender are missing, so an older OPEN of a session that
                this section closes may still come: remember what it closes.

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
        if translation_view.shape[0] % 2:
            raise ValueError(f"translation is {translation_view.shape[0]} bytes, expected 2 for "
                             "each service")
        section.sender = host_of(sender)
        section.kind = kind
        section.body = start(body_view)
        section.len = body_view.shape[0]
        section.translation = start(translation_view)
        section.translation_count = translation_view.shape[0] // 2
        section.keep_closed = keep_closed
        moment.clock = clock
        moment.position = low32(position)
        moment.now_ms = low32(now_ms)
        self._start_writing()
        with nogil:
            rc = xg_apply(tables, self._host, &section, &moment, &result, rivals)
        self._stop_writing()
        check(rc)
        return ApplyResult(result.applied, result.stale, result.lost_conflicts,
                           result.unknown_service, result.refused,
                           PyBytes_FromStringAndSize(<char *>rivals,
                                                     result.rivals * sizeof(xg_event)),
                           result.rivals_dropped)

    # ---- digests ----

    @property
    def digest_buckets(self):
        """Sums of a digest."""
        return xg_ledger_buckets(self._ledger)

    def set_services(self, ids not None):
        """What the digests know services by. Digests that began are not computed anew: a slot
        keeps its service, so only further slots may be added.

        Args:
            ids: (n * 8,) bytes, a native u64 by own slot, the same for a service on all hosts.

        Raises:
            ValueError: half an id.
        """
        cdef const u8[::1] view = octets(ids)
        if view.shape[0] % 8:
            raise ValueError(f"ids are {view.shape[0]} bytes, expected 8 for each slot")
        self._write()
        check(xg_ledger_set_services(self._ledger, <const u64 *>start(view), view.shape[0] // 8))

    def begin_owner(self, owner, u64 digest_key):
        """Forget what an owner said, this host included, and begin its digest.

        The caller changes the owner's epoch itself, if it has entries.

        Args:
            owner: host id.
            digest_key: of its incarnation, 64 bits, so that no client can make sums collide.
        """
        self._write()
        check(xg_ledger_begin(self._ledger, host_of(owner), digest_key))

    def forget_owner(self, owner):
        """Forget what an owner said, and its digest: it is dead, or left."""
        self._write()
        xg_ledger_forget(self._ledger, host_of(owner))

    def drop_closed(self, owner):
        """Forget which sessions an owner closed: no older OPEN can come any more."""
        self._write()
        xg_ledger_drop_closed(self._ledger, host_of(owner))

    def settle(self):
        """After an owner's entries became void: show the claims that had lost against them."""
        cdef xg_tables tables = self._tables()
        self._write()
        xg_settle(&tables)

    def digest(self, owner):
        """Of an owner's open sessions: (sum of all sums modulo 2**64, how many they are)."""
        cdef u16 host = host_of(owner)
        return xg_ledger_total(self._ledger, host), xg_ledger_sessions(self._ledger, host)

    def digest_sums(self, owner):
        """(digest_buckets * 8,) bytes, native u64; zeros if the owner's digest did not begin."""
        cdef const u64 *sums = xg_ledger_sums(self._ledger, host_of(owner))
        cdef Py_ssize_t length = xg_ledger_buckets(self._ledger) * sizeof(u64)
        return bytes(length) if sums == NULL else PyBytes_FromStringAndSize(<char *>sums, length)

    cdef const u8[::1] _bitmap(self, object bitmap):
        cdef const u8[::1] view = octets(bitmap)
        need("bitmap", view.shape[0], (xg_ledger_buckets(self._ledger) + 7) // 8)
        return view

    def select(self, bitmap not None):
        """Own open sessions in some buckets of the own digest, all as of this moment.

        Args:
            bitmap: a bit for each bucket; bit b is bit b & 7 of byte b >> 3.

        Returns:
            (n * 8,) and (m * 20,) bytes: IPv4 and IPv6 records.

        Raises:
            ValueError: the bitmap is of another size.
        """
        return self._select(bitmap, 4, 8), self._select(bitmap, 6, XG_RECORD6_LEN)

    cdef bytes _select(self, object bitmap, int family, Py_ssize_t record):
        cdef const u8[::1] view = self._bitmap(bitmap)
        cdef xg_tables tables = self._tables()
        cdef Py_ssize_t most = xg_ledger_sessions(self._ledger, self._host)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, most * record)
        cdef u8 *place = <u8 *>PyBytes_AS_STRING(out)
        cdef u64 found
        self._start_writing()
        with nogil:
            found = xg_select(&tables, self._host, &view[0], family, place, most)
        self._stop_writing()
        return out[:found * record]

    def prune(self, owner, bitmap not None, position):
        """Close an owner's open sessions in some buckets that it said before `position`.

        Args:
            owner: host id, not this host's.
            bitmap: as with `select`.
            position: of its log.

        Returns:
            How many were closed.
        """
        cdef const u8[::1] view = self._bitmap(bitmap)
        cdef xg_tables tables = self._tables()
        cdef u16 host = host_of(owner)
        cdef u32 before = low32(position)
        cdef u64 closed
        self._start_writing()
        with nogil:
            closed = xg_prune(&tables, host, &view[0], before)
        self._stop_writing()
        return closed

    def deny(self, owner, int family, key not None, *, bint keep_closed=False):
        """Forget that an owner said that it has a session.

        Args:
            owner: host id.
            family: 4 or 6.
            key: (8,) or (24,) bytes.
            keep_closed: remember that it ended, for an older OPEN of this owner may still come.

        Returns:
            Whether it had said so.

        Raises:
            ValueError: a wrong family or length.
        """
        cdef SessionTable table = self._table4 if family == 4 else self._table6
        cdef xg_tables tables = self._tables()
        cdef xg_session_id session
        if family not in (4, 6):
            raise ValueError(f"family is {family}, expected 4 or 6")
        self._write()
        session.key[0] = session.key[1] = session.key[2] = 0
        table._load_key(key, session.key)
        session.family = family
        session.hash = xg_session_table_hash(table._table, session.key)
        return bool(xg_deny(&tables, &session, host_of(owner), keep_closed))

    def reconcile(self, dump not None, u64 now):
        """What this host did not say yet of the kernel's sockets.

        Args:
            dump: (n * 40,) bytes, OPEN events of all sockets that the kernel holds now.
            now: CLOCK_MONOTONIC in ns, the time of the CLOSE events.

        Returns:
            (m * 40,) bytes: OPEN events of sockets that are not open by this host's word, then
            CLOSE events of what is and has no socket; to be absorbed.

        Raises:
            ValueError: `dump` is no whole number of events.
        """
        cdef const u8[::1] view = octets(dump)
        cdef xg_tables tables = self._tables()
        cdef size_t count = view.shape[0] // sizeof(xg_event)
        cdef size_t limit = count + len(self._table4) + len(self._table6) + self.statements
        cdef bytearray scratch = bytearray(max(1, count) * sizeof(xg_reconcile_key))
        cdef bytearray out = bytearray(max(1, limit) * sizeof(xg_event))
        cdef u8 *keys = scratch
        cdef u8 *events = out
        cdef long long found
        if view.shape[0] % EVENT_BYTES:
            raise ValueError(f"dump is {view.shape[0]} bytes, expected a multiple of {EVENT_BYTES}")
        found = xg_reconcile(&tables, self._host, <const xg_event *>start(view), count,
                             <xg_reconcile_key *>keys, <xg_event *>events, limit, now)
        if found < 0:
            check(<int>found)
        return bytes(out[:found * sizeof(xg_event)])

    def sweep_statements(self, now_ms, linger_ms):
        """End what has lingered for `linger_ms` and the tables do not show; show what had found no
        room, or was hidden by an entry that went meanwhile."""
        cdef xg_tables tables = self._tables()
        self._write()
        xg_sweep_statements(&tables, low32(now_ms), linger_ms)

    @property
    def statements(self):
        """How many are kept beside the tables."""
        return xg_ledger_used(self._ledger)

    @property
    def statements_dropped(self):
        """How many found no room; their owners' digests show it."""
        return xg_ledger_dropped(self._ledger)
