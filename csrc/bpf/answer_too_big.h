/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * In XDP: what is too big for its path becomes the ICMP error that tells its sender, if it may.
 */
#ifndef XG_BPF_ANSWER_TOO_BIG_H
#define XG_BPF_ANSWER_TOO_BIG_H

#include "session_maps.h"
#include "too_big.h"

/* `mtu`: bytes of the largest packet that the path takes. Returns the ending. */
static __noinline int answer_too_big(struct xdp_md *ctx, const struct xg_packet *packet, __u32 mtu)
{
	struct xg_config *cfg = the_config();
	__u32 len;

	mtu = xg_too_big_mtu((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, mtu);
	if (!mtu || !cfg || !within_budget(cfg, XG_BUDGET_TOO_BIG))
		return XG_COUNT_too_big;
	len = xg_too_big_write((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, mtu);
	if (!len || bpf_xdp_adjust_tail(ctx, (int)len - (int)bpf_xdp_get_buff_len(ctx)))
		return XG_COUNT_too_big;
	return XG_COUNT_too_big_answered;
}

#endif
