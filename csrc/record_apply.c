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

/* A record, read: its session in two forms. Slot XG_SERVICE_UNKNOWN: its service is not ours. */
struct record {
	struct xg_event event;	/* in the form of a claim */
	struct xg_session_id session;
};

/* Ours is the newer OPEN: let the caller say so again. */
static void note_rival(struct applier *a, const struct record *record)
{
	if (a->result->rivals == XG_RIVALS_MAX)
		a->result->rivals_dropped++;
	else
		a->rivals[a->result->rivals++] = record->event;
}

static void enter(struct applier *a, const struct record *record)
{
	struct xg_statement statement = {
		.session = record->session,
		.owner = a->section->sender,
		.kind = a->kind,
		.clock = a->kind == XG_SAID_OPEN ? a->moment->clock : 0,
		.position = a->moment->position,
		.now_ms = a->moment->now_ms,
	};
	__u16 winner = XG_HOST_UNOWNED;

	switch (xg_enter(a->tables, &statement, false, a->section->keep_closed, &winner)) {
	case XG_ENTERED:
		a->result->applied++;
		break;
	case XG_STALE:
		a->result->stale++;
		break;
	case XG_LOST:
		a->result->lost_conflicts++;
		/* What an OPEN lost against is open, too. */
		if (winner == a->own_host && a->kind == XG_SAID_OPEN)
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
	size_t address_len = a->family == 4 ? 4 : 16;
	size_t index = (size_t)bytes[address_len + 2] << 8 | bytes[address_len + 3];
	__u16 slot = XG_SERVICE_UNKNOWN;

	if (index < a->section->translation_count)
		memcpy(&slot, a->section->translation + index * sizeof(slot), sizeof(slot));
	memset(&record->event, 0, sizeof(record->event));
	record->event.kind = XG_EVENT_CLAIM;
	record->event.family = (__u8)a->family;
	record->event.slot = slot;
	memcpy(record->event.address, bytes, address_len);
	memcpy(&record->event.port_be, bytes + address_len, sizeof(record->event.port_be));
	xg_session_prepare(a->tables, &record->event, &record->session);
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

static void apply_group(struct applier *a, const __u8 *bytes, size_t count, size_t step)
{
	struct record records[XG_GROUP];

	for (size_t i = 0; i < count; i++) /* start all misses before waiting on any */
		read_record(a, bytes + i * step, &records[i]);
	for (size_t i = 0; i < count; i++) {
		if (records[i].event.slot == XG_SERVICE_UNKNOWN)
			a->result->unknown_service++;
		else
			enter(a, &records[i]);
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
	for (size_t at = 0; at < count; at += XG_GROUP)
		apply_group(&a, section->body + at * step,
			    count - at < XG_GROUP ? count - at : XG_GROUP, step);
	return 0;
}
