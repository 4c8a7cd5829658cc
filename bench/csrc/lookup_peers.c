// SPDX-License-Identifier: BSD-2-Clause
/*
 * Cost of one look-up: our session table beside DPDK's rte_hash and libcuckoo, in one process.
 * Either may be missing: WITH_DPDK, WITH_CUCKOO.
 *
 * `lookup_peers FAMILY ENTRIES BUCKETS ROUNDS SEED huge|small TEMPLATE` fills all with the same
 * sessions and asks the same questions, of all, half and none of which they know the answer. Each
 * round is a line of JSON: nanoseconds a look-up by each, in an order that goes back and forth.
 * `floor` is a load from a random cache line of a memory as large as our table, independent of
 * all others. `huge` asks for 2 MiB pages for all of it, `small` forbids them. Where all is known,
 * and over IPv4, the forwarder's whole work follows (lookup_pipeline.h); TEMPLATE is a file of
 * 128 bytes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "header_template.h"
#include "lookup_pipeline.h"
#include "lookup_questions.h"
#include "lookup_tables.h"
#include "measuring.h"
#include "session_table.h"

#define ENTRANTS 10
#define CUCKOO_MOST 10000000u	/* beyond, its memory beside the others' is too much */

struct contest {
	struct questions questions;
	struct xg_session_table *ours;
	void *rte;		/* NULL: this machine has none */
	void *cuckoo;		/* NULL: this machine has none, or there are too many sessions */
	const uint64_t *floor;
	uint64_t floor_lines;
	struct pipeline *pipeline;	/* of IPv4 only */
	uint64_t found;		/* by the last that was asked */
	uint64_t untimed_ns;	/* of its time, what is not its own */
};

static struct xg_owner_state owners[XG_OWNERS];

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "lookup_peers: %s: %s\n", what, why);
	exit(1);
}

/* ---- who is asked ---- */

static void ask_ours(struct contest *c, enum xg_burst_isa isa)
{
	const struct questions *q = &c->questions;
	const char *key = q->ours;
	__u64 metas[XG_BURST_MAX];

	for (uint64_t i = 0; i < q->count; i += XG_BURST_MAX) {
		xg_session_table_find_burst_by(c->ours, isa, key, XG_BURST_MAX, metas);
		key += XG_BURST_MAX * q->our_len;
		for (unsigned int j = 0; j < XG_BURST_MAX; j++)
			c->found += metas[j] != 0;
	}
}

static void ask_quickest(struct contest *c)
{
	ask_ours(c, xg_session_burst_quickest());
}

static void ask_gather(struct contest *c)
{
	ask_ours(c, XG_BURST_GATHER);
}

static void ask_avx512(struct contest *c)
{
	ask_ours(c, XG_BURST_AVX512);
}

static void ask_avx2(struct contest *c)
{
	ask_ours(c, XG_BURST_AVX2);
}

static void ask_any(struct contest *c)
{
	ask_ours(c, XG_BURST_ANY);
}

#ifdef WITH_DPDK
static void ask_rte(struct contest *c)
{
	c->found = rte_ask(c->rte, c->questions.theirs, c->questions.their_len,
			   c->questions.count);
}
#endif

#ifdef WITH_CUCKOO
static void ask_cuckoo(struct contest *c)
{
	const struct questions *q = &c->questions;

	for (uint64_t i = 0; i < q->count; i++)
		c->found += (uint64_t)cuckoo_knows(c->cuckoo, q->theirs + i * q->their_len);
}
#endif

static void ask_floor(struct contest *c)
{
	const struct questions *q = &c->questions;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < q->count; i++)
		sum += c->floor[(q->lines[i] * c->floor_lines >> 32) * 8];
	c->found = q->hits + (sum == 1);	/* all of it is zero */
}

static void forward_short(struct contest *c)
{
	c->found = pipeline_run(c->pipeline, &c->questions, 64, &c->untimed_ns);
}

static void forward_long(struct contest *c)
{
	c->found = pipeline_run(c->pipeline, &c->questions, 1500, &c->untimed_ns);
}

static void touch_floors(struct contest *c)
{
	pipeline_floors(c->pipeline, &c->questions, c->floor, c->floor_lines, &c->untimed_ns);
	c->found = c->questions.hits;
}

struct entrant {
	const char *name;
	void (*ask)(struct contest *c);
};

static unsigned int entrants(const struct contest *c, struct entrant *list)
{
	const enum xg_burst_isa widest = xg_session_burst_widest();
	const enum xg_burst_isa quickest = xg_session_burst_quickest();
	unsigned int count = 0;

	list[count++] = (struct entrant){ "ours", ask_quickest };
#ifdef WITH_DPDK
	list[count++] = (struct entrant){ "rte_hash", ask_rte };
#endif
	if (widest >= XG_BURST_GATHER && quickest != XG_BURST_GATHER)
		list[count++] = (struct entrant){ "ours_gather", ask_gather };
	if (widest >= XG_BURST_AVX512 && quickest != XG_BURST_AVX512)
		list[count++] = (struct entrant){ "ours_avx512", ask_avx512 };
	if (quickest > XG_BURST_AVX2)
		list[count++] = (struct entrant){ "ours_avx2", ask_avx2 };
	list[count++] = (struct entrant){ "ours_any", ask_any };
#ifdef WITH_CUCKOO
	if (c->cuckoo)
		list[count++] = (struct entrant){ "libcuckoo", ask_cuckoo };
#endif
	list[count++] = (struct entrant){ "floor", ask_floor };
	if (c->pipeline && c->questions.hits == c->questions.count) {
		list[count++] = (struct entrant){ "pipeline", forward_short };
		list[count++] = (struct entrant){ "pipeline_1500", forward_long };
		list[count++] = (struct entrant){ "pipeline_floors", touch_floors };
	}
	return count;
}

/* Forwards and backwards in turn, and each pair of rounds begins with another one. */
static void play(struct contest *c, const char *what, unsigned int round)
{
	struct entrant list[ENTRANTS];
	double cost_ns[ENTRANTS];
	unsigned int count = entrants(c, list);

	for (unsigned int k = 0; k < count; k++) {
		unsigned int at = ((round & 1 ? count - 1 - k : k) + round / 2) % count;
		uint64_t begin;

		c->found = c->untimed_ns = 0;
		begin = now_ns();
		list[at].ask(c);
		cost_ns[at] = (double)(now_ns() - begin - c->untimed_ns) /
			      (double)c->questions.count;
		if (c->found != c->questions.hits)
			fail(list[at].name, "its answers are wrong");
	}
	printf("{\"hit_percent\": %s, \"round\": %u", what, round);
	for (unsigned int k = 0; k < count; k++)
		printf(", \"%s\": %.3f", list[k].name, cost_ns[k]);
	printf("}\n");
	fflush(stdout);
}

/* ---- memory ---- */

static int pages;	/* MADV_HUGEPAGE or MADV_NOHUGEPAGE */

static void *map(size_t len)
{
	void *memory = map_pages(len, pages);

	if (memory == MAP_FAILED)
		fail("memory", strerror(errno));
	return memory;
}

/* ---- filling ---- */

static void fill(struct contest *c, int family, uint64_t entries)
{
	for (uint64_t i = 0; i < entries; i++) {
		struct xg_session_claim claim = { .owner = (__u16)(1 + i % HOSTS) };
		__u64 ours[XG_KEY_WORDS_MAX];
		char theirs[THEIR_KEY_MAX];

		question_keys(family, i, ours, theirs);
		if (xg_session_table_put(c->ours, ours, &claim))
			fail("ours", "refuses a session");
#ifdef WITH_DPDK
		if (rte_put(c->rte, theirs, claim.owner))
			fail("rte_hash", "refuses a session");
#endif
#ifdef WITH_CUCKOO
		if (c->cuckoo)
			cuckoo_put(c->cuckoo, theirs, claim.owner);
#endif
	}
}

static void make(struct contest *c, int family, uint64_t entries, uint32_t buckets,
		 const void *headers)
{
	static const __u64 hash_key[2] = { 0x243f6a8885a308d3ull, 0x13198a2e03707344ull };
	size_t len = xg_session_table_bytes(family, buckets);

	activate_hosts(owners);
#ifdef WITH_DPDK
	c->rte = rte_make(family, entries, pages);
	if (!c->rte)
		fail("rte_hash", "cannot be made");
#endif
	if (xg_session_table_create(&c->ours, family, buckets, map(len), len, owners, hash_key))
		fail("ours", "cannot be made");
#ifdef WITH_CUCKOO
	c->cuckoo = entries <= CUCKOO_MOST ? cuckoo_make(family, entries) : NULL;
#endif
	c->floor_lines = len / 64;
	c->floor = map(len);
	memset((void *)c->floor, 1, len);	/* pages of its own, not the one zero page */
	memset((void *)c->floor, 0, len);
	if (family == 4)
		c->pipeline = pipeline_make(c->ours, owners, headers);
	fill(c, family, entries);
}

static void read_headers(const char *path, void *headers)
{
	FILE *file = fopen(path, "rb");

	if (!file || fread(headers, sizeof(struct xg_template), 1, file) != 1)
		fail(path, "is no template");
	fclose(file);
}

int main(int argc, char **argv)
{
	static const char *const hits[] = { "100", "50", "0" };
	static char headers[sizeof(struct xg_template)] __attribute__((aligned(64)));
	struct contest c = { 0 };
	unsigned int rounds;
	uint64_t entries;
	int family;

	if (argc != 8) {
		fprintf(stderr, "usage: lookup_peers FAMILY ENTRIES BUCKETS ROUNDS SEED huge|small "
				"TEMPLATE\n");
		return 2;
	}
	family = atoi(argv[1]);
	entries = strtoull(argv[2], NULL, 10);
	rounds = (unsigned int)atoi(argv[4]);
	pages = strcmp(argv[6], "small") ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
	read_headers(argv[7], headers);
	make(&c, family, entries, (uint32_t)atoi(argv[3]), headers);
	for (unsigned int i = 0; i < 3; i++) {
		questions_make(&c.questions, family, entries, (unsigned int)atoi(hits[i]),
			       strtoull(argv[5], NULL, 10));
		for (unsigned int round = 0; round < rounds; round++)
			play(&c, hits[i], round);
		questions_free(&c.questions);
	}
	return 0;
}
