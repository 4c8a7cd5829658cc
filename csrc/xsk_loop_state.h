/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the two halves of the AF_XDP loop share: its state, and what both do with it.
 *
 * xsk_loop.c is one turn; xsk_loop_run.c is the thread around the turns.
 */
#ifndef XG_XSK_LOOP_STATE_H
#define XG_XSK_LOOP_STATE_H

#include <stdbool.h>
#include <time.h>

#include "xsk_loop.h"

#define NS_PER_MS 1000000ull

/* A part of a received frame. */
struct xg_buffer {
	uint64_t address;
	uint32_t len;
};

/* A frame in several buffers whose end has not come yet; xsk_chain.h. */
struct xg_chain {
	struct xg_buffer buffers[XG_BUFFERS_MAX];
	uint32_t count;
	uint64_t bytes;
	bool is_bad;		/* its buffers went back, and so will those that still come */
};

struct xg_xsk_loop {
	struct xg_loop_rings rings;
	struct xg_forwarder forwarder;
	struct xg_queue *queue;
	uint64_t *free;		/* stack of frames' addresses */
	uint32_t free_count;
	uint32_t receive_max;	/* frames with the kernel for receiving, at most */
	uint32_t room;		/* bytes of a packet that one buffer holds */
	uint64_t base;		/* `redirected` when the loop began */
	uint64_t filled;	/* buffers given to the fill ring, in all */
	uint64_t received;	/* buffers */
	uint64_t came;		/* frames that were received to their end */
	uint64_t lost;		/* handed over, but never came: no buffer was used */
	uint64_t dropped;	/* of the lost ones, by the kernel's count */
	/* of the credit, which is in buffers: */
	uint64_t base_credit;	/* what was used of it when the loop began */
	uint64_t taken;		/* what the frames that came have used */
	uint64_t lost_credit;	/* ... and those that never came */
	struct xg_chain chain;
	uint64_t seen_used;	/* of the credit, when the loop last looked for what never came */
	uint64_t sent;
	uint64_t completed;
	uint64_t refused;	/* of the kernel's count of invalid TX descriptors, seen so far */
	uint64_t looked_at_ns;
	uint64_t accounted_at_ns;
	int stop_fd;
	bool kick_pending;
	bool is_down;
	bool is_dead;		/* the device is gone: the rings lead nowhere */
	bool is_shut;		/* atomic */
	bool is_stopping;	/* atomic */
};

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* The XDP program reads these on another core. Release: what they promise is in the rings. */
static inline void publish(uint64_t *place, uint64_t value)
{
	__atomic_store_n(place, value, __ATOMIC_RELEASE);
}

static inline uint64_t redirected(const struct xg_xsk_loop *loop)
{
	return __atomic_load_n(&loop->queue->redirected, __ATOMIC_ACQUIRE);
}

static inline uint64_t consumed(const struct xg_xsk_loop *loop)
{
	return loop->base + loop->came + loop->lost;
}

/* What the XDP program has used of the credit. */
static inline uint64_t used_credit(const struct xg_xsk_loop *loop)
{
	return redirected(loop) + __atomic_load_n(&loop->queue->extra, __ATOMIC_ACQUIRE);
}

static inline uint64_t chunk_of(const struct xg_xsk_loop *loop, uint64_t address)
{
	return address & ~((uint64_t)loop->rings.frame_size - 1);
}

static inline void put_free(struct xg_xsk_loop *loop, uint64_t address)
{
	if (loop->free_count < loop->rings.frames)	/* else one came back twice */
		loop->free[loop->free_count++] = chunk_of(loop, address);
}

/* Publishes how far `redirected` and `extra` may grow; nothing once the loop is shut. */
void xg_loop_publish_credit(struct xg_xsk_loop *loop);

/* The kernel takes what lies on the TX ring; what it does not take now stays pending. */
void xg_loop_kick(struct xg_xsk_loop *loop);

#endif
