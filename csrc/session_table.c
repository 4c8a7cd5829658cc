/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The session table: create, look up, put, remove, walk.
 */
#define _GNU_SOURCE
#include "session_slots.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- create and destroy ---- */

static size_t bucket_bytes(int family)
{
	return family == 4 ? sizeof(struct xg_bucket4) : sizeof(struct xg_bucket6);
}

size_t xg_session_table_bytes(int family, __u32 buckets)
{
	if (family != 4 && family != 6)
		return 0;
	if (!buckets || buckets % 2 || buckets > XG_TABLE_BUCKETS_MAX)
		return 0;
	return ((size_t)buckets + 1) * bucket_bytes(family);
}

static void *map_anonymous(size_t len)
{
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	/* Fewer TLB misses for random look-ups; where the kernel says no, small pages serve. */
	(void)madvise(memory, len, MADV_HUGEPAGE);
	return memory;
}

/* Of all cold parts, and of the times behind them. */
static size_t cold_bytes(const struct xg_session_table *t)
{
	return xg_session_table_capacity(t) * (sizeof(*t->cold) + sizeof(*t->times));
}

static void format_memory(struct xg_session_table *t, int family, const __u64 hash_key[2])
{
	struct xg_table_header *header = t->header;

	/* Fresh anonymous memory is zero already: do not touch its pages. */
	for (__u32 slot = 0; !t->own_memory && slot < slots_of(t); slot++)
		if (meta_at(t, slot))
			store_meta(t, slot, 0);
	memset(header, 0, sizeof(*header));
	header->layout = XG_TABLE_LAYOUT;
	header->family = (__u32)family;
	header->buckets = t->buckets;
	header->hash_key[0] = hash_key[0];
	header->hash_key[1] = hash_key[1];
	/* Release: whoever sees the magic number sees a complete header. */
	__atomic_store_n(&header->magic, XG_TABLE_MAGIC, __ATOMIC_RELEASE);
}

static int adopt_memory(struct xg_session_table *t, int family)
{
	const struct xg_table_header *header = t->header;

	if (t->own_memory || header->magic != XG_TABLE_MAGIC || header->layout != XG_TABLE_LAYOUT ||
	    header->family != (__u32)family || header->buckets != t->buckets)
		return -EUCLEAN;
	for (__u32 slot = 0; slot < slots_of(t); slot++)
		t->used += is_used(meta_at(t, slot));
	/* Epochs of void entries may be used again: nobody counted how far they are. */
	xg_session_table_sweep_void(t);
	return 0;
}

int xg_session_table_create(struct xg_session_table **table, int family, __u32 buckets,
			    void *memory, size_t len, const struct xg_owner_state *owners,
			    const __u64 hash_key[2])
{
	size_t needed = xg_session_table_bytes(family, buckets);
	struct xg_session_table *t;
	int rc = -ENOMEM;

	if (!needed || !owners || (uintptr_t)memory % sizeof(__u64))
		return -EINVAL;
	if (memory && len < needed)
		return -ENOSPC;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->key_words = family == 4 ? 1 : 3;
	t->buckets = buckets;
	t->owners = owners;
	t->own_memory = !memory;
	t->memory_len = needed;
	t->memory = memory ? memory : map_anonymous(needed);
	if (!t->memory)
		goto free_table;
	t->header = (struct xg_table_header *)t->memory;
	t->cold = map_anonymous(cold_bytes(t));
	if (!t->cold)
		goto unmap_memory;
	t->times = (__u32 *)(t->cold + xg_session_table_capacity(t));
	if (hash_key)
		format_memory(t, family, hash_key);
	else if ((rc = adopt_memory(t, family)) < 0)
		goto unmap_cold;
	*table = t;
	return 0;
unmap_cold:
	munmap(t->cold, cold_bytes(t));
unmap_memory:
	if (t->own_memory)
		munmap(t->memory, t->memory_len);
free_table:
	free(t);
	return rc;
}

void xg_session_table_destroy(struct xg_session_table *t)
{
	if (!t)
		return;
	munmap(t->cold, cold_bytes(t));
	if (t->own_memory)
		munmap(t->memory, t->memory_len);
	free(t);
}

/* ---- look-up ---- */

static __u64 probe(const struct xg_session_table *t, __u32 bucket, const __u64 *key,
		      __u32 check)
{
	const __u64 *entries = entry_at(t, bucket * XG_BUCKET_ENTRIES);

	if (t->key_words == 1)
		return xg_bucket4_find((const struct xg_bucket4 *)entries, key[0], check);
	return xg_bucket6_find((const struct xg_bucket6 *)entries, key, check);
}

__u64 xg_session_find_one(const struct xg_session_table *t, const __u64 *key, __u64 hash)
{
	__u32 first = xg_hash_bucket1(hash, t->buckets);
	__u32 second = xg_hash_bucket2(hash, t->buckets);
	__u32 check = xg_hash_check(hash);
	__u64 meta = 0;

	for (int i = 0; i < XG_LOOKUP_TRIES; i++) {
		/* Acquire: with a raised counter comes the copy that it announces. */
		__u64 moves = __atomic_load_n(&t->header->moves, __ATOMIC_ACQUIRE);

		meta = probe(t, first, key, check);
		if (!meta && goes_beyond(t, first))
			meta = probe(t, second, key, check);
		if (meta)
			break;
		/* Acquire: the counter is read after the probes, not before (arm64). */
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&t->header->moves, __ATOMIC_RELAXED) == moves)
			break;
	}
	return meta && is_valid(t, meta) ? meta & ~PLACES : 0;
}

/* The slot of a key in one bucket, or XG_NO_SLOT. For the writer. */
static __u32 slot_in(const struct xg_session_table *t, __u32 bucket, const __u64 *key, __u32 check)
{
	__u32 slot = bucket * XG_BUCKET_ENTRIES;

	for (int i = 0; i < XG_BUCKET_ENTRIES; i++, slot++)
		if (xg_meta_matches(meta_at(t, slot), check) && has_key(t, slot, key))
			return slot;
	return XG_NO_SLOT;
}

static __u32 slot_of(const struct xg_session_table *t, const __u64 *key, __u64 hash)
{
	__u32 first = xg_hash_bucket1(hash, t->buckets);
	__u32 check = xg_hash_check(hash);
	__u32 slot = slot_in(t, first, key, check);

	if (slot != XG_NO_SLOT || !goes_beyond(t, first))
		return slot;
	return slot_in(t, xg_hash_bucket2(hash, t->buckets), key, check);
}

void xg_session_table_prefetch(const struct xg_session_table *t, __u64 hash)
{
	__u32 first = xg_hash_bucket1(hash, t->buckets);
	const struct cold_part *cold;

	/* Without this, gcc 12 finds the function without effect and leaves its calls out. */
	__asm__ volatile("");
	prefetch_bucket(entry_at(t, first * XG_BUCKET_ENTRIES), t->key_words);
	/* Most sessions lie in their first bucket, whose cold parts lie in one line or in two. */
	cold = &t->cold[(size_t)first * XG_BUCKET_ENTRIES];
	__builtin_prefetch(cold, 1);
	__builtin_prefetch(cold + XG_BUCKET_ENTRIES - 1, 1);
}

__u32 xg_session_table_locate(const struct xg_session_table *t, const __u64 *key, __u64 hash)
{
	return slot_of(t, key, hash);
}

int xg_session_table_get(const struct xg_session_table *t, const __u64 *key, __u64 *meta,
			 struct xg_session_cold *cold)
{
	return xg_session_table_get_at(t, slot_of(t, key, hash_of(t, key)), meta, cold);
}

int xg_session_table_get_at(const struct xg_session_table *t, __u32 slot, __u64 *meta,
			    struct xg_session_cold *cold)
{
	if (slot == XG_NO_SLOT || !is_valid(t, meta_at(t, slot)))
		return -ENOENT;
	*meta = meta_at(t, slot) & ~PLACES;
	*cold = cold_at(t, slot, *meta);
	return 0;
}

int xg_session_table_is_current(const struct xg_session_table *t, __u64 meta)
{
	return xg_meta_epoch(meta) == xg_owner_load(&t->owners[xg_meta_owner(meta)]).epoch;
}

/* ---- changes ---- */

static __u32 slot_for(struct xg_session_table *t, __u64 hash, __u32 now_ms)
{
	__u32 slot = free_slot_in(t, xg_hash_bucket1(hash, t->buckets));

	if (slot == XG_NO_SLOT)
		slot = free_slot_in(t, xg_hash_bucket2(hash, t->buckets));
	if (slot == XG_NO_SLOT)
		slot = xg_session_make_room(t, hash, now_ms);
	return slot;
}

/* A writer killed in the middle of a move leaves two copies in adopted memory: drop the second,
 * or a removal would uncover it. */
static void drop_second_copy(struct xg_session_table *t, const __u64 *key, __u64 hash,
			     __u32 kept)
{
	__u32 first = xg_hash_bucket1(hash, t->buckets);
	__u32 second = xg_hash_bucket2(hash, t->buckets);
	__u32 slot;

	/* Both ways of a move say so of the first bucket before there are two, and after. */
	if (kept / XG_BUCKET_ENTRIES == second || !goes_beyond(t, first))
		return;
	slot = slot_in(t, second, key, xg_hash_check(hash));
	if (slot != XG_NO_SLOT)
		clear_slot(t, slot);
}

int xg_session_table_put(struct xg_session_table *t, const __u64 *key,
			 const struct xg_session_claim *claim)
{
	__u64 hash = hash_of(t, key);

	return xg_session_table_put_at(t, slot_of(t, key, hash), key, hash, claim);
}

int xg_session_table_put_at(struct xg_session_table *t, __u32 slot, const __u64 *key, __u64 hash,
			    const struct xg_session_claim *claim)
{
	__u8 epoch = xg_owner_load(&t->owners[claim->owner]).epoch;
	__u32 first = xg_hash_bucket1(hash, t->buckets);
	__u64 meta;
	__u8 away;

	if (claim->flags & ~XG_META_LINGER)
		return -EINVAL;
	if (slot != XG_NO_SLOT) {
		drop_second_copy(t, key, hash, slot);
	} else {
		slot = slot_for(t, hash, claim->now_ms);
		if (slot == XG_NO_SLOT) {
			t->refused++;
			return -ENOSPC;
		}
		clear_slot(t, slot);
		if (slot / XG_BUCKET_ENTRIES != first)
			go_beyond(t, first);
		set_key(t, slot, key);
		t->used++;
	}
	away = slot / XG_BUCKET_ENTRIES != first ? XG_META_AWAY : 0;
	meta = xg_meta_make(xg_hash_check(hash), claim->owner, epoch, claim->flags | away);
	t->cold[slot].opened_at[0] = (__u32)claim->opened_at;
	t->cold[slot].opened_at[1] = claim->opened_at >> 32;
	t->cold[slot].position = claim->position;
	if (is_evictable(meta))
		t->times[slot] = claim->now_ms;
	set_meta(t, slot, meta);
	return 0;
}

int xg_session_table_remove(struct xg_session_table *t, const __u64 *key)
{
	__u64 hash = hash_of(t, key);

	return xg_session_table_remove_at(t, slot_of(t, key, hash), key, hash);
}

int xg_session_table_remove_at(struct xg_session_table *t, __u32 slot, const __u64 *key,
			       __u64 hash)
{
	bool valid;

	if (slot == XG_NO_SLOT)
		return 0;
	valid = is_valid(t, meta_at(t, slot));
	drop_second_copy(t, key, hash, slot);
	clear_slot(t, slot);
	return valid;
}

/* ---- walks ---- */

static bool is_expired(const struct xg_session_table *t, __u32 slot, __u64 meta,
		       __u32 now_ms, __u32 linger_ms, __u32 unowned_ms)
{
	bool unowned = xg_meta_owner(meta) == XG_HOST_UNOWNED;

	return is_evictable(meta) && now_ms - t->times[slot] >= (unowned ? unowned_ms : linger_ms);
}

__u32 xg_session_table_sweep(struct xg_session_table *t, __u32 cursor, __u32 count,
				__u32 now_ms, __u32 linger_ms, __u32 unowned_ms)
{
	__u64 begin = (__u64)(cursor % t->buckets) * XG_BUCKET_ENTRIES;
	__u64 end = begin + (__u64)count * XG_BUCKET_ENTRIES;
	__u64 capacity = xg_session_table_capacity(t);

	if (end > capacity)
		end = capacity;
	for (__u64 i = begin; i < end; i++) {
		__u32 slot = (__u32)i;
		__u64 meta = meta_at(t, slot);

		if (is_used(meta) && (!is_valid(t, meta) ||
				      is_expired(t, slot, meta, now_ms, linger_ms, unowned_ms)))
			clear_slot(t, slot);
	}
	return end == capacity ? 0 : (__u32)(end / XG_BUCKET_ENTRIES);
}

void xg_session_table_sweep_void(struct xg_session_table *t)
{
	for (__u32 slot = 0; slot < slots_of(t); slot++) {
		__u64 meta = meta_at(t, slot);

		if (is_used(meta) && !is_valid(t, meta))
			clear_slot(t, slot);
	}
}

void xg_session_table_renew(struct xg_session_table *t, __u32 now_ms)
{
	const __u64 epoch_mask = 0xffull << XG_META_EPOCH_SHIFT;

	for (__u32 slot = 0; slot < slots_of(t); slot++) {
		__u64 meta = meta_at(t, slot);
		__u64 epoch;

		if (!is_used(meta))
			continue;
		if (xg_meta_owner(meta) == XG_HOST_UNOWNED || !is_valid(t, meta)) {
			clear_slot(t, slot);
			continue;
		}
		if (is_evictable(meta))
			t->times[slot] = now_ms;
		epoch = xg_owner_load(&t->owners[xg_meta_owner(meta)]).epoch;
		if (!xg_session_table_is_current(t, meta))
			set_meta(t, slot, (meta & ~epoch_mask) | epoch << XG_META_EPOCH_SHIFT);
	}
}

int xg_session_table_next_of_owner(const struct xg_session_table *t, __u64 *cursor,
				   __u64 slots, __u16 owner, __u64 *key, __u64 *meta,
				   struct xg_session_cold *cold)
{
	__u64 capacity = xg_session_table_capacity(t);
	__u64 i = *cursor;

	for (; i < capacity && slots > 0; i++, slots--) {
		__u32 slot = (__u32)i;

		*meta = meta_at(t, slot) & ~PLACES;
		if (xg_meta_owner(*meta) != owner || !is_valid(t, *meta))
			continue;
		memcpy(key, entry_at(t, slot), t->key_words * sizeof(*key));
		*cold = cold_at(t, slot, *meta);
		*cursor = i + 1;
		return 1;
	}
	*cursor = i < capacity ? i : XG_SLOT_END;
	return 0;
}

/* ---- figures ---- */

const struct xg_owner_state *xg_session_table_owners(const struct xg_session_table *t)
{
	return t->owners;
}

int xg_session_table_family(const struct xg_session_table *t)
{
	return t->key_words == 1 ? 4 : 6;
}

__u64 xg_session_table_hash(const struct xg_session_table *t, const __u64 *key)
{
	return hash_of(t, key);
}

__u64 xg_session_table_used(const struct xg_session_table *t)
{
	return t->used;
}

__u64 xg_session_table_capacity(const struct xg_session_table *t)
{
	return slots_of(t);
}

__u64 xg_session_table_refused(const struct xg_session_table *t)
{
	return t->refused;
}

__u64 xg_session_table_evicted(const struct xg_session_table *t)
{
	return t->evicted;
}

__u64 xg_session_table_moves(const struct xg_session_table *t)
{
	return __atomic_load_n(&t->header->moves, __ATOMIC_RELAXED);
}
