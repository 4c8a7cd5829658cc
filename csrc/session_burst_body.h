/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst look-up for one instruction set; session_burst.c includes it once for each.
 *
 * It defines XG_ISA(name), XG_TARGET, XG_LANES (how many sessions are hashed at once), the vector
 * XG_ISA(lanes) of so many words, XG_ISA(times) to multiply the lower half of each by a number of
 * 32 bits, XG_ISA(states) to read the states of so many owners, and two functions that say where in
 * a bucket a session may lie: XG_ISA(match4) and XG_ISA(match6). No branch depends on what is
 * found: a wrong guess costs more than the rest of a look-up.
 */

/* SipHash-1-3 (siphash.h) of XG_LANES sessions at once, and what follows from it. */
XG_TARGET XG_INLINE void XG_ISA(locate)(const __u64 hash_key[2], __u32 buckets,
					    struct xg_burst_plan *plan, const int key_words,
					    unsigned int at)
{
	XG_ISA(lanes) v0 = (XG_ISA(lanes)){ 0 } + (hash_key[0] ^ XG_SIP_INIT0);
	XG_ISA(lanes) v1 = (XG_ISA(lanes)){ 0 } + (hash_key[1] ^ XG_SIP_INIT1);
	XG_ISA(lanes) v2 = (XG_ISA(lanes)){ 0 } + (hash_key[0] ^ XG_SIP_INIT2);
	XG_ISA(lanes) v3 = (XG_ISA(lanes)){ 0 } + (hash_key[1] ^ XG_SIP_INIT3);

	for (int i = 0; i <= key_words; i++) {
		XG_ISA(lanes) word = (XG_ISA(lanes)){ 0 } + XG_SIP_LENGTH(key_words);

		if (i < key_words)
			memcpy(&word, &plan->words[i][at], sizeof(word));
		v3 ^= word;
		XG_SIP_ROUND(v0, v1, v2, v3);
		v0 ^= word;
	}
	v2 ^= (XG_ISA(lanes)){ 0 } + XG_SIP_FINAL;
	for (int i = 0; i < 3; i++)
		XG_SIP_ROUND(v0, v1, v2, v3);
	v0 ^= v1 ^ v2 ^ v3;
	memcpy(&plan->hashes[at], &v0, sizeof(v0));
	v1 = v0 >> 32 | USED;	/* xg_hash_check() */
	memcpy(&plan->used[at], &v1, sizeof(v1));
	v1 = XG_ISA(times)(v0, buckets) >> 32;	/* xg_hash_bucket1() */
	v1 = (v1 + 1) * BUCKET_BYTES(key_words);
	memcpy(&plan->at[at], &v1, sizeof(v1));
}

/* xg_meta_valid() of XG_LANES meta words at once: those of which it is not true become 0.
 * Of the others goes what is said of their places. */
XG_TARGET XG_INLINE void XG_ISA(leave_valid)(const struct xg_owner_state *owners, __u64 *metas)
{
	XG_ISA(lanes) meta, state, epoch, known, previous;

	memcpy(&meta, metas, sizeof(meta));
	state = XG_ISA(states)(owners, metas);
	epoch = meta >> XG_META_EPOCH_SHIFT & 0xff;
	known = -(state / STATE(XG_OWNER_ACTIVE) & 1);
	previous = -(state / STATE(XG_OWNER_PREVIOUS) & 1);
	previous &= (XG_ISA(lanes))(epoch == ((state - 1) & 0xff));
	known &= (XG_ISA(lanes))(epoch == (state & 0xff)) | previous;
	known |= (XG_ISA(lanes))((meta >> XG_META_OWNER_SHIFT & 0xffff) == XG_HOST_UNOWNED);
	meta &= known & ~PLACES;
	memcpy(metas, &meta, sizeof(meta));
}

/* Looks into the bucket at plan->at[i]. Writes the meta word, valid or not, or 0. Returns what
 * `match` said. */
XG_TARGET XG_INLINE __u32 XG_ISA(look_into)(const char *memory, struct xg_burst_plan *plan,
						const int key_words, unsigned int i, __u64 *meta,
						__u32 *torn)
{
	const __u64 *bucket = (const __u64 *)(memory + plan->at[i]);
	__u32 match;

	if (key_words == 1)
		match = XG_ISA(match4)(bucket, plan->words[0][i], plan->used[i]);
	else
		match = XG_ISA(match6)(bucket, plan->packed + i * 3 * sizeof(__u64),
				       plan->used[i]);
	*meta = read_entry(bucket, plan, key_words, i, match, torn);
	return match;
}

XG_TARGET XG_INLINE void XG_ISA(plan)(const struct xg_session_table *t, const void *packed,
					  const int key_words, unsigned int count,
					  struct xg_burst_plan *plan)
{
	const __u64 hash_key[2] = { t->header->hash_key[0], t->header->hash_key[1] };
	const char *memory = (const char *)t->memory;

	unpack(plan, packed, key_words, count);
	for (unsigned int at = 0; at < count; at += XG_LANES) {
		XG_ISA(locate)(hash_key, t->buckets, plan, key_words, at);
		for (unsigned int i = at; i < at + XG_LANES; i++)
			if (at < plan->ahead)
				prefetch_bucket(memory + plan->at[i], key_words);
			else
				call_nearer(memory + plan->at[i], key_words);
	}
}

#if XG_LANES < 8	/* by eight: session_burst_eight.h */

XG_TARGET XG_INLINE void XG_ISA(probe)(const struct xg_session_table *t,
					   struct xg_burst_plan *plan, const int key_words)
{
	const char *memory = (const char *)t->memory;
	const unsigned int count = plan->count;
	__u64 rest = 0;
	__u32 torn = 0;

	note_moves(t, plan);
	for (unsigned int i = 0; i < count; i++) {
		const __u64 *bucket = (const __u64 *)(memory + plan->at[i]);
		__u32 match;

		call_ahead(memory, plan, key_words, i, 1);
		match = XG_ISA(look_into)(memory, plan, key_words, i, &plan->metas[i], &torn);
		rest |= (__u64)((match == 0) &
				xg_meta_goes_beyond(XG_LOAD64(&bucket[key_words]))) << i;
	}
	plan->rest = rest;
	plan->torn = torn;
	call_rest(t, plan, key_words);
	for (unsigned int at = 0; at < count; at += XG_LANES)
		XG_ISA(leave_valid)(t->owners, &plan->metas[at]);
}

XG_TARGET static void XG_ISA(probe4)(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	XG_ISA(probe)(t, plan, 1);
}

XG_TARGET static void XG_ISA(probe6)(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	XG_ISA(probe)(t, plan, 3);
}

#endif

XG_TARGET XG_INLINE void XG_ISA(take)(const struct xg_session_table *t,
					  struct xg_burst_plan *plan, const int key_words)
{
	__u64 metas[XG_BURST_MAX] XG_PLAN_ALIGNED;
	unsigned int count = 0;
	__u32 torn = plan->torn;

	for (__u64 left = plan->rest; left; left &= left - 1)
		XG_ISA(look_into)((const char *)t->memory, plan, key_words, lowest(left),
				  &metas[count++], &torn);
	for (unsigned int i = count; i % XG_LANES; i++)
		metas[i] = 0;
	for (unsigned int at = 0; at < count; at += XG_LANES)
		XG_ISA(leave_valid)(t->owners, &metas[at]);
	put_rest(plan, metas);
	plan->torn = torn;
	settle(t, plan, key_words);
}

XG_TARGET static void XG_ISA(plan4)(const struct xg_session_table *t, const void *keys,
				    unsigned int count, struct xg_burst_plan *plan)
{
	XG_ISA(plan)(t, keys, 1, count, plan);
}

XG_TARGET static void XG_ISA(plan6)(const struct xg_session_table *t, const void *keys,
				    unsigned int count, struct xg_burst_plan *plan)
{
	XG_ISA(plan)(t, keys, 3, count, plan);
}

XG_TARGET static void XG_ISA(take4)(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	XG_ISA(take)(t, plan, 1);
}

XG_TARGET static void XG_ISA(take6)(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	XG_ISA(take)(t, plan, 3);
}

#undef XG_ISA
#undef XG_LANES
#undef XG_TARGET
