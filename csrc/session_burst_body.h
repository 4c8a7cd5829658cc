/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst look-up for one instruction set; session_burst.c includes it once for each.
 *
 * It defines XG_ISA(name), XG_TARGET, and two functions that say where in a bucket a session may
 * lie: XG_ISA(match4) and XG_ISA(match6). No branch depends on what is found: a wrong guess costs
 * more than the rest of a look-up.
 */

/* SipHash-1-3 (siphash.h) of XG_LANES sessions at once. */
XG_TARGET XG_INLINE void XG_ISA(hash)(const __u64 hash_key[2], const struct keys *keys,
					  const int key_words, unsigned int at, __u64 *hashes)
{
	xg_lanes v0 = (xg_lanes){ 0 } + (hash_key[0] ^ XG_SIP_INIT0);
	xg_lanes v1 = (xg_lanes){ 0 } + (hash_key[1] ^ XG_SIP_INIT1);
	xg_lanes v2 = (xg_lanes){ 0 } + (hash_key[0] ^ XG_SIP_INIT2);
	xg_lanes v3 = (xg_lanes){ 0 } + (hash_key[1] ^ XG_SIP_INIT3);

	for (int i = 0; i <= key_words; i++) {
		xg_lanes word = (xg_lanes){ 0 } + XG_SIP_LENGTH(key_words);

		if (i < key_words)
			memcpy(&word, &keys->words[i][at], sizeof(word));
		v3 ^= word;
		XG_SIP_ROUND(v0, v1, v2, v3);
		v0 ^= word;
	}
	v2 ^= (xg_lanes){ 0 } + XG_SIP_FINAL;
	for (int i = 0; i < 3; i++)
		XG_SIP_ROUND(v0, v1, v2, v3);
	v0 ^= v1 ^ v2 ^ v3;
	memcpy(&hashes[at], &v0, sizeof(v0));
}

XG_TARGET XG_INLINE __u32 XG_ISA(match)(const __u64 *bucket, const struct keys *keys,
					    const int key_words, unsigned int i, __u64 used)
{
	if (key_words == 1)
		return XG_ISA(match4)(bucket, keys->words[0][i], used);
	return XG_ISA(match6)(bucket, keys->words[0][i], keys->words[1][i], keys->words[2][i],
			      used);
}

/* Looks in one of a session's buckets. Writes its meta word, or 0. Returns what `match` said. */
XG_TARGET XG_INLINE __u32 XG_ISA(probe)(const struct xg_session_table *t,
					    const struct keys *keys, const int key_words,
					    unsigned int i, __u32 bucket, __u64 hash,
					    struct found *found)
{
	const __u64 *words = entry_at(t, bucket * XG_BUCKET_ENTRIES);
	__u64 used = xg_hash_check(hash) | USED;
	__u32 match = XG_ISA(match)(words, keys, key_words, i, used);

	/* without a match the first entry, whose key is another one */
	take(t, words + (__builtin_ctz(match | NO_MATCH) & (NO_MATCH_BIT - 1)), keys, key_words, i,
	     used, match, found);
	return match;
}

XG_TARGET XG_INLINE void XG_ISA(find)(const struct xg_session_table *t, const void *packed,
					  const int key_words, unsigned int count, __u64 *metas)
{
	__u64 hashes[XG_BURST_MAX] __attribute__((aligned(64)));
	struct found found = { .metas = metas };
	__u8 rest[XG_BURST_MAX];
	unsigned int left = 0;
	struct keys keys;
	__u64 moves;

	unpack(&keys, packed, key_words, count);
	for (unsigned int at = 0; at < count; at += XG_LANES)
		XG_ISA(hash)(t->header->hash_key, &keys, key_words, at, hashes);
	for (unsigned int i = 0; i < count; i++) /* start all misses before waiting on any */
		prefetch_bucket(t, xg_hash_bucket1(hashes[i], t->bucket_mask));
	/* Acquire: with a raised counter comes the copy that it announces. */
	moves = __atomic_load_n(&t->header->moves, __ATOMIC_ACQUIRE);
	for (unsigned int i = 0; i < count; i++) {
		__u32 bucket = xg_hash_bucket1(hashes[i], t->bucket_mask);
		__u32 match = XG_ISA(probe)(t, &keys, key_words, i, bucket, hashes[i], &found);

		rest[left] = (__u8)i;
		left += !match & goes_beyond(t, bucket);
	}
	for (unsigned int k = 0; k < left; k++)
		prefetch_bucket(t, xg_hash_bucket2(hashes[rest[k]], t->bucket_mask));
	for (unsigned int k = 0; k < left; k++) {
		unsigned int i = rest[k];
		__u32 bucket = xg_hash_bucket2(hashes[i], t->bucket_mask);

		XG_ISA(probe)(t, &keys, key_words, i, bucket, hashes[i], &found);
	}
	/* Acquire: the counter is read after the probes, not before (arm64). */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (found.torn || __atomic_load_n(&t->header->moves, __ATOMIC_RELAXED) != moves)
		find_again(t, &keys, key_words, count, hashes, metas);
}

XG_TARGET static void XG_ISA(find4)(const struct xg_session_table *t, const void *keys,
				    unsigned int count, __u64 *metas)
{
	XG_ISA(find)(t, keys, 1, count, metas);
}

XG_TARGET static void XG_ISA(find6)(const struct xg_session_table *t, const void *keys,
				    unsigned int count, __u64 *metas)
{
	XG_ISA(find)(t, keys, 3, count, metas);
}

#undef XG_ISA
#undef XG_TARGET
