// SPDX-License-Identifier: BSD-2-Clause
/*
 * The AF_XDP loop of one RX queue, a turn of it: RX burst, forward, TX, completion, fill.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xdp/xsk.h>

#include "xsk_descriptor.h"
#include "xsk_loop_state.h"

#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef XDP_MAX_TX_SKB_BUDGET	/* Linux 6.17: frames a call in copy mode, 32 before */
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

#define RX_HEADROOM 256u	/* XDP_PACKET_HEADROOM: what the kernel leaves free in front */
#define KICKS_A_TURN 8		/* in copy mode the kernel sends 32 frames a call before 6.17 */

/* ---- life ---- */

/* Fewer system calls in copy mode; an older kernel refuses, and sends 32 frames a call. */
static void ask_for_long_calls(const struct xg_loop_rings *rings)
{
	uint32_t frames = rings->tx->size;

	if (rings->fd >= 0)
		setsockopt(rings->fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &frames, sizeof(frames));
}

static uint32_t smallest(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static bool is_sound(const struct xg_loop_rings *rings)
{
	uint32_t receive_max = smallest(rings->fill->size, rings->rx->size);

	return rings->frame_size && !(rings->frame_size & (rings->frame_size - 1)) &&
	       rings->frames > receive_max && rings->driver_frames < receive_max &&
	       rings->burst <= XG_BURST;
}

int xg_xsk_loop_create(struct xg_xsk_loop **made, const struct xg_loop_rings *rings,
		       const struct xg_forwarder *forwarder, struct xg_queue *queue)
{
	struct xg_xsk_loop *loop;
	int rc = -ENOMEM;

	if (!is_sound(rings))
		return -EINVAL;
	loop = calloc(1, sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	loop->free = calloc(rings->frames, sizeof(*loop->free));
	if (!loop->free)
		goto free_loop;
	loop->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->stop_fd < 0) {
		rc = -errno;
		goto free_stack;
	}
	loop->rings = *rings;
	if (!loop->rings.burst)
		loop->rings.burst = XG_BURST;
	loop->forwarder = *forwarder;
	loop->forwarder.cannot_pass = 1;
	loop->forwarder.reads_notes = 1;
	loop->forwarder.can_fragment = 1;
	loop->forwarder.counters = (uint64_t *)queue->counters;
	loop->queue = queue;
	loop->receive_max = smallest(rings->fill->size, rings->rx->size);
	for (uint32_t i = rings->frames; i > 0; i--)	/* the lowest is used first */
		put_free(loop, (rings->first_frame + i - 1) * rings->frame_size);
	xg_queue_give_up(queue);
	loop->base = queue->consumed;
	queue->frame_max = rings->frame_size - RX_HEADROOM;
	loop->looked_at_ns = now_ns();
	ask_for_long_calls(rings);
	*made = loop;
	return 0;
free_stack:
	free(loop->free);
free_loop:
	free(loop);
	return rc;
}

void xg_xsk_loop_destroy(struct xg_xsk_loop *loop)
{
	if (!loop)
		return;
	close(loop->stop_fd);
	free(loop->free);
	free(loop);
}

void xg_xsk_loop_shut(struct xg_xsk_loop *loop)
{
	__atomic_store_n(&loop->is_shut, true, __ATOMIC_SEQ_CST);
	publish((uint64_t *)&loop->queue->credit, 0);
}

void xg_xsk_loop_stop(struct xg_xsk_loop *loop)
{
	__atomic_store_n(&loop->is_stopping, true, __ATOMIC_SEQ_CST);
	eventfd_write(loop->stop_fd, 1);
}

/* ---- rings ---- */

static void reap(struct xg_xsk_loop *loop)
{
	struct xsk_ring_cons *completion = loop->rings.completion;
	uint32_t index = 0;
	uint32_t count = xsk_ring_cons__peek(completion, completion->size, &index);

	for (uint32_t i = 0; i < count; i++)
		put_free(loop, *xsk_ring_cons__comp_addr(completion, index + i));
	if (count)
		xsk_ring_cons__release(completion, count);
	loop->completed += count;
}

void xg_loop_publish_credit(struct xg_xsk_loop *loop)
{
	uint64_t frames = loop->base + loop->filled + loop->lost - loop->rings.driver_frames;

	if (__atomic_load_n(&loop->is_shut, __ATOMIC_SEQ_CST))
		return;
	publish((uint64_t *)&loop->queue->credit, frames);
	/* shut() may have come between the two lines above */
	if (__atomic_load_n(&loop->is_shut, __ATOMIC_SEQ_CST))
		publish((uint64_t *)&loop->queue->credit, 0);
}

void xg_xsk_loop_refill(struct xg_xsk_loop *loop)
{
	struct xsk_ring_prod *fill = loop->rings.fill;
	uint32_t receiving = (uint32_t)(loop->filled - loop->received);
	uint32_t count = smallest(loop->receive_max - receiving, loop->free_count);
	uint32_t index = 0;

	count = smallest(count, xsk_prod_nb_free(fill, count));
	if (count && xsk_ring_prod__reserve(fill, count, &index) == count) {
		for (uint32_t i = 0; i < count; i++)
			*xsk_ring_prod__fill_addr(fill, index + i) = loop->free[--loop->free_count];
		xsk_ring_prod__submit(fill, count);
		loop->filled += count;
		xg_loop_publish_credit(loop);
	}
	if (loop->rings.fd >= 0 && (loop->rings.busy_poll || xsk_ring_prod__needs_wakeup(fill)))
		recvfrom(loop->rings.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

void xg_loop_kick(struct xg_xsk_loop *loop)
{
	struct xsk_ring_prod *tx = loop->rings.tx;
	uint32_t before;

	loop->kick_pending = false;
	if (loop->rings.fd < 0)
		return;
	if (!loop->rings.busy_poll && !loop->rings.always_kick && !xsk_ring_prod__needs_wakeup(tx))
		return;
	for (int i = 0; i < KICKS_A_TURN; i++) {
		before = __atomic_load_n(tx->consumer, __ATOMIC_ACQUIRE);
		if (sendto(loop->rings.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0) {
			loop->is_down = false;
			return;
		}
		loop->is_down = errno == ENETDOWN;
		/* EAGAIN after progress: the kernel's own limit of frames a call */
		if (errno != EAGAIN ||
		    before == __atomic_load_n(tx->consumer, __ATOMIC_ACQUIRE))
			break;
	}
	loop->kick_pending = true;
}

/* Puts a frame on the TX ring, for which there is room, or back among the free ones. `chunk` is
 * the frame that the loop took: whatever `frame` says, this one is given back. */
static uint32_t send_frame(struct xg_xsk_loop *loop, uint64_t chunk, const struct xg_frame *frame)
{
	uint64_t address = (uint64_t)((uintptr_t)frame->data - (uintptr_t)loop->rings.umem);
	struct xdp_desc *desc;
	uint32_t index = 0;

	if (!xg_lies_in_chunk(chunk, loop->rings.frame_size, address, frame->len) ||
	    xsk_ring_prod__reserve(loop->rings.tx, 1, &index) != 1) {
		loop->queue->counters[XG_COUNT_tx_refused]++;
		put_free(loop, chunk);
		return 0;
	}
	desc = xsk_ring_prod__tx_desc(loop->rings.tx, index);
	desc->addr = address;
	desc->len = frame->len;
	desc->options = 0;
	return 1;
}

static void submit(struct xg_xsk_loop *loop, uint32_t count)
{
	if (count)
		xsk_ring_prod__submit(loop->rings.tx, count);
	loop->sent += count;
}

/* ---- one turn ---- */

#define SENDS(name, action, sentence) SENDS_##action(name)
#define SENDS_PASS(name)
#define SENDS_DROP(name)
#define SENDS_TX(name) case XG_COUNT_##name:

static bool is_sent(uint32_t ending)
{
	switch (ending) {
		XG_ENDINGS(SENDS)
		return true;
	default:
		return false;
	}
}

/* Sends what `write` makes of the frame, in a free one: there is one, and room for it. */
static uint32_t send_other(struct xg_xsk_loop *loop, struct xg_frame *frame,
			   int (*write)(struct xg_forwarder *, struct xg_frame *,
					struct xg_frame *))
{
	uint64_t chunk = loop->free[--loop->free_count];
	struct xg_frame copy = { .headroom = XG_TEMPLATE_BYTES };

	copy.data = loop->rings.umem + chunk + XG_TEMPLATE_BYTES;
	copy.len = loop->rings.frame_size - XG_TEMPLATE_BYTES;
	if (write(&loop->forwarder, frame, &copy) == 0)
		return send_frame(loop, chunk, &copy);
	put_free(loop, chunk);
	return 0;
}

static bool can_send_other(const struct xg_xsk_loop *loop)
{
	return loop->free_count > 0 && xsk_prod_nb_free(loop->rings.tx, 1);
}

/* The fragments of a frame that is not sent itself. The forwarder counted the free frames; but of
 * a flood's copy any may be the one too many. */
static uint32_t send_pieces(struct xg_xsk_loop *loop, struct xg_frame *frame)
{
	uint32_t sent = 0;

	while (frame->pieces && can_send_other(loop))
		sent += send_other(loop, frame, xg_forward_piece);
	loop->queue->counters[XG_COUNT_fragments_lost] += frame->pieces;
	frame->pieces = 0;
	return sent;
}

/* A flood's further copies, each in a frame of its own, or in several. */
static uint32_t send_copies(struct xg_xsk_loop *loop, struct xg_frame *frame)
{
	uint32_t sent = 0;

	while (frame->copy_from < frame->copy_to) {
		if (!can_send_other(loop)) {
			loop->queue->counters[XG_COUNT_flood_copies_lost] +=
				(uint64_t)(frame->copy_to - frame->copy_from);
			break;
		}
		sent += send_other(loop, frame, xg_forward_copy);
		sent += send_pieces(loop, frame);
	}
	return sent;
}

/* What fragments may take of the free frames, beside `count` frames that are sent as they are. */
static uint32_t spare_frames(const struct xg_xsk_loop *loop, uint32_t count)
{
	return smallest(loop->free_count, xsk_prod_nb_free(loop->rings.tx, loop->rings.tx->size) -
						  count);
}

/* Sends a burst that the forwarder has decided on. */
static uint32_t send_burst(struct xg_xsk_loop *loop, struct xg_frame *frames,
			   const uint64_t *chunks, uint32_t count)
{
	bool is_cut[XG_BURST];
	uint32_t sent = 0;

	for (uint32_t i = 0; i < count; i++) {
		is_cut[i] = frames[i].pieces > 0;
		if (is_cut[i])
			sent += send_pieces(loop, &frames[i]);
		else if (is_sent(frames[i].ending))
			sent += send_frame(loop, chunks[i], &frames[i]);
		else
			put_free(loop, chunks[i]);
	}
	for (uint32_t i = 0; i < count; i++) {
		sent += send_copies(loop, &frames[i]);
		if (is_cut[i])
			put_free(loop, chunks[i]);
	}
	return sent;
}

static void take_burst(struct xg_xsk_loop *loop, struct xg_frame *frames, uint64_t *chunks,
		       uint32_t index, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct xdp_desc *desc = xsk_ring_cons__rx_desc(loop->rings.rx, index + i);

		chunks[i] = chunk_of(loop, desc->addr);
		frames[i].data = loop->rings.umem + desc->addr;
		frames[i].len = desc->len;
		frames[i].headroom = (uint32_t)(desc->addr - chunks[i]);
		__builtin_prefetch(frames[i].data);
	}
	xsk_ring_cons__release(loop->rings.rx, count);
	loop->received += count;
}

uint32_t xg_xsk_loop_turn(struct xg_xsk_loop *loop)
{
	struct xg_frame frames[XG_BURST];
	uint64_t chunks[XG_BURST];
	uint32_t index = 0, count, sent = 0;

	reap(loop);
	xg_xsk_loop_refill(loop);
	/* what cannot be sent is not received: it is the XDP program's then */
	count = smallest(loop->rings.burst, xsk_prod_nb_free(loop->rings.tx, loop->rings.burst));
	count = count ? xsk_ring_cons__peek(loop->rings.rx, count, &index) : 0;
	if (count) {
		take_burst(loop, frames, chunks, index, count);
		loop->forwarder.spare_frames = spare_frames(loop, count);
		xg_forward_burst(&loop->forwarder, frames, count);
		sent = send_burst(loop, frames, chunks, count);
		submit(loop, sent);
		publish((uint64_t *)&loop->queue->consumed, consumed(loop));
	}
	if (sent || loop->kick_pending)
		xg_loop_kick(loop);
	return count;
}

int xg_xsk_loop_frames(const struct xg_xsk_loop *loop, struct xg_loop_frames *frames)
{
	const struct xg_loop_rings *rings = &loop->rings;

	frames->free = loop->free_count;
	frames->receiving = (uint32_t)(loop->filled - loop->received);
	frames->sending = (uint32_t)(loop->sent - loop->completed);
	if (frames->free + frames->receiving + frames->sending != rings->frames ||
	    *rings->fill->producer != (uint32_t)loop->filled ||
	    *rings->rx->consumer != (uint32_t)loop->received ||
	    *rings->tx->producer != (uint32_t)loop->sent ||
	    *rings->completion->consumer != (uint32_t)loop->completed)
		return -EUCLEAN;
	return 0;
}
