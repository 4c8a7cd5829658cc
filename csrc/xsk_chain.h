/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames in several buffers on the AF_XDP rings: a chain of descriptors is gathered from the RX
 * ring, in one reading or in several, and sent on as a chain, whole or not at all.
 *
 * Included by the two halves of the loop. What is no chain of the loop's own buffers is counted
 * once, at its end, and each of its buffers goes round again.
 */
#ifndef XG_XSK_CHAIN_H
#define XG_XSK_CHAIN_H

#include <string.h>

#include <linux/if_xdp.h>
#include <xdp/xsk.h>

#include "xsk_descriptor.h"
#include "xsk_loop_state.h"

#ifndef XDP_PKT_CONTD	/* Linux 6.6 */
#define XDP_PKT_CONTD 1
#endif

/* What a reading of the RX ring gave. */
struct xg_loop_burst {
	struct xg_frame frames[XG_BURST];
	uint64_t chunks[XG_BURST];
	uint8_t rest_count[XG_BURST];	/* further buffers of each frame */
	uint32_t count;
	uint32_t rest_total;
	struct xg_buffer rest[XG_BURST + XG_BUFFERS_MAX];	/* frame after frame */
};

static inline bool xg_chain_is_open(const struct xg_chain *chain)
{
	return chain->count > 0 || chain->is_bad;
}

/* Descriptors that may be read: all of them find room on the TX ring. */
static inline uint32_t xg_receivable(struct xg_xsk_loop *loop)
{
	uint32_t held = loop->chain.count;
	uint32_t burst = loop->rings.burst;
	uint32_t room = xsk_prod_nb_free(loop->rings.tx, burst + held);

	room = room > held ? room - held : 0;
	return room < burst ? room : burst;
}

static inline void xg_give_back(struct xg_xsk_loop *loop, const struct xg_buffer *buffers,
				uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		put_free(loop, buffers[i].address);
}

static inline bool xg_is_ours(const struct xg_xsk_loop *loop, uint64_t address)
{
	uint64_t number = address / loop->rings.frame_size;

	return number >= loop->rings.first_frame &&
	       number - loop->rings.first_frame < loop->rings.frames;
}

/* A frame has ended, of which the XDP program thought that it takes as many buffers as its bytes
 * need: what it took of the credit. */
static inline void xg_end_chain(struct xg_xsk_loop *loop)
{
	struct xg_chain *chain = &loop->chain;

	loop->came++;
	loop->taken += (chain->bytes + loop->room - 1) / loop->room;
	chain->count = 0;
	chain->bytes = 0;
	chain->is_bad = false;
}

/* Takes a part of a frame in several buffers. True: the chain is whole. A bad one is counted as
 * `ending` when its end has come. */
static inline bool xg_take_part(struct xg_xsk_loop *loop, const struct xdp_desc *desc,
				uint32_t ending)
{
	struct xg_chain *chain = &loop->chain;
	const struct xg_buffer part = { .address = desc->addr, .len = desc->len };
	bool is_ours = xg_is_ours(loop, part.address);

	chain->bytes += part.len;
	if (!is_ours || chain->is_bad || chain->count == loop->rings.buffers ||
	    !xg_lies_in_chunk(chunk_of(loop, part.address), loop->rings.frame_size, part.address,
			      part.len)) {
		chain->is_bad = true;
		if (is_ours)
			put_free(loop, part.address);
		xg_give_back(loop, chain->buffers, chain->count);
		chain->count = 0;
	} else {
		chain->buffers[chain->count++] = part;
	}
	if (desc->options & XDP_PKT_CONTD)
		return false;
	if (!chain->is_bad)
		return true;
	loop->queue->counters[ending]++;
	xg_end_chain(loop);
	return false;
}

/* Puts the whole chain into the burst: its first buffer is what the forwarder sees. */
static inline void xg_add_chain(struct xg_xsk_loop *loop, struct xg_loop_burst *burst)
{
	const struct xg_chain *chain = &loop->chain;
	const struct xg_buffer *first = chain->buffers;
	struct xg_frame *frame = &burst->frames[burst->count];

	burst->chunks[burst->count] = chunk_of(loop, first->address);
	burst->rest_count[burst->count++] = (uint8_t)(chain->count - 1);
	frame->data = loop->rings.umem + first->address;
	frame->len = first->len;
	frame->headroom = (uint32_t)(first->address - chunk_of(loop, first->address));
	frame->beyond = (uint32_t)(chain->bytes - first->len);
	memcpy(&burst->rest[burst->rest_total], first + 1, (chain->count - 1) * sizeof(*first));
	burst->rest_total += chain->count - 1;
	xg_end_chain(loop);
}

static inline void xg_put_desc(struct xsk_ring_prod *tx, uint32_t index, uint64_t address,
			       uint32_t len, bool is_last)
{
	struct xdp_desc *desc = xsk_ring_prod__tx_desc(tx, index);

	desc->addr = address;
	desc->len = len;
	desc->options = is_last ? 0 : XDP_PKT_CONTD;
}

/* Puts a frame on the TX ring, with its `count` further buffers, which are ours; or all of it back
 * among the free ones: a part of a frame is never sent. Returns the descriptors. `chunk` is the
 * frame of the UMEM that the loop took: whatever `frame` says, this one is given back. */
static inline uint32_t xg_send_chain(struct xg_xsk_loop *loop, uint64_t chunk,
				     const struct xg_frame *frame, const struct xg_buffer *rest,
				     uint32_t count)
{
	uint64_t address = (uint64_t)((uintptr_t)frame->data - (uintptr_t)loop->rings.umem);
	struct xsk_ring_prod *tx = loop->rings.tx;
	uint32_t index = 0;

	if (!xg_lies_in_chunk(chunk, loop->rings.frame_size, address, frame->len) ||
	    xsk_ring_prod__reserve(tx, count + 1, &index) != count + 1) {
		loop->queue->counters[XG_COUNT_tx_refused]++;
		put_free(loop, chunk);
		xg_give_back(loop, rest, count);
		return 0;
	}
	xg_put_desc(tx, index, address, frame->len, count == 0);
	for (uint32_t i = 0; i < count; i++)
		xg_put_desc(tx, index + 1 + i, rest[i].address, rest[i].len, i + 1 == count);
	return count + 1;
}

/* Copies further buffers into free ones, of which there are so many. */
static inline void xg_copy_rest(struct xg_xsk_loop *loop, struct xg_buffer *to,
				const struct xg_buffer *from, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		to[i].address = loop->free[--loop->free_count];
		to[i].len = from[i].len;
		memcpy(loop->rings.umem + to[i].address, loop->rings.umem + from[i].address,
		       from[i].len);
	}
}

#endif
