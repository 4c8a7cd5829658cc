/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ledger: a hash table of statements, and a row of sums for each owner.
 */
#define _DEFAULT_SOURCE
#include "ledger.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE 0	/* links are index + 1, so that fresh memory is a ledger without statements */

struct row {
	__u64 key;
	__u64 total;
	__u64 sessions;
	__u64 sums[];
};

struct xg_ledger {
	__u32 buckets;
	__u32 bucket_shift;	/* a hash's high bits choose the bucket */
	__u32 capacity;
	__u32 head_mask;
	__u32 used;
	__u32 fresh;		/* places from here on were never used: their pages are untouched */
	__u32 free;		/* the first place given back, chained by `next` */
	__u64 dropped;
	__u32 *heads;		/* by the session's hash; links, as all */
	struct xg_statement *statements;
	__u64 *service_ids;
	__u32 services;
	struct row *rows[XG_OWNERS];
};

/* ---- create and destroy ---- */

static __u32 log2_of(__u32 power)
{
	__u32 bits = 0;

	while (power >>= 1)
		bits++;
	return bits;
}

int xg_ledger_create(struct xg_ledger **ledger, __u32 buckets, __u32 statements)
{
	struct xg_ledger *l;
	__u32 heads = 1;

	if (buckets < 2 || buckets > XG_LEDGER_BUCKETS_MAX || (buckets & (buckets - 1)) ||
	    !statements || statements > XG_LEDGER_STATEMENTS_MAX)
		return -EINVAL;
	while (heads < statements)
		heads *= 2;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->heads = calloc(heads, sizeof(*l->heads));
	l->statements = calloc(statements, sizeof(*l->statements));
	if (!l->heads || !l->statements) {
		xg_ledger_destroy(l);
		return -ENOMEM;
	}
	l->buckets = buckets;
	l->bucket_shift = 64 - log2_of(buckets);
	l->capacity = statements;
	l->head_mask = heads - 1;
	*ledger = l;
	return 0;
}

void xg_ledger_destroy(struct xg_ledger *l)
{
	if (!l)
		return;
	for (size_t owner = 0; owner < XG_OWNERS; owner++)
		free(l->rows[owner]);
	free(l->service_ids);
	free(l->statements);
	free(l->heads);
	free(l);
}

int xg_ledger_set_services(struct xg_ledger *l, const __u64 *ids, __u32 count)
{
	__u64 *copy = malloc(count ? count * sizeof(*copy) : 1);

	if (!copy)
		return -ENOMEM;
	if (count)
		memcpy(copy, ids, count * sizeof(*copy));
	free(l->service_ids);
	l->service_ids = copy;
	l->services = count;
	return 0;
}

/* ---- statements ---- */

__u32 xg_ledger_used(const struct xg_ledger *l)
{
	return l->used;
}

__u64 xg_ledger_dropped(const struct xg_ledger *l)
{
	return l->dropped;
}

static __u32 *head_of(const struct xg_ledger *l, const struct xg_session_id *session)
{
	return &l->heads[session->hash & l->head_mask];
}

static struct xg_statement *at_link(const struct xg_ledger *l, __u32 link)
{
	return &l->statements[link - 1];
}

static bool is_about(const struct xg_statement *s, const struct xg_session_id *session)
{
	return s->session.hash == session->hash && s->session.family == session->family &&
	       !memcmp(s->session.key, session->key, sizeof(session->key));
}

struct xg_statement *xg_ledger_find(const struct xg_ledger *l,
				    const struct xg_session_id *session, __u16 owner)
{
	if (!l->used)
		return NULL;
	for (__u32 i = *head_of(l, session); i != NONE; i = at_link(l, i)->next)
		if (at_link(l, i)->owner == owner && is_about(at_link(l, i), session))
			return at_link(l, i);
	return NULL;
}

struct xg_statement *xg_ledger_best(const struct xg_ledger *l,
				    const struct xg_session_id *session,
				    const struct xg_owner_state *owners)
{
	struct xg_statement *best = NULL;

	if (!l->used)
		return NULL;
	for (__u32 i = *head_of(l, session); i != NONE; i = at_link(l, i)->next) {
		struct xg_statement *s = at_link(l, i);

		if (s->kind == XG_SAID_CLOSED || !is_about(s, session) ||
		    !(xg_owner_load(&owners[s->owner]).flags & XG_OWNER_ACTIVE))
			continue;
		if (!best || xg_statement_outranks(s, best))
			best = s;
	}
	return best;
}

int xg_ledger_keep(struct xg_ledger *l, const struct xg_statement *statement)
{
	__u32 *head = head_of(l, &statement->session);
	__u32 i = l->free;

	if (i != NONE) {
		l->free = at_link(l, i)->next;
	} else if (l->fresh < l->capacity) {
		i = ++l->fresh;
	} else {
		l->dropped++;
		return -ENOSPC;
	}
	*at_link(l, i) = *statement;
	at_link(l, i)->next = *head;
	*head = i;
	l->used++;
	return 0;
}

void xg_ledger_remove(struct xg_ledger *l, struct xg_statement *statement)
{
	__u32 i = (__u32)(statement - l->statements) + 1;
	__u32 *link = head_of(l, &statement->session);

	while (*link != i)
		link = &at_link(l, *link)->next;
	*link = statement->next;
	statement->kind = 0;
	statement->next = l->free;
	l->free = i;
	l->used--;
}

struct xg_statement *xg_ledger_next(const struct xg_ledger *l, __u32 *cursor)
{
	while (l->used && *cursor < l->fresh) {
		struct xg_statement *s = &l->statements[(*cursor)++];

		if (s->kind)
			return s;
	}
	return NULL;
}

static void drop_all(struct xg_ledger *l, __u16 owner, bool closed_only)
{
	struct xg_statement *s;
	__u32 cursor = 0;

	while ((s = xg_ledger_next(l, &cursor)))
		if (s->owner == owner && (!closed_only || s->kind == XG_SAID_CLOSED))
			xg_ledger_remove(l, s);
}

void xg_ledger_drop_closed(struct xg_ledger *l, __u16 owner)
{
	drop_all(l, owner, true);
}

/* ---- digests ---- */

__u32 xg_ledger_buckets(const struct xg_ledger *l)
{
	return l->buckets;
}

int xg_ledger_begin(struct xg_ledger *l, __u16 owner, __u64 key)
{
	size_t len = sizeof(struct row) + l->buckets * sizeof(__u64);

	drop_all(l, owner, false);
	if (!l->rows[owner])
		l->rows[owner] = malloc(len);
	if (!l->rows[owner])
		return -ENOMEM;
	memset(l->rows[owner], 0, len);
	l->rows[owner]->key = key;
	return 0;
}

void xg_ledger_forget(struct xg_ledger *l, __u16 owner)
{
	drop_all(l, owner, false);
	free(l->rows[owner]);
	l->rows[owner] = NULL;
}

/* Murmur3's 64-bit finaliser: every bit of the input moves half of the output's. */
static __u64 mix(__u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

/* What a session adds to its owner's digest: the same on hosts of any byte order and any
 * numbering of the services. */
static __u64 item_of(const struct xg_ledger *l, __u64 digest_key,
		     const struct xg_session_id *session)
{
	struct xg_key4 key4;
	struct xg_key6 key6;
	__u64 words[2], hash;
	__u16 slot;

	if (session->family == 4) {
		memcpy(&key4, session->key, sizeof(key4));
		slot = key4.slot;
		hash = (__u64)be32toh(key4.address_be) << 16 | be16toh(key4.port_be);
		hash = mix(hash ^ digest_key);
	} else {
		memcpy(&key6, session->key, sizeof(key6));
		memcpy(words, key6.address, sizeof(words));
		slot = key6.slot;
		hash = mix(be64toh(words[0]) ^ digest_key);
		hash = mix(be64toh(words[1]) ^ hash) + be16toh(key6.port_be);
	}
	return mix(hash ^ (slot < l->services ? l->service_ids[slot] : slot));
}

void xg_ledger_count(struct xg_ledger *l, __u16 owner, const struct xg_session_id *session,
		     bool open)
{
	struct row *row = l->rows[owner];
	__u64 item;

	if (!row)
		return;
	item = item_of(l, row->key, session);
	row->sums[item >> l->bucket_shift] += open ? item : -item;
	row->total += open ? item : -item;
	row->sessions += open ? 1 : -1ull;
}

__u32 xg_ledger_bucket(const struct xg_ledger *l, __u16 owner,
		       const struct xg_session_id *session)
{
	const struct row *row = l->rows[owner];

	return row ? (__u32)(item_of(l, row->key, session) >> l->bucket_shift) : 0;
}

const __u64 *xg_ledger_sums(const struct xg_ledger *l, __u16 owner)
{
	return l->rows[owner] ? l->rows[owner]->sums : NULL;
}

__u64 xg_ledger_total(const struct xg_ledger *l, __u16 owner)
{
	return l->rows[owner] ? l->rows[owner]->total : 0;
}

__u64 xg_ledger_sessions(const struct xg_ledger *l, __u16 owner)
{
	return l->rows[owner] ? l->rows[owner]->sessions : 0;
}
