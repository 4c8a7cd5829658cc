// SPDX-License-Identifier: BSD-2-Clause
/*
 * DPDK's rte_hash as a table of sessions: lock-free readers beside a writer, questions in bursts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_memory.h>

#include "lookup_tables.h"

#define BURST 32u
/* Bytes of DPDK's memory for one session: bucket, key, free list. */
#define BYTES4 110u
#define BYTES6 140u

static int advise(const struct rte_memseg_list *list, void *pages)
{
	return madvise(list->base_va, list->len, *(int *)pages) ? -errno : 0;
}

static int start_dpdk(int family, uint64_t entries, int pages)
{
	char size[32], core[16], name[] = "lookup", huge[] = "--no-huge", pci[] = "--no-pci";
	char telemetry[] = "--no-telemetry", level[] = "--log-level=3", m[] = "-m", l[] = "-l";
	char *words[] = { name, huge, pci, telemetry, level, m, size, l, core, NULL };

	snprintf(core, sizeof(core), "%d", sched_getcpu());
	snprintf(size, sizeof(size), "%llu",
		 64 + (unsigned long long)entries * (family == 4 ? BYTES4 : BYTES6) / 1000000);
	return rte_eal_init(9, words) < 0 || rte_memseg_list_walk(advise, &pages) < 0;
}

void *rte_make(int family, uint64_t entries, int pages)
{
	struct rte_hash_parameters parameters = {
		.name = "sessions",
		.entries = (uint32_t)(entries + entries / 4),
		.key_len = family == 4 ? THEIR_KEY4 : THEIR_KEY6,
		.hash_func = rte_hash_crc,
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
	};
	struct rte_hash *made = NULL;

	if (!start_dpdk(family, entries, pages))
		made = rte_hash_create(&parameters);
	if (!made)
		fprintf(stderr, "lookup_rte: %s\n", rte_strerror(rte_errno));
	return made;
}

int rte_put(void *table, const void *key, uint64_t value)
{
	return rte_hash_add_key_data(table, key, (void *)(uintptr_t)value);
}

uint64_t rte_ask(const void *table, const char *questions, size_t len, uint64_t count)
{
	const void *keys[BURST];
	uint64_t hits, found = 0;
	void *data[BURST];

	for (uint64_t i = 0; i < count; i += BURST) {
		for (unsigned int j = 0; j < BURST; j++)
			keys[j] = questions + (i + j) * len;
		if (rte_hash_lookup_bulk_data(table, keys, BURST, &hits, data) > 0)
			found += (uint64_t)__builtin_popcountll(hits);
	}
	return found;
}
