/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's first half: frames to session keys, and keys to what the table says.
 *
 * In groups: while the table's lines of one are on their way, the next one is parsed.
 * Included by forward.c alone.
 */
#ifndef XG_FORWARD_KEYS_H
#define XG_FORWARD_KEYS_H

#include <string.h>

#include "forward.h"
#include "forward_pieces.h"
#include "forward_shape.h"
#include "odd_packets.h"
#include "session_burst.h"
#include "whole_frame.h"

#define KEY_WORDS_V4 1
#define KEY_WORDS_V6 3
#define GROUP 32u

struct lookup {
	__u64 keys[GROUP * XG_KEY_WORDS_MAX];
	uint32_t frame_of[GROUP];
	uint32_t count;
	struct xg_burst_plan plan;
};

/* What is looked up together: of each family. */
struct group {
	struct lookup v4;
	struct lookup v6;
};

enum kind { ENDED, PLAIN, OF_SERVICE, OF_TUNNEL, OF_ICMP_ERROR, NOTED };

struct burst {
	struct xg_packet packets[XG_BURST];
	__u64 metas[XG_BURST];
	const struct xg_service *services[XG_BURST];
	struct shape shape;	/* of the last frame for a service */
	uint8_t kind[XG_BURST];
	struct group *group;	/* of the frames that are parsed */
	struct group groups[2];	/* in turn */
};

static inline void add_key(struct burst *burst, uint32_t frame, uint16_t slot)
{
	const struct xg_packet *packet = &burst->packets[frame];
	struct lookup *lookup = packet->family == 4 ? &burst->group->v4 : &burst->group->v6;
	uint32_t words = packet->family == 4 ? KEY_WORDS_V4 : KEY_WORDS_V6;

	xg_forward_key(packet, slot, &lookup->keys[lookup->count * words]);
	lookup->frame_of[lookup->count++] = frame;
}

/* The same for a frame of the shape of the one before. */
static inline void add_plain(const struct xg_frame *frame, uint32_t i, struct burst *burst)
{
	const struct plain_headers *headers = (const void *)frame->data;
	struct lookup *lookup = &burst->group->v4;
	struct xg_key4 key = { headers->ip.source_be, headers->tcp.source_port_be,
			       burst->shape.service->slot };

	burst->kind[i] = PLAIN;
	burst->services[i] = burst->shape.service;
	memcpy(&lookup->keys[lookup->count], &key, sizeof(key));
	lookup->frame_of[lookup->count++] = i;
}

/* A frame without ports. Of fragments nothing is remembered here: the XDP program sends them. */
static void parse_odd(const struct xg_forwarder *forwarder, struct xg_frame *frame, uint32_t i,
		      struct burst *burst, int reason)
{
	struct xg_packet *packet = &burst->packets[i];
	int kind = xg_odd_kind(reason, packet);
	const struct xg_service *service;

	frame->ending = reason == XG_PARSE_NOT_IP ? XG_COUNT_passed_not_ip :
						    XG_COUNT_passed_unparsed;
	if (reason == XG_PARSE_FRAGMENT)
		frame->ending = XG_COUNT_passed_fragment;
	if ((kind == XG_ODD_NONE && reason != XG_PARSE_FRAGMENT) ||
	    !xg_forward_is_vip(forwarder, packet))
		return;
	if (reason == XG_PARSE_FRAGMENT) {
		frame->ending = XG_COUNT_fragment_unknown;
		return;
	}
	frame->ending = XG_COUNT_dropped_tiny_fragment;
	if (kind == XG_ODD_TINY)
		return;
	kind = xg_read_icmp(frame->data + packet->l4_offset, frame->data + frame->len, packet);
	frame->ending = kind == XG_ODD_ECHO ? XG_COUNT_passed_echo : XG_COUNT_passed_icmp;
	service = kind == XG_ODD_ERROR ? xg_forward_service_of(forwarder, packet) : NULL;
	if (service) {
		burst->kind[i] = OF_ICMP_ERROR;
		add_key(burst, i, service->slot);
	}
}

static void parse_one(const struct xg_forwarder *forwarder, struct xg_frame *frame, uint32_t i,
		      struct burst *burst)
{
	struct xg_packet *packet = &burst->packets[i];
	const struct xg_service *service;
	int reason;

	frame->outer_len = frame->copy_from = frame->copy_to = frame->inner_mtu = frame->pieces = 0;
	if (has_shape(&burst->shape, frame)) {
		add_plain(frame, i, burst);
		return;
	}
	burst->kind[i] = ENDED;
	reason = xg_parse_whole(frame, packet);
	if (forwarder->reads_notes && is_noted(frame)) {
		burst->kind[i] = NOTED;
		return;
	}
	if (xg_forward_is_tunnel(forwarder, reason, packet)) {
		burst->kind[i] = OF_TUNNEL;
		return;
	}
	if (reason != XG_PARSE_OK) {
		parse_odd(forwarder, frame, i, burst, reason);
		return;
	}
	service = xg_forward_service_of(forwarder, packet);
	frame->ending = XG_COUNT_passed_no_service;
	if (service) {
		burst->kind[i] = OF_SERVICE;
		burst->services[i] = service;
		add_key(burst, i, service->slot);
		remember_shape(&burst->shape, frame, packet, service);
	}
}

static void call_lines(const struct xg_session_table *table, struct lookup *lookup)
{
	if (lookup->count && table)
		xg_session_table_plan(table, lookup->keys, lookup->count, &lookup->plan);
}

/* What the table says of the frames from `from` to `to`. */
static void look_up(const struct xg_session_table *table, struct lookup *lookup, uint32_t from,
		    uint32_t to, __u64 metas[XG_BURST])
{
	if (!lookup->count || !table)
		return;
	xg_session_table_take(table, &lookup->plan);
	if (lookup->count == to - from) {	/* of all of them, in their order */
		memcpy(&metas[from], lookup->plan.metas, lookup->count * sizeof(*metas));
		return;
	}
	for (uint32_t i = 0; i < lookup->count; i++)
		metas[lookup->frame_of[i]] = lookup->plan.metas[i];
}

/* Up to the moment when the table's answers are needed. */
static void begin_group(const struct xg_forwarder *forwarder, struct xg_frame *frames,
			uint32_t from, uint32_t to, struct burst *burst)
{
	struct group *group = &burst->groups[from / GROUP % 2];

	burst->group = group;
	group->v4.count = group->v6.count = 0;
	for (uint32_t i = from; i < to; i++) {
		/* where the outer headers will lie */
		__builtin_prefetch(frames[i].data - 1, 1);
		burst->metas[i] = 0;
		parse_one(forwarder, &frames[i], i, burst);
	}
	call_lines(forwarder->table4, &group->v4);
	call_lines(forwarder->table6, &group->v6);
}

#endif
