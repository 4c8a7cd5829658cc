/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the programs that measure look-ups share: a clock, memory, the owners of sessions.
 */
#ifndef XG_MEASURING_H
#define XG_MEASURING_H

#include <stddef.h>
#include <sys/mman.h>
#include <time.h>

#include "session_table.h"

#define HOSTS 16u

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Zeroed memory; `pages`: MADV_HUGEPAGE or MADV_NOHUGEPAGE. MAP_FAILED: there is none. */
static inline void *map_pages(size_t len, int pages)
{
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED)
		madvise(memory, len, pages);
	return memory;
}

/* Hosts 1 to HOSTS may own sessions. */
static inline void activate_hosts(struct xg_owner_state *owners)
{
	for (unsigned int host = 1; host <= HOSTS; host++)
		owners[host] = (struct xg_owner_state){ 1, XG_OWNER_ACTIVE, 0, 0 };
}

#endif
