/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Packets without ports in XDP, from the router and through the tunnel: later fragments, and
 * ICMP errors, which go to the host whose session they quote.
 *
 * No stack answers either of them, so that a wrong guess costs a packet, never a connection. They
 * tell the agent nothing: a forged ICMP error makes no claim.
 *
 * What redirect.bpf.c calls here is not static: the verifier looks at it once, not anew for each
 * way to it. So its pointers might be null for all that the verifier knows.
 */
#ifndef XG_BPF_ODD_H
#define XG_BPF_ODD_H

#include "fragments.h"
#include "kernel_knows.h"
#include "odd_packets.h"
#include "session_maps.h"
#include "tunnel.h"

__noinline int follow_fragment(struct xdp_md *ctx, struct xg_packet *packet)
{
	struct xg_config *cfg = the_config();
	struct first_fragment *first;

	if (!cfg || !packet || !is_vip(packet))
		return XG_COUNT_passed_fragment;
	first = first_fragment_of(packet);
	if (!first)
		return XG_COUNT_fragment_unknown;
	if (first->template_index == XG_NO_TEMPLATE)
		return XG_COUNT_passed_fragment;
	/* of the budget that a storm may use up: a live client's segments are rarely fragments */
	if (first->mark && !within_budget(cfg, XG_BUDGET_NEW))
		return XG_COUNT_fragment_over_budget;
	packet->source_port_be = first->source_port_be;
	packet->destination_port_be = first->destination_port_be;
	if (first->by_loop && hand_over_noted(ctx, packet, first->template_index, first->mark))
		return HANDED_OVER;
	return encapsulate(ctx, packet, first->template_index, first->mark,
			   XG_COUNT_fragment_forwarded);
}

/* Reads the ICMP packet of `packet`, or the quoted session into it. Returns an xg_odd. */
static __noinline int read_icmp(struct xdp_md *ctx, struct xg_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	return xg_read_icmp(data + XG_MASKED(packet->l4_offset, 0x7ff), end, packet);
}

/* An ICMP error from the router, about this session of a service. */
static __always_inline int handle_icmp_error(struct xdp_md *ctx, struct xg_config *cfg,
					struct xg_packet *session, __u16 slot)
{
	struct found found = {};
	int decision;

	locate_session(session, slot, &found);
	/* In both buckets: as the code is otherwise, the verifier of Linux 6.1 takes "stray" for
	 * impossible, across the call of kernel_knows, and leaves the branch out. The golden
	 * packets of tests/vm/guest61 tell. Asking the kernel first takes too much stack. */
	find_session_in(session, slot, &found, 1);
	decision = xg_decide(session, found.meta, cfg->host, agent_alive(cfg));
	/* any socket but a listener: the kernel itself checks the sequence number that is quoted */
	if (decision < XG_COUNTERS || kernel_knows(ctx, session) != XG_UNKNOWN)
		return XG_COUNT_passed_icmp_own;
	if (decision == XG_DECIDE_STRAY && found.template_index != XG_NO_TEMPLATE)
		return encapsulate(ctx, session, found.template_index, 0,
				   XG_COUNT_icmp_forwarded);
	if (cfg->flood_template == XG_NO_TEMPLATE || !within_budget(cfg, XG_BUDGET_NEW))
		return XG_COUNT_icmp_dropped;
	return encapsulate(ctx, session, cfg->flood_template, XG_MARK_FLOOD,
			   XG_COUNT_icmp_flooded);
}

/* A packet from the router that the parser gave up on. */
__noinline int handle_odd(struct xdp_md *ctx, struct xg_packet *packet, int reason)
{
	struct xg_config *cfg = the_config();
	struct xg_service *service;
	int kind;

	if (!cfg || !packet)
		return XG_COUNT_passed_unparsed;
	kind = xg_odd_kind(reason, packet);
	if (kind == XG_ODD_NONE || !is_vip(packet))
		return XG_COUNT_passed_unparsed;
	if (kind == XG_ODD_TINY)
		return XG_COUNT_dropped_tiny_fragment;
	kind = read_icmp(ctx, packet);
	if (kind != XG_ODD_ERROR)
		return kind == XG_ODD_ECHO ? XG_COUNT_passed_echo : XG_COUNT_passed_icmp;
	service = service_at(packet->destination_be, packet->destination_port_be,
			     packet->protocol);
	if (!service)
		return XG_COUNT_passed_icmp;
	return handle_icmp_error(ctx, cfg, packet, service->slot);
}

static __always_inline int judge_odd(struct xdp_md *ctx, int is_search, struct xg_packet *inner)
{
	struct first_fragment *first;

	if (inner->fragment == XG_FRAGMENT_LATER) {
		first = first_fragment_of(inner);
		return first && first->template_index == XG_NO_TEMPLATE ?
			       XG_COUNT_delivered_fragment : XG_COUNT_fragment_refused;
	}
	if (xg_odd_kind(XG_PARSE_NOT_TRANSPORT, inner) != XG_ODD_ICMP ||
	    read_icmp(ctx, inner) != XG_ODD_ERROR)
		return XG_COUNT_tunnel_malformed;
	if (!service_at(inner->destination_be, inner->destination_port_be, inner->protocol))
		return XG_COUNT_tunnel_no_service;
	/* as with UDP itself: an unconnected socket cannot confirm what the sender's table says */
	if (!is_search && inner->protocol == XG_PROTO_UDP)
		return XG_COUNT_delivered_icmp;
	return kernel_knows(ctx, inner) == XG_UNKNOWN ? XG_COUNT_icmp_unknown :
							XG_COUNT_delivered_icmp;
}

/* A packet without ports that another host sent here: delivered, or dropped. It is sent on to
 * nobody, and nobody is told. */
__noinline int handle_inner_odd(struct xdp_md *ctx, const struct xg_packet *outer, int is_search,
				struct xg_packet *inner)
{
	struct xg_config *cfg = the_config();
	int ending;

	if (!cfg || !outer || !inner)
		return XG_COUNT_tunnel_malformed;
	ending = judge_odd(ctx, is_search, inner);
	if (ending != XG_COUNT_delivered_fragment && ending != XG_COUNT_delivered_icmp)
		return ending;
	return strip(ctx, cfg, outer, inner, ending);
}

#endif
