// SPDX-License-Identifier: BSD-2-Clause
/*
 * The session table's hash, and the two buckets that it chooses.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>

#include "session_lookup.h"

static const __u64 hash_key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };

static void test_vectors(void)
{
	__u64 word = 0x0706050403020100ull;

	/* vectors_sip64[8] of the reference implementation (SipHash-2-4, bytes 0..7). */
	assert(xg_siphash(hash_key, &word, 1, 2, 4) == 0x93f5f5799a932462ull);
}

static void check_choice(__u64 hash, __u32 buckets)
{
	__u32 first = xg_hash_bucket1(hash, buckets), second = xg_hash_bucket2(hash, buckets);

	assert(first < buckets && second < buckets && first != second);
}

static void test_two_buckets_of_any_even_number(void)
{
	for (__u64 hash = 1; hash; hash <<= 1)
		for (__u32 n = 2; n < XG_TABLE_BUCKETS_MAX; n += 2 * (n / 3 + 1)) {
			check_choice(hash, n);
			check_choice(~hash, n);
			check_choice(hash - 1, n);
			check_choice(~hash, XG_TABLE_BUCKETS_MAX - (n & 2));
		}
	assert(xg_hash_bucket1(0, 6) == 0 && xg_hash_bucket1(0xffffffff, 6) == 5);
}

int main(void)
{
	test_vectors();
	test_two_buckets_of_any_even_number();
	puts("ok");
	return 0;
}
