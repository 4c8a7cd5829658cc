// SPDX-License-Identifier: BSD-2-Clause
/*
 * What the AF_XDP loop does with frames that a broken forwarder returns: none of them is submitted,
 * each is counted, and the frame that it came in goes round again.
 *
 * The forwarder here is a forger: it says what the test tells it to.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xdp/xsk.h>

#include "xsk_descriptor.h"
#include "xsk_loop.h"

#define RING 8u
#include "plain_rings.h"

#define FRAMES 20u
#define FIRST 4u	/* of the UMEM's frames, those before it are another loop's */
#define CHUNK 2048u
#define RX_OFFSET 256u
#define LEN 100u

static struct ring fill, completion, rx, tx;
static uint8_t *umem;
static struct xg_queue queue;

/* ---- the forger ---- */

static uint16_t pieces;
static int64_t shift;	/* of the frame's address */
static uint32_t forged_len;
static uint16_t copies;

int xg_forward_burst(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		assert(frames[i].len == LEN && frames[i].headroom == RX_OFFSET);
		frames[i].data = (uint8_t *)((uintptr_t)frames[i].data + (uintptr_t)shift);
		frames[i].len = forged_len;
		frames[i].ending = XG_COUNT_stray_forwarded;
		frames[i].pieces = pieces;
		frames[i].copy_from = 0;
		frames[i].copy_to = copies;
		forwarder->counters[XG_COUNT_stray_forwarded]++;
	}
	return 0;
}

int xg_forward_copy(struct xg_forwarder *forwarder, struct xg_frame *frame, struct xg_frame *copy)
{
	(void)forwarder;
	frame->copy_from++;
	copy->data = (uint8_t *)((uintptr_t)copy->data + (uintptr_t)shift);
	copy->len = forged_len;
	return 0;
}

int xg_forward_piece(struct xg_forwarder *forwarder, struct xg_frame *frame, struct xg_frame *copy)
{
	(void)forwarder;
	frame->pieces--;
	copy->data = (uint8_t *)((uintptr_t)copy->data + (uintptr_t)shift);
	copy->len = forged_len;
	return 0;
}

/* ---- a kernel of plain memory ---- */

static struct xsk_ring_prod fill_user, tx_user;
static struct xsk_ring_cons completion_user, rx_user;

static uint64_t receive(void)
{
	uint64_t address = ((uint64_t *)fill.descs)[fill.consumer++ % RING];

	assert(address % CHUNK == 0 && address >= FIRST * CHUNK);
	assert(address < (uint64_t)(FIRST + FRAMES) * CHUNK);
	rx.descs[rx.producer++ % RING] = (struct xdp_desc){ .addr = address + RX_OFFSET,
							    .len = LEN };
	queue.redirected++;
	return address;
}

static void transmit(uint64_t address, uint32_t len)
{
	struct xdp_desc desc = tx.descs[tx.consumer++ % RING];

	assert(desc.addr == address && desc.len == len && desc.options == 0);
	((uint64_t *)completion.descs)[completion.producer++ % RING] = desc.addr;
}

static void assert_frames_add_up(const struct xg_xsk_loop *loop)
{
	struct xg_loop_frames frames;

	assert(xg_xsk_loop_frames(loop, &frames) == 0);
	assert(frames.free + frames.receiving + frames.sending == FRAMES);
}

/* ---- tests ---- */

struct forgery {
	int64_t shift;
	uint32_t len;
};

static const struct forgery forgeries[] = {
	{ 0, 0 },
	{ 0, CHUNK - RX_OFFSET + 1 },			/* a byte beyond its frame */
	{ 0, CHUNK + 1 },
	{ 0, UINT32_MAX },
	{ -(int64_t)RX_OFFSET, CHUNK + 1 },
	{ -(int64_t)RX_OFFSET - 1, LEN },		/* begins in the frame before */
	{ CHUNK - RX_OFFSET, 1 },			/* the frame behind, all of it */
	{ CHUNK, LEN },					/* another frame of this loop */
	{ -(int64_t)(FIRST + FRAMES) * CHUNK, LEN },	/* in front of the UMEM */
	{ (int64_t)FRAMES * CHUNK, LEN },		/* behind it */
	{ INT64_MAX, LEN },
	{ INT64_MIN, LEN },
};

static const struct forgery sound[] = {
	{ 0, LEN }, { -(int64_t)RX_OFFSET, CHUNK }, { CHUNK - RX_OFFSET - 1, 1 },
	{ 0, CHUNK - RX_OFFSET },
};

/* More often than the loop has frames: one that were lost each time would be missed. */
static void test_forged(struct xg_xsk_loop *loop, struct forgery how)
{
	uint64_t refused = queue.counters[XG_COUNT_tx_refused];
	uint32_t sends = (pieces ? pieces : 1u) + copies;

	shift = how.shift;
	forged_len = how.len;
	for (uint32_t i = 0; i < 3 * FRAMES; i++) {
		receive();
		assert(xg_xsk_loop_turn(loop) == 1);
		assert(tx.producer == tx.consumer);
		assert_frames_add_up(loop);
	}
	assert(queue.counters[XG_COUNT_tx_refused] == refused + 3 * FRAMES * sends);
}

/* A flood's copies and a packet's fragments are written to frames of their own. */
static void test_forged_others(struct xg_xsk_loop *loop)
{
	for (size_t i = 0; i < sizeof(forgeries) / sizeof(*forgeries); i++)
		if (!xg_lies_in_chunk(0, CHUNK, XG_TEMPLATE_BYTES + (uint64_t)forgeries[i].shift,
				      forgeries[i].len))	/* a copy begins elsewhere */
			test_forged(loop, forgeries[i]);
}

static void test_sound(struct xg_xsk_loop *loop, struct forgery how)
{
	uint64_t refused = queue.counters[XG_COUNT_tx_refused], address;

	shift = how.shift;
	forged_len = how.len;
	address = receive() + RX_OFFSET;
	assert(xg_xsk_loop_turn(loop) == 1);
	transmit(address + (uint64_t)how.shift, how.len);
	xg_xsk_loop_turn(loop);
	assert_frames_add_up(loop);
	assert(queue.counters[XG_COUNT_tx_refused] == refused);
}

/* The predicate by itself, around every edge of a small frame: exhausted. */
static void test_exactly_what_lies_in_the_frame_is_sendable(void)
{
	for (uint64_t address = 0; address < 64; address++)
		for (uint32_t len = 0; len < 64; len++)
			assert(xg_lies_in_chunk(16, 16, address, len) ==
			       (len > 0 && address >= 16 && address + len <= 32));
	assert(!xg_lies_in_chunk(16, 16, UINT64_MAX, 16));
	assert(!xg_lies_in_chunk(16, 16, 16, UINT32_MAX));
}

int main(void)
{
	struct xg_forwarder forwarder = { 0 };
	struct xg_loop_rings rings = {
		.fill = &fill_user, .completion = &completion_user, .rx = &rx_user,
		.tx = &tx_user, .first_frame = FIRST, .frames = FRAMES, .frame_size = CHUNK,
		.fd = -1,
	};
	struct xg_xsk_loop *loop;

	test_exactly_what_lies_in_the_frame_is_sendable();
	umem = aligned_alloc(4096, (FRAMES + FIRST) * CHUNK);
	assert(umem);
	rings.umem = umem;
	bind_prod(&fill_user, &fill);
	bind_prod(&tx_user, &tx);
	bind_cons(&completion_user, &completion);
	bind_cons(&rx_user, &rx);
	assert(xg_xsk_loop_create(&loop, &rings, &forwarder, &queue) == 0);
	xg_xsk_loop_refill(loop);
	for (size_t i = 0; i < sizeof(sound) / sizeof(*sound); i++)
		test_sound(loop, sound[i]);
	for (size_t i = 0; i < sizeof(forgeries) / sizeof(*forgeries); i++)
		test_forged(loop, forgeries[i]);
	copies = 1;
	test_forged_others(loop);
	copies = 0;
	pieces = 2;
	test_forged_others(loop);
	xg_xsk_loop_destroy(loop);
	free(umem);
	puts("ok");
	return 0;
}
