/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What owners said that the session tables do not show, and a digest of all that each owner said.
 *
 * Belongs to the tables' one writing thread. Statements lie in memory allocated at create; a
 * digest's row is allocated when its owner begins. A statement that finds no room is dropped,
 * counted, and missing in the digest, so that a comparison with its owner shows it.
 */
#ifndef XG_LEDGER_H
#define XG_LEDGER_H

#include <stdbool.h>

#include "session_table.h"

#define XG_LEDGER_BUCKETS_MAX 8192	/* sums of one digest */
#define XG_LEDGER_STATEMENTS_MAX (1u << 24)

/* A session: its key, as the table of its family wants it, the words behind it 0. */
struct xg_session_id {
	__u64 key[XG_KEY_WORDS_MAX];
	__u64 hash;		/* of the table of its family */
	int family;
};

/* Of two statements with one position the greater kind is the later one: a batch tells first
 * what ended, then what began. */
enum xg_statement_kind {
	XG_SAID_CLOSED = 1,
	XG_SAID_LINGER = 2,
	XG_SAID_OPEN = 3,
};

struct xg_statement {
	struct xg_session_id session;
	__u64 clock;		/* of the latest dated OPEN; 0: none was dated */
	__u32 position;
	__u32 now_ms;		/* when it was entered */
	__u32 next;		/* a link, for the ledger itself */
	__u16 owner;
	__u8 kind;		/* enum xg_statement_kind; 0: the place is free */
};

struct xg_ledger;

/* `buckets`: sums of a digest, a power of two; `statements`: room. -EINVAL, -ENOMEM. */
int xg_ledger_create(struct xg_ledger **ledger, __u32 buckets, __u32 statements);
void xg_ledger_destroy(struct xg_ledger *ledger);

/* What the digests know services by: the same 64 bits on all hosts, by own slot. -ENOMEM. */
int xg_ledger_set_services(struct xg_ledger *ledger, const __u64 *ids, __u32 count);

/* ---- statements that are not shown ---- */

__u32 xg_ledger_used(const struct xg_ledger *ledger);
__u64 xg_ledger_dropped(const struct xg_ledger *ledger);

/* One owner's statement about a session, or NULL. Valid until the next change. */
struct xg_statement *xg_ledger_find(const struct xg_ledger *ledger,
				    const struct xg_session_id *session, __u16 owner);

/* Of active owners' statements about a session that are not CLOSED, the one that ranks highest,
 * or NULL. */
struct xg_statement *xg_ledger_best(const struct xg_ledger *ledger,
				    const struct xg_session_id *session,
				    const struct xg_owner_state *owners);

/* -ENOSPC: dropped and counted. There must be none of this owner about this session. */
int xg_ledger_keep(struct xg_ledger *ledger, const struct xg_statement *statement);
void xg_ledger_remove(struct xg_ledger *ledger, struct xg_statement *statement);

/* A walk: the statement at or behind *cursor, which moves behind it; NULL at the end. Removing
 * what the walk gave does not disturb it. */
struct xg_statement *xg_ledger_next(const struct xg_ledger *ledger, __u32 *cursor);

/* Rank of a statement in the view of a session: an open one before a lingering one, the later
 * OPEN before the earlier, the higher host before the lower. */
static inline int xg_statement_outranks(const struct xg_statement *left,
					const struct xg_statement *right)
{
	if (left->kind != right->kind)
		return left->kind > right->kind;
	if (left->kind == XG_SAID_OPEN && left->clock != right->clock)
		return left->clock > right->clock;
	return left->owner > right->owner;
}

/* ---- digests ---- */

__u32 xg_ledger_buckets(const struct xg_ledger *ledger);

/* Forget all that an owner said, and begin its digest under a key of its own. -ENOMEM. */
int xg_ledger_begin(struct xg_ledger *ledger, __u16 owner, __u64 key);
void xg_ledger_forget(struct xg_ledger *ledger, __u16 owner);
void xg_ledger_drop_closed(struct xg_ledger *ledger, __u16 owner);

/* One more, or one less, of an owner's open sessions. Nothing if its digest did not begin. */
void xg_ledger_count(struct xg_ledger *ledger, __u16 owner, const struct xg_session_id *session,
		     bool open);

/* The bucket of a session in an owner's digest; 0 if that did not begin. */
__u32 xg_ledger_bucket(const struct xg_ledger *ledger, __u16 owner,
		       const struct xg_session_id *session);

/* The sums, or NULL; their total and the number of open sessions, or 0. */
const __u64 *xg_ledger_sums(const struct xg_ledger *ledger, __u16 owner);
__u64 xg_ledger_total(const struct xg_ledger *ledger, __u16 owner);
__u64 xg_ledger_sessions(const struct xg_ledger *ledger, __u16 owner);

#endif
