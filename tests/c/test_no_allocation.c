/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nothing is allocated per packet, event, record or datagram: counted, by wrapped allocators.
 *
 * The linker sends each call of malloc() and its like here (--wrap); what the C library takes for
 * itself shows in mallinfo2(). The first round of everything is not counted, all others are.
 */
#define _GNU_SOURCE
#include "forward_world.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "datagram_reader.h"
#include "event_ring.h"
#include "record_codec.h"

#define OWN 20
#define PEER 21
#define ROUNDS 400u
#define SESSIONS 200u	/* a round; fewer than a batch takes */
#define RING_BYTES 4096u
#define DATAGRAM 1400

static unsigned long calls;

void *__real_malloc(size_t len);
void *__real_calloc(size_t count, size_t len);
void *__real_realloc(void *block, size_t len);
void *__real_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t count, size_t len);
void *__wrap_realloc(void *block, size_t len);
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t len)
{
	calls++;
	return __real_malloc(len);
}

void *__wrap_calloc(size_t count, size_t len)
{
	calls++;
	return __real_calloc(count, len);
}

void *__wrap_realloc(void *block, size_t len)
{
	calls++;
	return __real_realloc(block, len);
}

void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
	calls++;
	return __real_mmap(at, len, protection, flags, fd, offset);
}

/* What was allocated until now, by either count. */
struct taken {
	unsigned long calls;
	size_t bytes;
};

static struct taken taken(void)
{
	struct mallinfo2 info = mallinfo2();

	return (struct taken){ calls, info.uordblks + info.hblkhd };
}

static void assert_nothing_since(struct taken before)
{
	struct taken now = taken();

	assert(now.calls == before.calls);
	assert(now.bytes == before.bytes);
}

/* ---- events and records, at two hosts ---- */

struct host {
	struct xg_tables tables;
	struct xg_batch *batch;
	__u16 id;
};

static struct host host_of(__u16 id)
{
	struct host host = { .id = id };

	assert(!xg_session_table_create(&host.tables.v4, 4, 128, NULL, 0, owners, hash_key));
	assert(!xg_session_table_create(&host.tables.v6, 6, 128, NULL, 0, owners, hash_key));
	assert(!xg_ledger_create(&host.tables.ledger, 64, 512));
	assert(!xg_ledger_begin(host.tables.ledger, OWN, 1));
	assert(!xg_ledger_begin(host.tables.ledger, PEER, 2));
	assert(!xg_batch_create(&host.batch));
	return host;
}

static void leave(struct host *host)
{
	xg_session_table_destroy(host->tables.v4);
	xg_session_table_destroy(host->tables.v6);
	xg_ledger_destroy(host->tables.ledger);
	xg_batch_destroy(host->batch);
}

/* The sections of `datagram`, as `from` said them, into the other host's tables. */
static __u32 hear(const struct host *host, __u16 from, const __u8 *datagram, size_t len,
		  const struct xg_moment *moment)
{
	static const __u16 same_slots[4] = { 0, 1, 2, 3 };
	struct xg_event rivals[XG_RIVALS_MAX];
	struct xg_apply_result result;
	__u32 records = 0;

	for (size_t at = 0, body; at < len; at += XG_SECTION_HEADER_LEN + body) {
		struct xg_section section = {
			.sender = from, .kind = datagram[at],
			.body = datagram + at + XG_SECTION_HEADER_LEN,
			.translation = (const __u8 *)same_slots, .translation_count = 4,
			.keep_closed = true,
		};

		body = (size_t)datagram[at + 2] << 8 | datagram[at + 3];
		section.len = body;
		assert(!xg_apply(host->tables, host->id, &section, moment, &result, rivals));
		records += result.applied + result.stale + result.lost_conflicts + result.refused;
	}
	return records;
}

/* Both claim the same sessions, so that each has winners, losers and what is kept beside. */
static __u32 say_and_hear(struct host *by, const struct host *at, __u8 kind, __u32 round)
{
	const struct xg_moment moment = { .clock = round, .position = round, .now_ms = round };
	struct xg_event events[SESSIONS];
	__u8 datagram[DATAGRAM];
	__u32 records = 0;

	memset(events, 0, sizeof(events));
	for (__u32 i = 0; i < SESSIONS; i++) {
		events[i].kind = kind;
		events[i].family = i % 2 ? 4 : 6;
		events[i].slot = 2;
		events[i].port_be = (__u16)i;
		events[i].address[0] = 9;
	}
	assert(xg_batch_absorb(by->batch, by->tables, by->id, events, SESSIONS, &moment) ==
	       SESSIONS);
	while (xg_batch_pending(by->batch)) {
		size_t len = xg_batch_encode(by->batch, datagram, sizeof(datagram));

		records += hear(at, by->id, datagram, len, &moment);
	}
	return records;
}

static void walk(const struct host *host)
{
	static __u8 bitmap[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	static __u8 out[SESSIONS * XG_RECORD6_LEN];
	__u64 cursor = 0, metas[XG_BURST_MAX], keys[XG_BURST_MAX] = { 1, 2, 3 };

	while (cursor != XG_SLOT_END)
		(void)xg_shard_encode(host->tables, 4, host->id, &cursor, out, DATAGRAM);
	(void)xg_select(&host->tables, PEER, bitmap, 6, out, SESSIONS);
	(void)xg_prune(&host->tables, PEER, bitmap, 0);
	(void)xg_session_table_sweep(host->tables.v4, 0, 128, 0, 1000, 1000);
	xg_sweep_statements(&host->tables, 0, 1000);
	assert(!xg_session_table_find_burst(host->tables.v4, keys, XG_BURST_MAX, metas));
}

static void test_events_and_records(void)
{
	static const __u8 kinds[] = { XG_EVENT_OPEN, XG_EVENT_CLAIM, XG_EVENT_CLOSE_LINGER,
				      XG_EVENT_OPEN, XG_EVENT_CLOSE };
	struct host own, peer;
	struct taken before = taken();
	__u32 records = 0;

	owners[OWN].flags = owners[PEER].flags = XG_OWNER_ACTIVE;
	own = host_of(OWN);
	peer = host_of(PEER);
	assert(taken().calls > before.calls);	/* the counter counts */
	for (__u32 round = 0; round < ROUNDS; round++) {
		__u8 kind = kinds[round / 2 % sizeof(kinds)];

		if (round == 2 * sizeof(kinds))
			before = taken();
		if (round % 2)
			records += say_and_hear(&own, &peer, kind, round + 1);
		else
			records += say_and_hear(&peer, &own, kind, round + 1);
		walk(&own);
		walk(&peer);
	}
	assert(records > ROUNDS * SESSIONS / 4);
	assert_nothing_since(before);
	leave(&own);
	leave(&peer);
}

/* ---- the event ring ---- */

static void test_events_of_the_ring(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = 2 * page + RING_BYTES, seen = 0;
	int fd = memfd_create("ring", 0);
	struct xg_event_ring *ring;
	struct xg_event events[16];
	struct taken before;
	uint64_t *producer;
	uint8_t *file;

	assert(fd >= 0 && ftruncate(fd, (off_t)len) == 0);
	file = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert(file != MAP_FAILED && !xg_event_ring_open(fd, RING_BYTES, &ring));
	producer = (uint64_t *)(file + page);
	before = taken();
	for (uint32_t i = 0; i < ROUNDS * 16; i++) {
		uint32_t *head = (uint32_t *)(file + 2 * page + (*producer & (RING_BYTES - 1)));

		*head = sizeof(struct xg_event);
		*producer += BPF_RINGBUF_HDR_SZ + sizeof(struct xg_event);
		if (i % 16 == 15)
			seen += xg_event_ring_read(ring, events, 16);
	}
	assert(seen == ROUNDS * 16);
	assert_nothing_since(before);
	xg_event_ring_close(ring);
	munmap(file, len);
	close(fd);
}

/* ---- datagrams ---- */

static void test_datagrams(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct xg_datagram_reader *reader;
	socklen_t len = sizeof(to);
	char sent[DATAGRAM] = { 0 };
	struct taken before;

	assert(fd >= 0 && !bind(fd, (struct sockaddr *)&to, len));
	assert(!getsockname(fd, (struct sockaddr *)&to, &len));
	assert(!xg_datagram_reader_create(&reader));
	before = taken();
	for (uint32_t i = 0; i < ROUNDS; i++) {
		assert(sendto(fd, sent, sizeof(sent), 0, (struct sockaddr *)&to, len) == DATAGRAM);
		assert(xg_datagram_reader_read(reader, fd, 8) == 1);
		assert(xg_datagram_reader_get(reader, 0).len == DATAGRAM);
	}
	assert_nothing_since(before);
	xg_datagram_reader_destroy(reader);
	close(fd);
}

/* ---- frames ---- */

/* Of each owner, family and kind, so that they are sent, flooded, passed and dropped. */
static void test_frames(void)
{
	static uint8_t bytes[OWNERS_END * 2][ROOM + FRAME_MAX];
	struct xg_frame frames[OWNERS_END * 2], copy;
	static uint8_t spare[ROOM + FRAME_MAX];
	struct xg_forwarder f = make();
	uint64_t ended = counted(&f);
	struct taken before = taken();

	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < OWNERS_END * 2; i++) {
			struct recipe shape = tcp(i % 2 ? 4 : 6, (uint16_t)(i / 2 + round % 2 * 90),
						 round % 3 ? ACK : SYN);

			frames[i] = (struct xg_frame){ .data = bytes[i] + ROOM, .headroom = ROOM,
						       .ending = UINT32_MAX };
			frames[i].len = build(&shape, frames[i].data);
		}
		assert(!xg_forward_burst(&f, frames, OWNERS_END * 2));
		for (uint32_t i = 0; i < OWNERS_END * 2; i++) {
			copy = (struct xg_frame){ .data = spare + ROOM, .headroom = ROOM,
						  .len = FRAME_MAX };
			while (frames[i].copy_from < frames[i].copy_to)
				(void)xg_forward_copy(&f, &frames[i], &copy);
		}
	}
	assert(counted(&f) - ended >= ROUNDS * OWNERS_END * 2);
	assert_nothing_since(before);
	destroy(&f);
}

int main(void)
{
	test_events_and_records();
	test_events_of_the_ring();
	test_datagrams();
	test_frames();
	puts("ok");
	return 0;
}
