/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One writer, several readers: nobody misses a session that is there, or sees a wrong owner.
 *
 * The owner of each session follows from its key. The table is small and nearly full, so that
 * every put moves entries, the steady ones too, and slots are reused at once.
 */
#undef NDEBUG
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "session_slots.h"

#define READERS 3
#define STEADY 100u	/* sessions that are always there */
#define CHURN 125u	/* sessions that come and go; with the steady ones 88 % of the slots */
#define CHURN_KEYS 600u
#define HOSTS 50u

static struct xg_owner_state owners[XG_OWNERS];
static const __u64 hash_key[2] = { 1, 2 };
static struct xg_session_table *table;
static int family;
static int done;

static void key_of(__u64 number, __u64 *words)
{
	words[0] = family == 4 ? number : 0x20010db8;
	words[1] = number;
	words[2] = number & 7;	/* entries of v6 sessions share words: torn ones look alike */
}

static __u16 owner_for(__u64 number)
{
	return (__u16)(1 + number % HOSTS);
}

static void put(__u64 number)
{
	struct xg_session_claim claim = { .owner = owner_for(number) };
	__u64 words[XG_KEY_WORDS_MAX];

	key_of(number, words);
	assert(xg_session_table_put(table, words, &claim) == 0);
}

static void *read_all(void *argument)
{
	unsigned int seed = *(unsigned int *)argument;
	size_t key_words = family == 4 ? 1 : 3;
	unsigned int isa = XG_BURST_ANY;	/* each that this processor has, in turn */

	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		__u64 keys[XG_BURST_MAX * XG_KEY_WORDS_MAX], metas[XG_BURST_MAX];
		__u64 numbers[XG_BURST_MAX];

		for (int i = 0; i < XG_BURST_MAX; i++) {
			__u64 words[XG_KEY_WORDS_MAX];

			numbers[i] = (unsigned int)rand_r(&seed) % (STEADY + CHURN_KEYS);
			key_of(numbers[i], words);
			memcpy(keys + i * key_words, words, key_words * sizeof(*words));
		}
		isa = (isa + 1) % (xg_session_burst_widest() + 1);
		assert(!xg_session_table_find_burst_by(table, isa, keys, XG_BURST_MAX, metas));
		for (int i = 0; i < XG_BURST_MAX; i++) {
			assert(metas[i] || numbers[i] >= STEADY);
			assert(!metas[i] || xg_meta_owner(metas[i]) == owner_for(numbers[i]));
		}
	}
	return NULL;
}

static void churn(unsigned long rounds)
{
	__u64 ring[CHURN], words[XG_KEY_WORDS_MAX];
	char present[CHURN_KEYS] = { 0 };
	unsigned int seed = 7;

	for (unsigned int i = 0; i < CHURN; i++) {
		ring[i] = STEADY + i;
		present[i] = 1;
		put(ring[i]);
	}
	for (unsigned long i = 0; i < rounds; i++) {
		__u64 *place = &ring[i % CHURN];
		__u64 next = (unsigned int)rand_r(&seed) % CHURN_KEYS;

		while (present[next])
			next = (next + 1) % CHURN_KEYS;
		key_of(*place, words);
		assert(xg_session_table_remove(table, words) == 1);
		present[*place - STEADY] = 0;
		*place = STEADY + next;
		present[next] = 1;
		put(*place);
	}
}

static void run(unsigned long rounds)
{
	pthread_t readers[READERS];
	unsigned int seeds[READERS];

	assert(xg_session_table_create(&table, family, 64, NULL, 0, owners, hash_key) == 0);
	for (unsigned int i = 0; i < STEADY; i++)
		put(i);
	done = 0;
	for (unsigned int i = 0; i < READERS; i++) {
		seeds[i] = i + 1;
		assert(pthread_create(&readers[i], NULL, read_all, &seeds[i]) == 0);
	}
	churn(rounds);
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	assert(xg_session_table_moves(table) > rounds / 10);
	xg_session_table_destroy(table);
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;

	for (unsigned int host = 1; host <= HOSTS; host++)
		owners[host].flags = XG_OWNER_ACTIVE;
	for (family = 4; family <= 6; family += 2)
		run(rounds);
	puts("ok");
	return 0;
}
