# SPDX-License-Identifier: BSD-2-Clause
# Mirrors the C headers that _native.pyx calls. Nothing here allocates or touches Python.

ctypedef unsigned char u8
ctypedef unsigned short u16
ctypedef unsigned int u32


# ---- xg_types.h ----

cdef extern from "xg_types.h" nogil:
    ctypedef unsigned long long u64 "__u64"

    enum:
        XG_HOST_MAX
        XG_HOST_UNOWNED
        XG_OWNERS
        XG_OWNER_ACTIVE
        XG_OWNER_PREVIOUS
        XG_NO_TEMPLATE
        XG_META_LINGER

    struct xg_owner_state:
        u8 epoch
        u8 flags
        u16 template_index
        u32 reserved

    struct xg_event:
        u8 kind


# ---- setup.py ----

cdef extern from * nogil:
    u64 XG_LAYOUT_DIGEST


# ---- session_lookup.h ----

cdef extern from "session_lookup.h" nogil:
    u64 xg_hash4(const u64 *hash_key, u64 key) noexcept
    u64 xg_hash6(const u64 *hash_key, const u64 *key) noexcept
    u16 xg_meta_owner(u64 meta) noexcept
    u8 xg_meta_flags(u64 meta) noexcept
    u8 xg_meta_epoch(u64 meta) noexcept


# ---- session_table.h ----

cdef extern from "session_table.h" nogil:
    enum:
        XG_BURST_MAX
        XG_KEY_WORDS_MAX

    u64 XG_SLOT_END

    struct xg_session_table:
        pass

    struct xg_session_cold:
        u64 opened_at
        u32 position
        u32 changed_at_ms

    struct xg_session_claim:
        u16 owner
        u8 flags
        u32 position
        u64 opened_at
        u32 now_ms

    xg_owner_state xg_owner_load(const xg_owner_state *slot) noexcept
    void xg_owner_store(xg_owner_state *slot, xg_owner_state state) noexcept
    size_t xg_session_table_bytes(int family, u32 buckets) noexcept
    int xg_session_table_create(xg_session_table **table, int family, u32 buckets, void *memory,
                                size_t length, const xg_owner_state *owners,
                                const u64 *hash_key) noexcept
    void xg_session_table_destroy(xg_session_table *table) noexcept
    int xg_session_table_put(xg_session_table *table, const u64 *key,
                             const xg_session_claim *claim) noexcept
    int xg_session_table_remove(xg_session_table *table, const u64 *key) noexcept
    int xg_session_table_get(const xg_session_table *table, const u64 *key, u64 *meta,
                             xg_session_cold *cold) noexcept
    int xg_session_table_find_burst(const xg_session_table *table, const void *keys,
                                    unsigned int count, u64 *metas) noexcept
    u32 xg_session_table_sweep(xg_session_table *table, u32 cursor, u32 count, u32 now_ms,
                               u32 linger_ms, u32 unowned_ms) noexcept
    void xg_session_table_renew(xg_session_table *table, u32 now_ms) noexcept
    void xg_session_table_sweep_void(xg_session_table *table) noexcept
    u64 xg_session_table_used(const xg_session_table *table) noexcept
    u64 xg_session_table_capacity(const xg_session_table *table) noexcept
    u64 xg_session_table_refused(const xg_session_table *table) noexcept
    u64 xg_session_table_evicted(const xg_session_table *table) noexcept
    u64 xg_session_table_hash(const xg_session_table *table, const u64 *key) noexcept
    u64 xg_session_table_moves(const xg_session_table *table) noexcept


# ---- merge.h, record_codec.h ----

cdef extern from "record_codec.h" nogil:
    enum:
        XG_BATCH_MAX
        XG_RIVALS_MAX
        XG_SECTION_HEADER_LEN
        XG_RECORD6_LEN
        XG_SERVICE_UNKNOWN

    struct xg_ledger:
        pass

    struct xg_session_id:
        u64 key[3]
        u64 hash
        int family

    struct xg_tables:
        xg_session_table *v4
        xg_session_table *v6
        xg_ledger *ledger

    struct xg_moment:
        u64 clock
        u32 position
        u32 now_ms

    struct xg_batch:
        pass

    struct xg_batch_counts:
        u64 ignored
        u64 refused
        u64 cancelled

    struct xg_apply_result:
        u32 applied
        u32 stale
        u32 lost_conflicts
        u32 unknown_service
        u32 refused
        u32 rivals
        u32 rivals_dropped

    struct xg_section:
        u16 sender
        u8 kind
        const u8 *body
        size_t len
        const u8 *translation
        size_t translation_count
        bint keep_closed

    int xg_ledger_create(xg_ledger **ledger, u32 buckets, u32 statements) noexcept
    void xg_ledger_destroy(xg_ledger *ledger) noexcept
    int xg_ledger_set_services(xg_ledger *ledger, const u64 *ids, u32 count) noexcept
    u32 xg_ledger_used(const xg_ledger *ledger) noexcept
    u64 xg_ledger_dropped(const xg_ledger *ledger) noexcept
    u32 xg_ledger_buckets(const xg_ledger *ledger) noexcept
    int xg_ledger_begin(xg_ledger *ledger, u16 owner, u64 key) noexcept
    void xg_ledger_forget(xg_ledger *ledger, u16 owner) noexcept
    void xg_ledger_drop_closed(xg_ledger *ledger, u16 owner) noexcept
    const u64 *xg_ledger_sums(const xg_ledger *ledger, u16 owner) noexcept
    u64 xg_ledger_total(const xg_ledger *ledger, u16 owner) noexcept
    u64 xg_ledger_sessions(const xg_ledger *ledger, u16 owner) noexcept
    int xg_deny(const xg_tables *tables, const xg_session_id *session, u16 owner,
                bint keep_closed) noexcept
    void xg_settle(const xg_tables *tables) noexcept
    void xg_sweep_statements(const xg_tables *tables, u32 now_ms, u32 linger_ms) noexcept
    u64 xg_select(const xg_tables *tables, u16 owner, const u8 *bitmap, int family, u8 *out,
                  u64 most) noexcept
    u64 xg_prune(const xg_tables *tables, u16 owner, const u8 *bitmap, u32 position) noexcept
    int xg_batch_create(xg_batch **batch) noexcept
    void xg_batch_destroy(xg_batch *batch) noexcept
    unsigned int xg_batch_pending(const xg_batch *batch) noexcept
    xg_batch_counts c_batch_counts "xg_batch_counts"(const xg_batch *batch) noexcept
    size_t xg_batch_absorb(xg_batch *batch, xg_tables tables, u16 own_host, const void *events,
                           size_t count, const xg_moment *moment) noexcept
    size_t xg_batch_encode(xg_batch *batch, u8 *out, size_t budget) noexcept
    size_t xg_shard_encode(xg_tables tables, int family, u16 own_host, u64 *cursor, u8 *out,
                           size_t budget) noexcept
    int xg_apply(xg_tables tables, u16 own_host, const xg_section *section,
                 const xg_moment *moment, xg_apply_result *result, xg_event *rivals) noexcept


cdef extern from "event_ring.h" nogil:
    struct xg_event_ring
    int xg_event_ring_open(int fd, size_t bytes, xg_event_ring **ring) noexcept
    size_t xg_event_ring_read(xg_event_ring *ring, xg_event *events, size_t limit) noexcept
    void xg_event_ring_close(xg_event_ring *ring) noexcept


cdef extern from "header_template.h" nogil:
    struct xg_template:
        u16 len
        u16 mtu
        u8 flags


cdef extern from "services.h" nogil:
    enum:
        XG_SERVICES
        XG_SERVICE_PLACES

    struct xg_service:
        u16 slot

    int xg_service_put_both(xg_service *places, u32 mask, const xg_service *service) noexcept


# ---- quic_lb.h ----

cdef extern from "quic_lb.h" nogil:
    enum:
        XG_QUIC_LAYOUTS

    struct xg_quic_lb:
        u8 server_id_len

    int xg_quic_lb_init(xg_quic_lb *layout, u8 server_id_len, u8 nonce_len, const u8 *key) noexcept
    int xg_quic_owner(const xg_quic_lb *layouts, const u8 *datagram, u32 length) noexcept


cdef extern from "forward.h" nogil:
    enum:
        XG_FLOOD_COPIES

    struct xg_frame:
        u8 *data
        u32 len
        u32 headroom
        u32 beyond
        u32 ending
        u16 copy_from
        u16 copy_to
        u16 pieces
    struct xg_flood:
        u16 group
        u16 copies
        u16 to[1]
    struct xg_answer_budget:
        u64 interval_ns
        u64 full_at_ns
    struct xg_receiver
    struct xg_forwarder:
        const xg_session_table *table4
        const xg_session_table *table6
        const xg_owner_state *owners
        const xg_template *templates
        u32 template_count
        u16 host
        u16 tunnel_port_be
        u32 address_be[4]
        u32 flood_group_be[4]
        u8 encapsulation
        const xg_flood *flood
        const xg_quic_lb *quic
        const xg_service *services
        u32 service_mask
        u32 cannot_pass
        u32 reads_notes
        u32 can_fragment
        u32 spare_frames
        u32 own_is_known
        const xg_receiver *receiver
        u64 *counters
        xg_answer_budget answers
    int xg_forward_burst(xg_forwarder *forwarder, xg_frame *frames, u32 count) noexcept
    int xg_forward_piece(xg_forwarder *forwarder, xg_frame *frame, xg_frame *copy) noexcept
    int xg_forward_copy(xg_forwarder *forwarder, xg_frame *frame, xg_frame *copy) noexcept


cdef extern from "receive.h" nogil:
    struct xg_sender:
        pass
    struct xg_receiver:
        const xg_sender *senders
        u32 sender_count
        u8 mac[6]


cdef extern from "reconcile.h" nogil:
    struct xg_reconcile_key:
        u8 family
    long long xg_reconcile(const xg_tables *tables, u16 own_host, const xg_event *dump,
                           size_t count, xg_reconcile_key *scratch, xg_event *out, size_t limit,
                           u64 now_ns) noexcept


# ---- datagram_reader.h ----

cdef extern from "datagram_reader.h" nogil:
    enum:
        XG_DATAGRAM_ROOM

    struct xg_source:
        unsigned char address[16]
        u16 port
        u16 family

    struct xg_datagram:
        const unsigned char *data
        size_t len
        xg_source source

    struct xg_datagram_reader:
        pass

    int xg_datagram_reader_create(xg_datagram_reader **reader) noexcept
    void xg_datagram_reader_destroy(xg_datagram_reader *reader) noexcept
    int xg_datagram_reader_read(xg_datagram_reader *reader, int fd, unsigned int most) noexcept
    xg_datagram xg_datagram_reader_get(const xg_datagram_reader *reader, unsigned int i) noexcept
    u32 xg_datagram_reader_overflows(const xg_datagram_reader *reader) noexcept
