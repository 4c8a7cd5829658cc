/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a receiver asks of a tunnel packet, and how it takes the outer headers off: BPF and user
 * space.
 *
 * Pure: who the sender is, and whether the kernel knows a session, is asked by the caller. Nothing
 * of the inner packet is read before the sender and its cookie are checked.
 */
#ifndef XG_TUNNEL_OPEN_H
#define XG_TUNNEL_OPEN_H

#include "bpf/shared.h"
#include "decide.h"
#include "encapsulation.h"
#include "header_template.h"
#include "too_big.h"

/* Beyond the endings. */
#define XG_TUNNEL_OPEN (-1)	/* no ending yet: go on */
#define XG_TUNNEL_ODD (-3)	/* the same, but the inner packet has no ports */
#define XG_TUNNEL_ASK (-4)	/* it goes by what the kernel says of the session */

struct xg_tunnel {
	struct xg_shim shim;
	__u64 reply_cookie;
	__u16 host;	/* who sent it */
	__u8 is_flood;
	__u8 is_search;	/* a flood, or what leads to one: nobody said that it is ours */
};

/* Checks cookie and format of what this peer sent; `tunnel->shim` was read. Returns XG_TUNNEL_OPEN
 * or an ending. */
XG_INLINE int xg_check_tunnel(const struct xg_peer *peer, int to_group, struct xg_tunnel *tunnel)
{
	const __u64 *cookies = to_group ? peer->flood_cookie : peer->unicast_cookie;
	struct xg_shim *shim = &tunnel->shim;

	if (shim->has_cookie && shim->cookie != cookies[0] && shim->cookie != cookies[1])
		return XG_COUNT_tunnel_bad_cookie;
	/* a group cannot be the source of an answer */
	if (!shim->is_sound || (shim->is_probe && to_group))
		return XG_COUNT_tunnel_malformed;
	tunnel->is_flood = to_group || (shim->mark & XG_MARK_FLOOD);
	tunnel->is_search = tunnel->is_flood || (shim->mark & XG_MARK_RELAY);
	tunnel->host = peer->host;
	tunnel->reply_cookie = peer->reply_cookie;
	return XG_TUNNEL_OPEN;
}

/* Parses the inner packet. Returns XG_TUNNEL_OPEN, XG_TUNNEL_ODD or an ending. */
XG_INLINE int xg_open_inner(const void *data, const void *end, const struct xg_tunnel *tunnel,
			    struct xg_packet *inner)
{
	int reason = xg_parse_inner(data, end, &tunnel->shim, inner);

	if (reason == XG_PARSE_FRAGMENT || reason == XG_PARSE_NOT_TRANSPORT)
		return XG_TUNNEL_ODD;
	return reason == XG_PARSE_OK ? XG_TUNNEL_OPEN : XG_COUNT_tunnel_malformed;
}

/* What becomes of an inner packet of a service. Returns an ending or XG_TUNNEL_ASK. */
XG_INLINE int xg_judge_inner(const struct xg_packet *inner, int is_search)
{
	if (is_search && xg_is_syn(inner))
		return XG_COUNT_flood_syn;
	if (!is_search && xg_is_syn(inner))
		return XG_COUNT_delivered_syn;
	if (!is_search && inner->protocol == XG_PROTO_UDP)
		return XG_COUNT_delivered_udp;
	return XG_TUNNEL_ASK;
}

XG_INLINE int xg_is_delivery(int ending)
{
	return ending == XG_COUNT_delivered_stray || ending == XG_COUNT_delivered_syn ||
	       ending == XG_COUNT_delivered_udp || ending == XG_COUNT_delivered_flood;
}

/* ---- strip ---- */

/* RFC 6040 4.2: the inner packet's new ECN field, or -1 if it must be dropped. */
XG_INLINE int xg_combine_ecn(__u8 inner, __u8 outer)
{
	inner &= 3;
	outer &= 3;
	if (outer == 3)
		return inner == 0 ? -1 : 3;
	return inner == 2 && outer == 1 ? 1 : inner;
}

XG_INLINE void xg_set_ecn4(struct xg_ipv4 *ip, __u8 ecn)
{
	__u8 tos = (ip->tos & ~3) | ecn;
	/* RFC 1624: HC' = ~(~HC + ~m + m') */
	__u32 sum = (__u16)~XG_BE16(ip->check_be) + (__u16)~ip->tos + tos;

	ip->tos = tos;
	ip->check_be = XG_BE16((__u16)~xg_fold(sum));
}

/* Finishes what begins at `data` with room for `l2_len` bytes and the inner packet: the Ethernet
 * header and VLAN tags of `l2` (XG_L2_MAX bytes, of which l2_len count) to its front, addressed
 * to `mac`; and its ECN field. Returns `ending`, or why it could not be done. */
XG_INLINE int xg_finish_strip(void *data, const void *end, __u8 *l2, __u32 l2_len,
			      const __u8 *mac, const struct xg_packet *inner, int ecn, int ending)
{
	if (data + XG_L2_MAX > end)	/* the last fragment may be shorter than any whole packet */
		return XG_COUNT_tunnel_malformed;
	__builtin_memcpy(l2, mac, 6);
	__u16 ethertype_be = XG_BE16(inner->family == 4 ? XG_ETHERTYPE_IPV4 : XG_ETHERTYPE_IPV6);

	if (l2_len == XG_ETH_LEN) {
		__builtin_memcpy(l2 + 12, &ethertype_be, 2);
		__builtin_memcpy(data, l2, 14);
	} else if (l2_len == XG_ETH_LEN + XG_VLAN_LEN) {
		__builtin_memcpy(l2 + 16, &ethertype_be, 2);
		__builtin_memcpy(data, l2, 18);
	} else if (l2_len == XG_L2_MAX) {
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
			xg_set_ecn4(l3, (__u8)ecn);
		else	/* the traffic class straddles two bytes; its ECN bits lie in the second */
			((__u8 *)l3)[1] = (((__u8 *)l3)[1] & 0xcf) | (__u8)(ecn << 4);
	}
	return ending;
}

/* ---- probes ---- */

#define XG_PROBE_LEN (XG_UDP_LEN + XG_GUE_LEN + 8)	/* from UDP on: a nonce ends it */

struct xg_probe_words {
	__u32 of[XG_PROBE_LEN / 4];
} XG_UNALIGNED;

/* The UDP checksum of an answer over IPv6, from scratch: the probe's may have been left to a card
 * (a veth hands it over unfinished). Sums of words in the order of memory: RFC 1071 2 (B). */
XG_INLINE __u16 xg_sum_of_answer(const struct xg_ipv6 *ip, const struct xg_probe_words *udp)
{
	__u64 sum = XG_BE32(XG_PROBE_LEN) + (__u64)XG_BE32(XG_PROTO_UDP);

	for (int i = 0; i < 4; i++)
		sum += (__u64)ip->source_be[i] + ip->destination_be[i];
	for (int i = 0; i < XG_PROBE_LEN / 4; i++)
		sum += udp->of[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (__u16)~xg_fold((__u32)sum);
	return sum ? (__u16)sum : 0xffff;
}

/* Makes a probe its answer: back where it came from, with the cookie of this direction. */
XG_INLINE int xg_answer_probe(void *data, const void *end, const struct xg_packet *outer,
			      const struct xg_tunnel *tunnel)
{
	void *l3 = data + (outer->l3_offset & 0x1f);
	struct xg_eth *eth = data;
	struct xg_ipv4 *ip4 = l3;
	struct xg_ipv6 *ip6 = l3;
	struct xg_udp *udp = data + (outer->l4_offset & 0x7ff);
	struct xg_gue *gue = (void *)(udp + 1);
	__u8 mac[6];
	__u32 word_be;
	__u16 port_be;

	if ((void *)(eth + 1) > end || (void *)(ip4 + 1) > end ||
	    (void *)udp + XG_PROBE_LEN > end || udp->len_be != XG_BE16(XG_PROBE_LEN))
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
		word_be = ip4->source_be;
		ip4->source_be = ip4->destination_be;
		ip4->destination_be = word_be;
		return XG_COUNT_probe_answered;
	}
	if ((void *)(ip6 + 1) > end)
		return XG_COUNT_tunnel_malformed;
	for (int i = 0; i < 4; i++) {
		word_be = ip6->source_be[i];
		ip6->source_be[i] = ip6->destination_be[i];
		ip6->destination_be[i] = word_be;
	}
	udp->check_be = xg_sum_of_answer(ip6, (void *)udp);
	return XG_COUNT_probe_answered;
}

#endif
