/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Merges owners' statements: what each owner said last, and which of them the table shows.
 *
 * Of one owner's statements about a session the later one counts: by position modulo 2^32, then
 * by kind; its clock is the latest of all. The table shows, of all active owners' statements that
 * are not CLOSED, the one that ranks highest; the ledger keeps the others. Both are maxima, so
 * neither order nor repetition changes the result, as long as CLOSED ones are kept.
 * Belongs to the tables' one writing thread.
 */
#ifndef XG_MERGE_H
#define XG_MERGE_H

#include "ledger.h"

struct xg_tables {
	struct xg_session_table *v4;
	struct xg_session_table *v6;
	struct xg_ledger *ledger;
};

enum xg_outcome {
	XG_ENTERED,		/* shown, or what it ended was */
	XG_STALE,		/* its owner said something later, or it ended nothing */
	XG_LOST,		/* another owner's ranks higher: kept beside it */
	XG_REFUSED,		/* no room in the table: kept in the ledger */
};

static inline struct xg_session_table *xg_table_of(const struct xg_tables *tables, int family)
{
	return family == 4 ? tables->v4 : tables->v6;
}

struct xg_entered {
	enum xg_outcome outcome;
	__u16 shown;	/* whose the session was by the table before, or XG_HOST_UNOWNED */
	__u8 said;	/* xg_said() of the statement's owner, before */
};

/*
 * Enter one statement. `own`: it is this host's, which speaks in order, so the last one counts.
 * `keep_closed`: keep a CLOSED one, for an older OPEN of its owner may still come.
 */
struct xg_entered xg_enter(const struct xg_tables *tables, const struct xg_statement *statement,
			   bool own, bool keep_closed);

/* What an owner says of a session in its present epoch: 0 (nothing) or its kind. */
__u8 xg_said(const struct xg_tables *tables, const struct xg_session_id *session, __u16 owner);

/* An owner has no such session: what it said last of it has ended. `keep_closed` as with
 * xg_enter(). 1: it was not known; 0: it was, or nothing was said. */
int xg_deny(const struct xg_tables *tables, const struct xg_session_id *session, __u16 owner,
	    bool keep_closed);

/* After an owner's entries became void: show what ranks highest of the rest. */
void xg_settle(const struct xg_tables *tables);

/* End what has lingered in the ledger for linger_ms, and show what found no room or was hidden by
 * an entry that went meanwhile. */
void xg_sweep_statements(const struct xg_tables *tables, __u32 now_ms, __u32 linger_ms);

/* An owner's open sessions in some buckets of its digest (bit b & 7 of byte b >> 3); none, if
 * that did not begin: */

/* ... as records into `out`, at most `most`: xg_ledger_sessions() are all. Returns how many. */
__u64 xg_select(const struct xg_tables *tables, __u16 owner, const __u8 *bitmap, int family,
		__u8 *out, __u64 most);

/* ... that it said before `position`: they are closed. Returns how many. */
__u64 xg_prune(const struct xg_tables *tables, __u16 owner, const __u8 *bitmap, __u32 position);

#endif
