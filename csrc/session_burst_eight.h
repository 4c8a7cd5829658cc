/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst look-up's second step by AVX-512: eight sessions' first buckets are looked through at
 * once, by one of two ways to read them.
 *
 * Pairs: loads of 16 bytes, the last words of an entry, put side by side. That each of their words
 * is whole is all that the protocol asks for (session_lookup.h); the two may be of different times.
 *
 * Gathers: of meta words alone, and of the keys that go with those whose check fits.
 *
 * session_burst.c includes this once. An entry of IPv6, and any that is gathered, is chosen before
 * its whole key is known: where the key then differs the entry was torn, or another session has
 * the same check (2^-32), and the session is looked for again, alone.
 */
#define EIGHT_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,bmi,bmi2")))
#define LANES 8u

_Static_assert(XG_BURST_MAX == 64, "a bit for each session of a burst");

/* Eight 64-bit loads, at so many bytes from `base`. */
#define GATHER(base, at) _mm512_i64gather_epi64(at, base, 1)

/* Of eight places of 16 bytes. */
struct pairs {
	__m512i first, second;	/* words */
};

#define LOAD_PAIR(lanes, place) \
	__asm__ volatile("vmovdqu64 %1, %x0" : "=v"(lanes) : "m"(*(const char(*)[16])(place)))
#define ADD_PAIR(lanes, number, place) \
	__asm__ volatile("vinserti64x2 %2, %1, %0, %0" \
			 : "+v"(lanes) : "m"(*(const char(*)[16])(place)), "i"(number))

EIGHT_TARGET XG_INLINE struct pairs read_pairs(const char *memory, const __u64 at[LANES])
{
	__m512i even, odd;

	LOAD_PAIR(even, memory + at[0]);
	LOAD_PAIR(odd, memory + at[1]);
	ADD_PAIR(even, 1, memory + at[2]);
	ADD_PAIR(odd, 1, memory + at[3]);
	ADD_PAIR(even, 2, memory + at[4]);
	ADD_PAIR(odd, 2, memory + at[5]);
	ADD_PAIR(even, 3, memory + at[6]);
	ADD_PAIR(odd, 3, memory + at[7]);
	return (struct pairs){
		_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd),
	};
}

/* What was chosen from the first buckets of sessions at .. at + 7. */
struct chosen {
	__m512i entry;	/* where it lies: bytes into the memory */
	__m512i meta;
	__mmask8 matched, beyond;
};

EIGHT_TARGET XG_INLINE void choose(struct chosen *chosen, __mmask8 same, __m512i meta,
				   __m512i bucket, const int key_words, int slot)
{
	const long long entry_bytes = (key_words + 1) * (long long)sizeof(__u64);

	same &= ~chosen->matched;	/* of two, the first, as everywhere */
	if (slot == 0)
		chosen->beyond = _mm512_test_epi64_mask(meta, _mm512_set1_epi64(BEYOND));
	else
		chosen->entry = _mm512_mask_add_epi64(chosen->entry, same, bucket,
						      _mm512_set1_epi64(slot * entry_bytes));
	chosen->meta = _mm512_mask_mov_epi64(chosen->meta, same, meta);
	chosen->matched |= same;
}

/* Writes the meta words of those that were chosen rightly, valid or not, or 0. Returns which of
 * the others may lie in their second bucket. */
EIGHT_TARGET XG_INLINE __mmask8 put_chosen(struct xg_burst_plan *plan, unsigned int at,
					   const struct chosen *chosen, __m512i differs)
{
	__mmask8 fits = _mm512_mask_testn_epi64_mask(chosen->matched, differs, differs);

	plan->torn |= chosen->matched ^ fits;
	_mm512_store_si512(&plan->metas[at], _mm512_maskz_mov_epi64(fits, chosen->meta));
	return chosen->beyond & ~chosen->matched;
}

EIGHT_TARGET XG_INLINE __m512i differs_from(const struct xg_burst_plan *plan, int word,
					    unsigned int at, __m512i words)
{
	return _mm512_xor_si512(words, _mm512_load_si512(&plan->words[word][at]));
}

EIGHT_TARGET XG_INLINE __mmask8 is_wanted(const struct xg_burst_plan *plan, unsigned int at,
					  __m512i meta)
{
	const __m512i counts = _mm512_set1_epi64((long long)USED_AND_CHECK);

	return _mm512_cmpeq_epi64_mask(_mm512_and_si512(meta, counts),
				       _mm512_load_si512(&plan->used[at]));
}

EIGHT_TARGET XG_INLINE __mmask8 probe8_pairs(const char *memory, struct xg_burst_plan *plan,
					     const int key_words, unsigned int at)
{
	const __m512i bucket = _mm512_load_si512(&plan->at[at]);
	const __m512i zero = _mm512_setzero_si512();
	const char *last = memory + (key_words - 1) * sizeof(__u64);
	struct chosen chosen = { .entry = bucket, .meta = zero };
	__m512i differs = zero;

	for (int slot = 0; slot < XG_BUCKET_ENTRIES; slot++) {
		struct pairs end = read_pairs(last, &plan->at[at]);
		__m512i other = differs_from(plan, key_words - 1, at, end.first);
		__mmask8 same = is_wanted(plan, at, end.second) &
				_mm512_testn_epi64_mask(other, other);

		choose(&chosen, same, end.second, bucket, key_words, slot);
		last += (key_words + 1) * sizeof(__u64);
	}
	if (key_words == 3) {
		__u64 entries[LANES] XG_PLAN_ALIGNED;
		struct pairs start;

		_mm512_store_si512(entries, chosen.entry);
		start = read_pairs(memory, entries);
		differs = _mm512_or_si512(differs_from(plan, 0, at, start.first),
					  differs_from(plan, 1, at, start.second));
	}
	return put_chosen(plan, at, &chosen, differs);
}

EIGHT_TARGET XG_INLINE __mmask8 probe8_gather(const char *memory, struct xg_burst_plan *plan,
					      const int key_words, unsigned int at)
{
	const __m512i bucket = _mm512_load_si512(&plan->at[at]);
	const char *metas = memory + key_words * sizeof(__u64);
	struct chosen chosen = { .entry = bucket, .meta = _mm512_setzero_si512() };
	__m512i differs = chosen.meta;

	for (int slot = 0; slot < XG_BUCKET_ENTRIES; slot++) {
		__m512i meta = GATHER(metas, bucket);

		choose(&chosen, is_wanted(plan, at, meta), meta, bucket, key_words, slot);
		metas += (key_words + 1) * sizeof(__u64);
	}
	for (int word = 0; word < key_words; word++)
		differs = _mm512_or_si512(
			differs, differs_from(plan, word, at,
					      GATHER(memory + word * sizeof(__u64), chosen.entry)));
	return put_chosen(plan, at, &chosen, differs);
}

EIGHT_TARGET XG_INLINE void probe_eights(const struct xg_session_table *t,
					 struct xg_burst_plan *plan, const int key_words,
					 const bool by_gathers)
{
	const char *memory = (const char *)t->memory;
	const unsigned int count = plan->count;
	__u64 rest = 0;

	note_moves(t, plan);
	plan->torn = 0;
	for (unsigned int at = 0; at < count; at += LANES) {
		__mmask8 beyond;

		call_ahead(memory, plan, key_words, at, LANES);
		beyond = by_gathers ? probe8_gather(memory, plan, key_words, at) :
				      probe8_pairs(memory, plan, key_words, at);
		rest |= (__u64)beyond << at;
	}
	plan->rest = rest & (count < XG_BURST_MAX ? (1ull << count) - 1 : ~0ull);
	call_rest(t, plan, key_words);
	for (unsigned int at = 0; at < count; at += LANES)
		leave_valid_avx512(t->owners, &plan->metas[at]);
}

#define PROBE(name, key_words, by_gathers) \
	EIGHT_TARGET static void name(const struct xg_session_table *t, \
				      struct xg_burst_plan *plan) \
	{ \
		probe_eights(t, plan, key_words, by_gathers); \
	}

PROBE(probe4_pairs, 1, false)
PROBE(probe6_pairs, 3, false)
PROBE(probe4_gather, 1, true)
PROBE(probe6_gather, 3, true)

#undef EIGHT_TARGET
#undef GATHER
#undef LANES
#undef LOAD_PAIR
#undef ADD_PAIR
#undef PROBE
