/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * In XDP: what is too big for its path and may be fragmented is the AF_XDP loop's, for a program
 * cannot make two frames of one.
 */
#ifndef XG_BPF_HANDLE_TOO_BIG_H
#define XG_BPF_HANDLE_TOO_BIG_H

#include "answer_too_big.h"
#include "fragmenting.h"
#include "hand_over.h"
#include "note.h"

/* True: the frame is the loop's, with a note that says which headers it gets, and the program must
 * return XDP_REDIRECT. Of a first fragment this is remembered: the later ones follow it there, so
 * that none overtakes it. */
static __noinline int hand_over_noted(struct xdp_md *ctx, const struct xg_packet *packet,
				      __u32 index, __u32 mark)
{
	struct xg_config *cfg = the_config();
	struct xg_note note = {
		.template_index = (__u16)index,
		.source_port_be = packet->source_port_be,
		.destination_port_be = packet->destination_port_be,
		.mark = (__u8)mark,
		.ethertype_be = XG_BE16(XG_NOTE_ETHERTYPE),
	};
	void *data;

	/* the loop cuts no frame that it has in several buffers */
	if (!cfg || !cfg->has_loops || !is_in_one_buffer(ctx) || !offer(ctx, 1))
		return 0;
	/* neither fails behind a parsed header; without its note the loop would decide by itself */
	if (bpf_xdp_adjust_head(ctx, (int)packet->l3_offset - XG_ETH_LEN))
		return 1;
	data = (void *)(long)ctx->data;
	if (data + sizeof(note) <= (void *)(long)ctx->data_end)
		__builtin_memcpy(data, &note, sizeof(note));
	return 1;
}

/* The packet exceeds a path that takes `mtu` bytes of it. The ending, or HANDED_OVER. */
static __noinline int handle_too_big(struct xdp_md *ctx, const struct xg_packet *packet,
				     __u32 index, __u32 mark, __u32 mtu)
{
	void *l3 = (void *)(long)ctx->data + XG_MASKED(packet->l3_offset, 0x7ff);

	if (xg_may_cut(l3, (void *)(long)ctx->data_end, packet, mtu) &&
	    hand_over_noted(ctx, packet, index, mark))
		return HANDED_OVER;
	return answer_too_big(ctx, packet, mtu);
}

#endif
