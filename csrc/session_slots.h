/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The writer's view of the session table: its struct, its slots and how one is changed.
 *
 * Private to session_table.c, session_room.c and session_burst.c. A slot is numbered bucket * 4 +
 * place; its entry lies in shared memory, its cold part in an array beside it. Every store to
 * shared memory is a release: a reader that sees a later store sees the earlier ones too
 * (session_lookup.h says what it makes of that). On x86-64 a release store is a plain one.
 */
#ifndef XG_SESSION_SLOTS_H
#define XG_SESSION_SLOTS_H

#include <stdbool.h>

#include "session_table.h"

/* A cold part as it is kept: 12 bytes a slot. */
struct cold_part {
	__u32 opened_at[2];	/* the lower half first */
	__u32 position;
};

struct xg_session_table {
	__u64 *memory;	/* header, then buckets; shared with readers */
	struct xg_table_header *header;
	const struct xg_owner_state *owners;
	struct cold_part *cold;
	__u32 *times;	/* changed_at_ms; untouched where nothing lingered or was marked yet */
	size_t memory_len;
	__u32 buckets;
	__u32 key_words;	/* 1 or 3 */
	bool own_memory;
	__u64 used;
	__u64 refused;
	__u64 evicted;
};

/* ---- places ---- */

static inline __u32 slots_of(const struct xg_session_table *t)
{
	return t->buckets * XG_BUCKET_ENTRIES;	/* at most 2^28 */
}

static inline __u64 *entry_at(const struct xg_session_table *t, __u32 slot)
{
	size_t words = t->key_words + 1;

	return t->memory + ((size_t)slot + XG_BUCKET_ENTRIES) * words;
}

static inline __u64 meta_at(const struct xg_session_table *t, __u32 slot)
{
	return XG_LOAD64(entry_at(t, slot) + t->key_words);
}

static inline void store_meta(struct xg_session_table *t, __u32 slot, __u64 meta)
{
	/* Release: the entry's key, and every earlier change of the table, goes first. */
	__atomic_store_n(entry_at(t, slot) + t->key_words, meta, __ATOMIC_RELEASE);
}

/* May go when room is needed: closed already, or no session at all. */
static inline bool is_evictable(__u64 meta)
{
	return (xg_meta_flags(meta) & XG_META_LINGER) || xg_meta_owner(meta) == XG_HOST_UNOWNED;
}

static inline struct xg_session_cold cold_at(const struct xg_session_table *t, __u32 slot,
					     __u64 meta)
{
	const struct cold_part *part = &t->cold[slot];
	struct xg_session_cold cold = {
		.opened_at = (__u64)part->opened_at[1] << 32 | part->opened_at[0],
		.position = part->position,
		.changed_at_ms = is_evictable(meta) ? t->times[slot] : 0,
	};

	return cold;
}

/* Of the entry alone: what the word says of its bucket stays. */
static inline void set_meta(struct xg_session_table *t, __u32 slot, __u64 meta)
{
	const __u64 beyond = (__u64)XG_META_BEYOND << XG_META_FLAGS_SHIFT;

	store_meta(t, slot, (meta & ~beyond) | (meta_at(t, slot) & beyond));
}

static inline void set_key(struct xg_session_table *t, __u32 slot, const __u64 *key)
{
	/* Release: a reader that sees the slot reused must see the move that freed it. */
	for (__u32 i = 0; i < t->key_words; i++)
		__atomic_store_n(entry_at(t, slot) + i, key[i], __ATOMIC_RELEASE);
}

static inline bool has_key(const struct xg_session_table *t, __u32 slot, const __u64 *key)
{
	const __u64 *entry = entry_at(t, slot);

	return entry[0] == key[0] &&
	       (t->key_words == 1 || (entry[1] == key[1] && entry[2] == key[2]));
}

static inline __u64 hash_of(const struct xg_session_table *t, const __u64 *key)
{
	return t->key_words == 1 ? xg_hash4(t->header->hash_key, key[0]) :
				   xg_hash6(t->header->hash_key, key);
}

static inline bool is_valid(const struct xg_session_table *t, __u64 meta)
{
	return xg_meta_valid(meta, xg_owner_load(&t->owners[xg_meta_owner(meta)]));
}

static inline bool is_used(__u64 meta)
{
	return xg_meta_flags(meta) & XG_META_USED;
}

/* What is said of the entry's place is nobody's business outside the table. */
#define PLACES ((__u64)(XG_META_AWAY | XG_META_BEYOND) << XG_META_FLAGS_SHIFT)

static inline bool is_away(__u64 meta)
{
	return xg_meta_flags(meta) & XG_META_AWAY;
}

static inline bool goes_beyond(const struct xg_session_table *t, __u32 bucket)
{
	return xg_meta_goes_beyond(meta_at(t, bucket * XG_BUCKET_ENTRIES));
}

/* One entry more whose first bucket this is lies in its second one: said before it does. */
static inline void go_beyond(struct xg_session_table *t, __u32 bucket)
{
	__u64 meta = meta_at(t, bucket * XG_BUCKET_ENTRIES);

	if ((xg_meta_flags(meta) & XG_META_BEYOND) != XG_META_BEYOND)
		store_meta(t, bucket * XG_BUCKET_ENTRIES,
			   meta + ((__u64)XG_META_BEYOND_ONE << XG_META_FLAGS_SHIFT));
}

/* One less: said when it is gone. A count that is full is not exact, and stays. */
static inline void come_back(struct xg_session_table *t, __u32 bucket)
{
	__u64 meta = meta_at(t, bucket * XG_BUCKET_ENTRIES);

	if (xg_meta_goes_beyond(meta) && (xg_meta_flags(meta) & XG_META_BEYOND) != XG_META_BEYOND)
		store_meta(t, bucket * XG_BUCKET_ENTRIES,
			   meta - ((__u64)XG_META_BEYOND_ONE << XG_META_FLAGS_SHIFT));
}

static inline void clear_slot(struct xg_session_table *t, __u32 slot)
{
	__u64 meta = meta_at(t, slot);

	if (!is_used(meta))
		return;
	set_meta(t, slot, 0);
	t->used--;
	if (is_away(meta))
		come_back(t, xg_hash_bucket1(hash_of(t, entry_at(t, slot)), t->buckets));
}

/* Empty or void: the writer may take it. */
static inline __u32 free_slot_in(const struct xg_session_table *t, __u32 bucket)
{
	__u32 slot = bucket * XG_BUCKET_ENTRIES;

	for (int i = 0; i < XG_BUCKET_ENTRIES; i++, slot++)
		if (!is_valid(t, meta_at(t, slot)))
			return slot;
	return XG_NO_SLOT;
}

/* Always inline: gcc 12 takes a function that only prefetches for one without effect, and leaves
 * its calls out. */
static inline __attribute__((always_inline)) void prefetch_bucket(const void *bucket,
								  __u32 key_words)
{
	__builtin_prefetch(bucket);
	if (key_words != 1)
		__builtin_prefetch((const char *)bucket + 64);
}

/* (reader) The meta word of a valid entry, or 0. */
__u64 xg_session_find_one(const struct xg_session_table *t, const __u64 *key, __u64 hash);

/* Both buckets of `hash` are full of valid entries: move entries, or let go the oldest one that
 * is closed already. Returns a slot of one of the two buckets, or XG_NO_SLOT. */
__u32 xg_session_make_room(struct xg_session_table *t, __u64 hash, __u32 now_ms);

#endif
