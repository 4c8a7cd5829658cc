/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Enters another host's ownership records into the session table, and settles conflicts.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "record_codec.h"

/* One section on its way into the tables. */
struct applier {
	const struct xg_tables *tables;
	__u16 own_host;
	const struct xg_section *section;
	const struct xg_moment *moment;
	struct xg_apply_result *result;
	struct xg_event *rivals;
	int family;
	__u8 kind;	/* enum xg_statement_kind */
};

/* A record, read. Slot XG_SERVICE_UNKNOWN: its service is not ours. */
struct record {
	struct xg_statement statement;
	const __u8 *bytes;
	__u16 slot;
};

/* Ours is the newer OPEN: let the caller say so again. */
static void note_rival(struct applier *a, const struct record *record)
{
	struct xg_event *rival;
	size_t address_len = a->family == 4 ? 4 : 16;

	if (a->result->rivals == XG_RIVALS_MAX) {
		a->result->rivals_dropped++;
		return;
	}
	rival = &a->rivals[a->result->rivals++];
	memset(rival, 0, sizeof(*rival));
	rival->kind = XG_EVENT_CLAIM;
	rival->family = (__u8)a->family;
	rival->slot = record->slot;
	memcpy(rival->address, record->bytes, address_len);
	memcpy(&rival->port_be, record->bytes + address_len, sizeof(rival->port_be));
}

static void enter(struct applier *a, const struct record *record)
{
	struct xg_entered entered;

	if (record->slot == XG_SERVICE_UNKNOWN) {
		a->result->unknown_service++;
		return;
	}
	entered = xg_enter(a->tables, &record->statement, false, a->section->keep_closed);
	switch (entered.outcome) {
	case XG_ENTERED:
		a->result->applied++;
		break;
	case XG_STALE:
		a->result->stale++;
		break;
	case XG_LOST:
		a->result->lost_conflicts++;
		/* What an OPEN lost against is open, too. */
		if (entered.shown == a->own_host && a->kind == XG_SAID_OPEN)
			note_rival(a, record);
		break;
	case XG_REFUSED:
		a->result->refused++;
		break;
	}
}

/* Read one record, and start its session's cache misses. */
static void read_record(const struct applier *a, const __u8 *bytes, struct record *record)
{
	size_t index_at = a->family == 4 ? 6 : 18;
	size_t index = (size_t)bytes[index_at] << 8 | bytes[index_at + 1];
	struct xg_statement *s = &record->statement;

	record->bytes = bytes;
	record->slot = XG_SERVICE_UNKNOWN;
	if (index < a->section->translation_count)
		memcpy(&record->slot, a->section->translation + index * sizeof(record->slot),
		       sizeof(record->slot));
	xg_record_read(s->session.key, bytes, a->family, record->slot);
	s->session.family = a->family;
	xg_session_prepare(a->tables, &s->session);
	s->owner = a->section->sender;
	s->kind = a->kind;
	s->clock = a->kind == XG_SAID_OPEN ? a->moment->clock : 0;
	s->position = a->moment->position;
	s->now_ms = a->moment->now_ms;
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

static __u8 statement_of_kind(__u8 kind)
{
	switch (kind) {
	case XG_SECTION_OPEN4:
	case XG_SECTION_OPEN6:
		return XG_SAID_OPEN;
	case XG_SECTION_LINGER4:
	case XG_SECTION_LINGER6:
		return XG_SAID_LINGER;
	default:
		return XG_SAID_CLOSED;
	}
}

static void apply_all(struct applier *a, const __u8 *bytes, size_t count, size_t step)
{
	struct record records[XG_AHEAD];

	for (size_t next = 0, done = 0; done < count;) {
		if (next == count || next == done + XG_AHEAD) {
			enter(a, &records[done % XG_AHEAD]);
			done++;
		}
		if (next < count) {
			read_record(a, bytes + next * step, &records[next % XG_AHEAD]);
			next++;
		}
	}
}

int xg_apply(struct xg_tables tables, __u16 own_host, const struct xg_section *section,
	     const struct xg_moment *moment, struct xg_apply_result *result,
	     struct xg_event *rivals)
{
	int family = family_of_kind(section->kind);
	struct applier a = {
		.tables = &tables,
		.own_host = own_host,
		.section = section,
		.moment = moment,
		.result = result,
		.rivals = rivals,
		.family = family,
		.kind = statement_of_kind(section->kind),
	};
	size_t step = family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;
	size_t count = section->len / step;

	memset(result, 0, sizeof(*result));
	if (!family || section->sender == own_host || section->sender > XG_HOST_MAX)
		return -EINVAL;
	if (section->len % step)
		return -EBADMSG;
	apply_all(&a, section->body, count, step);
	return 0;
}
