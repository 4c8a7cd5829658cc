/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's short way, its first half: most frames of a burst have the headers of the one
 * before, but for what differs from client to client. Such a frame is plain: two wide loads tell.
 * Nothing is parsed again, and of its headers three words are kept until the outer ones are
 * written.
 *
 * Included by forward.c alone.
 */
#ifndef XG_FORWARD_SHAPE_H
#define XG_FORWARD_SHAPE_H

#include <stdbool.h>
#include <string.h>

#include "forward.h"
#include "flow_hashes.h"

typedef __u64 word_pair __attribute__((vector_size(16)));

/* Sixteen bytes at each of these offsets of an untagged IPv4 packet without options... */
#define HEAD_AT 12
#define ENDS_AT 26
/* ... and what must be the same in them (little-endian): EtherType, version and header length; the
 * fragment's place but for DF, protocol... */
static const word_pair head_mask = { 0x0000000000ffffffull, 0x00000000ff00ffbfull };
/* ... destination address; destination port. */
static const word_pair ends_mask = { 0xffffffff00000000ull, 0x00000000ffff0000ull };

/* So long is no frame: nothing has the shape. */
#define NO_SHAPE UINT32_MAX

struct shape {
	word_pair head, ends;	/* under their masks */
	const struct xg_service *service;
	uint32_t len;		/* the least one: up to the end of the transport header */
	uint16_t slot;
	uint8_t flags_at;	/* a byte that is ... */
	uint8_t flags_mask;	/* ... under its mask... */
	uint8_t flags;		/* ... this. Of TCP: ACK and no SYN. */
};

struct plain_headers {
	struct xg_eth eth;
	struct xg_ipv4 ip;
	struct xg_tcp tcp;	/* or UDP, whose ports lie at the same place */
} XG_UNALIGNED;

static inline __u32 plain_tos(__u64 head)
{
	return head >> 24 & 0xff;
}

static inline __u32 plain_len(__u64 head)
{
	return (head >> 32 & 0xff) << 8 | (head >> 40 & 0xff);
}

static inline word_pair words_at(const struct xg_frame *frame, uint32_t at)
{
	word_pair words;

	memcpy(&words, frame->data + at, sizeof(words));
	return words;
}

/* The next frames are compared with this one, if it is whole and its headers are plain ones.
 * `packet`: as the parser has left it. */
static inline void remember_shape(struct shape *shape, const struct xg_frame *frame,
				  const struct xg_packet *packet,
				  const struct xg_service *service)
{
	const bool is_tcp = packet->protocol == XG_PROTO_TCP;

	if (packet->family != 4 || packet->fragment != XG_FRAGMENT_NONE ||
	    packet->l3_offset != XG_ETH_LEN || packet->l4_offset != XG_ETH_LEN + XG_IPV4_LEN)
		return;
	*shape = (struct shape){
		.head = words_at(frame, HEAD_AT) & head_mask,
		.ends = words_at(frame, ENDS_AT) & ends_mask,
		.service = service,
		.len = packet->l4_offset + (is_tcp ? XG_TCP_LEN : XG_UDP_LEN),
		.slot = service->slot,
		.flags_at = is_tcp ? offsetof(struct plain_headers, tcp.flags) : HEAD_AT,
		.flags_mask = is_tcp ? XG_TCP_ACK | XG_TCP_SYN : 0,
		.flags = is_tcp ? XG_TCP_ACK : 0,
	};
}

/* Whether the parser would find in the frame what it found in the one before; of TCP, in a segment
 * that is no SYN; and whether there is room for any outer headers. Keeps what is kept, and writes
 * the key. */
static inline bool has_shape(const struct shape *shape, const struct xg_frame *frame,
			     struct xg_plain *plain, uint32_t at, __u64 *key)
{
	const uint8_t *data = frame->data;
	word_pair head, ends, differs;
	uint32_t longer, room = frame->len - shape->len;	/* than the least one */

	if (frame->len < shape->len || frame->headroom < XG_TEMPLATE_BYTES)
		return false;
	head = words_at(frame, HEAD_AT);
	ends = words_at(frame, ENDS_AT);
	differs = ((head & head_mask) ^ shape->head) | ((ends & ends_mask) ^ shape->ends);
	longer = plain_len(head[0]) - (shape->len - XG_ETH_LEN);
	if ((differs[0] | differs[1]) || longer > room ||
	    (data[shape->flags_at] & shape->flags_mask) != shape->flags)
		return false;
	plain->heads[at] = head[0];
	plain->addresses[at] = ends[0];
	plain->ports[at] = ends[1];
	*key = (__u32)ends[0] | (ends[1] & 0xffff) << 32 | (__u64)shape->slot << 48;
	return true;
}

/* What the parser would say of such a frame. */
static inline struct xg_packet plain_packet(const struct xg_plain *plain, uint32_t at,
					    const struct xg_frame *frame)
{
	const struct plain_headers *headers = (const void *)frame->data;
	const __u64 addresses = plain->addresses[at], ports = plain->ports[at];
	struct xg_packet packet = {
		.source_be = { 0, 0, XG_BE32(0xffff), (__u32)addresses },
		.destination_be = { 0, 0, XG_BE32(0xffff), addresses >> 32 },
		.fragment_id = headers->ip.id_be,
		.source_port_be = (__u16)ports,
		.destination_port_be = (__u16)(ports >> 16),
		.l3_offset = XG_ETH_LEN,
		.l4_offset = XG_ETH_LEN + XG_IPV4_LEN,
		.ip_len = (__u16)plain_len(plain->heads[at]),
		.family = 4,
		.protocol = headers->ip.protocol,
		.tos = (__u8)plain_tos(plain->heads[at]),
	};

	if (packet.protocol == XG_PROTO_TCP) {
		packet.seq = XG_BE32(headers->tcp.seq_be);
		packet.ack = XG_BE32(headers->tcp.ack_be);
		packet.tcp_flags = headers->tcp.flags;
	}
	return packet;
}

#endif
