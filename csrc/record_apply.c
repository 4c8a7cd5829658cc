/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Enters another host's ownership records into the session table, and settles conflicts.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "record_codec.h"

/* One record on its way into the table. */
struct applier {
	struct xg_session_table *table;
	__u16 own_host;
	const struct xg_section *section;
	const struct xg_moment *moment;
	struct xg_apply_result *result;
	struct xg_event *rivals;
	struct xg_event event;	/* the session, in the form of a claim */
	__u64 key[XG_KEY_WORDS_MAX];
};

/* What the table says about the session now. */
struct present {
	__u64 meta;
	struct xg_session_cold cold;
};

static void apply_put(const struct applier *a, __u8 flags, __u64 opened_at)
{
	struct xg_session_claim claim = {
		.owner = a->section->sender,
		.flags = flags,
		.position = a->moment->position,
		.opened_at = opened_at,
		.now_ms = a->moment->now_ms,
	};

	if (xg_session_table_put(a->table, a->key, &claim) < 0)
		a->result->refused++;
	else
		a->result->applied++;
}

/* Is the sender's statement older than the entry, which is the sender's own? Positions of two
 * incarnations say nothing about each other: an entry of the one before always gives way. */
static bool is_stale(const struct applier *a, const struct present *present)
{
	if (!xg_session_table_is_current(a->table, present->meta))
		return false;
	return (__s32)(a->moment->position - present->cold.position) < 0;
}

/* Ours is the newer OPEN: let the caller say so again. */
static void note_rival(struct applier *a, const struct present *present)
{
	if (xg_meta_owner(present->meta) != a->own_host ||
	    (xg_meta_flags(present->meta) & XG_META_LINGER))
		return;
	if (a->result->rivals == XG_RIVALS_MAX) {
		a->result->rivals_dropped++;
		return;
	}
	a->rivals[a->result->rivals++] = a->event;
}

static bool beats(const struct applier *a, const struct present *present)
{
	__u64 theirs = present->cold.opened_at;

	if (a->moment->clock != theirs)
		return a->moment->clock > theirs;
	return a->section->sender > xg_meta_owner(present->meta);
}

static __u64 newer(__u64 left, __u64 right)
{
	return left > right ? left : right;
}

static void apply_open(struct applier *a)
{
	struct present present;
	bool absent = xg_session_table_get(a->table, a->key, &present.meta, &present.cold) < 0;

	if (absent || xg_meta_owner(present.meta) == XG_HOST_UNOWNED) {
		apply_put(a, 0, a->moment->clock);
	} else if (xg_meta_owner(present.meta) == a->section->sender) {
		if (is_stale(a, &present))
			a->result->stale++;
		else	/* a shard is undated: it must not make a dated claim look old */
			apply_put(a, 0, newer(a->moment->clock, present.cold.opened_at));
	} else if (beats(a, &present)) {
		apply_put(a, 0, a->moment->clock);
	} else {
		a->result->lost_conflicts++;
		note_rival(a, &present);
	}
}

/* CLOSE removes only what it closes: the sender's own entry, and none that is newer. */
static void apply_end(struct applier *a, bool linger)
{
	struct present present;

	if (xg_session_table_get(a->table, a->key, &present.meta, &present.cold) < 0 ||
	    xg_meta_owner(present.meta) != a->section->sender || is_stale(a, &present)) {
		a->result->stale++;
	} else if (linger) {
		apply_put(a, XG_META_LINGER, present.cold.opened_at);
	} else {
		xg_session_table_remove(a->table, a->key);
		a->result->applied++;
	}
}

/* Read one record into `event` and `key`; false: its service is not ours. */
static bool read_record(struct applier *a, const __u8 *record, int family)
{
	size_t address_len = family == 4 ? 4 : 16;
	size_t index = (size_t)record[address_len + 2] << 8 | record[address_len + 3];
	__u16 slot = XG_SERVICE_UNKNOWN;

	if (index < a->section->translation_count)
		memcpy(&slot, a->section->translation + index * sizeof(slot), sizeof(slot));
	memset(&a->event, 0, sizeof(a->event));
	a->event.kind = XG_EVENT_CLAIM;
	a->event.family = (__u8)family;
	a->event.slot = slot;
	memcpy(a->event.address, record, address_len);
	memcpy(&a->event.port_be, record + address_len, sizeof(a->event.port_be));
	xg_session_key(a->key, &a->event);
	return slot != XG_SERVICE_UNKNOWN;
}

static int family_of_kind(__u8 kind)
{
	switch (kind) {
	case XG_SECTION_OPEN4:
	case XG_SECTION_CLOSE4:
	case XG_SECTION_LINGER4:
		return 4;
	case XG_SECTION_OPEN6:
	case XG_SECTION_CLOSE6:
	case XG_SECTION_LINGER6:
		return 6;
	default:
		return 0;
	}
}

static void apply_record(struct applier *a, const __u8 *record, int family)
{
	__u8 kind = a->section->kind;

	if (!read_record(a, record, family))
		a->result->unknown_service++;
	else if (kind == XG_SECTION_OPEN4 || kind == XG_SECTION_OPEN6)
		apply_open(a);
	else
		apply_end(a, kind == XG_SECTION_LINGER4 || kind == XG_SECTION_LINGER6);
}

int xg_apply(struct xg_tables tables, __u16 own_host, const struct xg_section *section,
	     const struct xg_moment *moment, struct xg_apply_result *result,
	     struct xg_event *rivals)
{
	int family = family_of_kind(section->kind);
	struct applier a = {
		.table = family == 4 ? tables.v4 : tables.v6,
		.own_host = own_host,
		.section = section,
		.moment = moment,
		.result = result,
		.rivals = rivals,
	};
	size_t step = family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;

	memset(result, 0, sizeof(*result));
	if (!family || section->sender == own_host || section->sender > XG_HOST_MAX)
		return -EINVAL;
	if (section->len % step)
		return -EBADMSG;
	for (size_t at = 0; at < section->len; at += step)
		apply_record(&a, section->body + at, family);
	return 0;
}
