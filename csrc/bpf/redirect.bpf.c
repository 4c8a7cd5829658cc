/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The XDP program: passes what this host's kernel knows or may open, sends strays to their
 * owner, floods what no table knows, and strips what other hosts sent here.
 *
 * The functions below return an ending (stats.h); only the entry point turns it into an XDP
 * action. A packet whose session this kernel does not know is never passed to it: the stack
 * could only reset the connection.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "decide.h"
#include "hand_over.h"
#include "kernel_knows.h"
#include "long_frames.h"
#include "maps.h"
#include "odd.h"
#include "quic.h"
#include "session_maps.h"
#include "tunnel.h"

static __always_inline struct xg_service *find_service(const struct xg_packet *packet)
{
	return service_at(packet->destination_be, packet->destination_port_be, packet->protocol);
}

/* A program cannot copy a packet: without a group, and without a loop that takes it, one other
 * host gets it to flood it, another one each time. */
static __always_inline int relay(struct xdp_md *ctx, const struct xg_config *cfg,
				 const struct xg_packet *packet)
{
	__u32 count = cfg->relay_count;
	__u32 chosen;

	if (count == 0)
		return XG_COUNT_miss_no_flood;
	chosen = bpf_get_prandom_u32() % count;
	if (chosen >= XG_RELAYS)
		return XG_COUNT_miss_no_flood;
	return encapsulate(ctx, packet, cfg->relays[chosen], XG_MARK_RELAY,
			   XG_COUNT_miss_relayed);
}

/* A miss: floods it if the budget of its kind allows, and asks the agent to ask around. */
static __noinline int flood_miss(struct xdp_md *ctx, struct xg_config *cfg,
				      const struct xg_packet *packet, __u16 slot, __u64 hash)
{
	int seen = remember(&recent_misses, hash);
	/* A flow that floods more than a live one may pays like one that nobody has seen. */
	int is_new = seen == RECENT_NEW || seen == RECENT_FLOODING;

	if (!within_budget(cfg, is_new ? XG_BUDGET_NEW : XG_BUDGET_SEEN))
		return is_new ? XG_COUNT_miss_over_budget_new : XG_COUNT_miss_over_budget_seen;
	if (seen <= RECENT_SEEN)
		tell_agent(packet, XG_EVENT_MISS, slot, 0);
	/* without the loop, the hosts that the group does not reach get no copy */
	if (cfg->flood_copies && !packet->fragment && hand_over(ctx))
		return HANDED_OVER;
	if (cfg->flood_template == XG_NO_TEMPLATE)
		return relay(ctx, cfg, packet);
	return encapsulate(ctx, packet, cfg->flood_template, XG_MARK_FLOOD,
			   XG_COUNT_miss_flooded);
}

/* Sends the packet to its owner, or floods it while there is no way to the owner yet. */
static __always_inline int forward(struct xdp_md *ctx, struct xg_config *cfg,
				   const struct xg_packet *packet, const struct found *found,
				   __u16 slot, int ending)
{
	if (found->template_index != XG_NO_TEMPLATE)
		return cfg->has_loops && !packet->fragment && hand_over(ctx) ?
			       HANDED_OVER :
			       encapsulate_here(ctx, packet, found->template_index, 0, ending);
	if (ending == XG_COUNT_syn_forwarded)
		return XG_COUNT_passed_syn;
	return flood_miss(ctx, cfg, packet, slot, found->hash);
}

/* Steps 3 to 6: a packet that came straight from the router. */
static __always_inline int handle_plain(struct xdp_md *ctx, struct xg_config *cfg,
					struct xg_packet *packet)
{
	struct xg_service *service = find_service(packet);
	struct found found = {};
	int decision, alive, known = XG_UNKNOWN;
	__u16 slot;

	if (!service)
		return XG_COUNT_passed_no_service;
	slot = service->slot;
	locate_session(packet, slot, &found);
	if (is_trusted(packet, found.hash))
		return XG_COUNT_passed_own;
	/* Nearly every segment needs the kernel's word; asked here, its cache miss and the table's
	 * overlap. */
	if (packet->protocol == XG_PROTO_TCP && !xg_is_syn(packet))
		known = ask_kernel(ctx, packet);
	find_session(packet, slot, &found);
	/* only the mark depends on the agent: no other packet pays for the clock */
	alive = xg_meta_owner(found.meta) == XG_HOST_UNOWNED && agent_alive(cfg);
	decision = xg_decide(packet, found.meta, cfg->host, alive);
	XG_FORGET(decision);
	if (decision == XG_DECIDE_FORWARD_SYN)
		return forward(ctx, cfg, packet, &found, slot, XG_COUNT_syn_forwarded);
	if (xg_asks_id(service, decision)) {
		found.template_index = template_by_id(ctx, cfg, packet);
		if (found.template_index != XG_NO_TEMPLATE)
			return forward(ctx, cfg, packet, &found, slot, XG_COUNT_quic_forwarded);
	}
	if (decision < XG_COUNTERS)
		return decision;
	/* what is left: a segment, or UDP of another host's session */
	if (packet->protocol == XG_PROTO_UDP)
		known = kernel_knows(ctx, packet);
	if (known >= XG_KNOWN_HALF) {
		if (decision == XG_DECIDE_OWN && known == XG_KNOWN_FULL)
			trust(packet, found.hash);
		if (decision != XG_DECIDE_OWN && known == XG_KNOWN_FULL &&
		    remember(&recent_claims, found.hash) <= RECENT_SEEN)
			tell_agent(packet, XG_EVENT_CLAIM, slot, 0);
		return xg_decide_known(decision);
	}
	if (decision == XG_DECIDE_STRAY)
		return forward(ctx, cfg, packet, &found, slot, XG_COUNT_stray_forwarded);
	return flood_miss(ctx, cfg, packet, slot, found.hash);
}

/* A unicast tunnel packet that this kernel does not take: flood it, once. The sender is told,
 * if it took us for the owner, but only if there is no socket at all: a segment that does not fit
 * says nothing of the session. */
static __always_inline int handle_misdirected(struct xdp_md *ctx, struct xg_config *cfg,
					      const struct xg_tunnel *tunnel,
					      const struct xg_packet *inner, __u16 slot,
					      int known)
{
	__u64 hash = session_hash(inner, slot);

	if (!tunnel->is_search && known == XG_UNKNOWN &&
	    remember(&recent_claims, ~hash) <= RECENT_SEEN)
		tell_agent(inner, XG_EVENT_MISDIRECTED, slot, tunnel->host);
	if ((tunnel->shim.mark & XG_MARK_HOP) ||
	    (cfg->flood_template == XG_NO_TEMPLATE && !cfg->flood_copies) ||
	    !within_budget(cfg, XG_BUDGET_SEEN))
		return XG_COUNT_misdirected_dropped;
	if (cfg->flood_copies && !inner->fragment && hand_over(ctx))
		return HANDED_OVER;
	if (cfg->flood_template != XG_NO_TEMPLATE)
		return encapsulate(ctx, inner, cfg->flood_template, XG_MARK_FLOOD | XG_MARK_HOP,
				   XG_COUNT_misdirected_flooded);
	if (tunnel->shim.mark & XG_MARK_RELAY)	/* two hosts without loops: no packet may circle */
		return XG_COUNT_misdirected_dropped;
	return relay(ctx, cfg, inner);
}

/* What becomes of the inner packet, by socket: an ending of the delivered_* kind, or another. */
static __always_inline int judge_inner(struct xdp_md *ctx, struct xg_config *cfg,
				       const struct xg_tunnel *tunnel, struct xg_packet *inner)
{
	struct xg_service *service = find_service(inner);
	int ending, known;
	__u16 slot;

	if (!service)
		return XG_COUNT_tunnel_no_service;
	slot = service->slot;
	ending = xg_judge_inner(inner, tunnel->is_search);
	if (ending != XG_TUNNEL_ASK)
		return ending;
	known = kernel_knows(ctx, inner);
	if (known < XG_KNOWN_HALF)
		return tunnel->is_flood ? XG_COUNT_flood_unknown :
					  handle_misdirected(ctx, cfg, tunnel, inner, slot, known);
	if (!tunnel->is_search)
		return XG_COUNT_delivered_stray;
	if (known == XG_KNOWN_FULL &&
	    remember(&recent_claims, session_hash(inner, slot)) <= RECENT_SEEN)
		tell_agent(inner, XG_EVENT_CLAIM, slot, 0);
	return XG_COUNT_delivered_flood;
}

/* Step 2: a packet that another host sent here. */
static __always_inline int handle_tunnel(struct xdp_md *ctx, struct xg_config *cfg,
					 const struct xg_packet *outer)
{
	struct xg_tunnel tunnel = {};
	struct xg_packet inner = {};
	int ending = open_tunnel(ctx, cfg, outer, &tunnel);

	if (ending != XG_TUNNEL_OPEN)
		return ending;
	if (tunnel.shim.is_probe)
		return answer_probe(ctx, outer, &tunnel);
	inner.beyond = outer->beyond;
	ending = parse_inner(ctx, &tunnel, &inner);
	if (ending == XG_TUNNEL_ODD)
		return handle_inner_odd(ctx, outer, tunnel.is_search, &inner);
	if (ending != XG_TUNNEL_OPEN)
		return ending;
	ending = judge_inner(ctx, cfg, &tunnel, &inner);
	if (!xg_is_delivery(ending))
		return ending;
	if (inner.fragment)
		remember_fragment(&inner, XG_NO_TEMPLATE, 0);
	return strip(ctx, cfg, outer, &inner, ending);
}

static __always_inline int is_tunnel(const struct xg_config *cfg, const struct xg_packet *packet)
{
	return xg_is_tunnel(packet, cfg->tunnel_port_be, (__u8)cfg->encapsulation, cfg->address_be,
			    cfg->flood_group_be);
}

static __always_inline int action_of(int ending);

static __always_inline int handle(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_config *cfg = the_config();
	struct xg_packet packet = {};
	int ending, reason;

	if (!cfg)
		return XG_COUNT_passed_unparsed;
	reason = xg_parse_frame(data, end, &packet);
	if (reason == XG_PARSE_TRUNCATED)
		reason = parse_long(ctx, &packet);
	/* IP-in-IP has no transport that the parser knows, but its addresses are read */
	if ((reason == XG_PARSE_OK || reason == XG_PARSE_NOT_TRANSPORT) && is_tunnel(cfg, &packet))
		return handle_tunnel(ctx, cfg, &packet);
	switch (reason) {
	case XG_PARSE_OK:
		ending = handle_plain(ctx, cfg, &packet);
		if (packet.fragment && ending != HANDED_OVER && action_of(ending) == XDP_PASS)
			remember_fragment(&packet, XG_NO_TEMPLATE, 0);
		return ending;
	case XG_PARSE_NOT_IP:
		return XG_COUNT_passed_not_ip;
	case XG_PARSE_FRAGMENT:
		return follow_fragment(ctx, &packet);
	default:
		return handle_odd(ctx, &packet, reason);
	}
}

#define ENDING_ACTION(name, action, sentence) \
	case XG_COUNT_##name:                 \
		return XDP_##action;

static __always_inline int action_of(int ending)
{
	switch (ending) {
		XG_ENDINGS(ENDING_ACTION)
	default:
		return XDP_PASS;
	}
}

SEC("xdp.frags")
int xg_redirect(struct xdp_md *ctx)
{
	int ending = handle(ctx);

	if (ending == HANDED_OVER)
		return XDP_REDIRECT;
	count(ending);
	return action_of(ending);
}

/* Answers a peer's WHO-HAS, in BPF_PROG_TEST_RUN: XDP_PASS if a full socket holds the session of
 * the frame and the segment fits, XDP_TX if it is half-open, closing or a cookie's, XDP_DROP if
 * this kernel has no socket of it, XDP_ABORTED in doubt. Of an ICMP error: XDP_PASS if there is a
 * socket of the session that it quotes, else XDP_DROP. Counts nothing and tells nobody. */
SEC("xdp")
int xg_question(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_packet packet = {};
	int reason;

	reason = xg_parse_frame(data, end, &packet);
	if (xg_odd_kind(reason, &packet) == XG_ODD_ICMP &&
	    read_icmp(ctx, &packet) == XG_ODD_ERROR)
		return kernel_knows(ctx, &packet) == XG_UNKNOWN ? XDP_DROP : XDP_PASS;
	if (reason != XG_PARSE_OK)
		return XDP_ABORTED;
	switch (kernel_knows(ctx, &packet)) {
	case XG_KNOWN_FULL:
		return XDP_PASS;
	case XG_KNOWN_HALF:
		return XDP_TX;
	case XG_UNKNOWN:
		return XDP_DROP;
	default:
		return XDP_ABORTED;
	}
}

/* At tc ingress, behind the XDP program: veth decides that a frame is multicast before XDP has
 * rewritten its destination, and TCP drops what is not for this host. */
SEC("tc")
int xg_host_type(struct __sk_buff *skb)
{
	struct xg_config *cfg = the_config();
	__u8 difference = 0, destination[6];

	if (!cfg || skb->pkt_type == 0 ||
	    bpf_skb_load_bytes(skb, 0, destination, sizeof(destination)))
		return -1;	/* TC_ACT_UNSPEC: as if we were not there */
	for (int i = 0; i < 6; i++)
		difference |= destination[i] ^ cfg->mac[i];
	if (difference == 0)
		bpf_skb_change_type(skb, 0);	/* PACKET_HOST */
	return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
