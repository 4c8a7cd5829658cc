// SPDX-License-Identifier: BSD-2-Clause
/*
 * Frames in several buffers in the AF_XDP loop, against a kernel made of plain memory: sent whole
 * or not at all, byte for byte, and each buffer comes back, from forged chains too.
 */
#include "forward_world.h"

#include <errno.h>
#include <stdio.h>

#include <xdp/xsk.h>

#include "xsk_chain.h"

#define RING 64u
#include "plain_rings.h"

#define FRAMES 160u
#define FIRST 32u	/* of the UMEM's frames, those before it are another loop's */
#define CHUNK 2048u
#define RX_OFFSET 256u
#define BUFFER (CHUNK - RX_OFFSET)
#define LONGEST 9000u
#define TURNS 20000u

static struct ring fill, completion, rx, tx;
static struct xsk_ring_prod fill_user, tx_user;
static struct xsk_ring_cons completion_user, rx_user;
static struct xg_queue queue;
static uint8_t *umem;
static struct xg_xsk_loop *loop;
static struct xg_forwarder forwarder;
static uint64_t sent, random_state = 0x853c49e6748fea9bull;

static uint32_t below(uint32_t limit)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(random_state >> 33) % limit;
}

static struct xg_loop_rings the_rings(void)
{
	return (struct xg_loop_rings){
		.fill = &fill_user, .completion = &completion_user, .rx = &rx_user,
		.tx = &tx_user, .umem = umem, .first_frame = FIRST, .frames = FRAMES,
		.frame_size = CHUNK, .buffers = XG_BUFFERS_MAX, .fd = -1,
	};
}

static void begin(uint16_t mtu)
{
	struct xg_loop_rings rings;

	fill = completion = rx = tx = (struct ring){ 0 };
	queue = (struct xg_queue){ 0 };
	sent = 0;
	umem = aligned_alloc(4096, (FRAMES + FIRST) * CHUNK);
	bind_prod(&fill_user, &fill);
	bind_prod(&tx_user, &tx);
	bind_cons(&completion_user, &completion);
	bind_cons(&rx_user, &rx);
	forwarder = make();
	templates[TO_2].mtu = templates[FLOOD].mtu = templates[TO_3_TAGGED].mtu = mtu;
	rings = the_rings();
	assert(xg_xsk_loop_create(&loop, &rings, &forwarder, &queue) == 0);
	xg_xsk_loop_refill(loop);
	assert(queue.frame_max == BUFFER && queue.chain_max == XG_BUFFERS_MAX * BUFFER);
}

static void assert_buffers_add_up(void)
{
	struct xg_loop_frames frames;

	assert(xg_xsk_loop_frames(loop, &frames) == 0);
	assert(frames.free + frames.receiving + frames.sending == FRAMES);
}

static void end(void)
{
	assert_buffers_add_up();
	xg_xsk_loop_destroy(loop);
	free(umem);
	destroy(&forwarder);
}

/* ---- the kernel ---- */

static uint64_t next_buffer(void)
{
	assert(fill.producer != fill.consumer);
	return ((uint64_t *)fill.descs)[fill.consumer++ % RING];
}

static void put_part(uint64_t address, uint32_t len, int more)
{
	assert(rx.producer - rx.consumer < RING);
	rx.descs[rx.producer++ % RING] = (struct xdp_desc){
		.addr = address, .len = len, .options = more ? XDP_PKT_CONTD : 0 };
}

/* What the XDP program and the kernel do in copy mode: within the credit, each buffer full but
 * the last. The loop turns in the middle, if `is_split`. */
static int hand_over(const uint8_t *bytes, uint32_t len, int is_split)
{
	uint32_t buffers = (len + BUFFER - 1) / BUFFER, at = 0, part;

	if ((int64_t)(queue.credit - queue.redirected - queue.extra) < buffers)
		return 0;
	queue.extra += buffers - 1;
	queue.redirected++;
	while (at < len) {
		uint64_t address = next_buffer() + RX_OFFSET;

		part = len - at < BUFFER ? len - at : BUFFER;
		memcpy(umem + address, bytes + at, part);
		at += part;
		put_part(address, part, at < len);
		if (is_split && at < len) {
			xg_xsk_loop_turn(loop);
			assert_buffers_add_up();
		}
	}
	return 1;
}

/* Takes the next frame off the TX ring and completes it; its length, 0 if there is none. */
static uint32_t transmit(uint8_t *bytes)
{
	uint32_t len = 0, more = 1;

	if (tx.consumer == tx.producer)
		return 0;
	while (more) {
		struct xdp_desc desc;

		assert(tx.consumer != tx.producer);	/* no part of a frame alone */
		desc = tx.descs[tx.consumer++ % RING];
		more = desc.options;
		assert(more <= XDP_PKT_CONTD && desc.len > 0);
		assert(desc.addr / CHUNK == (desc.addr + desc.len - 1) / CHUNK);
		assert(desc.addr / CHUNK >= FIRST && desc.addr / CHUNK < FIRST + FRAMES);
		assert(len + desc.len <= LONGEST + XG_TEMPLATE_BYTES);
		memcpy(bytes + len, umem + desc.addr, desc.len);
		len += desc.len;
		((uint64_t *)completion.descs)[completion.producer++ % RING] = desc.addr;
	}
	sent++;
	return len;
}

static uint32_t stray(uint8_t *bytes, uint32_t payload)
{
	struct recipe s = tcp(below(2) ? 4 : 6, OWNER_2, ACK);

	s.payload = (uint16_t)payload;
	return build(&s, bytes);
}

static void assert_carries(const uint8_t *out, uint32_t len, const struct xg_template *tmpl,
			   const uint8_t *bytes, uint32_t inner, uint8_t mark)
{
	assert(len == tmpl->len + inner);
	assert_outer(out, tmpl, inner, 0xba, bytes[12] == 0x08 ? 4 : 6, mark);
	assert(!memcmp(out + tmpl->len, bytes + XG_ETH_LEN, inner));
}

/* ---- tests ---- */

static void test_each_is_sent_whole_and_as_it_came(void)
{
	static uint8_t bytes[8][LONGEST], out[LONGEST + XG_TEMPLATE_BYTES];
	uint32_t len[8], handed = 0;

	begin(LONGEST);
	for (uint32_t turn = 0; turn < TURNS; turn++) {
		while (handed - sent < 8) {
			uint32_t i = handed % 8;

			len[i] = stray(bytes[i], below(3) ? below(8800) : BUFFER - 60 + below(40));
			if (!hand_over(bytes[i], len[i], below(2)))
				break;
			handed++;
		}
		xg_xsk_loop_turn(loop);
		for (uint32_t some = below(9); some > 0 && sent < handed; some--) {
			uint32_t i = sent % 8, found = transmit(out);

			if (!found)
				break;
			assert_carries(out, found, &templates[TO_2], bytes[i], len[i] - XG_ETH_LEN,
				       0);
		}
		assert_buffers_add_up();
	}
	while (transmit(out) || xg_xsk_loop_turn(loop))
		;
	xg_xsk_loop_turn(loop);
	assert(handed > TURNS / 2 && sent == handed);
	assert(queue.counters[XG_COUNT_stray_forwarded] == handed && queue.consumed == handed);
	assert(queue.credit - queue.redirected - queue.extra == RING);
	end();
}

/* Nothing is ever sent: what has no room waits as it is, and the credit ends. */
static void test_without_room_no_part_of_a_frame_is_sent(void)
{
	static uint8_t bytes[LONGEST], out[LONGEST + XG_TEMPLATE_BYTES];
	uint32_t len, handed = 0, before;

	begin(LONGEST);
	len = stray(bytes, 8800);
	do {
		before = handed;
		while (hand_over(bytes, len, 0))
			handed++;
		for (int i = 0; i < 4; i++)
			xg_xsk_loop_turn(loop);
		assert_buffers_add_up();
	} while (handed != before);
	assert(handed > RING / 5 + 5 && tx.producer > RING - 5);
	while (sent < handed) {
		assert(transmit(out) == len - XG_ETH_LEN + templates[TO_2].len);
		xg_xsk_loop_turn(loop);
		xg_xsk_loop_turn(loop);
	}
	assert(queue.counters[XG_COUNT_stray_forwarded] == handed);
	assert(queue.counters[XG_COUNT_tx_refused] == 0);
	end();
}

struct forged {
	uint32_t parts;
	uint32_t at;		/* the one that is forged */
	int64_t shift;
	uint32_t len;
};

static void test_a_forged_chain_is_counted_once_and_its_buffers_go_round(void)
{
	static const struct forged all[] = {
		{ XG_BUFFERS_MAX + 1, 0, 0, 60 }, { 2 * XG_BUFFERS_MAX, 0, 0, 60 },
		{ 3, 0, 0, 0 }, { 3, 2, 0, 0 }, { 3, 1, 0, BUFFER + 1 }, { 3, 1, 0, UINT32_MAX },
		{ 3, 0, -(int64_t)(FIRST + FRAMES) * CHUNK, 60 }, { 2, 1, INT64_MIN, 60 },
		{ 3, 1, (int64_t)(FRAMES + FIRST) * CHUNK, 60 },
	};
	uint64_t refused = 0;

	begin(LONGEST);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		for (uint32_t n = 0; n < 2 * FRAMES; n++) {
			for (uint32_t part = 0; part < all[i].parts; part++) {
				bool is_it = part == all[i].at;
				uint64_t address = next_buffer() + RX_OFFSET, stranger = address;

				if (is_it)
					stranger += (uint64_t)all[i].shift;
				put_part(stranger, is_it ? all[i].len : 60,
					 part + 1 < all[i].parts);
				/* what the kernel keeps: it would come back with another one */
				if (is_it && all[i].shift)
					put_free(loop, address);
			}
			queue.redirected++;
			while (xg_xsk_loop_turn(loop))
				;
			assert(queue.counters[XG_COUNT_chain_refused] == ++refused);
			assert(tx.producer == 0 && queue.consumed == queue.redirected);
			assert_buffers_add_up();
		}
	end();
}

/* A ring that was full in the middle of a frame: nothing of it is sent with the next one. */
static void test_a_chain_whose_end_never_comes_is_given_up(void)
{
	static uint8_t first[LONGEST], second[LONGEST], out[LONGEST + XG_TEMPLATE_BYTES];
	uint32_t len, long_len;

	begin(LONGEST);
	long_len = stray(first, BUFFER + 100);
	assert(hand_over(first, long_len, 0));
	rx.producer--;	/* its second buffer is nowhere to be seen, and back in the fill ring */
	fill.consumer--;
	xg_xsk_loop_turn(loop);
	xg_xsk_loop_account(loop);
	xg_xsk_loop_account(loop);
	assert(queue.counters[XG_COUNT_chain_refused] == 1);
	assert(queue.consumed == queue.redirected);
	len = stray(second, 1000);
	assert(hand_over(second, len, 0));
	xg_xsk_loop_turn(loop);
	assert(transmit(out) == templates[TO_2].len + len - XG_ETH_LEN);
	assert(transmit(out) == 0 && queue.counters[XG_COUNT_stray_forwarded] == 1);
	end();
}

static void test_what_is_too_big_is_answered_in_one_buffer(void)
{
	static uint8_t bytes[LONGEST], out[LONGEST + XG_TEMPLATE_BYTES];

	begin(MTU);
	for (uint32_t n = 0; n < 2 * FRAMES; n++) {
		uint32_t len = stray(bytes, 5000), found;

		assert(hand_over(bytes, len, 0) && xg_xsk_loop_turn(loop));
		found = transmit(out);
		assert(found > 60 && found < 300 && out[12] == bytes[12]);
		xg_xsk_loop_turn(loop);
		assert_buffers_add_up();
	}
	assert(queue.counters[XG_COUNT_too_big_answered] == 2 * FRAMES);
	assert(queue.counters[XG_COUNT_fragmented] == 0);
	end();
}

static void test_each_copy_of_a_flood_is_whole(void)
{
	static uint8_t bytes[LONGEST], out[LONGEST + XG_TEMPLATE_BYTES];
	static const uint16_t to[] = { FLOOD, TO_2, TO_3_TAGGED };
	struct recipe s = tcp(4, 999, ACK);
	uint32_t len;

	begin(LONGEST);
	s.payload = 7000;
	len = build(&s, bytes);
	flood_list = (struct xg_flood){ .group = FLOOD, .copies = 2, .to = { TO_2, TO_3_TAGGED } };
	for (uint32_t n = 0; n < 2 * FRAMES; n++) {
		assert(hand_over(bytes, len, 0) && xg_xsk_loop_turn(loop));
		for (int i = 0; i < 3; i++)
			assert_carries(out, transmit(out), &templates[to[i]], bytes,
				       len - XG_ETH_LEN, XG_MARK_FLOOD);
		xg_xsk_loop_turn(loop);
		assert_buffers_add_up();
	}
	assert(queue.counters[XG_COUNT_flood_copies] == 4 * FRAMES);
	end();
}

static void test_a_loop_needs_room_for_the_longest_chain(void)
{
	struct xg_xsk_loop *none = NULL;
	struct xg_loop_rings bad;

	begin(LONGEST);
	bad = the_rings();
	bad.buffers = XG_BUFFERS_MAX + 1;
	assert(xg_xsk_loop_create(&none, &bad, &forwarder, &queue) == -EINVAL && !none);
	end();
}

int main(void)
{
	test_each_is_sent_whole_and_as_it_came();
	test_without_room_no_part_of_a_frame_is_sent();
	test_a_forged_chain_is_counted_once_and_its_buffers_go_round();
	test_a_chain_whose_end_never_comes_is_given_up();
	test_what_is_too_big_is_answered_in_one_buffer();
	test_each_copy_of_a_flood_is_whole();
	test_a_loop_needs_room_for_the_longest_chain();
	puts("ok");
	return 0;
}
