// SPDX-License-Identifier: BSD-2-Clause
/*
 * The reader of the event ring, over a file that is laid out as the kernel lays out the map.
 *
 * The kernel maps the data twice in a row; the file holds it twice, and the writer here writes
 * each byte to both places.
 */
#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "event_ring.h"

#define RING_BYTES 4096u
#define EVENT_BYTES ((uint32_t)sizeof(struct xg_event))
#define RECORD_BYTES (BPF_RINGBUF_HDR_SZ + EVENT_BYTES)	/* 48: does not divide the ring */
#define PASSING 20000u	/* records through the ring: 234 times round */

struct writer {
	int fd;
	uint8_t *file;
	size_t page;
	size_t len;
	uint64_t *consumer;
	uint64_t *producer;
	struct xg_event_ring *ring;
};

/* An empty ring whose positions are `start` already. */
static struct writer make(uint64_t start)
{
	struct writer w = { .page = (size_t)sysconf(_SC_PAGESIZE) };

	w.len = 2 * w.page + 2 * RING_BYTES;
	w.fd = memfd_create("ring", 0);
	assert(w.fd >= 0 && ftruncate(w.fd, (off_t)w.len) == 0);
	w.file = mmap(NULL, w.len, PROT_READ | PROT_WRITE, MAP_SHARED, w.fd, 0);
	assert(w.file != MAP_FAILED);
	w.consumer = (uint64_t *)w.file;
	w.producer = (uint64_t *)(w.file + w.page);
	*w.consumer = *w.producer = start;
	assert(xg_event_ring_open(w.fd, RING_BYTES, &w.ring) == 0);
	return w;
}

static void destroy(struct writer *w)
{
	xg_event_ring_close(w->ring);
	munmap(w->file, w->len);
	close(w->fd);
}

static void write_twice(struct writer *w, uint64_t position, const void *bytes, size_t len)
{
	uint8_t *data = w->file + 2 * w->page;

	for (size_t i = 0; i < len; i++) {
		size_t offset = (position + i) & (RING_BYTES - 1);

		data[offset] = data[offset + RING_BYTES] = ((const uint8_t *)bytes)[i];
	}
}

/* What ends the reservation: the header's first word loses its busy bit, or is discarded. */
static void set_head(struct writer *w, uint64_t position, uint32_t head)
{
	uint8_t *data = w->file + 2 * w->page + (position & (RING_BYTES - 1));

	__atomic_store_n((uint32_t *)(data + RING_BYTES), head, __ATOMIC_RELEASE);
	__atomic_store_n((uint32_t *)data, head, __ATOMIC_RELEASE);
}

static struct xg_event event_of(uint32_t number)
{
	struct xg_event event = { .kind = XG_EVENT_OPEN, .family = 6, .seq = number };

	event.at_ns = number * 0x9e3779b97f4a7c15ull;
	memset(event.address, (int)number, sizeof(event.address));
	return event;
}

/* Reserves a record of `len` bytes, filled from event `number`; its position. */
static uint64_t reserve(struct writer *w, uint32_t number, uint32_t len)
{
	uint64_t position = __atomic_load_n(w->producer, __ATOMIC_RELAXED);
	struct xg_event event = event_of(number);
	uint32_t size = (BPF_RINGBUF_HDR_SZ + len + 7u) & ~7u;

	assert(position + size - __atomic_load_n(w->consumer, __ATOMIC_ACQUIRE) <= RING_BYTES);
	set_head(w, position, len | BPF_RINGBUF_BUSY_BIT);
	write_twice(w, position + BPF_RINGBUF_HDR_SZ, &event,
		    len < sizeof(event) ? len : sizeof(event));
	__atomic_store_n(w->producer, position + size, __ATOMIC_RELEASE);
	return position;
}

static void put(struct writer *w, uint32_t number)
{
	set_head(w, reserve(w, number, EVENT_BYTES), EVENT_BYTES);
}

/* Reads at most `limit` into a block of just that size: exactly first..first+count-1 come. */
static void assert_reads(struct writer *w, size_t limit, uint32_t first, size_t count)
{
	struct xg_event *events = malloc(limit * sizeof(*events));

	assert(xg_event_ring_read(w->ring, events, limit) == count);
	for (size_t i = 0; i < count; i++) {
		struct xg_event expected = event_of(first + (uint32_t)i);

		assert(memcmp(&events[i], &expected, sizeof(expected)) == 0);
	}
	free(events);
}

static void test_an_empty_ring_gives_nothing(void)
{
	struct writer w = make(0);

	assert_reads(&w, 8, 0, 0);
	assert(*w.consumer == 0);
	destroy(&w);
}

static void test_wrong_sizes_and_files_are_refused(void)
{
	struct xg_event_ring *ring = NULL;
	int fd = memfd_create("ring", 0);
	char path[64];
	int read_only;

	assert(fd >= 0 && ftruncate(fd, 4096) == 0);
	assert(xg_event_ring_open(fd, 0, &ring) == -EINVAL);
	assert(xg_event_ring_open(fd, RING_BYTES + 8, &ring) == -EINVAL);
	assert(xg_event_ring_open(fd, (size_t)1 << 63, &ring) == -EINVAL);
	assert(xg_event_ring_open(-1, RING_BYTES, &ring) == -EBADF);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	read_only = open(path, O_RDONLY | O_CLOEXEC);
	assert(read_only >= 0);
	assert(xg_event_ring_open(read_only, RING_BYTES, &ring) == -EACCES);
	assert(ring == NULL);
	close(read_only);
	close(fd);
	xg_event_ring_close(NULL);
}

static void test_a_busy_record_stops_the_reader_until_it_is_done(void)
{
	struct writer w = make(0);
	uint64_t busy, discarded;

	put(&w, 0);
	busy = reserve(&w, 1, EVENT_BYTES);
	put(&w, 2);
	assert_reads(&w, 8, 0, 1);
	assert(*w.consumer == busy);
	assert_reads(&w, 8, 0, 0);
	assert(*w.consumer == busy);
	set_head(&w, busy, EVENT_BYTES);
	assert_reads(&w, 8, 1, 2);
	assert(*w.consumer == *w.producer);
	discarded = reserve(&w, 3, EVENT_BYTES);
	set_head(&w, discarded, EVENT_BYTES | BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
	put(&w, 4);
	assert_reads(&w, 8, 0, 0);
	set_head(&w, discarded, EVENT_BYTES | BPF_RINGBUF_DISCARD_BIT);
	assert_reads(&w, 8, 4, 1);
	destroy(&w);
}

static void test_discarded_records_are_skipped(void)
{
	struct writer w = make(0);

	for (int i = 0; i < 3; i++)
		set_head(&w, reserve(&w, 99, EVENT_BYTES), EVENT_BYTES | BPF_RINGBUF_DISCARD_BIT);
	put(&w, 0);
	set_head(&w, reserve(&w, 99, 13), 13 | BPF_RINGBUF_DISCARD_BIT);
	put(&w, 1);
	assert_reads(&w, 8, 0, 2);
	assert(*w.consumer == *w.producer);
	destroy(&w);
}

static void test_records_of_another_size_are_skipped(void)
{
	static const uint32_t sizes[] = { 0, 1, 8, 39, 41, 48, 56, 200 };
	struct writer w = make(0);

	for (uint32_t i = 0; i < 8; i++) {
		set_head(&w, reserve(&w, 99, sizes[i]), sizes[i]);
		put(&w, i);
	}
	assert_reads(&w, 20, 0, 8);
	assert(*w.consumer == *w.producer);
	destroy(&w);
}

static void test_no_more_than_the_limit_is_read_and_the_rest_later(void)
{
	struct writer w = make(0);

	for (uint32_t i = 0; i < 7; i++)
		put(&w, i);
	assert(xg_event_ring_read(w.ring, NULL, 0) == 0);
	assert(*w.consumer == 0);
	assert_reads(&w, 3, 0, 3);
	assert(*w.consumer == 3 * RECORD_BYTES);
	assert_reads(&w, 4, 3, 4);
	assert_reads(&w, 4, 0, 0);
	destroy(&w);
}

/* 48-byte records in a ring of 4096: each third turn ends within a record. Positions beyond
 * 32 bits, as on a host that has run for weeks. */
static void test_records_that_cross_the_end_come_whole(uint64_t start)
{
	struct writer w = make(start);
	uint32_t written = 0, read = 0;

	while (read < PASSING) {
		uint32_t burst = 1 + written % (RING_BYTES / RECORD_BYTES);

		for (uint32_t i = 0; i < burst; i++)
			put(&w, written + i);
		written += burst;
		assert_reads(&w, burst, read, burst);
		read += burst;
		assert(*w.consumer == *w.producer);
		assert(*w.producer == start + (uint64_t)written * RECORD_BYTES);
	}
	destroy(&w);
}

static void test_a_full_ring_is_read_to_its_end(void)
{
	uint32_t fitting = RING_BYTES / RECORD_BYTES;
	struct writer w = make(RING_BYTES - 16);

	for (uint32_t i = 0; i < fitting; i++)
		put(&w, i);
	assert_reads(&w, fitting + 5, 0, fitting);
	destroy(&w);
}

static void *write_all(void *argument)
{
	struct writer *w = argument;

	for (uint32_t i = 0; i < PASSING; i++) {
		uint64_t position;

		while (*w->producer + RECORD_BYTES -
		       __atomic_load_n(w->consumer, __ATOMIC_ACQUIRE) > RING_BYTES)
			sched_yield();
		position = reserve(w, i, EVENT_BYTES);
		if (i % 64 == 0)	/* let the reader meet the busy record */
			sched_yield();
		set_head(w, position, EVENT_BYTES);
	}
	return NULL;
}

static void test_a_reader_beside_the_writer_gets_all_in_order(void)
{
	struct writer w = make(0);
	struct xg_event *events = malloc(16 * sizeof(*events));
	uint32_t read = 0;
	pthread_t thread;

	assert(pthread_create(&thread, NULL, write_all, &w) == 0);
	while (read < PASSING) {
		size_t count = xg_event_ring_read(w.ring, events, 16);

		for (size_t i = 0; i < count; i++, read++) {
			struct xg_event expected = event_of(read);

			assert(memcmp(&events[i], &expected, sizeof(expected)) == 0);
		}
		if (count == 0)
			sched_yield();
	}
	assert(pthread_join(thread, NULL) == 0);
	free(events);
	destroy(&w);
}

int main(void)
{
	test_an_empty_ring_gives_nothing();
	test_wrong_sizes_and_files_are_refused();
	test_a_busy_record_stops_the_reader_until_it_is_done();
	test_discarded_records_are_skipped();
	test_records_of_another_size_are_skipped();
	test_no_more_than_the_limit_is_read_and_the_rest_later();
	test_records_that_cross_the_end_come_whole(0);
	test_records_that_cross_the_end_come_whole(((uint64_t)1 << 32) - 4000);
	test_records_that_cross_the_end_come_whole((uint64_t)1 << 45);
	test_a_full_ring_is_read_to_its_end();
	test_a_reader_beside_the_writer_gets_all_in_order();
	puts("ok");
	return 0;
}
