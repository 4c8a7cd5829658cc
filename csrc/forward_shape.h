/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's short way: most frames of a burst have the headers of the one before, but for
 * what differs from client to client. Such a frame is known by three words. Nothing is parsed
 * again, and what is asked of its headers later is read from where it must lie.
 *
 * Included by forward.c alone.
 */
#ifndef XG_FORWARD_SHAPE_H
#define XG_FORWARD_SHAPE_H

#include <string.h>

#include "forward.h"

/* Words at these offsets of an untagged IPv4 packet without options... */
#define SHAPE_WORDS 3
static const uint8_t shape_at[SHAPE_WORDS] = { 12, 20, 30 };
/* ... and what must be the same in them (little-endian): EtherType, version and header length;
 * the fragment's place but for DF, protocol; destination address and port. */
static const __u64 shape_mask[SHAPE_WORDS] = {
	0x0000000000ffffffull, 0x00000000ff00ffbfull, 0xffff0000ffffffffull,
};

struct shape {
	const struct xg_service *service;	/* NULL: nothing has a shape yet */
	__u64 words[SHAPE_WORDS];
	uint32_t ip_len;	/* the least one: up to the end of the transport header */
};

struct plain_headers {
	struct xg_eth eth;
	struct xg_ipv4 ip;
	struct xg_tcp tcp;	/* or UDP, whose ports lie at the same place */
} XG_UNALIGNED;

static inline __u64 shape_word(const struct xg_frame *frame, int i)
{
	__u64 word;

	memcpy(&word, frame->data + shape_at[i], sizeof(word));
	return word & shape_mask[i];
}

/* The next frames are compared with this one, if it is whole and its headers are plain ones.
 * `packet`: as the parser has left it. */
static inline void remember_shape(struct shape *shape, const struct xg_frame *frame,
				  const struct xg_packet *packet,
				  const struct xg_service *service)
{
	if (packet->family != 4 || packet->fragment != XG_FRAGMENT_NONE ||
	    packet->l3_offset != XG_ETH_LEN || packet->l4_offset != XG_ETH_LEN + XG_IPV4_LEN)
		return;
	shape->service = service;
	shape->ip_len = XG_IPV4_LEN +
			(packet->protocol == XG_PROTO_TCP ? XG_TCP_LEN : XG_UDP_LEN);
	for (int i = 0; i < SHAPE_WORDS; i++)
		shape->words[i] = shape_word(frame, i);
}

/* Whether the parser would find in the frame what it found in the one before. */
static inline int has_shape(const struct shape *shape, const struct xg_frame *frame)
{
	const struct plain_headers *headers = (const void *)frame->data;
	uint32_t ip_len;

	if (!shape->service || frame->len < XG_ETH_LEN + shape->ip_len ||
	    ((shape_word(frame, 0) ^ shape->words[0]) | (shape_word(frame, 1) ^ shape->words[1]) |
	     (shape_word(frame, 2) ^ shape->words[2])))
		return 0;
	ip_len = XG_BE16(headers->ip.total_len_be);
	return ip_len >= shape->ip_len && ip_len <= frame->len - XG_ETH_LEN;
}

/* What the parser would say of such a frame. */
static inline __attribute__((always_inline)) struct xg_packet
plain_packet(const struct xg_frame *frame)
{
	const struct plain_headers *headers = (const void *)frame->data;
	const struct xg_ipv4 *ip = &headers->ip;
	const struct xg_tcp *tcp = &headers->tcp;
	struct xg_packet packet = {
		.source_be = { 0, 0, XG_BE32(0xffff), ip->source_be },
		.destination_be = { 0, 0, XG_BE32(0xffff), ip->destination_be },
		.fragment_id = ip->id_be,
		.source_port_be = tcp->source_port_be,
		.destination_port_be = tcp->destination_port_be,
		.l3_offset = XG_ETH_LEN,
		.l4_offset = XG_ETH_LEN + XG_IPV4_LEN,
		.ip_len = XG_BE16(ip->total_len_be),
		.family = 4,
		.protocol = ip->protocol,
		.tos = ip->tos,
	};

	if (packet.protocol == XG_PROTO_TCP) {
		packet.seq = XG_BE32(tcp->seq_be);
		packet.ack = XG_BE32(tcp->ack_be);
		packet.tcp_flags = tcp->flags;
	}
	return packet;
}

#endif
