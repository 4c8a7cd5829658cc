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

XG_INLINE __u64 xg_sip_rotate(__u64 word, int bits)
{
	return word << bits | word >> (64 - bits);
}

XG_INLINE void xg_sip_round(struct xg_sip_state *s)
{
	s->v0 += s->v1;
	s->v1 = xg_sip_rotate(s->v1, 13) ^ s->v0;
	s->v0 = xg_sip_rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = xg_sip_rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = xg_sip_rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = xg_sip_rotate(s->v1, 17) ^ s->v2;
	s->v2 = xg_sip_rotate(s->v2, 32);
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
		key[0] ^ 0x736f6d6570736575ull,
		key[1] ^ 0x646f72616e646f6dull,
		key[0] ^ 0x6c7967656e657261ull,
		key[1] ^ 0x7465646279746573ull,
	};

	for (int i = 0; i < count; i++)
		xg_sip_block(&s, words[i], block_rounds);
	xg_sip_block(&s, (__u64)(count * 8) << 56, block_rounds);
	s.v2 ^= 0xff;
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
