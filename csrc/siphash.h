/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SipHash of one or three 64-bit words under a 128-bit key.
 *
 * The table uses SipHash-1-3: no client can choose sessions that collide without the key.
 * Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (2012). The rounds are
 * arguments so that the paper's own vector (SipHash-2-4) checks this code.
 */
#ifndef XG_SIPHASH_H
#define XG_SIPHASH_H

#include <linux/types.h>

#ifndef XG_INLINE
#define XG_INLINE static inline __attribute__((always_inline))
#endif

struct xg_sip_state {
	__u64 v0, v1, v2, v3;
};

#define XG_SIP_INIT0 0x736f6d6570736575ull
#define XG_SIP_INIT1 0x646f72616e646f6dull
#define XG_SIP_INIT2 0x6c7967656e657261ull
#define XG_SIP_INIT3 0x7465646279746573ull
#define XG_SIP_FINAL 0xff
#define XG_SIP_ROTATE(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))

/* A macro, so that the words may be vectors as well. */
#define XG_SIP_ROUND(v0, v1, v2, v3) \
	do { \
		v0 += v1; \
		v1 = XG_SIP_ROTATE(v1, 13) ^ v0; \
		v0 = XG_SIP_ROTATE(v0, 32); \
		v2 += v3; \
		v3 = XG_SIP_ROTATE(v3, 16) ^ v2; \
		v0 += v3; \
		v3 = XG_SIP_ROTATE(v3, 21) ^ v0; \
		v2 += v1; \
		v1 = XG_SIP_ROTATE(v1, 17) ^ v2; \
		v2 = XG_SIP_ROTATE(v2, 32); \
	} while (0)

/* The message's last word: nothing but its length. */
#define XG_SIP_LENGTH(words) ((__u64)((words) * 8) << 56)

XG_INLINE void xg_sip_round(struct xg_sip_state *s)
{
	XG_SIP_ROUND(s->v0, s->v1, s->v2, s->v3);
}

XG_INLINE void xg_sip_block(struct xg_sip_state *s, __u64 word, int rounds)
{
	s->v3 ^= word;
	for (int i = 0; i < rounds; i++)
		xg_sip_round(s);
	s->v0 ^= word;
}

/* Hash of `count` words (constant at every call, so that it unrolls). The message is their
 * bytes in memory order on a little-endian host. */
XG_INLINE __u64 xg_siphash(const __u64 key[2], const __u64 *words, int count, int block_rounds,
			   int final_rounds)
{
	struct xg_sip_state s = {
		key[0] ^ XG_SIP_INIT0,
		key[1] ^ XG_SIP_INIT1,
		key[0] ^ XG_SIP_INIT2,
		key[1] ^ XG_SIP_INIT3,
	};

	for (int i = 0; i < count; i++)
		xg_sip_block(&s, words[i], block_rounds);
	xg_sip_block(&s, XG_SIP_LENGTH(count), block_rounds);
	s.v2 ^= XG_SIP_FINAL;
	for (int i = 0; i < final_rounds; i++)
		xg_sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

XG_INLINE __u64 xg_siphash13_1(const __u64 key[2], __u64 word)
{
	return xg_siphash(key, &word, 1, 1, 3);
}

XG_INLINE __u64 xg_siphash13_3(const __u64 key[2], const __u64 words[3])
{
	return xg_siphash(key, words, 3, 1, 3);
}

#endif
