// SPDX-License-Identifier: BSD-2-Clause
/*
 * Reads a BPF ring buffer of struct xg_event in bursts. The layout is the kernel's: a page with
 * the consumer position, a page with the producer position, the data. The kernel has the data a
 * second time behind itself; mapped here too, it would count as memory of this process twice.
 */
#include "event_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bpf.h>

struct xg_event_ring {
	uint64_t *consumer;
	const uint64_t *producer;
	const uint8_t *data;
	size_t bytes;
	size_t page;
};

int xg_event_ring_open(int fd, size_t bytes, struct xg_event_ring **out)
{
	struct xg_event_ring *ring;
	void *rw, *ro;
	int rc;

	if (bytes == 0 || bytes > XG_EVENT_RING_BYTES_MAX || (bytes & (bytes - 1)))
		return -EINVAL;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->page = (size_t)sysconf(_SC_PAGESIZE);
	ring->bytes = bytes;
	rw = mmap(NULL, ring->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED) {
		rc = -errno;
		goto free_ring;
	}
	ro = mmap(NULL, ring->page + bytes, PROT_READ, MAP_SHARED, fd, (off_t)ring->page);
	if (ro == MAP_FAILED) {
		rc = -errno;
		goto unmap_rw;
	}
	ring->consumer = rw;
	ring->producer = ro;
	ring->data = (const uint8_t *)ro + ring->page;
	*out = ring;
	return 0;

unmap_rw:
	munmap(rw, ring->page);
free_ring:
	free(ring);
	return rc;
}

/* `at` is a multiple of 8, and so is the ring's length: a record's header is never cut, its event
 * may go on at the beginning. */
static void copy_event(const struct xg_event_ring *ring, size_t at, struct xg_event *event)
{
	size_t begin = (at + BPF_RINGBUF_HDR_SZ) & (ring->bytes - 1);
	size_t left = ring->bytes - begin;
	size_t first = left < sizeof(*event) ? left : sizeof(*event);

	memcpy(event, ring->data + begin, first);
	memcpy((uint8_t *)event + first, ring->data, sizeof(*event) - first);
}

size_t xg_event_ring_read(struct xg_event_ring *ring, struct xg_event *events, size_t limit)
{
	uint64_t position = __atomic_load_n(ring->consumer, __ATOMIC_RELAXED);
	/* acquire: the records up to the producer's position are written */
	uint64_t end = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	size_t count = 0;

	while (position < end && count < limit) {
		size_t at = position & (ring->bytes - 1);
		/* acquire: a record is complete once its busy bit is clear */
		uint32_t head = __atomic_load_n((const uint32_t *)(ring->data + at),
						__ATOMIC_ACQUIRE);
		uint32_t len = head & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (head & BPF_RINGBUF_BUSY_BIT)
			break;
		if (!(head & BPF_RINGBUF_DISCARD_BIT) && len == sizeof(*events))
			copy_event(ring, at, &events[count++]);
		position += (BPF_RINGBUF_HDR_SZ + len + 7u) & ~7u;
	}
	/* release: the kernel may write over the records only after we have copied them */
	__atomic_store_n(ring->consumer, position, __ATOMIC_RELEASE);
	return count;
}

void xg_event_ring_close(struct xg_event_ring *ring)
{
	if (!ring)
		return;
	munmap(ring->consumer, ring->page);
	munmap((void *)(uintptr_t)ring->producer, ring->page + ring->bytes);
	free(ring);
}
