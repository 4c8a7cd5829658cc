// SPDX-License-Identifier: BSD-2-Clause
/*
 * The AF_XDP loop against a kernel made of plain memory: nothing is lost, the frames add up.
 *
 * The kernel here hands over within the credit only, as the XDP program does; it asserts that the
 * credit never leads to an empty fill ring or a full RX ring, and checks each frame that it is
 * given to send.
 */
#include "forward_world.h"

#include <errno.h>
#include <stdio.h>

#include <xdp/xsk.h>

#include "xsk_loop.h"

#define RING 64u
#include "plain_rings.h"

#define FRAMES 160u
#define FIRST 32u	/* of the UMEM's frames, those before it are another loop's */
#define CHUNK 2048u
#define RX_OFFSET 256u	/* XDP_PACKET_HEADROOM */
#define STEPS 200000u

struct kernel {
	struct ring fill, completion, rx, tx;
	struct xsk_ring_prod fill_user, tx_user;
	struct xsk_ring_cons completion_user, rx_user;
	uint8_t *umem;
	struct xg_queue queue;
	uint64_t handed, sent;
};

static uint64_t random_state = 0x853c49e6748fea9bull;

static uint32_t below(uint32_t limit)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 33) % limit;
}

static struct kernel *make_kernel(void)
{
	struct kernel *k = calloc(1, sizeof(*k));

	k->umem = aligned_alloc(4096, (FRAMES + FIRST) * CHUNK);
	memset(k->umem, UNTOUCHED, (FRAMES + FIRST) * CHUNK);
	bind_prod(&k->fill_user, &k->fill);
	bind_prod(&k->tx_user, &k->tx);
	bind_cons(&k->completion_user, &k->completion);
	bind_cons(&k->rx_user, &k->rx);
	return k;
}

static struct xg_xsk_loop *make_loop(struct kernel *k, const struct xg_forwarder *forwarder,
				     uint32_t driver_frames)
{
	struct xg_loop_rings rings = {
		.fill = &k->fill_user, .completion = &k->completion_user, .rx = &k->rx_user,
		.tx = &k->tx_user, .umem = k->umem, .first_frame = FIRST, .frames = FRAMES,
		.frame_size = CHUNK, .driver_frames = driver_frames, .fd = -1,
	};
	struct xg_xsk_loop *loop;

	assert(xg_xsk_loop_create(&loop, &rings, forwarder, &k->queue) == 0);
	assert(k->queue.credit == 0);
	xg_xsk_loop_refill(loop);
	return loop;
}

/* The XDP program's side: hands a frame over, if the credit allows it. */
static int hand_over(struct kernel *k, const uint8_t *bytes, uint32_t len)
{
	struct xdp_desc *desc;
	uint64_t address;

	if ((int64_t)(k->queue.credit - k->queue.redirected) <= 0)
		return 0;
	assert(k->fill.producer != k->fill.consumer);
	assert(k->rx.producer - k->rx.consumer < RING);
	address = ((uint64_t *)k->fill.descs)[k->fill.consumer++ % RING];
	assert(address % CHUNK == 0 && address >= FIRST * CHUNK);
	assert(address < (uint64_t)(FIRST + FRAMES) * CHUNK);
	memcpy(k->umem + address + RX_OFFSET, bytes, len);
	desc = &k->rx.descs[k->rx.producer++ % RING];
	*desc = (struct xdp_desc){ .addr = address + RX_OFFSET, .len = len };
	k->queue.redirected++;
	k->handed++;
	return 1;
}

/* The driver's side: sends up to `count` frames and completes them. */
static void transmit(struct kernel *k, uint32_t count)
{
	while (count-- && k->tx.consumer != k->tx.producer &&
	       k->completion.producer - k->completion.consumer < RING) {
		struct xdp_desc desc = k->tx.descs[k->tx.consumer++ % RING];
		const uint8_t *frame = k->umem + desc.addr;

		assert(desc.options == 0);
		assert(desc.addr / CHUNK == (desc.addr + desc.len - 1) / CHUNK);
		assert(desc.addr >= (uint64_t)FIRST * CHUNK);
		/* outer headers lie in front, or it is an answer over IPv6 */
		assert(frame[12] == 0x08 || frame[12] == 0x81 ||
		       (frame[12] == 0x86 && frame[20] == 58));
		((uint64_t *)k->completion.descs)[k->completion.producer++ % RING] = desc.addr;
		k->sent++;
	}
}

static void assert_frames_add_up(const struct xg_xsk_loop *loop)
{
	struct xg_loop_frames frames;

	assert(xg_xsk_loop_frames(loop, &frames) == 0);
	assert(frames.free + frames.receiving + frames.sending == FRAMES);
	assert(frames.receiving <= RING);
}

static uint64_t endings(const struct kernel *k)
{
	uint64_t sum = 0;

	for (int i = 0; i <= XG_COUNT_probe_answered; i++)
		sum += k->queue.counters[i];
	return sum;
}

static uint32_t any_frame(uint8_t *bytes)
{
	static const uint16_t clients[] = { OWNER_2, OWNER_3, HOST, NO_WAY, INACTIVE, 999 };
	static const uint8_t flags[] = { ACK, ACK, ACK, SYN, XG_TCP_RST };
	struct recipe s = tcp(below(2) ? 4 : 6, clients[below(6)], flags[below(5)]);

	s.payload = (uint16_t)(below(4) ? below(300) : 1400 + below(150));
	s.port = below(10) ? 0 : 443;
	return build(&s, bytes);
}

static void test_any_order_of_events_loses_nothing(uint32_t driver_frames, uint16_t copies)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_xsk_loop *loop = make_loop(k, &forwarder, driver_frames);
	uint8_t bytes[FRAME_MAX];

	flood_list.copies = copies;
	for (uint16_t i = 0; i < copies; i++)
		flood_list.to[i] = i % 2 ? TO_3_TAGGED : TO_2;
	for (uint32_t step = 0; step < STEPS; step++) {
		switch (below(4)) {
		case 0:
			for (uint32_t n = below(80); n > 0; n--)
				hand_over(k, bytes, any_frame(bytes));
			break;
		case 1:
			transmit(k, below(80));
			break;
		default:
			xg_xsk_loop_turn(loop);
		}
		assert_frames_add_up(loop);
		assert(k->queue.consumed <= k->queue.redirected);
		/* what the driver needs for the host's own packets is never handed over */
		assert(k->fill.producer - k->fill.consumer >= driver_frames);
	}
	for (int i = 0; i < 100; i++) {
		transmit(k, RING);
		xg_xsk_loop_turn(loop);
	}
	assert(k->handed > STEPS && k->queue.redirected == k->handed);
	assert(k->queue.consumed == k->handed && endings(k) == k->handed);
	assert(k->queue.counters[XG_COUNT_overtaken] > 0);
	assert(k->queue.counters[XG_COUNT_too_big_answered] > 0);
	assert(k->queue.counters[XG_COUNT_tx_refused] == 0);
	assert(!copies == !k->queue.counters[XG_COUNT_flood_copies]);
	/* a copy in fragments counts as a copy too */
	assert(k->queue.counters[XG_COUNT_fragmented] > 0);
	assert(k->queue.counters[XG_COUNT_fragment_no_frames] > 0);
	assert(k->queue.counters[XG_COUNT_fragments_sent] >=
	       2 * k->queue.counters[XG_COUNT_fragmented]);
	assert(k->sent - k->queue.counters[XG_COUNT_stray_forwarded] -
		       k->queue.counters[XG_COUNT_syn_forwarded] -
		       k->queue.counters[XG_COUNT_miss_flooded] -
		       k->queue.counters[XG_COUNT_too_big_answered] -
		       k->queue.counters[XG_COUNT_fragments_sent] <=
	       k->queue.counters[XG_COUNT_flood_copies]);
	xg_xsk_loop_destroy(loop);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

static void test_a_loop_that_cannot_send_lets_the_credit_end(void)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_xsk_loop *loop = make_loop(k, &forwarder, 0);
	struct recipe s = tcp(4, OWNER_2, ACK);
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(&s, bytes), handed;

	do {	/* nothing is ever sent */
		handed = (uint32_t)k->handed;
		while (hand_over(k, bytes, len))
			;
		xg_xsk_loop_turn(loop);
		xg_xsk_loop_turn(loop);	/* gives the kernel new frames */
	} while (k->handed != handed);
	assert(k->handed == 2 * RING);	/* one TX ring full, and one RX ring */
	transmit(k, 1);
	xg_xsk_loop_turn(loop);	/* reaps the completion: there is room for one more */
	xg_xsk_loop_turn(loop);
	assert(hand_over(k, bytes, len) == 1 && hand_over(k, bytes, len) == 0);
	assert_frames_add_up(loop);
	xg_xsk_loop_shut(loop);
	transmit(k, RING);
	xg_xsk_loop_turn(loop);
	assert(k->queue.credit == 0 && hand_over(k, bytes, len) == 0);
	xg_xsk_loop_destroy(loop);

	/* what the next loop finds unread died with this one */
	k->queue.redirected += 3;
	memset(&k->fill, 0, sizeof(k->fill));
	bind_prod(&k->fill_user, &k->fill);
	handed = (uint32_t)(k->queue.redirected - k->queue.consumed);
	assert(handed > 3);
	loop = make_loop(k, &forwarder, 0);
	assert(k->queue.counters[XG_COUNT_loop_lost] == handed);
	assert(k->queue.consumed == k->queue.redirected);
	assert(k->queue.credit == k->queue.redirected + RING);
	xg_xsk_loop_destroy(loop);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

/* A test run of the XDP program, or a driver's refusal: handed over, and never seen again. */
static void test_what_vanishes_on_its_way_is_counted_as_lost(void)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_xsk_loop *loop = make_loop(k, &forwarder, 0);
	struct recipe s = tcp(4, OWNER_2, ACK);
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(&s, bytes);
	uint64_t credit = k->queue.credit;

	k->queue.redirected++;
	xg_xsk_loop_turn(loop);
	xg_xsk_loop_account(loop);
	assert(k->queue.consumed == 0);	/* it may still be on its way */
	hand_over(k, bytes, len);
	xg_xsk_loop_account(loop);
	assert(k->queue.consumed == 0 && k->queue.counters[XG_COUNT_loop_lost] == 0);
	xg_xsk_loop_account(loop);	/* one waits in the ring: not yet */
	assert(k->queue.counters[XG_COUNT_loop_lost] == 0);
	xg_xsk_loop_turn(loop);
	xg_xsk_loop_account(loop);
	assert(k->queue.counters[XG_COUNT_loop_lost] == 1);
	assert(k->queue.consumed == k->queue.redirected);
	xg_xsk_loop_turn(loop);
	assert(k->queue.credit == credit + 2);
	k->queue.redirected--;	/* as if it came after all */
	xg_xsk_loop_account(loop);
	xg_xsk_loop_account(loop);
	assert(k->queue.counters[XG_COUNT_loop_lost] == 0);
	assert(k->queue.consumed == k->queue.redirected);
	xg_xsk_loop_turn(loop);
	assert(k->queue.credit == credit + 1);
	assert_frames_add_up(loop);
	xg_xsk_loop_destroy(loop);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

/* Without a group the first of the list gets the frame itself, and each the mark of a flood. */
static void test_each_host_of_the_flood_list_gets_one_copy(uint32_t group)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_xsk_loop *loop = make_loop(k, &forwarder, 0);
	struct recipe s = tcp(4, 999, ACK);
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(&s, bytes), first = group == XG_NO_TEMPLATE;

	flood_list = (struct xg_flood){ .group = (uint16_t)group, .copies = 3,
					.to = { TO_2, TO_3_TAGGED, TO_2 } };
	assert(hand_over(k, bytes, len));
	assert(xg_xsk_loop_turn(loop) == 1);
	assert(k->queue.counters[XG_COUNT_flood_copies] == 3 - first);
	assert(k->tx.producer == 4 - first);
	for (uint32_t i = 0; i < k->tx.producer; i++) {
		struct xdp_desc desc = k->tx.descs[i];
		uint32_t by = i + first == 0 ? group : flood_list.to[i + first - 1];

		assert(desc.len == len - XG_ETH_LEN + templates[by].len);
		assert_outer(k->umem + desc.addr, &templates[by], len - XG_ETH_LEN, s.tos, 4,
			     XG_MARK_FLOOD);
		assert(!memcmp(k->umem + desc.addr + templates[by].len, bytes + XG_ETH_LEN,
			       len - XG_ETH_LEN));
	}
	assert_frames_add_up(loop);
	flood_list.to[1] = EMPTY;	/* there is no way to this one now */
	assert(hand_over(k, bytes, len) && xg_xsk_loop_turn(loop) == 1);
	assert(k->queue.counters[XG_COUNT_flood_copies_lost] == 1);
	assert(k->queue.counters[XG_COUNT_miss_flooded] == 2);
	assert_frames_add_up(loop);
	xg_xsk_loop_destroy(loop);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

/* The benchmark's burst: so many frames a turn, and then the rest. */
static void test_a_smaller_burst_is_taken_turn_by_turn(void)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_loop_rings rings = {
		.fill = &k->fill_user, .completion = &k->completion_user, .rx = &k->rx_user,
		.tx = &k->tx_user, .umem = k->umem, .first_frame = FIRST, .frames = FRAMES,
		.frame_size = CHUNK, .fd = -1, .burst = 8,
	};
	struct recipe s = tcp(4, OWNER_2, ACK);
	struct xg_xsk_loop *loop;
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(&s, bytes);

	assert(xg_xsk_loop_create(&loop, &rings, &forwarder, &k->queue) == 0);
	xg_xsk_loop_refill(loop);
	for (int i = 0; i < 20; i++)
		assert(hand_over(k, bytes, len));
	assert(xg_xsk_loop_turn(loop) == 8);
	assert(xg_xsk_loop_turn(loop) == 8);
	assert(xg_xsk_loop_turn(loop) == 4);
	assert_frames_add_up(loop);
	xg_xsk_loop_destroy(loop);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

static void test_rings_that_cannot_work_are_refused(void)
{
	struct xg_forwarder forwarder = make();
	struct kernel *k = make_kernel();
	struct xg_xsk_loop *loop = NULL;
	struct xg_loop_rings good = { .fill = &k->fill_user, .rx = &k->rx_user, .frames = FRAMES,
				      .frame_size = CHUNK };
	struct xg_loop_rings bad = good;

	bad.frame_size = 3000;
	assert(xg_xsk_loop_create(&loop, &bad, &forwarder, &k->queue) == -EINVAL);
	bad = good;
	bad.frames = RING;	/* none would be left for sending */
	assert(xg_xsk_loop_create(&loop, &bad, &forwarder, &k->queue) == -EINVAL);
	bad = good;
	bad.driver_frames = RING;
	assert(xg_xsk_loop_create(&loop, &bad, &forwarder, &k->queue) == -EINVAL);
	bad = good;
	bad.burst = XG_BURST + 1;
	assert(xg_xsk_loop_create(&loop, &bad, &forwarder, &k->queue) == -EINVAL);
	assert(loop == NULL);
	free(k->umem);
	free(k);
	destroy(&forwarder);
}

int main(void)
{
	test_any_order_of_events_loses_nothing(0, 0);
	test_any_order_of_events_loses_nothing(16, 3);
	test_a_loop_that_cannot_send_lets_the_credit_end();
	test_each_host_of_the_flood_list_gets_one_copy(FLOOD);
	test_each_host_of_the_flood_list_gets_one_copy(XG_NO_TEMPLATE);
	test_what_vanishes_on_its_way_is_counted_as_lost();
	test_a_smaller_burst_is_taken_turn_by_turn();
	test_rings_that_cannot_work_are_refused();
	puts("ok");
	return 0;
}
