/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Tunnel packets in XDP: encapsulate, check, strip, and answer a liveness probe.
 *
 * The sender of a tunnel packet is known by its outer address and proves itself by a cookie;
 * nothing of the inner packet is read before both are checked.
 */
#ifndef XG_BPF_TUNNEL_H
#define XG_BPF_TUNNEL_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "fragments.h"
#include "handle_too_big.h"
#include "header_template.h"
#include "session_maps.h"
#include "tunnel_open.h"

/* Puts the template in the place of the packet's Ethernet header. The packet's IP header must
 * lie at packet->l3_offset. Returns `ending`, why it could not be done, or HANDED_OVER. */
static __always_inline int encapsulate_here(struct xdp_md *ctx, const struct xg_packet *packet,
					    __u32 index, __u8 mark, int ending)
{
	struct xg_template *tmpl = bpf_map_lookup_elem(&templates, &index);
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 inner_sum = 0;

	if (!tmpl || tmpl->len == 0 || tmpl->len > XG_TEMPLATE_BYTES)
		return XG_COUNT_miss_no_flood;
	if (xg_outer_ip_len(tmpl, packet) > tmpl->mtu) {
		ending = handle_too_big(ctx, packet, index, mark, xg_inner_mtu(tmpl));
		/* here, not below: on Linux 6.1 the stack of all calls together is 512 bytes */
		if (ending == HANDED_OVER)
			remember_fragment(packet, index, mark | FRAGMENT_BY_LOOP);
		return ending;
	}
	if ((tmpl->flags & XG_TEMPLATE_SUM) &&
	    xg_inner_sum(data + XG_MASKED(packet->l3_offset, 0x7ff), end, packet, &inner_sum))
		return XG_COUNT_no_checksum;
	if (bpf_xdp_adjust_head(ctx, (int)packet->l3_offset - (int)tmpl->len))
		return XG_COUNT_no_headroom;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (!xg_template_apply(data, end, tmpl, packet, mark, inner_sum))
		return XG_COUNT_no_headroom;
	if (packet->fragment)
		remember_fragment(packet, index, mark);
	return ending;
}

/* The same, for floods. */
static __noinline int encapsulate(struct xdp_md *ctx, const struct xg_packet *packet,
				  __u32 index, __u8 mark, int ending)
{
	return encapsulate_here(ctx, packet, index, mark, ending);
}

static __always_inline int is_to_group(const struct xg_config *cfg, const struct xg_packet *outer)
{
	return xg_same_address(outer->destination_be, cfg->flood_group_be);
}

/* Who sent it, by its outer address; NULL: no active host. */
static __always_inline struct xg_peer *sender_of(const struct xg_packet *outer)
{
	struct xg_owner_state *state;
	struct xg_peer_key key = {};
	struct xg_peer *peer;

	__builtin_memcpy(key.address_be, outer->source_be, 16);
	peer = bpf_map_lookup_elem(&peers, &key);
	if (!peer)
		return NULL;
	state = owner_state(peer->host);
	return state && (state->flags & XG_OWNER_ACTIVE) ? peer : NULL;
}

/* Checks the sender, its cookie and the format. Returns XG_TUNNEL_OPEN or an ending. */
static __always_inline int open_tunnel(struct xdp_md *ctx, const struct xg_config *cfg,
				       const struct xg_packet *outer, struct xg_tunnel *tunnel)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_peer *peer;

	if (xg_read_shim(data, end, outer, (__u8)cfg->encapsulation, &tunnel->shim))
		return XG_COUNT_tunnel_malformed;
	peer = sender_of(outer);
	if (!peer)
		return XG_COUNT_tunnel_bad_source;
	return xg_check_tunnel(peer, is_to_group(cfg, outer), tunnel);
}

static __always_inline int parse_inner(struct xdp_md *ctx, const struct xg_tunnel *tunnel,
				       struct xg_packet *inner)
{
	return xg_open_inner((void *)(long)ctx->data, (void *)(long)ctx->data_end, tunnel, inner);
}

/* Takes the outer headers off and hands the inner packet to this host's stack: the Ethernet
 * header and VLAN tags move to the front of it, addressed to this host. */
static __always_inline int strip(struct xdp_md *ctx, const struct xg_config *cfg,
				 const struct xg_packet *outer, const struct xg_packet *inner,
				 int ending)
{
	int ecn = xg_combine_ecn(inner->tos, outer->tos);
	__u32 l2_len = outer->l3_offset;
	__u8 l2[XG_L2_MAX] = {};
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (ecn < 0)
		return XG_COUNT_tunnel_ecn_dropped;
	if (data + XG_L2_MAX > end)
		return XG_COUNT_tunnel_malformed;
	__builtin_memcpy(l2, data, XG_L2_MAX);
	if (bpf_xdp_adjust_head(ctx, (int)inner->l3_offset - (int)l2_len))
		return XG_COUNT_no_headroom;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	return xg_finish_strip(data, end, l2, l2_len, cfg->mac, inner, ecn, ending);
}

/* Sends a probe back where it came from, with the cookie of this direction. */
static __always_inline int answer_probe(struct xdp_md *ctx, const struct xg_packet *outer,
					const struct xg_tunnel *tunnel)
{
	return xg_answer_probe((void *)(long)ctx->data, (void *)(long)ctx->data_end, outer, tunnel);
}

#endif
