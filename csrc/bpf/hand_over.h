/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Handing a frame to the AF_XDP loop of its queue, if that loop takes what it is handed.
 *
 * A socket in the map does not prove that its loop runs, and a redirect into a full or unfilled
 * ring "succeeds" and loses the frame. So the loop publishes how many buffers it has for frames
 * (credit) and how many frames it took (consumed), and the program hands over only within the
 * credit, and only while what waits is being taken.
 */
#ifndef XG_BPF_HAND_OVER_H
#define XG_BPF_HAND_OVER_H

#include "session_maps.h"

/* Nothing was taken for so long, though something waits: the loop is frozen, or its core is busy
 * with others. Ten times a scheduler's slice; a wrong guess costs nothing, both send the same. */
#define LOOP_STALLED_NS 10000000ull

#define HANDED_OVER (-2)	/* no ending here: the loop ends it */
#define ANY_BUFFERS 0xffffffffu

static __always_inline int loop_takes(struct xg_queue *queue, __u64 redirected)
{
	__u64 consumed = *(volatile __u64 *)&queue->consumed;
	__u64 now;

	if (consumed == redirected) {
		if (queue->seen_at_ns)
			queue->seen_at_ns = 0;
		return 1;
	}
	now = bpf_ktime_get_ns();
	if (queue->seen_at_ns == 0 || queue->seen_consumed != consumed) {
		queue->seen_consumed = consumed;
		queue->seen_at_ns = now;
		return 1;
	}
	return now - queue->seen_at_ns < LOOP_STALLED_NS;
}

static __always_inline int is_in_one_buffer(struct xdp_md *ctx)
{
	return bpf_xdp_get_buff_len(ctx) ==
	       xg_distance((void *)(long)ctx->data, (void *)(long)ctx->data_end);
}

/* The loop's buffers that the frame will take; 0: more than it has for one. A socket without SG
 * (chain_max 0) gets whole frames alone: the kernel drops what does not fit its buffer, and before
 * Linux 6.6 refuses to redirect what is in several. */
static __always_inline __u32 buffers_for(struct xdp_md *ctx, const struct xg_queue *queue)
{
	__u64 len = bpf_xdp_get_buff_len(ctx), frame_max = queue->frame_max;

	if (len <= frame_max && is_in_one_buffer(ctx))
		return 1;
	if (len > queue->chain_max || frame_max == 0)
		return 0;
	return (__u32)((len + frame_max - 1) / frame_max);
}

/* True: the frame is the loop's, and the program must return XDP_REDIRECT. `most`: of the loop's
 * buffers that it may take. */
static __noinline int offer(struct xdp_md *ctx, __u32 most)
{
	__u32 index = ctx->rx_queue_index;
	struct xg_queue *queue = bpf_map_lookup_elem(&queues, &index);
	__u64 redirected, used;
	__u32 buffers;

	if (!queue)
		return 0;
	redirected = *(volatile __u64 *)&queue->redirected;
	used = redirected + *(volatile __u64 *)&queue->extra;
	buffers = buffers_for(ctx, queue);
	if (!buffers || buffers > most ||
	    (__s64)(*(volatile __u64 *)&queue->credit - used) < (__s64)buffers ||
	    !loop_takes(queue, redirected) || bpf_redirect_map(&xsks, index, 0) != XDP_REDIRECT)
		return 0;
	if (buffers > 1)
		__sync_fetch_and_add(&queue->extra, buffers - 1);
	__sync_fetch_and_add(&queue->redirected, 1);
	return 1;
}

/* The same for what the program else sends by itself. */
static __always_inline int hand_over(struct xdp_md *ctx)
{
	if (offer(ctx, ANY_BUFFERS))
		return 1;
	count(XG_COUNT_loop_behind);
	return 0;
}

#endif
