/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The AF_XDP loop of one RX queue: RX burst, forward, TX, completion, fill. One thread.
 *
 * The only C that touches rings; they are made and taken down by libxdp, elsewhere. A frame of
 * the UMEM is at each moment in exactly one place: free, with the kernel for receiving (fill
 * ring, driver, RX ring), or with it for sending (TX and completion ring). The counts of the
 * three always add up, and agree with the rings.
 *
 * What the XDP program needs to know lies in struct xg_queue (csrc/bpf/shared.h). The loop has
 * as many frames with the kernel as its RX ring has places, and publishes their number as the
 * credit: within it no frame that is handed over can be lost, neither to an empty fill ring nor
 * to a full RX ring. A frame in several buffers uses as much of the credit. A loop that cannot
 * send stops receiving; then the credit ends, and the XDP program sends by itself.
 */
#ifndef XG_XSK_LOOP_H
#define XG_XSK_LOOP_H

#include <stdint.h>

#include "bpf/shared.h"
#include "forward.h"

struct xsk_ring_prod;
struct xsk_ring_cons;

/* A socket's rings and the frames of the UMEM that are this loop's alone. */
struct xg_loop_rings {
	struct xsk_ring_prod *fill;
	struct xsk_ring_cons *completion;
	struct xsk_ring_cons *rx;
	struct xsk_ring_prod *tx;
	uint8_t *umem;		/* start of the UMEM's memory */
	uint64_t first_frame;	/* number of the loop's first frame */
	uint32_t frames;
	uint32_t frame_size;	/* bytes, a power of two */
	uint32_t driver_frames;	/* of those with the kernel, never handed over: in zero-copy mode
				 * the host's own packets need them when the loop stands still */
	uint32_t buffers;	/* of one frame, at most; 0 and 1: the socket is bound without SG */
	uint32_t busy_poll;	/* the socket prefers busy polling: each call polls the driver */
	uint32_t always_kick;	/* the socket was bound without XDP_USE_NEED_WAKEUP: the kernel
				 * never asks for a call, and waits for one; for the benchmark */
	uint32_t burst;		/* buffers a turn, at most XG_BURST; 0: XG_BURST */
	int fd;			/* of the socket; -1: there is no kernel behind the rings */
};

/* Where the loop's frames are. */
struct xg_loop_frames {
	uint32_t free;
	uint32_t receiving;	/* those of a frame whose end has not come, too */
	uint32_t sending;
};

struct xg_xsk_loop;

#define XG_BUFFERS_MAX 17	/* of one frame: MAX_SKB_FRAGS of the kernel, as built by default */

/* Makes a loop. `forwarder` is copied; its counters become the queue's, and what a predecessor
 * left unread is counted as lost. -EINVAL: frames or sizes; -ENOMEM. */
int xg_xsk_loop_create(struct xg_xsk_loop **loop, const struct xg_loop_rings *rings,
		       const struct xg_forwarder *forwarder, struct xg_queue *queue);
void xg_xsk_loop_destroy(struct xg_xsk_loop *loop);

/* Ends the credit of a queue whose loop is no more, and counts as lost what it left unread. */
static inline void xg_queue_give_up(struct xg_queue *queue)
{
	uint64_t handed;

	__atomic_store_n(&queue->credit, 0, __ATOMIC_RELEASE);
	handed = __atomic_load_n(&queue->redirected, __ATOMIC_ACQUIRE);
	queue->counters[XG_COUNT_loop_lost] += handed - queue->consumed;
	__atomic_store_n(&queue->consumed, handed, __ATOMIC_RELEASE);
}

/* Gives frames to the kernel for receiving and publishes the credit: once, before the socket is
 * put into the map of sockets, and then in each turn. */
void xg_xsk_loop_refill(struct xg_xsk_loop *loop);

/* One turn: at most one burst. Returns the number of buffers that were received. */
uint32_t xg_xsk_loop_turn(struct xg_xsk_loop *loop);

/* Turns until xg_xsk_loop_stop(), waiting in poll() while there is nothing to do; then finishes
 * what was handed over, at most XG_LOOP_DRAIN_MS. 0; -errno of poll(). */
int xg_xsk_loop_run(struct xg_xsk_loop *loop);

/* (any thread) Ends the credit: from now on the XDP program sends by itself. */
void xg_xsk_loop_shut(struct xg_xsk_loop *loop);

/* (any thread) Makes run() finish and return. */
void xg_xsk_loop_stop(struct xg_xsk_loop *loop);

/* Counts as lost what the kernel said it dropped, and what has not come since the last call though
 * nothing was handed over meanwhile; in run() at most ten times a second. */
void xg_xsk_loop_account(struct xg_xsk_loop *loop);

/* (the loop's thread, or none) 0; -EUCLEAN: the counts do not add up, or the rings disagree. */
int xg_xsk_loop_frames(const struct xg_xsk_loop *loop, struct xg_loop_frames *frames);

#define XG_LOOP_DRAIN_MS 500	/* a driver's slowest completion is milliseconds away */

#endif
