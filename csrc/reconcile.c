// SPDX-License-Identifier: BSD-2-Clause
/*
 * Compares the kernel's sockets with the own entries of the session tables: sorts the sockets'
 * keys once, then walks the tables.
 */
#include "reconcile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static void key_of_event(const struct xg_event *event, struct xg_reconcile_key *key)
{
	memset(key, 0, sizeof(*key));
	key->family = event->family;
	if (event->family == 4) {
		struct xg_key4 key4 = { .port_be = event->port_be, .slot = event->slot };

		memcpy(&key4.address_be, event->address, sizeof(key4.address_be));
		memcpy(key->words, &key4, sizeof(key4));
	} else {
		struct xg_key6 key6 = { .port_be = event->port_be, .slot = event->slot };

		memcpy(key6.address, event->address, sizeof(key6.address));
		memcpy(key->words, &key6, sizeof(key6));
	}
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

/* Is the session in the table as an open one of this host? */
static int is_own(const struct xg_session_table *table, const struct xg_reconcile_key *key,
		  uint16_t own_host)
{
	struct xg_session_cold cold;
	__u64 meta;

	return xg_session_table_get(table, key->words, &meta, &cold) == 0 &&
	       xg_meta_owner(meta) == own_host && !(xg_meta_flags(meta) & XG_META_LINGER);
}

static int close_missing(const struct xg_session_table *table, uint16_t own_host,
			 const struct xg_reconcile_key *sorted, size_t count, uint64_t now_ns,
			 struct output *output)
{
	struct xg_reconcile_key key = { .family = (uint8_t)xg_session_table_family(table) };
	struct xg_session_cold cold;
	__u64 cursor = 0, meta;
	struct xg_event event;

	while (xg_session_table_next_of_owner(table, &cursor, UINT64_MAX, own_host, key.words,
					      &meta, &cold) == 1) {
		if ((xg_meta_flags(meta) & XG_META_LINGER) ||
		    (count && bsearch(&key, sorted, count, sizeof(key), compare)))
			continue;
		event_of_key(&key, XG_EVENT_CLOSE, now_ns, &event);
		if (add(output, &event))
			return -ENOSPC;
	}
	return 0;
}

int64_t xg_reconcile(const struct xg_session_table *table4, const struct xg_session_table *table6,
		     uint16_t own_host, const struct xg_event *dump, size_t count,
		     struct xg_reconcile_key *scratch, struct xg_event *out, size_t limit,
		     uint64_t now_ns)
{
	struct output output = { .events = out, .limit = limit };

	for (size_t i = 0; i < count; i++) {
		key_of_event(&dump[i], &scratch[i]);
		if (is_own(dump[i].family == 4 ? table4 : table6, &scratch[i], own_host))
			continue;
		if (add(&output, &dump[i]))
			return -ENOSPC;
	}
	if (count)	/* neither qsort nor bsearch may be given a NULL, not even of no elements */
		qsort(scratch, count, sizeof(*scratch), compare);
	if (close_missing(table4, own_host, scratch, count, now_ns, &output) ||
	    close_missing(table6, own_host, scratch, count, now_ns, &output))
		return -ENOSPC;
	return (int64_t)output.count;
}
