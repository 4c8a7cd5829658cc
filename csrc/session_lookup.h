/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The reader's half of the session table: hash, bucket choice, the probe of one bucket.
 *
 * One writer, many readers. Readers never block and never write shared memory. A reader must:
 *
 *   1. hash the key with the header's hash_key, and compute both buckets and the check;
 *   2. load header.moves (acquire);
 *   3. probe the first bucket, then, if xg_bucket*_goes_beyond() says so, the second; a word found
 *      is the answer, unless xg_meta_valid() with its owner's state (one 64-bit load) says it is
 *      void;
 *   4. if nothing was found: load header.moves again, after the probes (acquire fence before
 *      it). If it changed, an entry may have gone from the bucket not yet probed to the one
 *      already probed: go to 2, at most XG_LOOKUP_TRIES times in all.
 *
 * Why this is enough. The writer stores an entry's copy, then raises moves, then clears the old
 * place; each store is a release, so whoever sees a later one sees the earlier ones. A reader
 * that saw the cleared place therefore sees the raised counter in step 4, and one that began
 * with the raised counter sees the copy. Giving up after the last try reads as "absent": that
 * costs one flooded packet, nothing else. BPF programs cannot say "acquire" before Linux 6.14:
 * on arm64 such a reader may miss a moved entry, at the same price.
 *
 * The mark that a bucket goes beyond is set before an entry is put into a second bucket, and taken
 * back after the last such entry was cleared: a reader that reads it as unset missed nothing, or
 * something that moved, which step 4 tells. So most look-ups, and most misses, cost one bucket.
 *
 * Key and meta word are two loads. A pair torn by a slot's reuse shows the check of another
 * session and reads as absent; the check's bits choose no bucket, so two sessions of one bucket
 * agree in it with probability 2^-32.
 */
#ifndef XG_SESSION_LOOKUP_H
#define XG_SESSION_LOOKUP_H

#include "siphash.h"
#include "xg_types.h"

/* An entry that moved between each pair of probes, four times running, is being churned faster
 * than packets arrive; more looks would let the writer hold up a reader. */
#define XG_LOOKUP_TRIES 4

/* The hash leaves 32 bits to choose buckets; six are kept so that one first bucket pairs with
 * many second ones. The number of buckets is even, at least two: the two of a session differ. */
#define XG_TABLE_BUCKETS_MAX (1u << 26)

/* One whole 64-bit load that the compiler may neither split nor repeat. */
#ifdef __bpf__
#define XG_LOAD64(p) (*(const volatile __u64 *)(p))
#else
#define XG_LOAD64(p) __atomic_load_n((const __u64 *)(p), __ATOMIC_RELAXED)
#endif

XG_INLINE __u64 xg_hash4(const __u64 hash_key[2], __u64 key)
{
	return xg_siphash13_1(hash_key, key);
}

XG_INLINE __u64 xg_hash6(const __u64 hash_key[2], const __u64 key[3])
{
	return xg_siphash13_3(hash_key, key);
}

XG_INLINE __u32 xg_hash_check(__u64 hash)
{
	return (__u32)(hash >> 32);
}

/* 32 equally likely bits to one of `buckets`: the upper half of a product, no division. */
XG_INLINE __u32 xg_hash_scale(__u32 bits, __u32 buckets)
{
	return (__u32)((__u64)bits * buckets >> 32);
}

XG_INLINE __u32 xg_hash_bucket1(__u64 hash, __u32 buckets)
{
	return xg_hash_scale((__u32)hash, buckets);
}

/* Murmur3's 32-bit finaliser over the bits that the check does not hold: all 32 count, so the
 * second bucket is not a function of the first. Never equal to the first bucket. */
XG_INLINE __u32 xg_hash_bucket2(__u64 hash, __u32 buckets)
{
	__u32 first = xg_hash_bucket1(hash, buckets);
	__u32 mixed = (__u32)hash;

	mixed ^= mixed >> 16;
	mixed *= 0x85ebca6bu;
	mixed ^= mixed >> 13;
	mixed *= 0xc2b2ae35u;
	mixed ^= mixed >> 16;
	mixed = xg_hash_scale(mixed, buckets);
	return mixed == first ? mixed ^ 1 : mixed;	/* their number is even */
}

XG_INLINE __u32 xg_meta_check(__u64 meta)
{
	return (__u32)(meta >> XG_META_CHECK_SHIFT);
}

XG_INLINE __u16 xg_meta_owner(__u64 meta)
{
	return (__u16)(meta >> XG_META_OWNER_SHIFT);
}

XG_INLINE __u8 xg_meta_epoch(__u64 meta)
{
	return (__u8)(meta >> XG_META_EPOCH_SHIFT);
}

XG_INLINE __u8 xg_meta_flags(__u64 meta)
{
	return (__u8)(meta >> XG_META_FLAGS_SHIFT);
}

XG_INLINE __u64 xg_meta_make(__u32 check, __u16 owner, __u8 epoch, __u8 flags)
{
	return (__u64)check << XG_META_CHECK_SHIFT | (__u64)owner << XG_META_OWNER_SHIFT |
	       (__u64)epoch << XG_META_EPOCH_SHIFT |
	       (__u64)(flags | XG_META_USED) << XG_META_FLAGS_SHIFT;
}

/* Does the entry count, given its owner's state? One that does not is void: the owner died or
 * left since. The mark "unowned" has no owner that could. */
XG_INLINE int xg_meta_valid(__u64 meta, struct xg_owner_state state)
{
	__u8 epoch = xg_meta_epoch(meta);

	if (!(xg_meta_flags(meta) & XG_META_USED))
		return 0;
	if (xg_meta_owner(meta) == XG_HOST_UNOWNED)
		return 1;
	if (!(state.flags & XG_OWNER_ACTIVE))
		return 0;
	if (epoch == state.epoch)
		return 1;
	return (state.flags & XG_OWNER_PREVIOUS) && epoch == (__u8)(state.epoch - 1);
}

XG_INLINE int xg_meta_matches(__u64 meta, __u32 check)
{
	return (xg_meta_flags(meta) & XG_META_USED) && xg_meta_check(meta) == check;
}

/* The meta word of `key` in this bucket, void or not, or 0. */
XG_INLINE __u64 xg_bucket4_find(const struct xg_bucket4 *b, __u64 key, __u32 check)
{
	for (int i = 0; i < XG_BUCKET_ENTRIES; i++) {
		__u64 meta;

		if (XG_LOAD64(&b->entries[i].key) != key)
			continue;
		meta = XG_LOAD64(&b->entries[i].meta);
		if (xg_meta_matches(meta, check))
			return meta;
	}
	return 0;
}

XG_INLINE int xg_meta_goes_beyond(__u64 first_meta)
{
	return (first_meta >> XG_META_FLAGS_SHIFT & XG_META_BEYOND) != 0;
}

/* May entries whose first bucket this is lie in their second one? */
XG_INLINE int xg_bucket4_goes_beyond(const struct xg_bucket4 *b)
{
	return xg_meta_goes_beyond(XG_LOAD64(&b->entries[0].meta));
}

XG_INLINE int xg_bucket6_goes_beyond(const struct xg_bucket6 *b)
{
	return xg_meta_goes_beyond(XG_LOAD64(&b->entries[0].meta));
}

XG_INLINE __u64 xg_bucket6_find(const struct xg_bucket6 *b, const __u64 key[3], __u32 check)
{
	for (int i = 0; i < XG_BUCKET_ENTRIES; i++) {
		const struct xg_entry6 *entry = &b->entries[i];
		__u64 meta;

		/* The ports first: they differ where the addresses of one client do not. */
		if (XG_LOAD64(&entry->key[2]) != key[2] || XG_LOAD64(&entry->key[0]) != key[0] ||
		    XG_LOAD64(&entry->key[1]) != key[1])
			continue;
		meta = XG_LOAD64(&entry->meta);
		if (xg_meta_matches(meta, check))
			return meta;
	}
	return 0;
}

#endif
