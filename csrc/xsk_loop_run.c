// SPDX-License-Identifier: BSD-2-Clause
/*
 * The AF_XDP loop of one RX queue, the thread around its turns: waiting, accounting, the end.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <xdp/xsk.h>

#include "xsk_chain.h"

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

#define IDLE_MS 1000		/* then it looks at the socket's drops, if nothing wakes it */
#define PENDING_MS 1		/* the kernel had no room to send: soon again */
#define DOWN_MS 100		/* the interface is down: it takes its time */
#define ACCOUNT_NS (100 * NS_PER_MS)
/* Twice the longest wait: what lies in the ring after such a gap came while we were stopped. */
#define STALE_NS (2 * IDLE_MS * NS_PER_MS)

/* Negative: what was thought to be lost came after all. */
static void count_lost(struct xg_xsk_loop *loop, int64_t count)
{
	if (!count)
		return;
	loop->lost += (uint64_t)count;
	loop->lost_credit += (uint64_t)count;
	loop->queue->counters[XG_COUNT_loop_lost] += (uint64_t)count;
	publish((uint64_t *)&loop->queue->consumed, consumed(loop));
	xg_loop_publish_credit(loop);
}

/* The end of a frame will not come: its buffers go back, and what comes next is another frame. */
static void end_cut_chain(struct xg_xsk_loop *loop)
{
	if (!xg_chain_is_open(&loop->chain))
		return;
	xg_give_back(loop, loop->chain.buffers, loop->chain.count);
	loop->queue->counters[XG_COUNT_chain_refused]++;
	xg_end_chain(loop);
	publish((uint64_t *)&loop->queue->consumed, consumed(loop));
}

/* What neither came nor was counted by the kernel (a driver's refusal, a test run of the program)
 * would look like a loop that takes nothing, for ever. Nothing is on its way any more if nothing
 * was handed over since the last look. */
static void look_for_vanished(struct xg_xsk_loop *loop)
{
	uint64_t handed = redirected(loop);
	uint64_t used = used_credit(loop);
	uint64_t before = loop->seen_used;

	loop->seen_used = used;
	/* `extra` too: the program adds to it first, and may be between the two */
	if (used != before || xsk_cons_nb_avail(loop->rings.rx, 1))
		return;
	end_cut_chain(loop);
	count_lost(loop, (int64_t)(handed - consumed(loop)));
	/* what the lost ones used of the credit is only known now */
	loop->lost_credit = used - loop->base_credit - loop->taken;
	xg_loop_publish_credit(loop);
}

/* What the kernel says that it dropped. */
static void read_statistics(struct xg_xsk_loop *loop)
{
	struct xdp_statistics statistics = { 0 };
	socklen_t len = sizeof(statistics);
	uint64_t dropped;

	if (loop->rings.fd < 0 ||
	    getsockopt(loop->rings.fd, SOL_XDP, XDP_STATISTICS, &statistics, &len))
		return;
	dropped = statistics.rx_dropped + statistics.rx_ring_full;
	count_lost(loop, (int64_t)(dropped - loop->dropped));
	loop->dropped = dropped;
	loop->queue->counters[XG_COUNT_tx_refused] += statistics.tx_invalid_descs - loop->refused;
	loop->refused = statistics.tx_invalid_descs;
}

void xg_xsk_loop_account(struct xg_xsk_loop *loop)
{
	read_statistics(loop);
	look_for_vanished(loop);
}

/* After seconds in which this thread did not run: what waits is old, and was sent again since. */
static void drop_stale(struct xg_xsk_loop *loop)
{
	struct xsk_ring_cons *rx = loop->rings.rx;
	uint32_t index = 0;
	uint32_t count = xsk_ring_cons__peek(rx, rx->size, &index);

	for (uint32_t i = 0; i < count; i++) {
		loop->chain.is_bad = true;
		xg_take_part(loop, xsk_ring_cons__rx_desc(rx, index + i), XG_COUNT_loop_stale);
	}
	if (count)
		xsk_ring_cons__release(rx, count);
	loop->received += count;
	publish((uint64_t *)&loop->queue->consumed, consumed(loop));
}

static int timeout_ms(const struct xg_xsk_loop *loop)
{
	if (loop->is_down)
		return DOWN_MS;
	if (loop->rings.busy_poll)
		return 0;	/* the driver has no interrupt that would end the wait */
	return loop->kick_pending ? PENDING_MS : IDLE_MS;
}

/* Sleeps until a frame, the stop, or a reason to look again. Asks for POLLIN only while frames
 * could be taken: with a full TX ring it would come back at once, for nothing. */
static int wait(struct xg_xsk_loop *loop)
{
	short events = xg_receivable(loop) ? POLLIN : POLLOUT;
	struct pollfd fds[2] = {
		{ .fd = loop->stop_fd, .events = POLLIN },
		{ .fd = loop->is_dead ? -1 : loop->rings.fd, .events = events },
	};

	if (poll(fds, 2, timeout_ms(loop)) < 0 && errno != EINTR)
		return -errno;
	if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL))
		loop->is_dead = true;
	return 0;
}

/* What was handed over is still sent; then the rest, if any, is lost. */
static void finish(struct xg_xsk_loop *loop)
{
	uint64_t deadline = now_ns() + XG_LOOP_DRAIN_MS * NS_PER_MS;
	const struct timespec pause = { .tv_nsec = 100000 };

	while (now_ns() < deadline && !loop->is_dead) {
		uint32_t count = xg_xsk_loop_turn(loop);

		read_statistics(loop);
		if (redirected(loop) == consumed(loop) && loop->sent == loop->completed)
			break;
		if (!count)
			nanosleep(&pause, NULL);
		if (loop->sent != loop->completed)
			xg_loop_kick(loop);
	}
	count_lost(loop, (int64_t)(redirected(loop) - consumed(loop)));
}

int xg_xsk_loop_run(struct xg_xsk_loop *loop)
{
	int rc = 0;

	loop->looked_at_ns = now_ns();
	while (!rc && !__atomic_load_n(&loop->is_stopping, __ATOMIC_SEQ_CST)) {
		uint64_t now = now_ns();
		uint32_t count;

		if (now - loop->looked_at_ns > STALE_NS)
			drop_stale(loop);
		loop->looked_at_ns = now;
		if (now - loop->accounted_at_ns > ACCOUNT_NS) {
			loop->accounted_at_ns = now;
			xg_xsk_loop_account(loop);
		}
		count = xg_xsk_loop_turn(loop);
		if (!count)
			rc = wait(loop);
	}
	xg_xsk_loop_shut(loop);
	finish(loop);
	return rc;
}
