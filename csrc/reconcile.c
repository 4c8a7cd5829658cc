// SPDX-License-Identifier: BSD-2-Clause
/*
 * Compares the kernel's sockets with what this host said: sorts the sockets' keys once, then
 * walks tables and ledger.
 */
#include "reconcile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "record_codec.h"

struct output {
	struct xg_event *events;
	size_t count;
	size_t limit;
};

static int add(struct output *output, const struct xg_event *event)
{
	if (output->count == output->limit)
		return -ENOSPC;
	output->events[output->count++] = *event;
	return 0;
}

static void key_of_session(const struct xg_session_id *session, struct xg_reconcile_key *key)
{
	memset(key, 0, sizeof(*key));
	key->family = (uint8_t)session->family;
	memcpy(key->words, session->key, sizeof(key->words));
}

static void event_of_key(const struct xg_reconcile_key *key, uint8_t kind, uint64_t now_ns,
			 struct xg_event *event)
{
	memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->family = key->family;
	event->at_ns = now_ns;
	if (key->family == 4) {
		struct xg_key4 key4;

		memcpy(&key4, key->words, sizeof(key4));
		memcpy(event->address, &key4.address_be, sizeof(key4.address_be));
		event->port_be = key4.port_be;
		event->slot = key4.slot;
	} else {
		struct xg_key6 key6;

		memcpy(&key6, key->words, sizeof(key6));
		memcpy(event->address, key6.address, sizeof(key6.address));
		event->port_be = key6.port_be;
		event->slot = key6.slot;
	}
}

static int compare(const void *left, const void *right)
{
	return memcmp(left, right, sizeof(struct xg_reconcile_key));
}

/* A session that is open by this host's word: CLOSE, if there is no socket. */
static int close_if_missing(const struct xg_reconcile_key *key,
			    const struct xg_reconcile_key *sorted, size_t count, uint64_t now_ns,
			    struct output *output)
{
	struct xg_event event;

	if (count && bsearch(key, sorted, count, sizeof(*key), compare))
		return 0;
	event_of_key(key, XG_EVENT_CLOSE, now_ns, &event);
	return add(output, &event);
}

static int close_shown(const struct xg_session_table *table, uint16_t own_host,
		       const struct xg_reconcile_key *sorted, size_t count, uint64_t now_ns,
		       struct output *output)
{
	struct xg_reconcile_key key = { .family = (uint8_t)xg_session_table_family(table) };
	struct xg_session_cold cold;
	__u64 cursor = 0, meta;

	while (xg_session_table_next_of_owner(table, &cursor, UINT64_MAX, own_host, key.words,
					      &meta, &cold) == 1)
		if (!(xg_meta_flags(meta) & XG_META_LINGER) &&
		    close_if_missing(&key, sorted, count, now_ns, output))
			return -ENOSPC;
	return 0;
}

static int close_lost(const struct xg_ledger *ledger, uint16_t own_host,
		      const struct xg_reconcile_key *sorted, size_t count, uint64_t now_ns,
		      struct output *output)
{
	const struct xg_statement *statement;
	struct xg_reconcile_key key;
	__u32 cursor = 0;

	while ((statement = xg_ledger_next(ledger, &cursor))) {
		if (statement->owner != own_host || statement->kind != XG_SAID_OPEN)
			continue;
		key_of_session(&statement->session, &key);
		if (close_if_missing(&key, sorted, count, now_ns, output))
			return -ENOSPC;
	}
	return 0;
}

int64_t xg_reconcile(const struct xg_tables *tables, uint16_t own_host,
		     const struct xg_event *dump, size_t count,
		     struct xg_reconcile_key *scratch, struct xg_event *out, size_t limit,
		     uint64_t now_ns)
{
	struct output output = { .events = out, .limit = limit };
	struct xg_session_id session;

	for (size_t i = 0; i < count; i++) {
		xg_session_key(session.key, &dump[i]);
		session.family = dump[i].family;
		xg_session_prepare(tables, &session);
		key_of_session(&session, &scratch[i]);
		if (xg_said(tables, &session, own_host) == XG_SAID_OPEN)
			continue;
		if (add(&output, &dump[i]))
			return -ENOSPC;
	}
	if (count)	/* neither qsort nor bsearch may be given a NULL, not even of no elements */
		qsort(scratch, count, sizeof(*scratch), compare);
	if (close_shown(tables->v4, own_host, scratch, count, now_ns, &output) ||
	    close_shown(tables->v6, own_host, scratch, count, now_ns, &output) ||
	    close_lost(tables->ledger, own_host, scratch, count, now_ns, &output))
		return -ENOSPC;
	return (int64_t)output.count;
}
