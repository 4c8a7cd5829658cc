// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst look-up: hashes and compares many sessions at once, by the widest instructions.
 *
 * (reader) Follows the protocol of session_lookup.h, with the moves counted once a burst. A load of
 * more than 16 bytes only says where to look; key and meta word are then read whole, and decide.
 */
#include "session_burst.h"
#include "session_slots.h"

#include <errno.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define LANES_MAX 8u
#define USED ((__u64)XG_META_USED << XG_META_FLAGS_SHIFT)
#define USED_AND_CHECK (USED | 0xffffffffull)
#define BEYOND ((long long)((__u64)XG_META_BEYOND << XG_META_FLAGS_SHIFT))
/* A flag of struct xg_owner_state, in the word that it is read as. */
#define STATE(flag) ((__u64)(flag) << 8)
/* Of the owner in meta word `i`; plain loads, as gathers are slow on some processors. */
#define STATE_OF(i) XG_LOAD64(&owners[xg_meta_owner(metas[i])])
#define NO_MATCH_BIT 16	/* 64-bit words of the longer bucket */
#define NO_MATCH (1u << NO_MATCH_BIT)

/* From one bucket to the next, and so from the header to the first. */
#define BUCKET_BYTES(key_words) ((__u64)((key_words) + 1) * XG_BUCKET_ENTRIES * sizeof(__u64))

/* So many sessions before its own turn a bucket is called for: a multiple of all lanes. While too
 * many lines are on their way, a call for one more waits on Intel's processors, so that all are
 * called for at once. Zen 4 leaves it out; but beside the few on their way to the first cache it
 * has room for more on theirs to the second. */
#define AHEAD(key_words) ((key_words) == 1 ? 24u : 16u)
static bool calls_wait;

/* Into the second cache. */
XG_INLINE void call_nearer(const char *bucket, const int key_words)
{
	__builtin_prefetch(bucket, 0, 2);
	if (key_words != 1)
		__builtin_prefetch(bucket + 64, 0, 2);
}

XG_INLINE void unpack(struct xg_burst_plan *plan, const void *packed, const int key_words,
		      unsigned int count)
{
	const char *bytes = packed;

	plan->packed = packed;
	plan->count = count;
	if (key_words == 1)
		memcpy(plan->words[0], bytes, count * sizeof(__u64));
	for (unsigned int i = 0; key_words == 3 && i < count; i++, bytes += 3 * sizeof(__u64)) {
		memcpy(&plan->words[0][i], bytes, sizeof(__u64));
		memcpy(&plan->words[1][i], bytes + 8, sizeof(__u64));
		memcpy(&plan->words[2][i], bytes + 16, sizeof(__u64));
	}
	for (unsigned int i = count; i % LANES_MAX; i++) {
		for (int word = 0; word < key_words; word++)
			plan->words[word][i] = 0;
		plan->metas[i] = 0;
	}
}

/* The meta word of the entry at `match`, or 0. */
XG_INLINE __u64 read_entry(const __u64 *bucket, const struct xg_burst_plan *plan,
			   const int key_words, unsigned int i, __u32 match, __u32 *torn)
{
	/* without a match the first entry, whose key is another one */
	const __u64 *entry = bucket + (__builtin_ctz(match | NO_MATCH) & (NO_MATCH_BIT - 1));
	__u64 differs = XG_LOAD64(&entry[0]) ^ plan->words[0][i];
	__u64 meta;
	__u32 fits;

	if (key_words == 3)
		differs |= (XG_LOAD64(&entry[1]) ^ plan->words[1][i]) |
			   (XG_LOAD64(&entry[2]) ^ plan->words[2][i]);
	meta = XG_LOAD64(&entry[key_words]);
	fits = !(differs | ((meta & USED_AND_CHECK) ^ plan->used[i]));
	*torn |= (match != 0) & !fits;
	return meta & -(__u64)fits;
}

XG_INLINE void note_moves(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	/* Acquire: with a raised counter comes the copy that it announces. */
	plan->moves = __atomic_load_n(&t->header->moves, __ATOMIC_ACQUIRE);
}

/* For `count` sessions, those `ahead` of session i and on. */
XG_INLINE void call_ahead(const char *memory, const struct xg_burst_plan *plan,
			  const int key_words, unsigned int i, const unsigned int count)
{
	const unsigned int from = i + plan->ahead, to = from + count;

	for (i = from; i < to && i < plan->count; i++)
		prefetch_bucket(memory + plan->at[i], key_words);
}

XG_INLINE unsigned int lowest(__u64 bits)
{
	return (unsigned int)__builtin_ctzll(bits);
}

/* For the second buckets of sessions that were not found in the first, beyond which others lie. */
XG_INLINE void call_rest(const struct xg_session_table *t, struct xg_burst_plan *plan,
			 const int key_words)
{
	for (__u64 left = plan->rest; left; left &= left - 1) {
		unsigned int i = lowest(left);
		__u64 bucket = xg_hash_bucket2(plan->hashes[i], t->buckets);

		plan->at[i] = (bucket + 1) * BUCKET_BYTES(key_words);
		prefetch_bucket((const char *)t->memory + plan->at[i], key_words);
	}
}

/* What was found in second buckets, in the order of the sessions. */
XG_INLINE void put_rest(struct xg_burst_plan *plan, const __u64 *metas)
{
	for (__u64 left = plan->rest; left; left &= left - 1)
		plan->metas[lowest(left)] = *metas++;
}

/* Entries moved, or one was torn: those that were not found are looked for again, each alone. */
static __attribute__((noinline)) void
find_again(const struct xg_session_table *t, struct xg_burst_plan *plan, int key_words)
{
	__u64 key[XG_KEY_WORDS_MAX] = { 0 };

	for (unsigned int i = 0; i < plan->count; i++) {
		for (int word = 0; word < key_words; word++)
			key[word] = plan->words[word][i];
		if (!plan->metas[i])
			plan->metas[i] = xg_session_find_one(t, key, plan->hashes[i]);
	}
}

XG_INLINE void settle(const struct xg_session_table *t, struct xg_burst_plan *plan,
		      const int key_words)
{
	/* Acquire: the counter is read after the buckets, not before (arm64). */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (plan->torn || __atomic_load_n(&t->header->moves, __ATOMIC_RELAXED) != plan->moves)
		find_again(t, plan, key_words);
}

/* ---- any processor ---- */

#define XG_ISA(name) name##_any
#define XG_LANES 2u
#define XG_TARGET

typedef __u64 lanes_any __attribute__((vector_size(2 * sizeof(__u64))));

XG_INLINE lanes_any times_any(lanes_any words, __u32 factor)
{
	return (words & 0xffffffff) * factor;
}

XG_INLINE lanes_any states_any(const struct xg_owner_state *owners, const __u64 *metas)
{
	return (lanes_any){ STATE_OF(0), STATE_OF(1) };
}

XG_INLINE __u32 match4_any(const __u64 *bucket, __u64 key, __u64 used)
{
	__u32 match = 0;

	for (int at = 0; at < XG_BUCKET_ENTRIES * 2; at += 2)
		match |= (__u32)!((XG_LOAD64(&bucket[at]) ^ key) |
				  ((XG_LOAD64(&bucket[at + 1]) & USED_AND_CHECK) ^ used)) << at;
	return match;
}

XG_INLINE __u32 match6_any(const __u64 *bucket, const void *key, __u64 used)
{
	__u64 words[3];
	__u32 match = 0;

	memcpy(words, key, sizeof(words));

	for (int at = 0; at < XG_BUCKET_ENTRIES * 4; at += 4)
		match |= (__u32)!((XG_LOAD64(&bucket[at]) ^ words[0]) |
				  (XG_LOAD64(&bucket[at + 1]) ^ words[1]) |
				  (XG_LOAD64(&bucket[at + 2]) ^ words[2]) |
				  ((XG_LOAD64(&bucket[at + 3]) & USED_AND_CHECK) ^ used)) << at;
	return match;
}

#include "session_burst_body.h"

#if defined(__x86_64__)

/* One load, which the compiler may neither split nor repeat; only a hint (see above). */
#define LOAD_WIDE(line, words, bytes) \
	__asm__ volatile("vmovdqu64 %1, %0" : "=v"(line) : "m"(*(const char(*)[bytes])(words)))
#define LOAD_HALF(line, words, bytes) \
	__asm__ volatile("vmovdqu %1, %0" : "=x"(line) : "m"(*(const char(*)[bytes])(words)))

/* ---- AVX-512 ---- */

#define XG_ISA(name) name##_avx512
#define XG_LANES 8u
#define XG_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,bmi,bmi2")))

typedef __u64 lanes_avx512 __attribute__((vector_size(8 * sizeof(__u64))));

XG_TARGET XG_INLINE lanes_avx512 times_avx512(lanes_avx512 words, __u32 factor)
{
	return (lanes_avx512)_mm512_mul_epu32((__m512i)words, _mm512_set1_epi64(factor));
}

XG_TARGET XG_INLINE lanes_avx512 states_avx512(const struct xg_owner_state *owners,
					       const __u64 *metas)
{
	return (lanes_avx512){ STATE_OF(0), STATE_OF(1), STATE_OF(2), STATE_OF(3),
			       STATE_OF(4), STATE_OF(5), STATE_OF(6), STATE_OF(7) };
}

XG_TARGET XG_INLINE __u32 match4_avx512(const __u64 *bucket, __u64 key, __u64 used)
{
	const __m512i mask = _mm512_mask_set1_epi64(_mm512_set1_epi64(-1), 0xaa,
						    (long long)USED_AND_CHECK);
	__m512i want = _mm512_mask_set1_epi64(_mm512_set1_epi64((long long)key), 0xaa,
					      (long long)used);
	__m512i line;
	__u32 same;

	LOAD_WIDE(line, bucket, 64);
	same = _mm512_cmpeq_epi64_mask(_mm512_and_si512(line, mask), want);
	return same & same >> 1 & 0x55;
}

XG_TARGET XG_INLINE __u32 match6_avx512(const __u64 *bucket, const void *key, __u64 used)
{
	const __m512i mask = _mm512_mask_set1_epi64(_mm512_set1_epi64(-1), 0x88,
						    (long long)USED_AND_CHECK);
	/* nothing behind the key's 24 bytes is read */
	__m512i want = _mm512_broadcast_i64x4(_mm256_maskz_loadu_epi64(7, key));
	__m512i low, high;
	__u32 same;

	want = _mm512_mask_set1_epi64(want, 0x88, (long long)used);
	LOAD_WIDE(low, bucket, 64);
	LOAD_WIDE(high, bucket + 8, 64);
	same = _mm512_cmpeq_epi64_mask(_mm512_and_si512(low, mask), want) |
	       (__u32)_mm512_cmpeq_epi64_mask(_mm512_and_si512(high, mask), want) << 8;
	same &= same >> 1;
	return same & same >> 2 & 0x1111;
}

#include "session_burst_body.h"
#include "session_burst_eight.h"

/* ---- AVX2 ---- */

#define XG_ISA(name) name##_avx2
#define XG_LANES 4u
#define XG_TARGET __attribute__((target("avx2,bmi,bmi2")))

typedef __u64 lanes_avx2 __attribute__((vector_size(4 * sizeof(__u64))));

XG_TARGET XG_INLINE lanes_avx2 times_avx2(lanes_avx2 words, __u32 factor)
{
	return (lanes_avx2)_mm256_mul_epu32((__m256i)words, _mm256_set1_epi64x(factor));
}

XG_TARGET XG_INLINE lanes_avx2 states_avx2(const struct xg_owner_state *owners, const __u64 *metas)
{
	return (lanes_avx2){ STATE_OF(0), STATE_OF(1), STATE_OF(2), STATE_OF(3) };
}

XG_TARGET XG_INLINE __u32 same_avx2(const __u64 *words, __m256i mask, __m256i want)
{
	__m256i line;

	LOAD_HALF(line, words, 32);
	line = _mm256_cmpeq_epi64(_mm256_and_si256(line, mask), want);
	return (__u32)_mm256_movemask_pd(_mm256_castsi256_pd(line));
}

XG_TARGET XG_INLINE __u32 match4_avx2(const __u64 *bucket, __u64 key, __u64 used)
{
	const __m256i mask = _mm256_setr_epi64x(-1, (long long)USED_AND_CHECK, -1,
						(long long)USED_AND_CHECK);
	/* two broadcasts from memory: words put together by stores would wait for the stores */
	__m256i want = _mm256_blend_epi32(_mm256_set1_epi64x((long long)key),
					  _mm256_set1_epi64x((long long)used), 0xcc);
	__u32 same = same_avx2(bucket, mask, want) | same_avx2(bucket + 4, mask, want) << 4;

	return same & same >> 1 & 0x55;
}

XG_TARGET XG_INLINE __u32 match6_avx2(const __u64 *bucket, const void *key, __u64 used)
{
	const __m256i mask = _mm256_setr_epi64x(-1, -1, -1, (long long)USED_AND_CHECK);
	/* nothing behind the key's 24 bytes is read */
	__m256i want = _mm256_maskload_epi64(key, _mm256_setr_epi64x(-1, -1, -1, 0));
	__u32 match = 0;

	want = _mm256_blend_epi32(want, _mm256_set1_epi64x((long long)used), 0xc0);
	for (int at = 0; at < XG_BUCKET_ENTRIES * 4; at += 4)
		match |= (__u32)(same_avx2(bucket + at, mask, want) == 0xf) << at;
	return match;
}

#include "session_burst_body.h"

#endif

typedef void (*plan_keys)(const struct xg_session_table *t, const void *keys, unsigned int count,
			  struct xg_burst_plan *plan);
typedef void (*next_step)(const struct xg_session_table *t, struct xg_burst_plan *plan);

struct burst {
	plan_keys plan4, plan6;
	next_step probe4, probe6, take4, take6;
};

static enum xg_burst_isa widest = XG_BURST_ANY, quickest = XG_BURST_ANY;

#define BURST(isa, probing) { \
	plan4_##isa, plan6_##isa, probe4_##probing, probe6_##probing, take4_##isa, take6_##isa, \
}

static const struct burst bursts[] = {
	[XG_BURST_ANY] = BURST(any, any),
#if defined(__x86_64__)
	[XG_BURST_AVX2] = BURST(avx2, avx2),
	[XG_BURST_AVX512] = BURST(avx512, pairs),
	[XG_BURST_GATHER] = BURST(avx512, gather),
#endif
};

#if defined(__x86_64__)

/* On Intel's with AVX512-FP16. Those without are slow at gathers, most by a mitigation of Downfall;
 * AMD's take them for many small steps. */
static bool gathers_are_quick(void)
{
	const unsigned int avx512_fp16 = 1u << 23;	/* of leaf 7, EDX */
	unsigned int eax, ebx, ecx, edx;

	return __builtin_cpu_is("intel") && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
	       edx & avx512_fp16;
}

/* Once: in a virtual machine the processor's own answer costs a thousand look-ups. */
static __attribute__((constructor)) void find_widest(void)
{
	calls_wait = __builtin_cpu_is("intel");
	/* a virtual machine may leave any of them out */
	if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
		return;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl"))
		widest = XG_BURST_GATHER;
	else if (__builtin_cpu_supports("avx2"))
		widest = XG_BURST_AVX2;
	quickest = widest;
	if (widest == XG_BURST_GATHER && !gathers_are_quick())
		quickest = XG_BURST_AVX512;
}

#endif

enum xg_burst_isa xg_session_burst_widest(void)
{
	return widest;
}

enum xg_burst_isa xg_session_burst_quickest(void)
{
	return quickest;
}

static void plan_by(const struct xg_session_table *t, enum xg_burst_isa isa, const void *keys,
		    unsigned int count, struct xg_burst_plan *plan)
{
	plan->isa = isa;
	plan->ahead = calls_wait ? XG_BURST_MAX : AHEAD(t->key_words);
	(t->key_words == 1 ? bursts[isa].plan4 : bursts[isa].plan6)(t, keys, count, plan);
}

void xg_session_table_plan(const struct xg_session_table *t, const void *keys, unsigned int count,
			   struct xg_burst_plan *plan)
{
	plan_by(t, quickest, keys, count, plan);
}

void xg_session_table_probe(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	const struct burst *burst = &bursts[plan->isa];

	(t->key_words == 1 ? burst->probe4 : burst->probe6)(t, plan);
}

void xg_session_table_take(const struct xg_session_table *t, struct xg_burst_plan *plan)
{
	const struct burst *burst = &bursts[plan->isa];

	(t->key_words == 1 ? burst->take4 : burst->take6)(t, plan);
}

int xg_session_table_find_burst_by(const struct xg_session_table *t, enum xg_burst_isa isa,
				   const void *keys, unsigned int count, __u64 *metas)
{
	struct xg_burst_plan plan;

	if (count > XG_BURST_MAX)
		return -EINVAL;
	if (isa > widest)
		return -EOPNOTSUPP;
	plan_by(t, isa, keys, count, &plan);
	xg_session_table_probe(t, &plan);
	xg_session_table_take(t, &plan);
	memcpy(metas, plan.metas, count * sizeof(*metas));
	return 0;
}

int xg_session_table_find_burst(const struct xg_session_table *t, const void *keys,
				unsigned int count, __u64 *metas)
{
	return xg_session_table_find_burst_by(t, quickest, keys, count, metas);
}
