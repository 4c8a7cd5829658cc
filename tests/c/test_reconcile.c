// SPDX-License-Identifier: BSD-2-Clause
/*
 * The kernel's sockets against tables and ledger: what is opened, closed, left alone.
 *
 * Dump, scratch and output are blocks of exactly their size, so AddressSanitizer sees one
 * element too many.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "reconcile.h"
#include "record_codec.h"

#define OWN 1
#define OTHER 2
#define NOW 123456789ull
#define DUMP_AT 1000ull
#define BUCKETS 256
#define LEDGER_BUCKETS 2
#define SESSIONS_MAX 64
#define ROUNDS 2000

static struct xg_owner_state owners[XG_OWNERS];
static const __u64 hash_key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };

struct world {
	struct xg_tables tables;
	struct xg_event dump[SESSIONS_MAX];
	size_t sockets;
	struct xg_event out[2 * SESSIONS_MAX];
	int64_t found;
};

static struct world make(void)
{
	struct world w = { 0 };

	owners[OWN] = owners[OTHER] = (struct xg_owner_state){ .flags = XG_OWNER_ACTIVE };
	assert(!xg_session_table_create(&w.tables.v4, 4, BUCKETS, NULL, 0, owners, hash_key));
	assert(!xg_session_table_create(&w.tables.v6, 6, BUCKETS, NULL, 0, owners, hash_key));
	assert(!xg_ledger_create(&w.tables.ledger, LEDGER_BUCKETS, SESSIONS_MAX));
	return w;
}

static void destroy(struct world *w)
{
	xg_session_table_destroy(w->tables.v4);
	xg_session_table_destroy(w->tables.v6);
	xg_ledger_destroy(w->tables.ledger);
}

/* Sessions of both families with one number share address bytes, port and slot. */
static struct xg_event socket_of(int family, uint32_t number)
{
	struct xg_event event = { .kind = XG_EVENT_OPEN, .family = (uint8_t)family };

	event.slot = (uint16_t)(number % 3);
	event.port_be = (uint16_t)(40000 + number / 3);
	event.address[0] = 10;
	event.address[3] = (uint8_t)number;
	if (family == 6)
		event.address[15] = (uint8_t)(number >> 8);
	event.at_ns = DUMP_AT;
	return event;
}

static void add_socket(struct world *w, int family, uint32_t number)
{
	w->dump[w->sockets++] = socket_of(family, number);
}

static void add_entry(struct world *w, int family, uint32_t number, uint16_t owner, uint8_t flags)
{
	struct xg_session_claim claim = { .owner = owner, .flags = flags };
	struct xg_event event = socket_of(family, number);
	__u64 words[XG_KEY_WORDS_MAX] = { 0 };
	uint8_t *key = (uint8_t *)words;
	size_t address_len = family == 4 ? 4 : 16;

	memcpy(key, event.address, address_len);
	memcpy(key + address_len, &event.port_be, 2);
	memcpy(key + address_len + 2, &event.slot, 2);
	assert(!xg_session_table_put(xg_table_of(&w->tables, family), words, &claim));
}

/* What somebody says as it happens: it is shown, or lies beside what the table shows. */
static void say(struct world *w, int family, uint32_t number, uint16_t owner, __u8 kind,
		__u64 clock)
{
	struct xg_statement statement = {
		.owner = owner,
		.kind = kind,
		.clock = clock,
		.position = 1,
	};
	struct xg_event event = socket_of(family, number);

	xg_session_key(statement.session.key, &event);
	statement.session.family = family;
	xg_session_prepare(&w->tables, &statement.session);
	xg_enter(&w->tables, &statement, owner == OWN, true);
}

static int64_t reconcile_into(struct world *w, size_t limit)
{
	struct xg_event *dump = malloc(w->sockets * sizeof(*dump));
	struct xg_reconcile_key *scratch = malloc(w->sockets * sizeof(*scratch));
	struct xg_event *out = malloc(limit * sizeof(*out));

	memcpy(dump, w->dump, w->sockets * sizeof(*dump));
	w->found = xg_reconcile(&w->tables, OWN, dump, w->sockets, scratch, out, limit, NOW);
	if (w->found > 0)
		memcpy(w->out, out, (size_t)w->found * sizeof(*out));
	assert(memcmp(dump, w->dump, w->sockets * sizeof(*dump)) == 0);
	free(dump);
	free(scratch);
	free(out);
	return w->found;
}

static int64_t reconcile(struct world *w)
{
	return reconcile_into(w, 2 * SESSIONS_MAX);
}

/* How often this very event came out. */
static int times_out(const struct world *w, uint8_t kind, int family, uint32_t number)
{
	struct xg_event event = socket_of(family, number);
	int times = 0;

	event.kind = kind;
	event.at_ns = kind == XG_EVENT_OPEN ? DUMP_AT : NOW;
	for (int64_t i = 0; i < w->found; i++)
		times += memcmp(&w->out[i], &event, sizeof(event)) == 0;
	return times;
}

static void test_nothing_comes_of_nothing(void)
{
	struct world w = make();

	assert(reconcile(&w) == 0);
	assert(reconcile_into(&w, 0) == 0);
	assert(xg_reconcile(&w.tables, OWN, NULL, 0, NULL, NULL, 0, NOW) == 0);
	destroy(&w);
}

static void test_sockets_that_no_table_knows_are_opened_in_their_order(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 20; i++)
		add_socket(&w, i % 2 ? 6 : 4, 100 - i);
	assert(reconcile(&w) == 20);
	assert(memcmp(w.out, w.dump, 20 * sizeof(w.out[0])) == 0);
	destroy(&w);
}

static void test_own_entries_without_a_socket_are_closed(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 20; i++) {
		add_entry(&w, 4, i, OWN, 0);
		add_entry(&w, 6, i, OWN, 0);
	}
	/* No dump at all: neither a list to sort nor one to search. */
	assert(xg_reconcile(&w.tables, OWN, NULL, 0, NULL, w.out, 40, NOW) == 40);
	assert(reconcile(&w) == 40);
	for (uint32_t i = 0; i < 20; i++)
		for (int family = 4; family <= 6; family += 2)
			assert(times_out(&w, XG_EVENT_CLOSE, family, i) == 1);
	destroy(&w);
}

static void test_sockets_and_entries_that_agree_give_nothing(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 20; i++) {
		add_entry(&w, i % 2 ? 6 : 4, i, OWN, 0);
		add_socket(&w, i % 2 ? 6 : 4, i);
	}
	assert(reconcile(&w) == 0 && reconcile_into(&w, 0) == 0);
	destroy(&w);
}

static void test_what_was_missed_comes_opens_first(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 30; i++) {
		if (i < 20)
			add_entry(&w, 4, i, OWN, 0);
		if (i >= 10)
			add_socket(&w, 4, i);
	}
	assert(reconcile(&w) == 20);
	for (uint32_t i = 0; i < 10; i++) {
		assert(w.out[i].kind == XG_EVENT_OPEN && w.out[10 + i].kind == XG_EVENT_CLOSE);
		assert(times_out(&w, XG_EVENT_CLOSE, 4, i) == 1);
		assert(times_out(&w, XG_EVENT_OPEN, 4, 20 + i) == 1);
	}
	destroy(&w);
}

static void test_lingering_entries_are_closed_already_but_a_new_socket_opens_them(int family)
{
	struct world w = make();

	add_entry(&w, family, 1, OWN, XG_META_LINGER);
	add_entry(&w, family, 2, OWN, XG_META_LINGER);
	add_socket(&w, family, 2);
	assert(reconcile(&w) == 1 && times_out(&w, XG_EVENT_OPEN, family, 2) == 1);
	destroy(&w);
}

static void test_entries_of_others_stay_but_our_sockets_are_claimed(int family)
{
	struct world w = make();

	add_entry(&w, family, 1, OTHER, 0);
	add_entry(&w, family, 2, OTHER, 0);
	add_entry(&w, family, 3, OTHER, XG_META_LINGER);
	add_entry(&w, family, 4, XG_HOST_UNOWNED, 0);
	add_entry(&w, family, 5, XG_HOST_UNOWNED, 0);
	add_socket(&w, family, 2);
	add_socket(&w, family, 5);
	assert(reconcile(&w) == 2);
	assert(times_out(&w, XG_EVENT_OPEN, family, 2) == 1);
	assert(times_out(&w, XG_EVENT_OPEN, family, 5) == 1);
	destroy(&w);
}

static void test_a_claim_that_lost_is_closed_without_a_socket_and_not_repeated_with_one(int family)
{
	struct world w = make();

	for (uint32_t i = 1; i <= 3; i++) {
		say(&w, family, i, OTHER, XG_SAID_OPEN, 9);
		say(&w, family, i, OWN, XG_SAID_OPEN, 5);
	}
	say(&w, family, 3, OWN, XG_SAID_LINGER, 0);	/* it has ended already */
	say(&w, family, 4, OWN, XG_SAID_OPEN, 9);
	say(&w, family, 4, OTHER, XG_SAID_OPEN, 5);	/* lost, but another's */
	assert(xg_ledger_used(w.tables.ledger) == 4);
	add_socket(&w, family, 2);
	add_socket(&w, family, 4);
	assert(reconcile(&w) == 1 && times_out(&w, XG_EVENT_CLOSE, family, 1) == 1);
	assert(reconcile_into(&w, 0) == -ENOSPC);
	/* A socket of what lingers beside the table is a new session. */
	add_socket(&w, family, 3);
	assert(reconcile(&w) == 2 && times_out(&w, XG_EVENT_OPEN, family, 3) == 1);
	destroy(&w);
}

static void test_families_are_kept_apart(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 10; i++) {
		add_entry(&w, 4, i, OWN, 0);
		add_socket(&w, 6, i);
	}
	assert(reconcile(&w) == 20);
	for (uint32_t i = 0; i < 10; i++) {
		assert(times_out(&w, XG_EVENT_OPEN, 6, i) == 1);
		assert(times_out(&w, XG_EVENT_CLOSE, 4, i) == 1);
	}
	destroy(&w);
}

static void test_void_own_entries_are_neither_believed_nor_closed(int family)
{
	struct world w = make();

	add_entry(&w, family, 1, OWN, 0);
	add_entry(&w, family, 2, OWN, 0);
	owners[OWN].epoch++;
	add_socket(&w, family, 2);
	assert(reconcile(&w) == 1 && times_out(&w, XG_EVENT_OPEN, family, 2) == 1);
	destroy(&w);
}

static void test_duplicates_in_the_dump_close_nothing(int family)
{
	struct world w = make();

	add_entry(&w, family, 1, OWN, 0);
	add_entry(&w, family, 3, OWN, 0);
	for (int i = 0; i < 3; i++) {
		add_socket(&w, family, 1);
		add_socket(&w, family, 2);
	}
	assert(reconcile(&w) == 4);
	/* Absorbed, the second OPEN of a session says nothing new. */
	assert(times_out(&w, XG_EVENT_OPEN, family, 2) == 3);
	assert(times_out(&w, XG_EVENT_CLOSE, family, 3) == 1);
	destroy(&w);
}

static void test_a_limit_that_is_too_small_is_told_wherever_it_is_reached(void)
{
	struct world w = make();

	for (uint32_t i = 0; i < 4; i++) {
		add_socket(&w, i % 2 ? 6 : 4, 50 + i);
		add_entry(&w, 4, i, OWN, 0);
		add_entry(&w, 6, i, OWN, 0);
	}
	for (size_t limit = 0; limit < 12; limit++)
		assert(reconcile_into(&w, limit) == -ENOSPC);
	assert(reconcile_into(&w, 12) == 12);
	destroy(&w);
}

/* What the table and the dump say of one session, drawn at random. */
struct draw {
	int owner;	/* OWN, OTHER, XG_HOST_UNOWNED, or 0: no entry */
	int lingers;
	int has_socket;
};

static void assert_draw(const struct world *w, const struct draw *draw, int family, uint32_t n)
{
	int ours = draw->owner == OWN && !draw->lingers;

	assert(times_out(w, XG_EVENT_OPEN, family, n) == (draw->has_socket && !ours));
	assert(times_out(w, XG_EVENT_CLOSE, family, n) == (ours && !draw->has_socket));
}

static void test_random_tables_and_dumps_give_what_a_plain_look_gives(void)
{
	static const int drawn_owners[] = { 0, OWN, OWN, OTHER, XG_HOST_UNOWNED };
	unsigned int seed = 616716;

	srand(seed);
	for (int round = 0; round < ROUNDS; round++) {
		struct world w = make();
		struct draw draws[SESSIONS_MAX];
		uint32_t sessions = (uint32_t)rand() % (SESSIONS_MAX + 1);
		int64_t expected = 0;

		for (uint32_t i = 0; i < sessions; i++) {
			struct draw d = { drawn_owners[rand() % 5], rand() % 4 == 0, rand() % 2 };
			int family = i % 2 ? 6 : 4;

			draws[i] = d;
			if (d.owner)
				add_entry(&w, family, i * 7, (uint16_t)d.owner,
					  d.lingers ? XG_META_LINGER : 0);
			if (d.has_socket)
				add_socket(&w, family, i * 7);
			expected += (d.owner == OWN && !d.lingers) != d.has_socket;
		}
		assert(reconcile_into(&w, (size_t)expected) == expected);
		for (uint32_t i = 0; i < sessions; i++)
			assert_draw(&w, &draws[i], i % 2 ? 6 : 4, i * 7);
		destroy(&w);
	}
}

int main(void)
{
	test_nothing_comes_of_nothing();
	test_sockets_that_no_table_knows_are_opened_in_their_order();
	test_own_entries_without_a_socket_are_closed();
	test_sockets_and_entries_that_agree_give_nothing();
	test_what_was_missed_comes_opens_first();
	test_families_are_kept_apart();
	for (int family = 4; family <= 6; family += 2) {
		test_lingering_entries_are_closed_already_but_a_new_socket_opens_them(family);
		test_entries_of_others_stay_but_our_sockets_are_claimed(family);
		test_void_own_entries_are_neither_believed_nor_closed(family);
		test_duplicates_in_the_dump_close_nothing(family);
		test_a_claim_that_lost_is_closed_without_a_socket_and_not_repeated_with_one(family);
	}
	test_a_limit_that_is_too_small_is_told_wherever_it_is_reached();
	test_random_tables_and_dumps_give_what_a_plain_look_gives();
	puts("ok");
	return 0;
}
