/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst look-up's second step by gathers: eight sessions' buckets are looked through at once.
 *
 * session_burst.c includes it once. An entry is chosen by its meta word's check alone, and its key
 * is read and compared after that: where it differs the entry was torn, or another session has the
 * same check (2^-32), and the session is looked for again, alone.
 */
#define GATHER_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,bmi,bmi2")))
#define LANES 8u

_Static_assert(XG_BURST_MAX == 64, "a bit for each session of a burst");

/* Eight 64-bit loads, at so many bytes from `base`. */
#define GATHER(base, at) _mm512_i64gather_epi64(at, base, 1)

/* The first buckets of sessions at .. at + 7. Writes their meta words, valid or not, or 0. Returns
 * which of them may lie in their second bucket. */
GATHER_TARGET XG_INLINE __mmask8 take8(const char *memory, struct xg_burst_plan *plan,
				       const int key_words, unsigned int at, __mmask8 *torn)
{
	const long long entry_bytes = (key_words + 1) * (long long)sizeof(__u64);
	const __m512i counts = _mm512_set1_epi64((long long)USED_AND_CHECK);
	const char *metas = memory + key_words * sizeof(__u64);
	__m512i bucket = _mm512_load_si512(&plan->at[at]);
	__m512i used = _mm512_load_si512(&plan->used[at]);
	__m512i found = _mm512_setzero_si512(), entry = bucket, differs;
	__mmask8 matched = 0, beyond = 0, fits;

	for (int slot = 0; slot < XG_BUCKET_ENTRIES; slot++) {
		__m512i meta = GATHER(metas + slot * entry_bytes, bucket);
		__mmask8 same = _mm512_cmpeq_epi64_mask(_mm512_and_si512(meta, counts), used);

		if (slot == 0)
			beyond = _mm512_test_epi64_mask(meta, _mm512_set1_epi64(BEYOND));
		else
			entry = _mm512_mask_add_epi64(entry, same, bucket,
						      _mm512_set1_epi64(slot * entry_bytes));
		found = _mm512_mask_mov_epi64(found, same, meta);
		matched |= same;
	}
	differs = _mm512_xor_si512(GATHER(memory, entry), _mm512_load_si512(&plan->words[0][at]));
	for (int word = 1; word < key_words; word++)
		differs = _mm512_or_si512(
			differs, _mm512_xor_si512(GATHER(memory + word * sizeof(__u64), entry),
						  _mm512_load_si512(&plan->words[word][at])));
	fits = _mm512_mask_testn_epi64_mask(matched, differs, differs);
	*torn |= matched ^ fits;
	_mm512_store_si512(&plan->metas[at], _mm512_maskz_mov_epi64(fits, found));
	return beyond & ~matched;
}

GATHER_TARGET XG_INLINE __mmask8 has_flag(__m512i state, __u64 flag)
{
	return _mm512_test_epi64_mask(state, _mm512_set1_epi64((long long)STATE(flag)));
}

/* xg_meta_valid() of eight meta words, as leave_valid() in session_burst_body.h. */
GATHER_TARGET XG_INLINE void leave_valid8(const struct xg_owner_state *owners, __u64 *metas)
{
	const __m512i byte = _mm512_set1_epi64(0xff);
	__m512i meta = _mm512_load_si512(metas);
	__m512i owner = _mm512_and_si512(_mm512_srli_epi64(meta, XG_META_OWNER_SHIFT),
					 _mm512_set1_epi64(0xffff));
	__m512i state = GATHER(owners, _mm512_slli_epi64(owner, 3));
	__m512i epoch = _mm512_and_si512(_mm512_srli_epi64(meta, XG_META_EPOCH_SHIFT), byte);
	__m512i before = _mm512_sub_epi64(state, _mm512_set1_epi64(1));
	__mmask8 valid = _mm512_cmpeq_epi64_mask(epoch, _mm512_and_si512(before, byte)) &
			 has_flag(state, XG_OWNER_PREVIOUS);

	valid |= _mm512_cmpeq_epi64_mask(epoch, _mm512_and_si512(state, byte));
	valid &= has_flag(state, XG_OWNER_ACTIVE);
	valid |= _mm512_cmpeq_epi64_mask(owner, _mm512_set1_epi64(XG_HOST_UNOWNED));
	meta = _mm512_and_si512(meta, _mm512_set1_epi64((long long)~PLACES));
	_mm512_store_si512(metas, _mm512_maskz_mov_epi64(valid, meta));
}

GATHER_TARGET XG_INLINE void take_gather(const struct xg_session_table *t,
					 struct xg_burst_plan *plan, const int key_words)
{
	const char *memory = (const char *)t->memory;
	const unsigned int count = plan->count;
	__mmask8 torn = 0;
	__u32 again = 0;
	__u64 rest = 0;
	/* Acquire: with a raised counter comes the copy that it announces. */
	__u64 moves = __atomic_load_n(&t->header->moves, __ATOMIC_ACQUIRE);

	for (unsigned int at = 0; at < count; at += LANES) {
		call_ahead(memory, plan, key_words, at, LANES);
		rest |= (__u64)take8(memory, plan, key_words, at, &torn) << at;
	}
	rest &= count < XG_BURST_MAX ? (1ull << count) - 1 : ~0ull;
	for (__u64 left = rest; left; left &= left - 1)
		call_second(t, memory, plan, key_words, (unsigned int)__builtin_ctzll(left));
	for (__u64 left = rest; left; left &= left - 1)
		probe_avx512(memory, plan, key_words, (unsigned int)__builtin_ctzll(left), &again);
	for (unsigned int at = 0; at < count; at += LANES)
		leave_valid8(t->owners, &plan->metas[at]);
	/* Acquire: the counter is read after the probes, not before (arm64). */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (torn || again || __atomic_load_n(&t->header->moves, __ATOMIC_RELAXED) != moves)
		find_again(t, plan, key_words, count);
}

GATHER_TARGET static void take4_gather(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	take_gather(t, plan, 1);
}

GATHER_TARGET static void take6_gather(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	take_gather(t, plan, 3);
}

#undef GATHER_TARGET
#undef GATHER
#undef LANES
