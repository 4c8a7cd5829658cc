// SPDX-License-Identifier: BSD-2-Clause
/*
 * The forwarder's work on strays and nothing beside it, for who counts its instructions.
 *
 * `pipeline_alone ENTRIES BUCKETS FRAME_LEN TEMPLATE` forwards a frame of FRAME_LEN bytes for each
 * of its questions, all of sessions that other hosts own. Prints how many frames those were.
 * TEMPLATE is a file of 128 bytes.
 */
#define _GNU_SOURCE
#include <stdio.h>

#include "header_template.h"
#include "lookup_pipeline.h"
#include "measuring.h"

#define FAMILY 4
#define SEED 1

static struct xg_owner_state owners[XG_OWNERS];

static struct xg_session_table *make_table(uint64_t entries, uint32_t buckets)
{
	static const __u64 hash_key[2] = { 0x243f6a8885a308d3ull, 0x13198a2e03707344ull };
	size_t len = xg_session_table_bytes(FAMILY, buckets);
	void *memory = map_pages(len, MADV_HUGEPAGE);
	struct xg_session_table *table;

	if (memory == MAP_FAILED ||
	    xg_session_table_create(&table, FAMILY, buckets, memory, len, owners, hash_key))
		return NULL;
	for (uint64_t i = 0; i < entries; i++) {
		struct xg_session_claim claim = { .owner = (__u16)(1 + i % HOSTS) };
		__u64 ours[XG_KEY_WORDS_MAX];
		char theirs[THEIR_KEY_MAX];

		question_keys(FAMILY, i, ours, theirs);
		if (xg_session_table_put(table, ours, &claim))
			return NULL;
	}
	return table;
}

int main(int argc, char **argv)
{
	static char headers[sizeof(struct xg_template)] __attribute__((aligned(64)));
	struct questions questions = { 0 };
	struct xg_session_table *table;
	struct pipeline *pipeline;
	uint64_t untimed_ns = 0, forwarded;
	FILE *file;

	if (argc != 5)
		return 2;
	file = fopen(argv[4], "rb");
	if (!file || fread(headers, sizeof(headers), 1, file) != 1)
		return 1;
	activate_hosts(owners);
	table = make_table(strtoull(argv[1], NULL, 10), (uint32_t)atoi(argv[2]));
	pipeline = table ? pipeline_make(table, owners, headers) : NULL;
	if (!pipeline)
		return 1;
	questions_make(&questions, FAMILY, strtoull(argv[1], NULL, 10), 100, SEED);
	forwarded = pipeline_run(pipeline, &questions, (uint32_t)atoi(argv[3]), &untimed_ns);
	printf("%llu\n", (unsigned long long)forwarded);
	return forwarded == questions.count ? 0 : 1;
}
