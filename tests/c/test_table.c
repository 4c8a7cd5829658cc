/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The session table in one thread: every function, its limits and its errors.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "session_slots.h"

static struct xg_owner_state owners[XG_OWNERS];
static const __u64 hash_key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };

struct key {
	__u64 words[XG_KEY_WORDS_MAX];
};

static struct key key_of(int family, __u64 number)
{
	struct key key = { { number } };

	if (family == 6)
		key = (struct key){ { 0x20010db8, number, number >> 7 & 0xffff } };
	return key;
}

static struct xg_session_table *make(int family, __u32 buckets)
{
	struct xg_session_table *t;

	assert(xg_session_table_create(&t, family, buckets, NULL, 0, owners, hash_key) == 0);
	return t;
}

static int put(struct xg_session_table *t, __u64 number, __u16 owner, __u8 flags, __u32 now_ms)
{
	struct key key = key_of(xg_session_table_family(t), number);
	struct xg_session_claim claim = { owner, flags, 7, number, now_ms };

	return xg_session_table_put(t, key.words, &claim);
}

/* Every set of instructions that this processor has finds the same. */
static void find_by_each(struct xg_session_table *t, const void *keys, unsigned int count,
			 const __u64 *expected)
{
	enum xg_burst_isa widest = xg_session_burst_widest();
	__u64 metas[XG_BURST_MAX];

	for (unsigned int isa = XG_BURST_ANY; isa <= widest; isa++) {
		assert(xg_session_table_find_burst_by(t, isa, keys, count, metas) == 0);
		assert(memcmp(metas, expected, count * sizeof(*metas)) == 0);
	}
	assert(widest == XG_BURST_GATHER ||
	       xg_session_table_find_burst_by(t, widest + 1, keys, 0, metas) == -EOPNOTSUPP);
}

/* The owner by both look-ups, which must agree; -1: absent. */
static int owner_of(struct xg_session_table *t, __u64 number)
{
	struct key key = key_of(xg_session_table_family(t), number);
	struct xg_session_cold cold;
	__u64 meta = 0, found;

	assert(xg_session_table_find_burst(t, key.words, 1, &found) == 0);
	find_by_each(t, key.words, 1, &found);
	if (xg_session_table_get(t, key.words, &meta, &cold) == -ENOENT) {
		assert(found == 0);
		return -1;
	}
	assert(found == meta && cold.position == 7);
	assert(cold.opened_at == number);
	return xg_meta_owner(meta);
}

/* Each entry says whether it is away, and each bucket how many of its own are. */
static void check_places(const struct xg_session_table *t)
{
	__u32 *away = calloc(t->buckets, sizeof(*away));

	for (__u32 slot = 0; slot < slots_of(t); slot++) {
		__u64 hash = hash_of(t, entry_at(t, slot));
		__u32 first = xg_hash_bucket1(hash, t->buckets);

		if (!is_used(meta_at(t, slot)))
			continue;
		assert(is_away(meta_at(t, slot)) == (slot / XG_BUCKET_ENTRIES != first));
		away[first] += slot / XG_BUCKET_ENTRIES != first;
	}
	for (__u32 bucket = 0; bucket < t->buckets; bucket++)
		for (__u32 place = 0; place < XG_BUCKET_ENTRIES; place++) {
			__u64 meta = meta_at(t, bucket * XG_BUCKET_ENTRIES + place);
			__u32 said = (xg_meta_flags(meta) & XG_META_BEYOND) / XG_META_BEYOND_ONE;

			assert(said == (place ? 0 : away[bucket]));
		}
	free(away);
}

/* A count that is full is not exact: it stays, and nothing is lost. */
static void test_full_count(void)
{
	struct xg_session_table *t = make(4, 64);
	const __u64 full = (__u64)XG_META_BEYOND << XG_META_FLAGS_SHIFT;

	assert(!goes_beyond(t, 5));
	come_back(t, 5);
	assert(!goes_beyond(t, 5));
	for (int i = 0; i < 20; i++)
		go_beyond(t, 5);
	assert(meta_at(t, 20) == full);
	come_back(t, 5);
	assert(meta_at(t, 20) == full);
	for (__u64 i = 0; i < 200; i++)
		assert(put(t, i, 1, 0, 0) == 0);
	for (__u64 i = 0; i < 200; i++)
		assert(owner_of(t, i) == 1);
	assert((meta_at(t, 20) & full) == full);
	xg_session_table_destroy(t);
}

static void test_errors(void)
{
	struct xg_session_table *t;
	static __u64 memory[40];
	size_t needed = xg_session_table_bytes(4, 2);

	assert(needed == 3 * 64 && xg_session_table_bytes(6, 4) == 5 * 128);
	assert(!xg_session_table_bytes(5, 4) && !xg_session_table_bytes(4, 1));
	assert(!xg_session_table_bytes(4, 3) && !xg_session_table_bytes(4, 1u << 27));
	assert(xg_session_table_create(&t, 4, 3, NULL, 0, owners, hash_key) == -EINVAL);
	assert(xg_session_table_create(&t, 4, 2, memory, needed - 1, owners, hash_key) == -ENOSPC);
	assert(xg_session_table_create(&t, 4, 2, (char *)memory + 1, needed, owners, hash_key) ==
	       -EINVAL);
	assert(xg_session_table_create(&t, 4, 2, memory, needed, owners, NULL) == -EUCLEAN);
	assert(xg_session_table_create(&t, 4, 2, NULL, 0, owners, NULL) == -EUCLEAN);
	t = make(4, 2);
	assert(put(t, 1, 1, XG_META_USED, 0) == -EINVAL);
	assert(xg_session_table_find_burst(t, memory, XG_BURST_MAX + 1, memory) == -EINVAL);
	xg_session_table_destroy(t);
	xg_session_table_destroy(NULL);
}

static void test_put_get_remove(int family)
{
	struct xg_session_table *t = make(family, 64);
	struct key key = key_of(family, 5);

	assert(owner_of(t, 5) == -1 && xg_session_table_remove(t, key.words) == 0);
	assert(put(t, 5, 1, 0, 0) == 0 && owner_of(t, 5) == 1);
	assert(put(t, 5, 2, 0, 0) == 0 && owner_of(t, 5) == 2);
	assert(xg_session_table_used(t) == 1);
	assert(xg_session_table_remove(t, key.words) == 1 && owner_of(t, 5) == -1);
	assert(xg_session_table_used(t) == 0 && xg_session_table_capacity(t) == 256);
	xg_session_table_destroy(t);
}

/* The check alone does not make an entry the session's: each word of the key counts. */
static void test_same_check_and_another_key(int family)
{
	struct xg_session_table *t = make(family, 64);
	struct key key = key_of(family, 5);
	const size_t entry_bytes = (t->key_words + 1) * sizeof(__u64);
	__u64 *entry, *neighbour;

	assert(put(t, 5, 1, 0, 5) == 0);
	entry = entry_at(t, xg_session_table_locate(t, key.words, hash_of(t, key.words)));
	neighbour = entry + (XG_BUCKET_ENTRIES - 1) * (t->key_words + 1);
	assert((size_t)(entry - t->memory) % (XG_BUCKET_ENTRIES * (t->key_words + 1)) == 0);
	for (__u32 word = 0; word < t->key_words; word++) {
		entry[word] ^= 1ull << 63;
		assert(owner_of(t, 5) == -1);
		entry[word] ^= 1ull << 63;
		assert(owner_of(t, 5) == 1);
		/* beside it in the bucket, it hides nothing */
		memcpy(neighbour, entry, entry_bytes);
		neighbour[word] ^= 1ull << 63;
		assert(owner_of(t, 5) == 1);
		memset(neighbour, 0, entry_bytes);
	}
	/* of two, as a writer leaves them that died on a move, the first counts */
	memcpy(neighbour, entry, entry_bytes);
	neighbour[t->key_words] ^= 3ull << XG_META_OWNER_SHIFT;
	assert(owner_of(t, 5) == 1);
	xg_session_table_destroy(t);
}

/* All lengths of a burst, with hits, misses, and entries that are void. */
static void test_bursts(int family)
{
	struct xg_session_table *t = make(family, 250);
	const int words = family == 4 ? 1 : 3;
	__u64 packed[XG_BURST_MAX * XG_KEY_WORDS_MAX], expected[XG_BURST_MAX];
	struct xg_session_cold cold;

	for (__u64 i = 0; i < 800; i++)
		assert(put(t, i, (__u16)(1 + i % 10), 0, 0) == 0);	/* host 10 is not active */
	for (unsigned int count = 0; count <= XG_BURST_MAX; count++) {
		for (unsigned int i = 0; i < count; i++) {
			struct key key = key_of(family, (count * 131 + i * 17) % 1600);

			memcpy(&packed[i * words], key.words, words * sizeof(__u64));
			expected[i] = 0;
			(void)xg_session_table_get(t, key.words, &expected[i], &cold);
		}
		find_by_each(t, packed, count, expected);
	}
	xg_session_table_destroy(t);
}

/* Each state of an owner, for sessions of each epoch and marks: as session_lookup.h has it. */
static void test_validity_in_bursts(void)
{
	const struct xg_owner_state before = owners[8];
	struct xg_session_table *t = make(4, 4096);
	__u64 numbers[256], expected[256], valid = 0;
	struct xg_session_cold cold;

	for (int i = 0; i < 256; i++) {
		numbers[i] = (__u64)i;
		owners[8] = (struct xg_owner_state){ (__u8)i, XG_OWNER_ACTIVE, 0, 0 };
		assert(put(t, numbers[i], i % 16 ? 8 : XG_HOST_UNOWNED, 0, 0) == 0);
	}
	for (__u32 epoch = 0; epoch < 256; epoch++)
		for (__u32 flags = 0; flags < 4; flags++) {
			owners[8] = (struct xg_owner_state){ (__u8)epoch, (__u8)flags, 9, 0 };
			for (int i = 0; i < 256; i++) {
				expected[i] = 0;
				(void)xg_session_table_get(t, &numbers[i], &expected[i], &cold);
				valid += expected[i] != 0;
			}
			for (int i = 0; i < 256; i += XG_BURST_MAX)
				find_by_each(t, &numbers[i], XG_BURST_MAX, &expected[i]);
		}
	/* marks always, each epoch twice as the present one and once as the one before */
	assert(valid > 16 * 1024 + 3 * 200 && valid <= 16 * 1024 + 3 * 240);
	owners[8] = before;
	xg_session_table_destroy(t);
}

static void test_four_fifths_without_refusal(int family)
{
	struct xg_session_table *t = make(family, 4098);
	__u64 count = xg_session_table_capacity(t) * 4 / 5;

	for (__u64 i = 0; i < count; i++)
		assert(put(t, i, (__u16)(1 + i % 3), 0, 0) == 0);
	assert(xg_session_table_refused(t) == 0 && xg_session_table_moves(t) > 0);
	for (__u64 i = 0; i < count; i++)
		assert(owner_of(t, i) == (int)(1 + i % 3));
	check_places(t);
	owners[2].epoch++;
	xg_session_table_sweep_void(t);
	check_places(t);
	for (__u64 i = 0; i < count; i += 2) {
		struct key key = key_of(family, i);

		assert(xg_session_table_remove(t, key.words) == (i % 3 != 1));
	}
	check_places(t);
	owners[2].epoch--;
	xg_session_table_renew(t, 0);
	check_places(t);
	for (__u64 i = 1; i < count; i += 2)
		assert(owner_of(t, i) == (i % 3 == 1 ? -1 : (int)(1 + i % 3)));
	xg_session_table_destroy(t);
}

/* At the load that tables are made for there is room for all, whatever the hash key and size. */
static void test_a_thousand_fillings(int family)
{
	for (__u64 filling = 0; filling < 1000; filling++) {
		const __u64 random_key[2] = { filling * 0x9e3779b97f4a7c15ull, ~filling };
		const __u32 n = 200 + 2 * (__u32)(filling % 57);
		struct xg_session_table *t;

		assert(xg_session_table_create(&t, family, n, NULL, 0, owners, random_key) == 0);
		for (__u64 i = 0; i < n * XG_BUCKET_ENTRIES * 4 / 5; i++)
			assert(put(t, filling << 32 | i, 1, 0, 0) == 0);
		assert(xg_session_table_used(t) == n * XG_BUCKET_ENTRIES * 4 / 5);
		xg_session_table_destroy(t);
	}
}

/* Two buckets: every session has the same two, as if an attacker had the hash key. */
static void test_full_neighbourhood(void)
{
	struct xg_session_table *t = make(4, 2);

	for (__u64 i = 0; i < 8; i++)
		assert(put(t, i, 1, 0, 0) == 0);
	assert(put(t, 8, 1, 0, 0) == -ENOSPC && xg_session_table_refused(t) == 1);
	for (__u64 i = 0; i < 8; i++)
		assert(owner_of(t, i) == 1);
	assert(put(t, 3, 1, XG_META_LINGER, 20) == 0 && put(t, 6, 1, XG_META_LINGER, 10) == 0);
	assert(put(t, 8, 1, 0, 30) == 0 && owner_of(t, 6) == -1 && owner_of(t, 3) == 1);
	assert(put(t, 9, 1, 0, 30) == 0 && owner_of(t, 3) == -1);
	assert(xg_session_table_evicted(t) == 2 && put(t, 10, 1, 0, 30) == -ENOSPC);
	assert(put(t, 0, XG_HOST_UNOWNED, 0, 40) == 0 && owner_of(t, 0) == XG_HOST_UNOWNED);
	assert(put(t, 10, 1, 0, 50) == 0 && owner_of(t, 0) == -1);
	assert(xg_session_table_used(t) == 8);
	check_places(t);
	xg_session_table_destroy(t);
}

static void test_fill_to_the_brim(int family)
{
	struct xg_session_table *t = make(family, 64);
	char present[400] = { 0 };

	for (__u64 i = 0; i < 400; i++)
		present[i] = put(t, i, 1, 0, 0) == 0;
	assert(xg_session_table_refused(t) == 400 - xg_session_table_used(t));
	assert(xg_session_table_used(t) >= 230);
	for (__u64 i = 0; i < 400; i++)
		assert(owner_of(t, i) == (present[i] ? 1 : -1));
	/* Lingering entries anywhere in the neighbourhood make room; live ones stay. */
	for (__u64 i = 0; i < 400; i += 4)
		assert(!present[i] || put(t, i, 1, XG_META_LINGER, (__u32)i) == 0);
	for (__u64 i = 1000; i < 1020; i++)
		assert(put(t, i, 2, 0, 500) == 0);
	for (__u64 i = 0; i < 400; i++)
		assert(i % 4 == 0 || owner_of(t, i) == (present[i] ? 1 : -1));
	check_places(t);
	xg_session_table_destroy(t);
}

static void test_epochs(void)
{
	struct xg_session_table *t = make(4, 2);

	for (__u64 i = 0; i < 8; i++)
		assert(put(t, i, 9, 0, 0) == 0);
	owners[9].epoch++;
	assert(owner_of(t, 0) == -1 && xg_session_table_used(t) == 8);
	owners[9].flags |= XG_OWNER_PREVIOUS;
	assert(owner_of(t, 0) == 9);
	owners[9].flags &= ~XG_OWNER_PREVIOUS;
	for (__u64 i = 10; i < 18; i++)
		assert(put(t, i, 1, 0, 0) == 0);
	assert(xg_session_table_used(t) == 8 && xg_session_table_evicted(t) == 0);
	assert(put(t, 10, 9, 0, 0) == 0 && owner_of(t, 10) == 9);
	owners[9].flags = 0;
	assert(owner_of(t, 10) == -1);
	owners[9].flags = XG_OWNER_ACTIVE;
	owners[9].epoch++;
	xg_session_table_sweep_void(t);
	assert(xg_session_table_used(t) == 7);
	xg_session_table_destroy(t);
}

static void test_sweep(void)
{
	struct xg_session_table *t = make(4, 62);
	__u32 cursor = 0, rounds = 0;

	assert(put(t, 1, 1, 0, 0) == 0 && put(t, 2, 1, XG_META_LINGER, 0xfffffff0u) == 0);
	assert(put(t, 3, XG_HOST_UNOWNED, 0, 0xfffffff0u) == 0);
	do {	/* 0x20 ms later, across the wrap of the clock */
		cursor = xg_session_table_sweep(t, cursor, 7, 0x10, 0x21, 0x20);
		rounds++;
	} while (cursor);
	assert(rounds == 9);
	assert(owner_of(t, 1) == 1 && owner_of(t, 2) == 1 && owner_of(t, 3) == -1);
	assert(xg_session_table_sweep(t, 0, UINT32_MAX, 0x11, 0x21, 0x20) == 0);
	assert(owner_of(t, 1) == 1 && owner_of(t, 2) == -1);
	xg_session_table_destroy(t);
}

static void test_next_of_owner(int family)
{
	struct xg_session_table *t = make(family, 64);
	struct xg_session_cold cold;
	__u64 cursor = 0, calls = 0, sum = 0, meta;
	struct key key;

	for (__u64 i = 0; i < 100; i++)
		assert(put(t, i, (__u16)(1 + i % 2), 0, 0) == 0);
	for (; cursor != XG_SLOT_END; calls++)
		if (xg_session_table_next_of_owner(t, &cursor, 5, 2, key.words, &meta, &cold)) {
			assert(xg_meta_owner(meta) == 2 && cold.opened_at % 2 == 1);
			assert(key.words[family == 6] == cold.opened_at);
			sum += cold.opened_at;
		}
	assert(sum == 2500 && calls >= 50 && calls <= 50 + 256 / 5 + 1);
	xg_session_table_destroy(t);
}

/* A killed writer's table is taken over; the two copies of a broken-off move are one session. */
static void test_adopt(int family)
{
	size_t len = xg_session_table_bytes(family, 64);
	__u64 *whole = aligned_alloc(64, len + 64), *memory = whole + 1; /* a word's alignment */
	struct xg_table_header *header = (struct xg_table_header *)memory;
	struct xg_session_table *t;
	struct key key = key_of(family, 3);
	__u64 hash, moves, meta;
	struct xg_session_cold cold;
	__u32 copy;

	memset(memory, 0xff, len);
	assert(xg_session_table_create(&t, family, 64, memory, len, owners, hash_key) == 0);
	for (__u64 i = 0; i < 50; i++)
		assert(put(t, i, 1, 0, 0) == 0);
	assert(put(t, 60, 9, 0, 0) == 0 && owner_of(t, 60) == 9);
	hash = xg_session_table_hash(t, key.words);
	copy = free_slot_in(t, xg_hash_bucket2(hash, t->buckets));
	go_beyond(t, xg_hash_bucket1(hash, t->buckets));
	set_key(t, copy, key.words);
	set_meta(t, copy, xg_meta_make(xg_hash_check(hash), 1, 0, XG_META_AWAY));
	moves = xg_session_table_moves(t);
	xg_session_table_destroy(t);
	owners[9].epoch++;
	assert(xg_session_table_create(&t, family, 32, memory, len, owners, NULL) == -EUCLEAN);
	header->layout--;
	assert(xg_session_table_create(&t, family, 64, memory, len, owners, NULL) == -EUCLEAN);
	header->layout++;
	assert(xg_session_table_create(&t, family, 64, memory, len, owners, NULL) == 0);
	assert(xg_session_table_used(t) == 51 && xg_session_table_moves(t) == moves);
	assert(xg_session_table_get(t, key.words, &meta, &cold) == 0 && cold.opened_at == 0);
	assert(xg_session_table_remove(t, key.words) == 1);
	assert(xg_session_table_get(t, key.words, &meta, &cold) == -ENOENT);
	assert(xg_session_table_used(t) == 49);
	check_places(t);
	xg_session_table_destroy(t);
	free(whole);
}

/* What a new agent makes of an adopted table: nothing of it is lost but marks and void entries,
 * and the previous epoch is free again. */
static void test_renew(int family)
{
	size_t len = xg_session_table_bytes(family, 64);
	void *memory = aligned_alloc(64, len);
	struct xg_session_table *t;
	struct xg_session_cold cold;
	struct key key;
	__u64 meta;

	assert(xg_session_table_create(&t, family, 64, memory, len, owners, hash_key) == 0);
	assert(put(t, 1, 5, 0, 0) == 0);	/* of the previous epoch by then */
	assert(put(t, 2, 6, 0, 0) == 0);	/* void by then */
	owners[5].epoch++;
	owners[5].flags |= XG_OWNER_PREVIOUS;
	owners[6].epoch++;
	assert(put(t, 3, 5, XG_META_LINGER, 0) == 0);
	assert(put(t, 4, XG_HOST_UNOWNED, 0, 0) == 0);
	xg_session_table_destroy(t);
	assert(xg_session_table_create(&t, family, 64, memory, len, owners, NULL) == 0);
	assert(xg_session_table_used(t) == 3);
	xg_session_table_renew(t, 70000);
	assert(xg_session_table_used(t) == 2);
	owners[5].flags &= (__u8)~XG_OWNER_PREVIOUS;
	for (__u64 number = 1; number <= 4; number++) {
		key = key_of(family, number);
		if (number % 2 == 0) {
			assert(xg_session_table_get(t, key.words, &meta, &cold) == -ENOENT);
			continue;
		}
		assert(xg_session_table_get(t, key.words, &meta, &cold) == 0);
		assert(xg_session_table_is_current(t, meta) && xg_meta_owner(meta) == 5);
		assert(cold.opened_at == 0 && cold.position == 0);
		assert(cold.changed_at_ms == (number == 3 ? 70000 : 0));
		assert(!!(xg_meta_flags(meta) & XG_META_LINGER) == (number == 3));
	}
	assert(xg_session_table_sweep(t, 0, 64, 70500, 1000, 1000) == 0);
	assert(xg_session_table_used(t) == 2);
	assert(xg_session_table_sweep(t, 0, 64, 71000, 1000, 1000) == 0);
	assert(xg_session_table_used(t) == 1);
	owners[5].epoch = owners[6].epoch = 0;
	xg_session_table_destroy(t);
	free(memory);
}

int main(void)
{
	for (int host = 1; host < 10; host++)
		owners[host].flags = XG_OWNER_ACTIVE;
	test_errors();
	test_validity_in_bursts();
	test_full_count();
	test_full_neighbourhood();
	test_epochs();
	test_sweep();
	for (int family = 4; family <= 6; family += 2) {
		test_put_get_remove(family);
		test_same_check_and_another_key(family);
		test_bursts(family);
		test_four_fifths_without_refusal(family);
		test_a_thousand_fillings(family);
		test_fill_to_the_brim(family);
		test_next_of_owner(family);
		test_adopt(family);
		test_renew(family);
	}
	puts("ok");
	return 0;
}
