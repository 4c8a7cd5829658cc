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

#include "xsk_chain.h"

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

	if (rings->buffers > 1 &&
	    (rings->buffers > XG_BUFFERS_MAX || rings->buffers >= rings->tx->size))
		return false;
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
	loop->base_credit = loop->base + __atomic_load_n(&queue->extra, __ATOMIC_ACQUIRE);
	loop->room = rings->frame_size - RX_HEADROOM;
	queue->frame_max = loop->room;
	queue->chain_max = rings->buffers > 1 ? (uint64_t)rings->buffers * loop->room : 0;
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
	uint64_t credit = loop->base_credit + loop->taken + loop->lost_credit + loop->filled -
			  loop->received - loop->rings.driver_frames;

	if (__atomic_load_n(&loop->is_shut, __ATOMIC_SEQ_CST))
		return;
	publish((uint64_t *)&loop->queue->credit, credit);
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

/* Sends what `write` makes of the frame, in free ones: there are enough, and room for them. `rest`:
 * the frame's further buffers. */
static uint32_t send_other(struct xg_xsk_loop *loop, struct xg_frame *frame,
			   const struct xg_buffer *rest, uint32_t count,
			   int (*write)(struct xg_forwarder *, struct xg_frame *,
					struct xg_frame *))
{
	uint64_t chunk = loop->free[--loop->free_count];
	struct xg_frame copy = { .headroom = XG_TEMPLATE_BYTES };
	struct xg_buffer copied[XG_BUFFERS_MAX];

	copy.data = loop->rings.umem + chunk + XG_TEMPLATE_BYTES;
	copy.len = loop->rings.frame_size - XG_TEMPLATE_BYTES;
	if (write(&loop->forwarder, frame, &copy)) {
		put_free(loop, chunk);
		return 0;
	}
	if (!copy.beyond)
		count = 0;
	xg_copy_rest(loop, copied, rest, count);
	return xg_send_chain(loop, chunk, &copy, copied, count);
}

static bool can_send_other(const struct xg_xsk_loop *loop, uint32_t buffers)
{
	return loop->free_count >= buffers &&
	       xsk_prod_nb_free(loop->rings.tx, buffers) >= buffers;
}

/* The fragments of a frame that is not sent itself. The forwarder counted the free frames; but of
 * a flood's copy any may be the one too many. */
static uint32_t send_pieces(struct xg_xsk_loop *loop, struct xg_frame *frame)
{
	uint32_t sent = 0;

	while (frame->pieces && can_send_other(loop, 1))
		sent += send_other(loop, frame, NULL, 0, xg_forward_piece);
	loop->queue->counters[XG_COUNT_fragments_lost] += frame->pieces;
	frame->pieces = 0;
	return sent;
}

/* A flood's further copies, each in a frame of its own, or in several. */
static uint32_t send_copies(struct xg_xsk_loop *loop, struct xg_frame *frame,
			    const struct xg_buffer *rest, uint32_t count)
{
	uint32_t sent = 0;

	while (frame->copy_from < frame->copy_to) {
		if (!can_send_other(loop, 1 + count)) {
			loop->queue->counters[XG_COUNT_flood_copies_lost] +=
				(uint64_t)(frame->copy_to - frame->copy_from);
			break;
		}
		sent += send_other(loop, frame, rest, count, xg_forward_copy);
		sent += send_pieces(loop, frame);
	}
	return sent;
}

/* What fragments may take of the free frames, beside `count` buffers that are sent as they are. */
static uint32_t spare_frames(const struct xg_xsk_loop *loop, uint32_t count)
{
	return smallest(loop->free_count, xsk_prod_nb_free(loop->rings.tx, loop->rings.tx->size) -
						  count);
}

/* Sends a burst that the forwarder has decided on. */
static uint32_t send_burst(struct xg_xsk_loop *loop, struct xg_loop_burst *burst)
{
	const struct xg_buffer *rest = burst->rest;
	bool is_cut[XG_BURST];
	uint32_t sent = 0;

	for (uint32_t i = 0; i < burst->count; rest += burst->rest_count[i++]) {
		struct xg_frame *frame = &burst->frames[i];
		/* an answer is in its first buffer alone */
		uint32_t more = frame->beyond ? burst->rest_count[i] : 0;

		xg_give_back(loop, rest + more, burst->rest_count[i] - more);
		is_cut[i] = frame->pieces > 0;
		if (!is_cut[i] && is_sent(frame->ending)) {
			sent += xg_send_chain(loop, burst->chunks[i], frame, rest, more);
			continue;
		}
		xg_give_back(loop, rest, more);
		if (is_cut[i])
			sent += send_pieces(loop, frame);
		else
			put_free(loop, burst->chunks[i]);
	}
	rest = burst->rest;
	for (uint32_t i = 0; i < burst->count; rest += burst->rest_count[i++]) {
		sent += send_copies(loop, &burst->frames[i], rest, burst->rest_count[i]);
		if (is_cut[i])
			put_free(loop, burst->chunks[i]);
	}
	return sent;
}

static void take_burst(struct xg_xsk_loop *loop, struct xg_loop_burst *burst, uint32_t index,
		       uint32_t count)
{
	burst->count = burst->rest_total = 0;
	for (uint32_t i = 0; i < count; i++) {
		const struct xdp_desc *desc = xsk_ring_cons__rx_desc(loop->rings.rx, index + i);
		struct xg_frame *frame = &burst->frames[burst->count];

		if ((desc->options & XDP_PKT_CONTD) || xg_chain_is_open(&loop->chain)) {
			if (xg_take_part(loop, desc, XG_COUNT_chain_refused))
				xg_add_chain(loop, burst);
			continue;
		}
		burst->chunks[burst->count] = chunk_of(loop, desc->addr);
		frame->data = loop->rings.umem + desc->addr;
		frame->len = desc->len;
		frame->headroom = (uint32_t)(desc->addr - burst->chunks[burst->count]);
		frame->beyond = 0;
		burst->rest_count[burst->count++] = 0;
		loop->came++;
		loop->taken++;
	}
	xsk_ring_cons__release(loop->rings.rx, count);
	loop->received += count;
}

uint32_t xg_xsk_loop_turn(struct xg_xsk_loop *loop)
{
	struct xg_loop_burst burst;
	uint32_t index = 0, count, sent = 0;

	reap(loop);
	xg_xsk_loop_refill(loop);
	/* what cannot be sent is not received: it is the XDP program's then */
	count = xg_receivable(loop);
	count = count ? xsk_ring_cons__peek(loop->rings.rx, count, &index) : 0;
	if (count) {
		take_burst(loop, &burst, index, count);
		loop->forwarder.spare_frames = spare_frames(loop, burst.count + burst.rest_total);
		xg_forward_burst(&loop->forwarder, burst.frames, burst.count);
		sent = send_burst(loop, &burst);
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
	frames->receiving = (uint32_t)(loop->filled - loop->received) + loop->chain.count;
	frames->sending = (uint32_t)(loop->sent - loop->completed);
	if (frames->free + frames->receiving + frames->sending != rings->frames ||
	    *rings->fill->producer != (uint32_t)loop->filled ||
	    *rings->rx->consumer != (uint32_t)loop->received ||
	    *rings->tx->producer != (uint32_t)loop->sent ||
	    *rings->completion->consumer != (uint32_t)loop->completed)
		return -EUCLEAN;
	return 0;
}
