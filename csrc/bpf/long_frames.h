/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Frames in several buffers (jumbo frames): all headers lie in the first one, the length does not.
 *
 * An ordinary frame pays nothing: only what seems cut is asked whether there is more of it.
 */
#ifndef XG_BPF_LONG_FRAMES_H
#define XG_BPF_LONG_FRAMES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "packet_parse.h"

/* Parses anew what seemed cut; a frame that is cut leaves `packet` as it was. Not static, so that
 * the verifier looks at it once. */
__noinline int parse_long(struct xdp_md *ctx, struct xg_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (!packet)
		return XG_PARSE_TRUNCATED;
	packet->beyond = (__u32)(bpf_xdp_get_buff_len(ctx) - xg_distance(data, end));
	return packet->beyond ? xg_parse_first_buffer(data, end, packet) : XG_PARSE_TRUNCATED;
}

#endif
