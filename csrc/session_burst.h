/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst look-up in three steps: one calls for the first buckets, one reads them and calls for
 * the second ones where a session may lie in its second, one reads those.
 *
 * Who has other work for the time in which the lines are on their way does it between the steps.
 */
#ifndef XG_SESSION_BURST_H
#define XG_SESSION_BURST_H

#include "session_table.h"

#define XG_PLAN_ALIGNED __attribute__((aligned(64)))

/* Of a burst's sessions, each in its place. What one step writes is for the next. */
struct xg_burst_plan {
	const char *packed;	/* the keys, as they were given */
	unsigned int count;
	unsigned int isa;	/* enum xg_burst_isa */
	unsigned int ahead;	/* so many before its own turn a session's lines are called for */
	unsigned int torn;	/* an entry was: look again */
	__u64 moves;		/* the table's, before the first bucket was read */
	__u64 rest;		/* a bit for each that may lie in its second bucket */
	__u64 words[XG_KEY_WORDS_MAX][XG_BURST_MAX] XG_PLAN_ALIGNED;	/* of the keys */
	__u64 hashes[XG_BURST_MAX] XG_PLAN_ALIGNED;
	__u64 used[XG_BURST_MAX] XG_PLAN_ALIGNED;	/* flag and check of the entry */
	__u64 at[XG_BURST_MAX] XG_PLAN_ALIGNED;	/* where a bucket lies: bytes into the memory */
	__u64 metas[XG_BURST_MAX] XG_PLAN_ALIGNED;	/* found: of valid entries, or 0 */
};

/* (reader) Hash `count` keys (at most XG_BURST_MAX), packed one after the other, any alignment,
 * and call for their first buckets. The keys stay where they are up to the last step. */
void xg_session_table_plan(const struct xg_session_table *table, const void *keys,
			   unsigned int count, struct xg_burst_plan *plan);

/* (reader) Look into the first buckets, and call for the second ones of those that lie there, if
 * anywhere. */
void xg_session_table_probe(const struct xg_session_table *table, struct xg_burst_plan *plan);

/* (reader) What is there now: plan->metas. */
void xg_session_table_take(const struct xg_session_table *table, struct xg_burst_plan *plan);

#endif
