/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ownership records to and from the session table.
 */
#include "record_codec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- records and keys ---- */

void xg_session_key(__u64 key[XG_KEY_WORDS_MAX], const struct xg_event *event)
{
	struct xg_key4 key4 = { .port_be = event->port_be, .slot = event->slot };
	struct xg_key6 key6 = { .port_be = event->port_be, .slot = event->slot };

	memset(key, 0, XG_KEY_WORDS_MAX * sizeof(*key));
	if (event->family == 4) {
		memcpy(&key4.address_be, event->address, sizeof(key4.address_be));
		memcpy(key, &key4, sizeof(key4));
	} else {
		memcpy(key6.address, event->address, sizeof(key6.address));
		memcpy(key, &key6, sizeof(key6));
	}
}

void xg_session_prepare(const struct xg_tables *tables, struct xg_session_id *session)
{
	const struct xg_session_table *table = xg_table_of(tables, session->family);

	session->hash = xg_session_table_hash(table, session->key);
	xg_session_table_prefetch(table, session->hash);
}

/* ---- the batch ---- */

enum ending { ENDING_NONE, ENDING_CLOSE, ENDING_LINGER };

/* What the others are to be told of one session: first how the old one ended, then that a new
 * one is open. */
struct pending {
	struct xg_session_id session;
	__u16 next;	/* in its chain, or NO_ITEM */
	__u8 ending;	/* enum ending */
	__u8 open;
	__u8 known;	/* the others may have an entry of ours from before */
};

#define NO_ITEM 0xffff
#define XG_BATCH_CHAINS 512	/* twice as many as sessions, so that chains are short */

struct xg_batch {
	unsigned int count;
	__u16 chains[XG_BATCH_CHAINS];	/* by the session's hash: the first item, or NO_ITEM */
	struct pending items[XG_BATCH_MAX];
	struct xg_batch_counts counts;
};

static void clear_chains(struct xg_batch *batch)
{
	memset(batch->chains, 0xff, sizeof(batch->chains));	/* NO_ITEM */
}

int xg_batch_create(struct xg_batch **batch)
{
	*batch = calloc(1, sizeof(**batch));
	if (!*batch)
		return -ENOMEM;
	clear_chains(*batch);
	return 0;
}

void xg_batch_destroy(struct xg_batch *batch)
{
	free(batch);
}

unsigned int xg_batch_pending(const struct xg_batch *batch)
{
	return batch->count;
}

struct xg_batch_counts xg_batch_counts(const struct xg_batch *batch)
{
	return batch->counts;
}

static __u16 *chain_of(struct xg_batch *batch, const struct xg_session_id *session)
{
	return &batch->chains[session->hash % XG_BATCH_CHAINS];
}

static struct pending *batch_find(struct xg_batch *batch, const struct xg_session_id *session)
{
	for (__u16 i = *chain_of(batch, session); i != NO_ITEM; i = batch->items[i].next) {
		const struct xg_session_id *other = &batch->items[i].session;

		if (other->family == session->family &&
		    !memcmp(other->key, session->key, sizeof(session->key)))
			return &batch->items[i];
	}
	return NULL;
}

static void chain_in(struct xg_batch *batch, struct pending *item)
{
	__u16 *chain = chain_of(batch, &item->session);

	item->next = *chain;
	*chain = (__u16)(item - batch->items);
}

static void chain_out(struct xg_batch *batch, const struct pending *item)
{
	__u16 *link = chain_of(batch, &item->session);

	while (*link != item - batch->items)
		link = &batch->items[*link].next;
	*link = item->next;
}

static struct pending *batch_add(struct xg_batch *batch, const struct xg_session_id *session)
{
	struct pending *item = &batch->items[batch->count++];

	memset(item, 0, sizeof(*item));
	item->session = *session;
	chain_in(batch, item);
	return item;
}

static void batch_drop(struct xg_batch *batch, struct pending *item)
{
	struct pending *last = &batch->items[batch->count - 1];

	chain_out(batch, item);
	if (item != last) {
		chain_out(batch, last);
		*item = *last;
		chain_in(batch, item);
	}
	batch->count--;
}

/* ---- own events into table and batch ---- */

struct absorber {
	struct xg_batch *batch;
	const struct xg_tables *tables;
	__u16 own_host;
	const struct xg_moment *moment;
	const struct xg_session_id *session;
	struct pending *item;	/* of that session, or NULL */
};

static struct xg_entered say(const struct absorber *a, __u8 kind, __u64 clock)
{
	struct xg_statement statement = {
		.session = *a->session,
		.owner = a->own_host,
		.kind = kind,
		.clock = clock,
		.position = a->moment->position,
		.now_ms = a->moment->now_ms,
	};

	return xg_enter(a->tables, &statement, true, false);
}

static void absorb_open(struct absorber *a, __u8 kind)
{
	struct xg_entered entered;
	bool refused;

	/* A TIME_WAIT socket is known to the kernel too, but will never close again: a claim of
	 * it must not bring the session back to life. */
	if (kind == XG_EVENT_CLAIM &&
	    xg_said(a->tables, a->session, a->own_host) == XG_SAID_LINGER) {
		a->batch->counts.ignored++;
		return;
	}
	entered = say(a, XG_SAID_OPEN, a->moment->clock);
	refused = entered.outcome == XG_REFUSED;
	a->batch->counts.refused += refused;
	if (!a->item)
		a->item = batch_add(a->batch, a->session);
	/* If there was a statement before, or one that found no room anywhere, then somebody may
	 * have heard of it: a CLOSE that follows must be told. */
	if (!a->item->open && (entered.said || refused) && a->item->ending == ENDING_NONE)
		a->item->known = 1;
	a->item->open = 1;
}

static void absorb_end(struct absorber *a, __u8 kind)
{
	__u8 ending = kind == XG_EVENT_CLOSE ? ENDING_CLOSE : ENDING_LINGER;

	if (kind == XG_EVENT_CLOSE)
		say(a, XG_SAID_CLOSED, 0);
	else if (xg_said(a->tables, a->session, a->own_host))
		say(a, XG_SAID_LINGER, 0);
	if (a->item && a->item->open && !a->item->known && a->item->ending == ENDING_NONE) {
		a->batch->counts.cancelled++;
		batch_drop(a->batch, a->item);
		return;
	}
	if (!a->item)
		a->item = batch_add(a->batch, a->session);
	/* CLOSE says more than LINGER, unless the session was open again in between. */
	if (a->item->open || a->item->ending != ENDING_CLOSE)
		a->item->ending = ending;
	a->item->open = 0;
}

static bool is_ownership(const struct xg_event *event)
{
	return event->kind >= XG_EVENT_OPEN && event->kind <= XG_EVENT_CLAIM &&
	       (event->family == 4 || event->family == 6);
}

/* Read an event, and start its session's cache misses. */
static void read_event(const struct xg_tables *tables, const __u8 *bytes, struct xg_event *event,
		       struct xg_session_id *session)
{
	memcpy(event, bytes, sizeof(*event));
	if (!is_ownership(event))
		return;
	xg_session_key(session->key, event);
	session->family = event->family;
	xg_session_prepare(tables, session);
}

static bool absorb_one(struct absorber *a, const struct xg_event *event)
{
	if (!is_ownership(event)) {
		a->batch->counts.ignored++;
		return true;
	}
	a->item = batch_find(a->batch, a->session);
	if (!a->item && a->batch->count == XG_BATCH_MAX)
		return false;
	if (event->kind == XG_EVENT_OPEN || event->kind == XG_EVENT_CLAIM)
		absorb_open(a, event->kind);
	else
		absorb_end(a, event->kind);
	return true;
}

size_t xg_batch_absorb(struct xg_batch *batch, struct xg_tables tables, __u16 own_host,
		       const void *events, size_t count, const struct xg_moment *moment)
{
	struct absorber a = {
		.batch = batch, .tables = &tables, .own_host = own_host, .moment = moment,
	};
	struct xg_session_id sessions[XG_AHEAD];
	struct xg_event read[XG_AHEAD];

	for (size_t next = 0, done = 0; done < count;) {
		if (next == count || next == done + XG_AHEAD) {
			a.session = &sessions[done % XG_AHEAD];
			if (!absorb_one(&a, &read[done % XG_AHEAD]))
				return done;
			done++;
		}
		if (next < count) {
			read_event(&tables, (const __u8 *)events + next * sizeof(*read),
				   &read[next % XG_AHEAD], &sessions[next % XG_AHEAD]);
			next++;
		}
	}
	return count;
}

/* ---- encode ---- */

static const struct plan {
	__u8 kind;
	__u8 family;
	__u8 ending;	/* tell this ending; ENDING_NONE: tell the OPEN */
} plans[] = {
	{ XG_SECTION_CLOSE4, 4, ENDING_CLOSE },
	{ XG_SECTION_LINGER4, 4, ENDING_LINGER },
	{ XG_SECTION_CLOSE6, 6, ENDING_CLOSE },
	{ XG_SECTION_LINGER6, 6, ENDING_LINGER },
	{ XG_SECTION_OPEN4, 4, ENDING_NONE },
	{ XG_SECTION_OPEN6, 6, ENDING_NONE },
};

/* An OPEN waits for the ending before it, which may not have fitted. */
static bool is_due(const struct pending *item, const struct plan *plan)
{
	if (item->session.family != plan->family || item->ending != plan->ending)
		return false;
	return plan->ending != ENDING_NONE || item->open;
}

static void mark_told(struct pending *item, const struct plan *plan)
{
	if (plan->ending == ENDING_NONE)
		item->open = 0;
	else
		/* After CLOSE the others have nothing; after LINGER they still have an entry. */
		item->known = item->ending == ENDING_LINGER;
	item->ending = ENDING_NONE;
}

static bool is_told(const struct pending *item)
{
	return item->ending == ENDING_NONE && !item->open;
}

static size_t encode_section(struct xg_batch *batch, const struct plan *plan, __u8 *out,
			     size_t budget)
{
	size_t fit = xg_records_that_fit(plan->family, budget);
	size_t len = 0;

	for (unsigned int i = 0; i < batch->count && fit > 0; i++) {
		struct pending *item = &batch->items[i];

		if (!is_due(item, plan))
			continue;
		xg_record_write(out + XG_SECTION_HEADER_LEN + len, item->session.key, plan->family);
		len += xg_record_len(plan->family);
		fit--;
		mark_told(item, plan);
	}
	if (len == 0)
		return 0;
	xg_section_header_write(out, plan->kind, len);
	return XG_SECTION_HEADER_LEN + len;
}

size_t xg_batch_encode(struct xg_batch *batch, __u8 *out, size_t budget)
{
	unsigned int kept = 0;
	size_t len = 0;

	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++)
		len += encode_section(batch, &plans[i], out + len, budget - len);
	for (unsigned int i = 0; i < batch->count; i++)
		if (!is_told(&batch->items[i]))
			batch->items[kept++] = batch->items[i];
	batch->count = kept;
	clear_chains(batch);
	for (unsigned int i = 0; i < kept; i++)
		chain_in(batch, &batch->items[i]);
	return len;
}

/* ---- shards ---- */

/* The ledger's statements follow the table's slots in one numbering of the cursor. */
#define LEDGER_CURSOR (1ull << 40)

static bool next_of_ledger(const struct xg_tables *tables, int family, __u16 own_host,
			   __u64 *cursor, __u64 *key)
{
	__u32 at = (__u32)(*cursor - LEDGER_CURSOR);
	struct xg_statement *s;

	while ((s = xg_ledger_next(tables->ledger, &at))) {
		if (s->owner != own_host || s->kind != XG_SAID_OPEN || s->session.family != family)
			continue;
		memcpy(key, s->session.key, sizeof(s->session.key));
		*cursor = LEDGER_CURSOR + at;
		return true;
	}
	*cursor = XG_SLOT_END;
	return false;
}

/* The next own session to tell; false: none in these slots, or none at all at XG_SLOT_END. */
static bool next_to_tell(const struct xg_tables *tables, int family, __u16 own_host,
			 __u64 *cursor, __u64 *key)
{
	const struct xg_session_table *table = xg_table_of(tables, family);
	struct xg_session_cold cold;
	__u64 meta;

	while (*cursor < LEDGER_CURSOR) {
		if (!xg_session_table_next_of_owner(table, cursor, XG_SHARD_SLOTS, own_host, key,
						    &meta, &cold)) {
			if (*cursor != XG_SLOT_END)
				return false;
			*cursor = LEDGER_CURSOR;
			break;
		}
		if (!(xg_meta_flags(meta) & XG_META_LINGER))
			return true;
	}
	return next_of_ledger(tables, family, own_host, cursor, key);
}

size_t xg_shard_encode(struct xg_tables tables, int family, __u16 own_host, __u64 *cursor,
		       __u8 *out, size_t budget)
{
	size_t fit = xg_records_that_fit(family, budget);
	__u64 begin = *cursor;
	size_t len = 0;

	while (fit > 0 && *cursor != XG_SLOT_END && *cursor - begin < XG_SHARD_SLOTS) {
		__u64 key[XG_KEY_WORDS_MAX];

		if (!next_to_tell(&tables, family, own_host, cursor, key))
			break;
		xg_record_write(out + XG_SECTION_HEADER_LEN + len, key, family);
		len += xg_record_len(family);
		fit--;
	}
	if (len == 0)
		return 0;
	xg_section_header_write(out, family == 4 ? XG_SECTION_OPEN4 : XG_SECTION_OPEN6, len);
	return XG_SECTION_HEADER_LEN + len;
}
