/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The record codec's memory safety: every budget, every truncation, every kind, random bytes.
 *
 * Bodies and outputs lie in blocks of exactly their size, so that a sanitizer sees one byte too
 * many. What the records mean is tested from Python, against a second decoder.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "record_codec.h"

#define OWN 3
#define PEER 4

static struct xg_owner_state owners[XG_OWNERS];
static const __u64 hash_key[2] = { 5, 6 };
static struct xg_tables tables;
static const struct xg_moment moment = { .clock = 100, .position = 1, .now_ms = 10 };

static void make_tables(void)
{
	assert(xg_session_table_create(&tables.v4, 4, 1024, NULL, 0, owners, hash_key) == 0);
	assert(xg_session_table_create(&tables.v6, 6, 1024, NULL, 0, owners, hash_key) == 0);
	assert(xg_ledger_create(&tables.ledger, 64, 64) == 0);
}

static void destroy_tables(void)
{
	xg_session_table_destroy(tables.v4);
	xg_session_table_destroy(tables.v6);
	xg_ledger_destroy(tables.ledger);
}

static struct xg_event event_of(__u8 kind, __u8 family, __u16 number)
{
	struct xg_event event = { .kind = kind, .family = family, .slot = 2, .port_be = number };

	event.address[family == 4 ? 3 : 15] = 1;
	return event;
}

static void absorb(struct xg_batch *batch, __u8 kind, __u8 family, __u16 number)
{
	struct xg_event event = event_of(kind, family, number);

	assert(xg_batch_absorb(batch, tables, OWN, &event, 1, &moment) == 1);
}

/* Encode into a block of exactly `budget` bytes; returns the sum of the sections' records. */
static size_t encode_exactly(struct xg_batch *batch, size_t budget)
{
	__u8 *out = malloc(budget ? budget : 1);
	size_t len = xg_batch_encode(batch, out, budget), records = 0, body;

	assert(len <= budget);
	for (size_t at = 0; at < len; at += XG_SECTION_HEADER_LEN + body) {
		int family = out[at] < XG_SECTION_OPEN6 ? 4 : 6;

		assert(out[at + 1] == 0);
		body = (size_t)out[at + 2] << 8 | out[at + 3];
		assert(body > 0 && at + XG_SECTION_HEADER_LEN + body <= len);
		records += body / (family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN);
	}
	free(out);
	return records;
}

static void test_every_budget(void)
{
	struct xg_batch *batch;

	assert(xg_batch_create(&batch) == 0);
	for (size_t budget = 0; budget < 200; budget++) {
		size_t told = 0;

		make_tables();
		for (__u16 i = 0; i < 4; i++)
			for (__u8 family = 4; family <= 6; family += 2) {
				absorb(batch, XG_EVENT_CLOSE + (i & 1), family, i);
				absorb(batch, XG_EVENT_OPEN, family, i);
			}
		assert(xg_batch_pending(batch) == 8);
		for (int i = 0; i < 20; i++)
			told += encode_exactly(batch, budget);
		/* Both halves of a session are told, as soon as a record fits at all. */
		if (budget >= XG_SECTION_HEADER_LEN + XG_RECORD6_LEN)
			assert(told == 16 && xg_batch_pending(batch) == 0);
		while (encode_exactly(batch, 1000))
			;
		assert(xg_batch_pending(batch) == 0);
		destroy_tables();
	}
	xg_batch_destroy(batch);
	xg_batch_destroy(NULL);
}

static void test_full_batch(void)
{
	struct xg_event events[XG_BATCH_MAX + 10];
	struct xg_batch *batch;

	make_tables();
	assert(xg_batch_create(&batch) == 0);
	for (__u16 i = 0; i < XG_BATCH_MAX + 10; i++)
		events[i] = event_of(XG_EVENT_OPEN, i & 1 ? 4 : 6, i);
	assert(xg_batch_absorb(batch, tables, OWN, events, XG_BATCH_MAX + 10, &moment) ==
	       XG_BATCH_MAX);
	assert(xg_session_table_used(tables.v4) + xg_session_table_used(tables.v6) ==
	       XG_BATCH_MAX);
	absorb(batch, XG_EVENT_CLOSE, 4, 1);	/* a session that has its place already */
	assert(xg_batch_counts(batch).cancelled == 1);
	assert(encode_exactly(batch, 100000) == XG_BATCH_MAX - 1);
	assert(xg_batch_absorb(batch, tables, OWN, events + XG_BATCH_MAX, 10, &moment) == 10);
	xg_batch_destroy(batch);
	destroy_tables();
}

static void test_shard_of_every_budget(void)
{
	struct xg_batch *batch;

	make_tables();
	assert(xg_batch_create(&batch) == 0);
	for (__u16 i = 0; i < 30; i++)
		absorb(batch, XG_EVENT_OPEN, 6, i);
	absorb(batch, XG_EVENT_CLOSE_LINGER, 6, 0);
	for (size_t budget = 0; budget < 700; budget++) {
		__u8 *out = malloc(budget ? budget : 1);
		__u64 cursor = 0;
		size_t records = 0;

		for (int i = 0; i < 40 && cursor != XG_SLOT_END; i++) {
			size_t len = xg_shard_encode(tables, 6, OWN, &cursor, out, budget);

			assert(len <= budget);
			records += len ? (len - XG_SECTION_HEADER_LEN) / XG_RECORD6_LEN : 0;
		}
		assert(records == (budget < XG_SECTION_HEADER_LEN + XG_RECORD6_LEN ? 0 : 29));
		free(out);
	}
	xg_batch_destroy(batch);
	destroy_tables();
}

static int apply_copy(__u8 kind, const __u8 *bytes, size_t len, struct xg_apply_result *result)
{
	static const __u16 translation[4] = { 7, XG_SERVICE_UNKNOWN, 2, 9 };
	struct xg_event rivals[XG_RIVALS_MAX];
	__u8 *body = malloc(len ? len : 1);
	struct xg_section section = {
		.sender = PEER,
		.kind = kind,
		.body = body,
		.len = len,
		.translation = (const __u8 *)translation,
		.translation_count = 4,
	};
	int rc;

	memcpy(body, bytes, len);
	rc = xg_apply(tables, OWN, &section, &moment, result, rivals);
	free(body);
	return rc;
}

static void test_every_kind_and_length(void)
{
	struct xg_apply_result result;
	__u8 bytes[100];
	unsigned int seed = 1;

	make_tables();
	for (int round = 0; round < 20; round++)
		for (unsigned int kind = 0; kind < 256; kind++)
			for (size_t len = 0; len <= sizeof(bytes); len++) {
				int v4 = kind >= XG_SECTION_OPEN4 && kind <= XG_SECTION_LINGER4;
				int v6 = kind >= XG_SECTION_OPEN6 && kind <= XG_SECTION_LINGER6;
				size_t step = v4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;
				int rc;

				for (size_t i = 0; i < len; i++)
					bytes[i] = (__u8)(rand_r(&seed) & 7);
				rc = apply_copy((__u8)kind, bytes, len, &result);
				if (!v4 && !v6)
					assert(rc == -EINVAL);
				else if (len % step)
					assert(rc == -EBADMSG);
				else
					assert(rc == 0 && result.applied + result.stale +
					       result.lost_conflicts + result.unknown_service +
					       result.refused == len / step);
				assert(rc == 0 || result.applied == 0);
			}
	destroy_tables();
}

/* More lost OPENs than the rivals' array holds: bounded and counted. */
static void test_rivals_are_bounded(void)
{
	struct xg_apply_result result;
	struct xg_batch *batch;
	__u8 body[100 * XG_RECORD4_LEN] = { 0 };
	struct xg_section section = { .sender = OWN, .kind = XG_SECTION_OPEN4 };

	make_tables();
	assert(xg_batch_create(&batch) == 0);
	for (__u16 i = 0; i < 100; i++) {
		absorb(batch, XG_EVENT_OPEN, 4, (__u16)(i << 8));
		body[i * XG_RECORD4_LEN + 3] = 1;
		body[i * XG_RECORD4_LEN + 5] = (__u8)i;
		body[i * XG_RECORD4_LEN + 7] = 2;
	}
	owners[PEER - 2].flags = XG_OWNER_ACTIVE;	/* a lower id loses the tie of clocks */
	{
		static const __u16 translation[3] = { 7, 7, 2 };
		struct xg_event rivals[XG_RIVALS_MAX];

		assert(xg_apply(tables, OWN, &section, &moment, &result, rivals) == -EINVAL);
		section = (struct xg_section){ PEER - 2, XG_SECTION_OPEN4, body, sizeof(body),
					       (const __u8 *)translation, 3, false };
		assert(xg_apply(tables, OWN, &section, &moment, &result, rivals) == 0);
		assert(rivals[63].kind == XG_EVENT_CLAIM && rivals[63].slot == 2);
	}
	assert(result.lost_conflicts == 100 && result.rivals == XG_RIVALS_MAX);
	assert(result.rivals_dropped == 100 - XG_RIVALS_MAX);
	xg_batch_destroy(batch);
	destroy_tables();
}

int main(void)
{
	owners[OWN].flags = XG_OWNER_ACTIVE;
	owners[PEER].flags = XG_OWNER_ACTIVE;
	test_every_budget();
	test_full_batch();
	test_shard_of_every_budget();
	test_every_kind_and_length();
	test_rivals_are_bounded();
	puts("ok");
	return 0;
}
