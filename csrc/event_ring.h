/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads a BPF ring buffer of struct xg_event in bursts.
 *
 * One reader. The kernel writes, the reader moves the consumer position; nothing is copied
 * twice and nothing is allocated after open.
 */
#ifndef XG_EVENT_RING_H
#define XG_EVENT_RING_H

#include <stddef.h>
#include <stdint.h>

#include "xg_types.h"

#define XG_EVENT_RING_BYTES_MAX (1u << 31)	/* a map's size is 32 bits, and a power of two */

struct xg_event_ring;

/* Maps the ring of map `fd` with `bytes` of data (a power of two, as the map was made).
 * 0, -EINVAL, -ENOMEM or what mmap says. The descriptor stays the caller's. */
int xg_event_ring_open(int fd, size_t bytes, struct xg_event_ring **ring);

/* Copies at most `limit` events to `events`; returns how many. Records of another size are
 * skipped: they are of another version. */
size_t xg_event_ring_read(struct xg_event_ring *ring, struct xg_event *events, size_t limit);

void xg_event_ring_close(struct xg_event_ring *ring);

#endif
