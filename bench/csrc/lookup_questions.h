/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions by number, as keys of ours and of other tables; and questions, some of them known.
 */
#ifndef XG_LOOKUP_QUESTIONS_H
#define XG_LOOKUP_QUESTIONS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lookup_tables.h"
#include "xg_types.h"

#define VIP_BE 0x016433c6u	/* 198.51.100.1 */
#define HTTPS_BE 0xbb01u
#define TCP 6
#define QUESTIONS_LEAST (1ull << 20)
#define QUESTIONS_MOST (1ull << 23)	/* so that the lines asked for fit no cache */

struct questions {
	char *ours;	/* packed keys, `our_len` bytes each */
	char *theirs;
	uint32_t *lines;	/* random, 32 bits */
	size_t our_len;
	size_t their_len;
	uint64_t count;
	uint64_t hits;	/* of them, about sessions that are known */
};

/* A permutation of 48 bits: distinct numbers are distinct addresses and ports, in no order. */
static inline uint64_t question_mix(uint64_t number)
{
	const uint64_t mask = (1ull << 48) - 1;

	for (int i = 0; i < 3; i++) {
		number ^= number >> 23;
		number = number * 0x2545f4914f6cdd1dull & mask;
		number ^= number >> 25;
	}
	return number;
}

static inline void question_keys(int family, uint64_t number, __u64 *ours, char *theirs)
{
	const uint64_t mixed = question_mix(number);
	const uint32_t address = (uint32_t)mixed, vip = VIP_BE;
	const uint16_t port = (uint16_t)(mixed >> 32), https = HTTPS_BE;

	memset(theirs, 0, family == 4 ? THEIR_KEY4 : THEIR_KEY6);
	if (family == 4) {
		struct xg_key4 key = { address, port, 0 };

		memcpy(ours, &key, sizeof(key));
		memcpy(theirs, &address, 4);
		memcpy(theirs + 4, &vip, 4);
		theirs += 8;
	} else {
		struct xg_key6 key = { .address = { 0x20, 0x01, 0x0d, 0xb8 }, .port_be = port };

		memcpy(key.address + 12, &address, 4);
		memcpy(ours, &key, sizeof(key));
		memcpy(theirs, key.address, 16);
		memcpy(theirs + 16, key.address, 12);
		memcpy(theirs + 28, &vip, 4);
		theirs += 32;
	}
	memcpy(theirs, &port, 2);
	memcpy(theirs + 2, &https, 2);
	theirs[4] = TCP;
}

static inline uint64_t question_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull >> 16;
}

static inline void questions_make(struct questions *q, int family, uint64_t entries,
				  unsigned int hit_percent, uint64_t seed)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;

	q->our_len = family == 4 ? sizeof(struct xg_key4) : sizeof(struct xg_key6);
	q->their_len = family == 4 ? THEIR_KEY4 : THEIR_KEY6;
	q->count = entries < QUESTIONS_LEAST ? QUESTIONS_LEAST :
		   entries > QUESTIONS_MOST  ? QUESTIONS_MOST :
					       entries & ~63ull;
	q->hits = 0;
	q->ours = malloc(q->count * q->our_len);
	q->theirs = aligned_alloc(64, q->count * q->their_len);
	q->lines = malloc(q->count * sizeof(*q->lines));
	if (!q->ours || !q->theirs || !q->lines)
		abort();
	for (uint64_t i = 0; i < q->count; i++) {
		uint64_t number = question_random(&state) % entries;
		__u64 ours[3];
		int known = question_random(&state) % 100 < hit_percent;

		question_keys(family, known ? number : entries + number, ours,
			      q->theirs + i * q->their_len);
		memcpy(q->ours + i * q->our_len, ours, q->our_len);
		q->lines[i] = (uint32_t)question_random(&state);
		q->hits += (uint64_t)known;
	}
}

static inline void questions_free(struct questions *q)
{
	free(q->ours);
	free(q->theirs);
	free(q->lines);
}

#endif
