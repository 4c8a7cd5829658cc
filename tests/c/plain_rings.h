/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AF_XDP rings of plain memory, of RING places, which whoever includes this has defined.
 */
#ifndef PLAIN_RINGS_H
#define PLAIN_RINGS_H

#include <stdint.h>

#include <xdp/xsk.h>

struct ring {
	uint32_t producer, consumer, flags;
	struct xdp_desc descs[RING];	/* addresses lie in it too: 8 bytes each */
};

/* The side that the loop has. */
static inline void bind_prod(struct xsk_ring_prod *user, struct ring *ring)
{
	*user = (struct xsk_ring_prod){ .mask = RING - 1, .size = RING, .cached_cons = RING,
					.producer = &ring->producer, .consumer = &ring->consumer,
					.ring = ring->descs, .flags = &ring->flags };
}

static inline void bind_cons(struct xsk_ring_cons *user, struct ring *ring)
{
	*user = (struct xsk_ring_cons){ .mask = RING - 1, .size = RING,
					.producer = &ring->producer, .consumer = &ring->consumer,
					.ring = ring->descs, .flags = &ring->flags };
}

#endif
