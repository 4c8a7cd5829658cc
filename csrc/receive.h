/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A tunnel packet that another host sent here, on plain buffers: checked, judged and stripped as
 * by the XDP program, by the functions of tunnel_open.h.
 *
 * For those who ask what became of a frame. The data path opens tunnel packets in the XDP program
 * only, whose memory of fragments and whose kernel are not asked here.
 */
#ifndef XG_RECEIVE_H
#define XG_RECEIVE_H

#include <string.h>

#include "forward.h"
#include "odd_packets.h"
#include "tunnel_open.h"

#define XG_RECEIVE_MISDIRECTED (-5)	/* no ending yet: flood it, once */

/* One host whose tunnel packets are taken, if it is active. */
struct xg_sender {
	struct xg_peer_key key;
	struct xg_peer peer;
};

/* What opens tunnel packets. */
struct xg_receiver {
	const struct xg_sender *senders;
	uint32_t sender_count;
	uint32_t knows_all;	/* the kernel is taken to know each session */
	uint8_t mac[6];		/* of this host: what is stripped gets it as destination */
};

/* How a tunnel packet for this host was opened. */
struct xg_opened {
	struct xg_tunnel tunnel;
	const struct xg_peer *sender;	/* NULL: it was not asked for, or is no active host */
	int is_to_group;
};

static inline const struct xg_peer *xg_receive_sender(const struct xg_forwarder *forwarder,
						      const struct xg_packet *outer)
{
	const struct xg_receiver *receiver = forwarder->receiver;

	for (uint32_t i = 0; i < receiver->sender_count; i++) {
		const struct xg_sender *one = &receiver->senders[i];

		if (xg_same_address(one->key.address_be, outer->source_be))
			return xg_owner_load(&forwarder->owners[one->peer.host]).flags &
					       XG_OWNER_ACTIVE ?
				       &one->peer :
				       NULL;
	}
	return NULL;
}

/* Checks the sender, its cookie and the format. Returns XG_TUNNEL_OPEN or an ending. */
static inline int xg_receive_open(const struct xg_forwarder *forwarder,
				  const struct xg_frame *frame, const struct xg_packet *outer,
				  struct xg_opened *opened)
{
	memset(opened, 0, sizeof(*opened));
	if (xg_read_shim(frame->data, frame->data + frame->len, outer, forwarder->encapsulation,
			 &opened->tunnel.shim))
		return XG_COUNT_tunnel_malformed;
	opened->sender = xg_receive_sender(forwarder, outer);
	if (!opened->sender)
		return XG_COUNT_tunnel_bad_source;
	opened->is_to_group = xg_same_address(outer->destination_be, forwarder->flood_group_be);
	return xg_check_tunnel(opened->sender, opened->is_to_group, &opened->tunnel);
}

static inline __u64 xg_receive_meta(const struct xg_forwarder *forwarder,
				    const struct xg_packet *packet, uint16_t slot)
{
	const struct xg_session_table *table =
		packet->family == 4 ? forwarder->table4 : forwarder->table6;
	__u64 key[XG_KEY_WORDS_MAX];
	__u64 meta = 0;

	if (!table)
		return 0;
	xg_forward_key(packet, slot, key);
	xg_session_table_find_burst(table, key, 1, &meta);
	return meta;
}

/* Whether this host's kernel is taken to know the session. */
static inline int xg_receive_knows(const struct xg_forwarder *forwarder,
				   const struct xg_packet *inner, uint16_t slot)
{
	__u64 meta;

	if (forwarder->receiver->knows_all || !forwarder->own_is_known)
		return (int)forwarder->receiver->knows_all;
	meta = xg_receive_meta(forwarder, inner, slot);
	return meta && xg_meta_owner(meta) == forwarder->host;
}

/* Of an inner packet with ports. Returns an ending or XG_RECEIVE_MISDIRECTED. */
static inline int xg_receive_judge(const struct xg_forwarder *forwarder,
				   const struct xg_tunnel *tunnel, const struct xg_packet *inner)
{
	const struct xg_service *service = xg_forward_service_of(forwarder, inner);
	int ending;

	if (!service)
		return XG_COUNT_tunnel_no_service;
	ending = xg_judge_inner(inner, tunnel->is_search);
	if (ending != XG_TUNNEL_ASK)
		return ending;
	if (xg_receive_knows(forwarder, inner, service->slot))
		return tunnel->is_search ? XG_COUNT_delivered_flood : XG_COUNT_delivered_stray;
	return tunnel->is_flood ? XG_COUNT_flood_unknown : XG_RECEIVE_MISDIRECTED;
}

/* Of an inner packet without ports: makes it the session that an ICMP error quotes. 1: it is
 * one; 0: it is none, and cannot be read. */
static inline int xg_receive_error(const struct xg_frame *frame, struct xg_packet *inner)
{
	const uint8_t *l4 = frame->data + inner->l4_offset;

	return xg_odd_kind(XG_PARSE_NOT_TRANSPORT, inner) == XG_ODD_ICMP &&
	       l4 <= frame->data + frame->len &&
	       xg_read_icmp(l4, frame->data + frame->len, inner) == XG_ODD_ERROR;
}

static inline int xg_receive_odd(const struct xg_forwarder *forwarder,
				 const struct xg_frame *frame, int is_search,
				 struct xg_packet *inner)
{
	const struct xg_service *service;

	if (inner->fragment == XG_FRAGMENT_LATER)
		return XG_COUNT_fragment_refused;
	if (!xg_receive_error(frame, inner))
		return XG_COUNT_tunnel_malformed;
	service = xg_forward_service_of(forwarder, inner);
	if (!service)
		return XG_COUNT_tunnel_no_service;
	if (!is_search && inner->protocol == XG_PROTO_UDP)
		return XG_COUNT_delivered_icmp;
	return xg_receive_knows(forwarder, inner, service->slot) ? XG_COUNT_delivered_icmp :
								   XG_COUNT_icmp_unknown;
}

static inline int xg_receive_strip(const struct xg_forwarder *forwarder, struct xg_frame *frame,
				   const struct xg_packet *outer, const struct xg_packet *inner,
				   int ending)
{
	int ecn = xg_combine_ecn(inner->tos, outer->tos);
	uint32_t cut = (uint32_t)inner->l3_offset - outer->l3_offset;
	uint8_t l2[XG_L2_MAX];

	if (ecn < 0)
		return XG_COUNT_tunnel_ecn_dropped;
	if (frame->len < XG_L2_MAX || frame->len < cut)
		return XG_COUNT_tunnel_malformed;
	memcpy(l2, frame->data, XG_L2_MAX);
	frame->data += cut;
	frame->len -= cut;
	frame->headroom += cut;
	return xg_finish_strip(frame->data, frame->data + frame->len, l2, outer->l3_offset,
			       forwarder->receiver->mac, inner, ecn, ending);
}

/* What becomes of a tunnel packet for this host: an ending, or XG_RECEIVE_MISDIRECTED. */
static inline int xg_receive(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			     const struct xg_packet *outer)
{
	const uint8_t *end = frame->data + frame->len;
	struct xg_packet inner = { 0 };
	struct xg_opened opened;
	int ending = xg_receive_open(forwarder, frame, outer, &opened);

	if (ending != XG_TUNNEL_OPEN)
		return ending;
	if (opened.tunnel.shim.is_probe)
		return xg_answer_probe(frame->data, end, outer, &opened.tunnel);
	ending = xg_open_inner(frame->data, end, &opened.tunnel, &inner);
	if (ending == XG_TUNNEL_ODD)
		ending = xg_receive_odd(forwarder, frame, opened.tunnel.is_search, &inner);
	else if (ending == XG_TUNNEL_OPEN)
		ending = xg_receive_judge(forwarder, &opened.tunnel, &inner);
	if (!xg_is_delivery(ending) && ending != XG_COUNT_delivered_icmp)
		return ending;
	return xg_receive_strip(forwarder, frame, outer, &inner, ending);
}

#endif
