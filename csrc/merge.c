/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One statement into table and ledger; and the walks over all of an owner's.
 */
#include "merge.h"

#include <string.h>

#include "record_codec.h"

/* A session on its way: what the table shows of it. Its slot is good until something is shown. */
struct view {
	const struct xg_tables *tables;
	struct xg_session_table *table;
	const struct xg_owner_state *owners;
	const struct xg_session_id *session;
	struct xg_statement shown;	/* kind 0: nothing; `session` is not filled in */
	__u32 slot;
	bool is_current;	/* of its owner's present epoch: what the digest counts */
};

static void look(struct view *v, const struct xg_tables *tables,
		 const struct xg_session_id *session)
{
	struct xg_session_cold cold;
	__u64 meta;

	v->tables = tables;
	v->table = xg_table_of(tables, session->family);
	v->owners = xg_session_table_owners(v->table);
	v->session = session;
	v->slot = xg_session_table_locate(v->table, session->key, session->hash);
	v->shown.kind = 0;
	v->is_current = false;
	if (xg_session_table_get_at(v->table, v->slot, &meta, &cold) < 0 ||
	    xg_meta_owner(meta) == XG_HOST_UNOWNED)
		return;
	v->shown.owner = xg_meta_owner(meta);
	v->shown.kind = xg_meta_flags(meta) & XG_META_LINGER ? XG_SAID_LINGER : XG_SAID_OPEN;
	v->shown.clock = cold.opened_at;
	v->shown.position = cold.position;
	v->shown.now_ms = cold.changed_at_ms;
	v->is_current = xg_session_table_is_current(v->table, meta);
}

static int show(const struct view *v, const struct xg_statement *s)
{
	struct xg_session_claim claim = {
		.owner = s->owner,
		.flags = s->kind == XG_SAID_LINGER ? XG_META_LINGER : 0,
		.position = s->position,
		.opened_at = s->clock,
		.now_ms = s->now_ms,
	};

	return xg_session_table_put_at(v->table, v->slot, v->session->key, v->session->hash,
				       &claim);
}

static void hide(const struct view *v)
{
	xg_session_table_remove_at(v->table, v->slot, v->session->key, v->session->hash);
}

/* Keep what the table does not show. Without room it is no longer part of the digest. */
static void keep(const struct view *v, const struct xg_statement *s)
{
	if (xg_ledger_keep(v->tables->ledger, s) < 0 && s->kind == XG_SAID_OPEN)
		xg_ledger_count(v->tables->ledger, s->owner, &s->session, false);
}

/* Keep what the table showed until now, if it counts. */
static void keep_shown(struct view *v)
{
	if (!v->shown.kind || !v->is_current)
		return;
	v->shown.session = *v->session;
	keep(v, &v->shown);
}

/* Show the best of what the ledger has, if the table shows nothing, or something lower. */
static void promote(const struct view *v)
{
	struct xg_statement *best = xg_ledger_best(v->tables->ledger, v->session, v->owners);
	struct xg_statement won;
	struct view now;

	if (!best)
		return;
	look(&now, v->tables, v->session);
	if (now.shown.kind && !xg_statement_outranks(best, &now.shown))
		return;
	won = *best;
	if (show(&now, &won) < 0)
		return;
	xg_ledger_remove(v->tables->ledger, best);
	keep_shown(&now);
}

static bool is_later(const struct xg_statement *s, const struct xg_statement *before)
{
	__s32 ahead = (__s32)(s->position - before->position);

	return ahead > 0 || (ahead == 0 && s->kind >= before->kind);
}

/* The owner's statement before this one, wherever it is; NULL: there is none that counts. */
static struct xg_statement *before_this(struct view *v, const struct xg_statement *s)
{
	if (v->shown.kind && v->shown.owner == s->owner)
		return v->is_current ? &v->shown : NULL;
	return xg_ledger_find(v->tables->ledger, &s->session, s->owner);
}

/* What is said later is stale, but for the clock: it is the latest of all. */
static void raise_clock(const struct view *v, struct xg_statement *before, __u64 clock)
{
	if (clock <= before->clock)
		return;
	before->clock = clock;
	if (before == &v->shown)
		(void)show(v, before);	/* in place: there is room */
	else
		promote(v);
}

static enum xg_outcome enter_end(struct view *v, const struct xg_statement *s,
				 struct xg_statement *before, bool keep_closed)
{
	struct xg_statement closed = *s;
	bool was_shown = v->shown.kind && v->shown.owner == s->owner;
	bool ended = was_shown || (before && before->kind != XG_SAID_CLOSED);

	if (before) {
		closed.clock = before->clock > s->clock ? before->clock : s->clock;
		if (before->kind == XG_SAID_OPEN)
			xg_ledger_count(v->tables->ledger, s->owner, &s->session, false);
		if (before != &v->shown)
			xg_ledger_remove(v->tables->ledger, before);
	}
	if (was_shown)
		hide(v);
	if (keep_closed)
		keep(v, &closed);
	if (was_shown)
		promote(v);
	return ended ? XG_ENTERED : XG_STALE;
}

/* An OPEN or LINGER takes the place of its owner's statement before. */
static enum xg_outcome enter_shown(struct view *v, const struct xg_statement *s,
				   struct xg_statement *before)
{
	struct xg_statement merged = *s;
	bool was_shown = v->shown.kind && v->shown.owner == s->owner;
	bool was_open = before && before->kind == XG_SAID_OPEN;

	if (before && before->clock > merged.clock)
		merged.clock = before->clock;
	if (was_open != (s->kind == XG_SAID_OPEN))
		xg_ledger_count(v->tables->ledger, s->owner, &s->session, !was_open);
	if (before && before != &v->shown)
		xg_ledger_remove(v->tables->ledger, before);
	if (v->shown.kind && !was_shown && !xg_statement_outranks(&merged, &v->shown)) {
		keep(v, &merged);
		return XG_LOST;
	}
	if (show(v, &merged) < 0) {
		keep(v, &merged);
		return XG_REFUSED;
	}
	if (!was_shown)
		keep_shown(v);
	promote(v);
	return XG_ENTERED;
}

struct xg_entered xg_enter(const struct xg_tables *tables, const struct xg_statement *s, bool own,
			   bool keep_closed)
{
	struct xg_entered entered;
	struct xg_statement *before;
	struct view v;

	look(&v, tables, &s->session);
	before = before_this(&v, s);
	entered.shown = v.shown.kind ? v.shown.owner : XG_HOST_UNOWNED;
	entered.said = before ? before->kind : 0;
	if (before && !own && !is_later(s, before)) {
		raise_clock(&v, before, s->clock);
		entered.outcome = XG_STALE;
	} else if (s->kind == XG_SAID_CLOSED) {
		entered.outcome = enter_end(&v, s, before, keep_closed);
	} else {
		entered.outcome = enter_shown(&v, s, before);
	}
	return entered;
}

__u8 xg_said(const struct xg_tables *tables, const struct xg_session_id *session, __u16 owner)
{
	struct xg_statement *kept;
	struct view v;

	look(&v, tables, session);
	if (v.shown.kind && v.shown.owner == owner)
		return v.is_current ? v.shown.kind : 0;
	kept = xg_ledger_find(tables->ledger, session, owner);
	return kept ? kept->kind : 0;
}

int xg_deny(const struct xg_tables *tables, const struct xg_session_id *session, __u16 owner,
	    bool keep_closed)
{
	struct xg_statement s = { .session = *session, .owner = owner, .kind = XG_SAID_CLOSED };
	struct xg_statement *before;
	struct view v;

	look(&v, tables, session);
	before = before_this(&v, &s);
	if (before) /* it ended behind what is denied, and behind every OPEN before that */
		s.position = before->position;
	return enter_end(&v, &s, before, before && keep_closed) == XG_ENTERED;
}

/* ---- walks ---- */

void xg_settle(const struct xg_tables *tables)
{
	struct xg_statement *s;
	__u32 cursor = 0;

	while ((s = xg_ledger_next(tables->ledger, &cursor))) {
		struct xg_session_id session = s->session;
		struct view v;

		if (s->kind == XG_SAID_CLOSED)
			continue;
		look(&v, tables, &session);
		promote(&v);
	}
}

void xg_sweep_statements(const struct xg_tables *tables, __u32 now_ms, __u32 linger_ms)
{
	struct xg_statement *s;
	__u32 cursor = 0;

	while ((s = xg_ledger_next(tables->ledger, &cursor)))
		if (s->kind == XG_SAID_LINGER && now_ms - s->now_ms >= linger_ms)
			xg_ledger_remove(tables->ledger, s);
	xg_settle(tables);
}

static bool is_wanted(const struct xg_ledger *ledger, __u16 owner, const __u8 *bitmap,
		      const struct xg_session_id *session)
{
	__u32 bucket = xg_ledger_bucket(ledger, owner, session);

	return bitmap[bucket >> 3] >> (bucket & 7) & 1;
}

/* The next of an owner's open sessions of its present epoch that the table shows. */
static bool next_open(const struct xg_session_table *table, __u64 *cursor, __u16 owner,
		      struct xg_session_id *session, struct xg_session_cold *cold)
{
	__u64 meta;

	memset(session, 0, sizeof(*session));
	session->family = xg_session_table_family(table);
	while (xg_session_table_next_of_owner(table, cursor, UINT64_MAX, owner, session->key, &meta,
					      cold))
		if (!(xg_meta_flags(meta) & XG_META_LINGER) &&
		    xg_session_table_is_current(table, meta))
			return true;
	return false;
}

__u64 xg_select(const struct xg_tables *tables, __u16 owner, const __u8 *bitmap, int family,
		__u8 *out, __u64 most)
{
	size_t record = family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;
	struct xg_session_cold cold;
	struct xg_session_id session;
	struct xg_statement *s;
	__u64 at = 0, count = 0;
	__u32 cursor = 0;

	if (!xg_ledger_sums(tables->ledger, owner))
		return 0;
	while (next_open(xg_table_of(tables, family), &at, owner, &session, &cold)) {
		if (!is_wanted(tables->ledger, owner, bitmap, &session))
			continue;
		if (count == most)
			return count;
		xg_record_write(out + count * record, session.key, family);
		count++;
	}
	while ((s = xg_ledger_next(tables->ledger, &cursor))) {
		if (s->owner != owner || s->kind != XG_SAID_OPEN || s->session.family != family ||
		    !is_wanted(tables->ledger, owner, bitmap, &s->session))
			continue;
		if (count == most)
			return count;
		xg_record_write(out + count * record, s->session.key, family);
		count++;
	}
	return count;
}

static __u64 prune_table(const struct xg_tables *tables, struct xg_session_table *table,
			 __u16 owner, const __u8 *bitmap, __u32 position)
{
	struct xg_session_cold cold;
	struct xg_session_id session;
	__u64 at = 0, closed = 0;

	while (next_open(table, &at, owner, &session, &cold)) {
		if ((__s32)(cold.position - position) >= 0 ||
		    !is_wanted(tables->ledger, owner, bitmap, &session))
			continue;
		xg_ledger_count(tables->ledger, owner, &session, false);
		xg_session_table_remove(table, session.key);
		closed++;
	}
	return closed;
}

__u64 xg_prune(const struct xg_tables *tables, __u16 owner, const __u8 *bitmap, __u32 position)
{
	struct xg_statement *s;
	__u32 cursor = 0;
	__u64 closed;

	if (!xg_ledger_sums(tables->ledger, owner))
		return 0;
	closed = prune_table(tables, tables->v4, owner, bitmap, position) +
		 prune_table(tables, tables->v6, owner, bitmap, position);
	while ((s = xg_ledger_next(tables->ledger, &cursor))) {
		if (s->owner != owner || s->kind != XG_SAID_OPEN ||
		    (__s32)(s->position - position) >= 0 ||
		    !is_wanted(tables->ledger, owner, bitmap, &s->session))
			continue;
		xg_ledger_count(tables->ledger, owner, &s->session, false);
		xg_ledger_remove(tables->ledger, s);
		closed++;
	}
	xg_settle(tables);
	return closed;
}
