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

#define TUNNEL_OPEN (-1)	/* no ending yet: go on */
#define TUNNEL_ODD (-3)		/* the same, but the inner packet has no ports */
#define L2_MAX (XG_ETH_LEN + XG_VLAN_TAGS * XG_VLAN_LEN)

struct tunnel {
	struct xg_shim shim;
	__u64 reply_cookie;
	__u16 host;	/* who sent it */
	__u8 is_flood;
	__u8 is_search;	/* a flood, or what leads to one: nobody said that it is ours */
};

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
	if (xg_outer_ip_len(tmpl, packet) > tmpl->mtu)
		return handle_too_big(ctx, packet, index, mark, xg_inner_mtu(tmpl));
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

/* Checks the sender, its cookie and the format. Returns TUNNEL_OPEN or an ending. */
static __always_inline int open_tunnel(struct xdp_md *ctx, const struct xg_config *cfg,
				       const struct xg_packet *outer, struct tunnel *tunnel)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_shim *shim = &tunnel->shim;
	int to_group = is_to_group(cfg, outer);
	const __u64 *cookies;
	struct xg_peer *peer;

	if (xg_read_shim(data, end, outer, (__u8)cfg->encapsulation, shim))
		return XG_COUNT_tunnel_malformed;
	peer = sender_of(outer);
	if (!peer)
		return XG_COUNT_tunnel_bad_source;
	cookies = to_group ? peer->flood_cookie : peer->unicast_cookie;
	if (shim->has_cookie && shim->cookie != cookies[0] && shim->cookie != cookies[1])
		return XG_COUNT_tunnel_bad_cookie;
	/* a group cannot be the source of an answer */
	if (!shim->is_sound || (shim->is_probe && to_group))
		return XG_COUNT_tunnel_malformed;
	tunnel->is_flood = to_group || (shim->mark & XG_MARK_FLOOD);
	tunnel->is_search = tunnel->is_flood || (shim->mark & XG_MARK_RELAY);
	tunnel->host = peer->host;
	tunnel->reply_cookie = peer->reply_cookie;
	return TUNNEL_OPEN;
}

static __always_inline int parse_inner(struct xdp_md *ctx, const struct tunnel *tunnel,
				       struct xg_packet *inner)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	int reason = xg_parse_inner(data, end, &tunnel->shim, inner);

	if (reason == XG_PARSE_FRAGMENT || reason == XG_PARSE_NOT_TRANSPORT)
		return TUNNEL_ODD;
	return reason == XG_PARSE_OK ? TUNNEL_OPEN : XG_COUNT_tunnel_malformed;
}

/* RFC 6040 4.2: the inner packet's new ECN field, or -1 if it must be dropped. */
static __always_inline int combine_ecn(__u8 inner, __u8 outer)
{
	inner &= 3;
	outer &= 3;
	if (outer == 3)
		return inner == 0 ? -1 : 3;
	return inner == 2 && outer == 1 ? 1 : inner;
}

static __always_inline void set_ecn4(struct xg_ipv4 *ip, __u8 ecn)
{
	__u8 tos = (ip->tos & ~3) | ecn;
	/* RFC 1624: HC' = ~(~HC + ~m + m') */
	__u32 sum = (__u16)~XG_BE16(ip->check_be) + (__u16)~ip->tos + tos;

	ip->tos = tos;
	ip->check_be = XG_BE16((__u16)~xg_fold(sum));
}

/* Takes the outer headers off and hands the inner packet to this host's stack: the Ethernet
 * header and VLAN tags move to the front of it, addressed to this host. */
static __always_inline int strip(struct xdp_md *ctx, const struct xg_config *cfg,
				 const struct xg_packet *outer, const struct xg_packet *inner,
				 int ending)
{
	int ecn = combine_ecn(inner->tos, outer->tos);
	__u32 l2_len = outer->l3_offset;
	__u8 l2[L2_MAX] = {};
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (ecn < 0)
		return XG_COUNT_tunnel_ecn_dropped;
	if (data + L2_MAX > end)
		return XG_COUNT_tunnel_malformed;
	__builtin_memcpy(l2, data, L2_MAX);
	if (bpf_xdp_adjust_head(ctx, (int)inner->l3_offset - (int)l2_len))
		return XG_COUNT_no_headroom;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + L2_MAX > end)	/* the last fragment may be shorter than any whole packet */
		return XG_COUNT_tunnel_malformed;
	__builtin_memcpy(l2, cfg->mac, 6);
	__u16 ethertype_be = XG_BE16(inner->family == 4 ? XG_ETHERTYPE_IPV4 : XG_ETHERTYPE_IPV6);

	if (l2_len == XG_ETH_LEN) {
		__builtin_memcpy(l2 + 12, &ethertype_be, 2);
		__builtin_memcpy(data, l2, 14);
	} else if (l2_len == XG_ETH_LEN + XG_VLAN_LEN) {
		__builtin_memcpy(l2 + 16, &ethertype_be, 2);
		__builtin_memcpy(data, l2, 18);
	} else if (l2_len == L2_MAX) {
		__builtin_memcpy(l2 + 20, &ethertype_be, 2);
		__builtin_memcpy(data, l2, 22);
	} else {
		return XG_COUNT_tunnel_malformed;
	}
	if (ecn != (inner->tos & 3)) {
		void *l3 = data + XG_MASKED(l2_len, 0x1f);

		if (l3 + XG_IPV4_LEN > end)
			return XG_COUNT_tunnel_malformed;
		if (inner->family == 4)
			set_ecn4(l3, (__u8)ecn);
		else	/* the traffic class straddles two bytes; its ECN bits lie in the second */
			((__u8 *)l3)[1] = (((__u8 *)l3)[1] & 0xcf) | (__u8)(ecn << 4);
	}
	return ending;
}

static __always_inline void swap_words(__u32 *a_be, __u32 *b_be, const int words)
{
	for (int i = 0; i < words; i++) {
		__u32 word = a_be[i];

		a_be[i] = b_be[i];
		b_be[i] = word;
	}
}

#define PROBE_LEN (XG_UDP_LEN + XG_GUE_LEN + 8)	/* bytes from UDP on: a nonce follows the header */

/* The UDP checksum of an answer over IPv6, from scratch: the probe's may have been left to a card
 * (a veth hands it over unfinished). Sums of words in the order of memory: RFC 1071 2 (B). */
static __always_inline __u16 sum_of_answer(const struct xg_ipv6 *ip, const __u32 *udp)
{
	__u64 sum = XG_BE32(PROBE_LEN) + (__u64)XG_BE32(XG_PROTO_UDP);

	for (int i = 0; i < 4; i++)
		sum += (__u64)ip->source_be[i] + ip->destination_be[i];
	for (int i = 0; i < PROBE_LEN / 4; i++)
		sum += udp[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (__u16)~xg_fold((__u32)sum);
	return sum ? (__u16)sum : 0xffff;
}

/* Sends a probe back where it came from, with the cookie of this direction. */
static __always_inline int answer_probe(struct xdp_md *ctx, const struct xg_packet *outer,
					const struct tunnel *tunnel)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	void *l3 = data + (outer->l3_offset & 0x1f);
	struct xg_eth *eth = data;
	struct xg_ipv4 *ip4 = l3;
	struct xg_ipv6 *ip6 = l3;
	struct xg_udp *udp = data + (outer->l4_offset & 0x7ff);
	struct xg_gue *gue = (void *)(udp + 1);
	__u8 mac[6];
	__u16 port_be;

	if ((void *)(eth + 1) > end || (void *)(ip4 + 1) > end ||
	    (void *)udp + PROBE_LEN > end || udp->len_be != XG_BE16(PROBE_LEN))
		return XG_COUNT_tunnel_malformed;
	__builtin_memcpy(mac, eth->destination, 6);
	__builtin_memcpy(eth->destination, eth->source, 6);
	__builtin_memcpy(eth->source, mac, 6);
	port_be = udp->source_port_be;
	udp->source_port_be = udp->destination_port_be;
	udp->destination_port_be = port_be;
	udp->check_be = 0;
	gue->proto_ctype = XG_GUE_PROBE_REPLY;
	gue->cookie = tunnel->reply_cookie;
	if (outer->family == 4) {
		swap_words(&ip4->source_be, &ip4->destination_be, 1);
		return XG_COUNT_probe_answered;
	}
	if ((void *)(ip6 + 1) > end)
		return XG_COUNT_tunnel_malformed;
	swap_words(ip6->source_be, ip6->destination_be, 4);
	udp->check_be = sum_of_answer(ip6, (void *)udp);
	return XG_COUNT_probe_answered;
}

#endif
