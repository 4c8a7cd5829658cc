/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many ICMP errors a second one AF_XDP loop may send: a generic cell rate, as the program's.
 */
#ifndef XG_ANSWER_BUDGET_H
#define XG_ANSWER_BUDGET_H

#include <stdint.h>
#include <time.h>

#define XG_ANSWER_BURST_NS 50000000ull	/* how far it may run ahead: the program's, by default */

struct xg_answer_budget {
	uint64_t interval_ns;	/* between two answers; 0: no limit, and no look at the clock */
	uint64_t full_at_ns;	/* when the budget is full again, CLOCK_MONOTONIC */
};

static inline int xg_answer_allowed(struct xg_answer_budget *budget)
{
	struct timespec clock;
	uint64_t now, start;

	if (budget->interval_ns == 0)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &clock);
	now = (uint64_t)clock.tv_sec * 1000000000ull + (uint64_t)clock.tv_nsec;
	start = budget->full_at_ns > now ? budget->full_at_ns : now;
	if (start - now > XG_ANSWER_BURST_NS)
		return 0;
	budget->full_at_ns = start + budget->interval_ns;
	return 1;
}

#endif
