// SPDX-License-Identifier: BSD-2-Clause
/*
 * What readers of one session table pay for a writer, for each other, and for small pages.
 *
 * `table_sharing ENTRIES BUCKETS ROUNDS SEED` prints a line of JSON a round, nanoseconds a look-up
 * at half hits: of one reader alone; beside a writer on another processor that changes a million
 * sessions a second; of two readers, each on a processor of its own, together; and of one reader
 * over memory of 4 KiB pages, and over a BPF array map, which has no others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lookup_questions.h"
#include "measuring.h"
#include "session_table.h"

#define UPDATES_A_S 1000000u
#define BATCH 64u		/* updates between two looks at the clock */
#define FAMILY 4

struct place {
	const char *name;
	struct xg_session_table *table;
};

static struct xg_owner_state owners[XG_OWNERS];
static struct questions questions;
static uint64_t entries;
static int processors[2];
static int stop;
static double updates_a_s;	/* of the last writer, once it was joined */

static void fail(const char *what)
{
	fprintf(stderr, "table_sharing: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void run_on(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("a processor of its own");
}

/* The first two that this process may use. */
static void find_processors(void)
{
	unsigned int found = 0;
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		fail("processors");
	for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
		if (CPU_ISSET(i, &set))
			processors[found++] = i;
	errno = ENODEV;
	if (found < 2)
		fail("a second processor");
}

/* ---- readers and writer ---- */

static uint64_t ask(const struct xg_session_table *table)
{
	__u64 metas[XG_BURST_MAX];
	uint64_t found = 0;

	for (uint64_t i = 0; i < questions.count; i += XG_BURST_MAX) {
		xg_session_table_find_burst(table, questions.ours + i * questions.our_len,
					    XG_BURST_MAX, metas);
		for (unsigned int j = 0; j < XG_BURST_MAX; j++)
			found += metas[j] != 0;
	}
	return found;
}

static double cost_ns(const struct xg_session_table *table)
{
	uint64_t begin = now_ns();

	if (ask(table) != questions.hits) {
		errno = EBADMSG;
		fail("the answers are wrong");
	}
	return (double)(now_ns() - begin) / (double)questions.count;
}

static void put(struct xg_session_table *table, uint64_t number, uint16_t owner)
{
	struct xg_session_claim claim = { .owner = owner };
	char theirs[THEIR_KEY_MAX];
	__u64 key[XG_KEY_WORDS_MAX];

	question_keys(FAMILY, number, key, theirs);
	errno = ENOSPC;
	if (xg_session_table_put(table, key, &claim))
		fail("a session");
}

/* Sessions change hands, at the rate that was asked for. */
static void *write_along(void *table)
{
	uint64_t begin, state = 7, made = 0;

	run_on(processors[1]);
	for (begin = now_ns(); !__atomic_load_n(&stop, __ATOMIC_RELAXED);) {
		if (made * 1000000000u / UPDATES_A_S > now_ns() - begin)
			continue;
		for (unsigned int i = 0; i < BATCH; i++, made++)
			put(table, question_random(&state) % entries, (uint16_t)(1 + made % HOSTS));
	}
	updates_a_s = (double)made * 1e9 / (double)(now_ns() - begin);
	return NULL;
}

static void *read_along(void *table)
{
	run_on(processors[1]);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		ask(table);
	return NULL;
}

/* Of one reader; the other thread is at work before, meanwhile and after. */
static double beside(void *(*other_does)(void *table), struct xg_session_table *table)
{
	pthread_t other;
	double cost;

	stop = 0;
	errno = EAGAIN;
	if (pthread_create(&other, NULL, other_does, table))
		fail("a thread");
	usleep(20000);
	cost = cost_ns(table);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	return cost;
}

/* ---- memory ---- */

static void *anonymous(size_t len, int pages)
{
	void *memory = map_pages(len, pages);

	if (memory == MAP_FAILED)
		fail("memory");
	return memory;
}

static void *array_map(size_t len)
{
	const uint32_t value = sizeof(struct xg_bucket4);
	union bpf_attr attributes = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = value,
		.max_entries = (uint32_t)(len / value), .map_flags = BPF_F_MMAPABLE,
	};
	int fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes));
	void *memory;

	if (fd < 0)
		fail("a BPF array map (run as root)");
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("the map's memory");
	return memory;
}

static struct xg_session_table *make(void *memory, size_t len, uint32_t buckets)
{
	static const __u64 hash_key[2] = { 0x243f6a8885a308d3ull, 0x13198a2e03707344ull };
	struct xg_session_table *table;

	errno = EINVAL;
	if (xg_session_table_create(&table, FAMILY, buckets, memory, len, owners, hash_key))
		fail("a table");
	for (uint64_t i = 0; i < entries; i++)
		put(table, i, (uint16_t)(1 + i % HOSTS));
	return table;
}

static void play(const struct place *places, unsigned int round)
{
	double costs[3], writer, reader;

	for (unsigned int k = 0; k < 3; k++) {
		unsigned int at = round & 1 ? 2 - k : k;

		costs[at] = cost_ns(places[at].table);
	}
	writer = beside(write_along, places[0].table);
	reader = beside(read_along, places[0].table);
	printf("{\"round\": %u, \"beside_writer\": %.3f, \"updates_a_s\": %.0f, "
	       "\"beside_reader\": %.3f", round, writer, updates_a_s, reader);
	for (unsigned int k = 0; k < 3; k++)
		printf(", \"%s\": %.3f", places[k].name, costs[k]);
	printf("}\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct place places[3] = { { "alone", NULL }, { "small_pages", NULL }, { "map", NULL } };
	uint32_t buckets;
	size_t len;

	if (argc != 5) {
		fprintf(stderr, "usage: table_sharing ENTRIES BUCKETS ROUNDS SEED\n");
		return 2;
	}
	entries = strtoull(argv[1], NULL, 10);
	buckets = (uint32_t)atoi(argv[2]);
	len = xg_session_table_bytes(FAMILY, buckets);
	find_processors();
	run_on(processors[0]);
	activate_hosts(owners);
	places[0].table = make(anonymous(len, MADV_HUGEPAGE), len, buckets);
	places[1].table = make(anonymous(len, MADV_NOHUGEPAGE), len, buckets);
	places[2].table = make(array_map(len), len, buckets);
	questions_make(&questions, FAMILY, entries, 50, strtoull(argv[4], NULL, 10));
	for (int round = 0; round < atoi(argv[3]); round++)
		play(places, (unsigned int)round);
	return 0;
}
