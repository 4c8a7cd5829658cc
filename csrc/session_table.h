/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One writer, many readers: the session table, session to owner, and its writer's half.
 *
 * Functions marked (reader) may run in any thread beside the writer; all others belong to the
 * one writing thread. Readers elsewhere (BPF, another process) use session_lookup.h over the
 * same memory. Nothing allocates after create. Errors are -errno, listed with each function.
 *
 * A key is one 64-bit word (struct xg_key4) or three (struct xg_key6), by the table's family.
 * Times are milliseconds of CLOCK_MONOTONIC modulo 2^32.
 */
#ifndef XG_SESSION_TABLE_H
#define XG_SESSION_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "session_lookup.h"

#define XG_BURST_MAX 64		/* keys of one burst look-up: as many frames as one AF_XDP burst */
#define XG_KEY_WORDS_MAX 3	/* 64-bit words of the longer key */
#define XG_SLOT_END UINT64_MAX	/* a cursor that has passed the last slot */
#define XG_NO_SLOT UINT32_MAX

struct xg_session_table;

/* What only the writer needs of an entry; never in shared memory. */
struct xg_session_cold {
	__u64 opened_at;	/* hybrid logical clock of the OPEN */
	__u32 position;	/* of the owner's log */
	__u32 changed_at_ms;	/* when it began to linger or was marked; of an open one, 0 */
};

/* What a put says about a session. The epoch comes from the owner's state. */
struct xg_session_claim {
	__u16 owner;		/* host id or XG_HOST_UNOWNED */
	__u8 flags;		/* XG_META_LINGER or 0 */
	__u32 position;
	__u64 opened_at;
	__u32 now_ms;
};

/* The state of one owner is read and written whole: its fields are never seen half changed. */
static inline struct xg_owner_state xg_owner_load(const struct xg_owner_state *slot)
{
	__u64 word = XG_LOAD64(slot);
	struct xg_owner_state state;

	memcpy(&state, &word, sizeof(state));
	return state;
}

static inline void xg_owner_store(struct xg_owner_state *slot, struct xg_owner_state state)
{
	__u64 word;

	memcpy(&word, &state, sizeof(word));
	/* Release: a template is complete before an owner names it. */
	__atomic_store_n((__u64 *)slot, word, __ATOMIC_RELEASE);
}

/* Bytes of shared memory that a table needs, header included; 0: the arguments are wrong. */
size_t xg_session_table_bytes(int family, __u32 buckets);

/*
 * Make an empty table of `buckets` (an even number) in `memory`, 8-byte aligned and `len` bytes
 * long, or in anonymous memory if it is NULL. `owners` has XG_OWNERS elements and outlives the
 * table. With a NULL `hash_key` the table that already lies in `memory` is adopted: its valid
 * entries stay, with a cold part of zero, so that any newer statement wins.
 * -EINVAL: family, buckets, alignment; -ENOSPC: `len` is too small; -ENOMEM; -EUCLEAN: nothing
 * to adopt, or it is a table of another shape.
 */
int xg_session_table_create(struct xg_session_table **table, int family, __u32 buckets,
			    void *memory, size_t len, const struct xg_owner_state *owners,
			    const __u64 hash_key[2]);
void xg_session_table_destroy(struct xg_session_table *table);

/* Put or overwrite. A claim of a host that is not active is kept but void until it is.
 * -EINVAL: flags; -ENOSPC: the neighbourhood is full of live entries (counted). */
int xg_session_table_put(struct xg_session_table *table, const __u64 *key,
			 const struct xg_session_claim *claim);

/* 1: removed; 0: there was none. */
int xg_session_table_remove(struct xg_session_table *table, const __u64 *key);

/* 0: a valid entry; its meta word and cold part are written. -ENOENT: absent or void. */
int xg_session_table_get(const struct xg_session_table *table, const __u64 *key,
			 __u64 *meta, struct xg_session_cold *cold);

/*
 * The same in steps, with a key's hash, of xg_session_table_hash(): a writer that goes through
 * many keys starts their cache misses first, and looks for each key once. A slot, of
 * xg_session_table_locate(), is good until the next put; XG_NO_SLOT: the key has none.
 */
void xg_session_table_prefetch(const struct xg_session_table *table, __u64 hash);
__u32 xg_session_table_locate(const struct xg_session_table *table, const __u64 *key, __u64 hash);
int xg_session_table_get_at(const struct xg_session_table *table, __u32 slot, __u64 *meta,
			    struct xg_session_cold *cold);
int xg_session_table_put_at(struct xg_session_table *table, __u32 slot, const __u64 *key,
			    __u64 hash, const struct xg_session_claim *claim);
int xg_session_table_remove_at(struct xg_session_table *table, __u32 slot, const __u64 *key,
			       __u64 hash);

/* Is a valid entry of its owner's present epoch, not of the one before? */
int xg_session_table_is_current(const struct xg_session_table *table, __u64 meta);

/* (reader) Look `count` keys up (at most XG_BURST_MAX), packed one after the other, any
 * alignment. metas[i]: the meta word of a valid entry, or 0. -EINVAL: too many keys. */
int xg_session_table_find_burst(const struct xg_session_table *table, const void *keys,
				unsigned int count, __u64 *metas);

/* The instructions that a burst may use; XG_BURST_GATHER: AVX-512 with gathers. */
enum xg_burst_isa { XG_BURST_ANY, XG_BURST_AVX2, XG_BURST_AVX512, XG_BURST_GATHER };

/* The last of them that this processor has, and the one that bursts use. */
enum xg_burst_isa xg_session_burst_widest(void);
enum xg_burst_isa xg_session_burst_quickest(void);

/* The same by one of them, for tests and benchmarks. -EOPNOTSUPP: this processor has no such. */
int xg_session_table_find_burst_by(const struct xg_session_table *table, enum xg_burst_isa isa,
				   const void *keys, unsigned int count, __u64 *metas);

/* Clear what is void, what has lingered for linger_ms, and marks "unowned" of unowned_ms, in
 * `count` buckets from bucket `cursor`. Returns the next cursor; 0 after the last bucket. */
__u32 xg_session_table_sweep(struct xg_session_table *table, __u32 cursor, __u32 count,
				__u32 now_ms, __u32 linger_ms, __u32 unowned_ms);

/* Clear every void entry: before an epoch is used again. */
void xg_session_table_sweep_void(struct xg_session_table *table);

/*
 * After an adoption: every valid entry is of its owner's present epoch, so that the previous one
 * is free again; what lingers begins its time anew; no mark "unowned" and no void entry is left.
 */
void xg_session_table_renew(struct xg_session_table *table, __u32 now_ms);

/*
 * The next valid entry of `owner` from slot *cursor on (start with 0), looking at no more than
 * `slots` slots. 1: written, *cursor is behind it; 0: none in these, or none at all if *cursor
 * became XG_SLOT_END. An entry that a put moves meanwhile may come twice or not at all.
 */
int xg_session_table_next_of_owner(const struct xg_session_table *table, __u64 *cursor,
				   __u64 slots, __u16 owner, __u64 *key, __u64 *meta,
				   struct xg_session_cold *cold);

const struct xg_owner_state *xg_session_table_owners(const struct xg_session_table *table);
int xg_session_table_family(const struct xg_session_table *table);
__u64 xg_session_table_hash(const struct xg_session_table *table, const __u64 *key);
__u64 xg_session_table_used(const struct xg_session_table *table);	/* void ones included */
__u64 xg_session_table_capacity(const struct xg_session_table *table);
__u64 xg_session_table_refused(const struct xg_session_table *table);	/* puts: -ENOSPC */
__u64 xg_session_table_evicted(const struct xg_session_table *table);	/* not live ones */
__u64 xg_session_table_moves(const struct xg_session_table *table);

#endif
