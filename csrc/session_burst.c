// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst look-up: hashes and compares many sessions at once, by the widest instructions.
 *
 * (reader) Follows the protocol of session_lookup.h, with the moves counted once a burst. A vector
 * load only says where to look; key and meta word are then read whole, and decide.
 */
#include "session_slots.h"

#include <errno.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define XG_LANES 8u	/* sessions hashed at once */
#define USED ((__u64)XG_META_USED << XG_META_FLAGS_SHIFT)
#define USED_AND_CHECK (USED | 0xffffffffull)
#define NO_MATCH_BIT 16	/* 64-bit words of the longer bucket */
#define NO_MATCH (1u << NO_MATCH_BIT)

typedef __u64 xg_lanes __attribute__((vector_size(XG_LANES * sizeof(__u64))));

/* Word by word, so that equal words of XG_LANES sessions lie together. */
struct keys {
	__u64 words[XG_KEY_WORDS_MAX][XG_BURST_MAX] __attribute__((aligned(64)));
};

struct found {
	__u64 *metas;
	__u32 torn;	/* an entry was written while it was read: look again */
};

#define ROTATE(v, bits) ((v) << (bits) | (v) >> (64 - (bits)))
#define SIP_ROUND(v0, v1, v2, v3) \
	do { \
		v0 += v1; \
		v1 = ROTATE(v1, 13) ^ v0; \
		v0 = ROTATE(v0, 32); \
		v2 += v3; \
		v3 = ROTATE(v3, 16) ^ v2; \
		v0 += v3; \
		v3 = ROTATE(v3, 21) ^ v0; \
		v2 += v1; \
		v1 = ROTATE(v1, 17) ^ v2; \
		v2 = ROTATE(v2, 32); \
	} while (0)

XG_INLINE void unpack(struct keys *keys, const void *packed, const int key_words,
		      unsigned int count)
{
	const char *bytes = packed;

	for (unsigned int i = 0; i < count; i++)
		for (int word = 0; word < key_words; word++, bytes += sizeof(__u64))
			memcpy(&keys->words[word][i], bytes, sizeof(__u64));
	for (unsigned int i = count; i % XG_LANES; i++)
		for (int word = 0; word < key_words; word++)
			keys->words[word][i] = 0;
}

XG_INLINE void take(const struct xg_session_table *t, const __u64 *entry, const struct keys *keys,
		    const int key_words, unsigned int i, __u64 used, __u32 match,
		    struct found *found)
{
	__u64 differs = 0;
	__u64 meta;
	__u32 fits;

	for (int word = 0; word < key_words; word++)
		differs |= XG_LOAD64(&entry[word]) ^ keys->words[word][i];
	meta = XG_LOAD64(&entry[key_words]);
	fits = !(differs | ((meta & USED_AND_CHECK) ^ used));
	found->torn |= (match != 0) & !fits;
	found->metas[i] =
		meta & -(__u64)(fits & counts(meta, xg_owner_load(&t->owners[xg_meta_owner(meta)])));
}

/* Entries moved, or one was torn: those that were not found are looked for again, each alone. */
static __attribute__((noinline)) void
find_again(const struct xg_session_table *t, const struct keys *keys, int key_words,
	   unsigned int count, const __u64 *hashes, __u64 *metas)
{
	__u64 key[XG_KEY_WORDS_MAX] = { 0 };

	for (unsigned int i = 0; i < count; i++) {
		for (int word = 0; word < key_words; word++)
			key[word] = keys->words[word][i];
		if (!metas[i])
			metas[i] = xg_session_find_one(t, key, hashes[i]);
	}
}

/* ---- any processor ---- */

#define XG_ISA(name) name##_any
#define XG_TARGET

XG_INLINE __u32 match4_any(const __u64 *bucket, __u64 key, __u64 used)
{
	__u32 match = 0;

	for (int at = 0; at < XG_BUCKET_ENTRIES * 2; at += 2)
		match |= (__u32)!((XG_LOAD64(&bucket[at]) ^ key) |
				  ((XG_LOAD64(&bucket[at + 1]) & USED_AND_CHECK) ^ used)) << at;
	return match;
}

XG_INLINE __u32 match6_any(const __u64 *bucket, __u64 key0, __u64 key1, __u64 key2, __u64 used)
{
	__u32 match = 0;

	for (int at = 0; at < XG_BUCKET_ENTRIES * 4; at += 4)
		match |= (__u32)!((XG_LOAD64(&bucket[at]) ^ key0) |
				  (XG_LOAD64(&bucket[at + 1]) ^ key1) |
				  (XG_LOAD64(&bucket[at + 2]) ^ key2) |
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
#define XG_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,bmi,bmi2")))

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

XG_TARGET XG_INLINE __u32 match6_avx512(const __u64 *bucket, __u64 key0, __u64 key1,
					    __u64 key2, __u64 used)
{
	const __m512i mask = _mm512_mask_set1_epi64(_mm512_set1_epi64(-1), 0x88,
						    (long long)USED_AND_CHECK);
	__m512i want = _mm512_setr_epi64((long long)key0, (long long)key1, (long long)key2,
					 (long long)used, (long long)key0, (long long)key1,
					 (long long)key2, (long long)used);
	__m512i low, high;
	__u32 same;

	LOAD_WIDE(low, bucket, 64);
	LOAD_WIDE(high, bucket + 8, 64);
	same = _mm512_cmpeq_epi64_mask(_mm512_and_si512(low, mask), want) |
	       (__u32)_mm512_cmpeq_epi64_mask(_mm512_and_si512(high, mask), want) << 8;
	same &= same >> 1;
	return same & same >> 2 & 0x1111;
}

#include "session_burst_body.h"

/* ---- AVX2 ---- */

#define XG_ISA(name) name##_avx2
#define XG_TARGET __attribute__((target("avx2,bmi,bmi2")))

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
	__m256i want = _mm256_setr_epi64x((long long)key, (long long)used, (long long)key,
					  (long long)used);
	__u32 same = same_avx2(bucket, mask, want) | same_avx2(bucket + 4, mask, want) << 4;

	return same & same >> 1 & 0x55;
}

XG_TARGET XG_INLINE __u32 match6_avx2(const __u64 *bucket, __u64 key0, __u64 key1,
					  __u64 key2, __u64 used)
{
	const __m256i mask = _mm256_setr_epi64x(-1, -1, -1, (long long)USED_AND_CHECK);
	__m256i want = _mm256_setr_epi64x((long long)key0, (long long)key1, (long long)key2,
					  (long long)used);
	__u32 match = 0;

	for (int at = 0; at < XG_BUCKET_ENTRIES * 4; at += 4)
		match |= (__u32)(same_avx2(bucket + at, mask, want) == 0xf) << at;
	return match;
}

#include "session_burst_body.h"

#endif

struct burst {
	void (*find4)(const struct xg_session_table *t, const void *keys, unsigned int count,
		      __u64 *metas);
	void (*find6)(const struct xg_session_table *t, const void *keys, unsigned int count,
		      __u64 *metas);
};

static const struct burst bursts[] = {
	[XG_BURST_ANY] = { find4_any, find6_any },
#if defined(__x86_64__)
	[XG_BURST_AVX2] = { find4_avx2, find6_avx2 },
	[XG_BURST_AVX512] = { find4_avx512, find6_avx512 },
#endif
};

enum xg_burst_isa xg_session_burst_widest(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl"))
		return XG_BURST_AVX512;
	if (__builtin_cpu_supports("avx2"))
		return XG_BURST_AVX2;
#endif
	return XG_BURST_ANY;
}

int xg_session_table_find_burst_by(const struct xg_session_table *t, enum xg_burst_isa isa,
				   const void *keys, unsigned int count, __u64 *metas)
{
	if (count > XG_BURST_MAX)
		return -EINVAL;
	if (isa > xg_session_burst_widest())
		return -EOPNOTSUPP;
	(t->key_words == 1 ? bursts[isa].find4 : bursts[isa].find6)(t, keys, count, metas);
	return 0;
}

int xg_session_table_find_burst(const struct xg_session_table *t, const void *keys,
				unsigned int count, __u64 *metas)
{
	return xg_session_table_find_burst_by(t, xg_session_burst_widest(), keys, count, metas);
}
