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

/* The two forms of a key as one: words as the table wants them, and its family. */
struct session {
	__u64 key[XG_KEY_WORDS_MAX];
	int family;
};

static size_t record_len(int family)
{
	return family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;
}

static struct xg_session_table *table_of(struct xg_tables tables, int family)
{
	return family == 4 ? tables.v4 : tables.v6;
}

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

static void record_write(__u8 *out, const __u64 *key, int family)
{
	struct xg_key4 key4;
	struct xg_key6 key6;
	__u16 slot;

	if (family == 4) {
		memcpy(&key4, key, sizeof(key4));
		memcpy(out, &key4, 6);
		slot = key4.slot;
	} else {
		memcpy(&key6, key, sizeof(key6));
		memcpy(out, &key6, 18);
		slot = key6.slot;
	}
	out[record_len(family) - 2] = (__u8)(slot >> 8);
	out[record_len(family) - 1] = (__u8)slot;
}

static void section_header_write(__u8 *out, __u8 kind, size_t len)
{
	out[0] = kind;
	out[1] = 0;
	out[2] = (__u8)(len >> 8);
	out[3] = (__u8)len;
}

/* Records of one section that fit into `budget` bytes, its header counted. */
static size_t records_that_fit(int family, size_t budget)
{
	size_t room = budget > XG_SECTION_HEADER_LEN ? budget - XG_SECTION_HEADER_LEN : 0;

	return (room < UINT16_MAX ? room : UINT16_MAX) / record_len(family);
}

/* ---- the batch ---- */

enum ending { ENDING_NONE, ENDING_CLOSE, ENDING_LINGER };

/* What the others are to be told of one session: first how the old one ended, then that a new
 * one is open. */
struct pending {
	struct session session;
	__u8 ending;	/* enum ending */
	__u8 open;
	__u8 known;	/* the others may have an entry of ours from before */
};

struct xg_batch {
	unsigned int count;
	__u32 tags[XG_BATCH_MAX];	/* of the keys: one short scan finds a session */
	struct pending items[XG_BATCH_MAX];
	struct xg_batch_counts counts;
};

int xg_batch_create(struct xg_batch **batch)
{
	*batch = calloc(1, sizeof(**batch));
	return *batch ? 0 : -ENOMEM;
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

static __u32 tag_of(const struct session *session)
{
	__u64 mix = session->key[0] ^ session->key[1] * 3 ^ session->key[2] * 5;

	return (__u32)((mix * 0x9e3779b97f4a7c15ull) >> 32);
}

static struct pending *batch_find(struct xg_batch *batch, const struct session *session)
{
	__u32 tag = tag_of(session);

	for (unsigned int i = 0; i < batch->count; i++) {
		if (batch->tags[i] != tag || batch->items[i].session.family != session->family)
			continue;
		if (!memcmp(batch->items[i].session.key, session->key, sizeof(session->key)))
			return &batch->items[i];
	}
	return NULL;
}

static struct pending *batch_add(struct xg_batch *batch, const struct session *session)
{
	struct pending *item = &batch->items[batch->count];

	batch->tags[batch->count] = tag_of(session);
	memset(item, 0, sizeof(*item));
	item->session = *session;
	batch->count++;
	return item;
}

static void batch_drop(struct xg_batch *batch, struct pending *item)
{
	size_t i = (size_t)(item - batch->items);

	batch->count--;
	batch->items[i] = batch->items[batch->count];
	batch->tags[i] = batch->tags[batch->count];
}

/* ---- own events into table and batch ---- */

struct absorber {
	struct xg_batch *batch;
	struct xg_session_table *table;
	__u16 own_host;
	const struct xg_moment *moment;
	struct session session;
	struct pending *item;	/* of that session, or NULL */
};

static int own_put(const struct absorber *a, __u8 flags, __u64 opened_at)
{
	struct xg_session_claim claim = {
		.owner = a->own_host,
		.flags = flags,
		.position = a->moment->position,
		.opened_at = opened_at,
		.now_ms = a->moment->now_ms,
	};

	return xg_session_table_put(a->table, a->session.key, &claim);
}

/* The own entry of the session: its flags, or -1 if this host has none. */
static int own_entry(const struct absorber *a, struct xg_session_cold *cold)
{
	__u64 meta;

	if (xg_session_table_get(a->table, a->session.key, &meta, cold) < 0 ||
	    xg_meta_owner(meta) != a->own_host)
		return -1;
	return xg_meta_flags(meta);
}

static void absorb_open(struct absorber *a, __u8 kind)
{
	struct xg_session_cold cold;
	int flags = own_entry(a, &cold);
	bool refused;

	/* A TIME_WAIT socket is known to the kernel too, but will never close again: a claim of
	 * it must not bring the session back to life. */
	if (kind == XG_EVENT_CLAIM && flags >= 0 && (flags & XG_META_LINGER)) {
		a->batch->counts.ignored++;
		return;
	}
	refused = own_put(a, 0, a->moment->clock) < 0;
	a->batch->counts.refused += refused;
	if (!a->item)
		a->item = batch_add(a->batch, &a->session);
	/* If there was an entry before, or it may have been refused before, then somebody may
	 * have heard of it: a CLOSE that follows must be told. */
	if (!a->item->open && (flags >= 0 || refused) && a->item->ending == ENDING_NONE)
		a->item->known = 1;
	a->item->open = 1;
}

static void absorb_end(struct absorber *a, __u8 kind)
{
	struct xg_session_cold cold;
	int flags = own_entry(a, &cold);
	__u8 ending = kind == XG_EVENT_CLOSE ? ENDING_CLOSE : ENDING_LINGER;

	/* A refusal cannot be: the entry is there and is overwritten in place. */
	if (flags >= 0 && ending == ENDING_LINGER)
		(void)own_put(a, XG_META_LINGER, cold.opened_at);
	else if (flags >= 0)
		xg_session_table_remove(a->table, a->session.key);

	if (a->item && a->item->open && !a->item->known && a->item->ending == ENDING_NONE) {
		a->batch->counts.cancelled++;
		batch_drop(a->batch, a->item);
		return;
	}
	if (!a->item)
		a->item = batch_add(a->batch, &a->session);
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

size_t xg_batch_absorb(struct xg_batch *batch, struct xg_tables tables, __u16 own_host,
		       const void *events, size_t count, const struct xg_moment *moment)
{
	struct absorber a = { .batch = batch, .own_host = own_host, .moment = moment };

	for (size_t i = 0; i < count; i++) {
		struct xg_event event;

		memcpy(&event, (const __u8 *)events + i * sizeof(event), sizeof(event));
		if (!is_ownership(&event)) {
			batch->counts.ignored++;
			continue;
		}
		xg_session_key(a.session.key, &event);
		a.session.family = event.family;
		a.table = table_of(tables, event.family);
		a.item = batch_find(batch, &a.session);
		if (!a.item && batch->count == XG_BATCH_MAX)
			return i;
		if (event.kind == XG_EVENT_OPEN || event.kind == XG_EVENT_CLAIM)
			absorb_open(&a, event.kind);
		else
			absorb_end(&a, event.kind);
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

static size_t encode_section(struct xg_batch *batch, const struct plan *plan, __u8 *out,
			     size_t budget)
{
	size_t fit = records_that_fit(plan->family, budget);
	size_t len = 0;

	for (unsigned int i = 0; i < batch->count && fit > 0; i++) {
		struct pending *item = &batch->items[i];

		if (!is_due(item, plan))
			continue;
		record_write(out + XG_SECTION_HEADER_LEN + len, item->session.key, plan->family);
		len += record_len(plan->family);
		fit--;
		mark_told(item, plan);
	}
	if (len == 0)
		return 0;
	section_header_write(out, plan->kind, len);
	return XG_SECTION_HEADER_LEN + len;
}

size_t xg_batch_encode(struct xg_batch *batch, __u8 *out, size_t budget)
{
	size_t len = 0;

	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++)
		len += encode_section(batch, &plans[i], out + len, budget - len);
	/* From the end: what takes a dropped place was looked at already. */
	for (unsigned int i = batch->count; i > 0; i--)
		if (batch->items[i - 1].ending == ENDING_NONE && !batch->items[i - 1].open)
			batch_drop(batch, &batch->items[i - 1]);
	return len;
}

size_t xg_shard_encode(const struct xg_session_table *table, __u16 own_host, __u64 *cursor,
		       __u8 *out, size_t budget)
{
	int family = xg_session_table_family(table);
	size_t fit = records_that_fit(family, budget);
	__u64 begin = *cursor;
	size_t len = 0;

	while (fit > 0 && *cursor != XG_SLOT_END && *cursor - begin < XG_SHARD_SLOTS) {
		struct xg_session_cold cold;
		__u64 key[XG_KEY_WORDS_MAX];
		__u64 meta;

		if (!xg_session_table_next_of_owner(table, cursor, XG_SHARD_SLOTS, own_host, key,
						    &meta, &cold))
			break;
		if (xg_meta_flags(meta) & XG_META_LINGER)
			continue;
		record_write(out + XG_SECTION_HEADER_LEN + len, key, family);
		len += record_len(family);
		fit--;
	}
	if (len == 0)
		return 0;
	section_header_write(out, family == 4 ? XG_SECTION_OPEN4 : XG_SECTION_OPEN6, len);
	return XG_SECTION_HEADER_LEN + len;
}
