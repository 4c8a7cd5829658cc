/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's first half: frames to session keys, and keys to what the table says.
 *
 * In groups: while the first buckets of one are on their way, the next one is parsed; while the
 * second ones are, the next one's keys are hashed.
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
/* So many frames ahead a frame's first line is called for, and both lines once more before they
 * are written. Not for a whole burst at once: chunks of 2 KiB fall into few sets of the first
 * cache, which would not hold them. */
#define AHEAD 12u
#define AHEAD_OF_WRITING 4u

struct lookup {
	__u64 keys[XG_GROUP * XG_KEY_WORDS_MAX];
	uint32_t count;
	struct xg_burst_plan plan;
};

/* Plain frames of one shape that follow each other, in the burst and among v4's keys. */
struct run {
	uint32_t frame, at;	/* of its first one */
	uint32_t count;
	const struct xg_service *service;
};

/* What is looked up together: of each family. */
struct group {
	struct lookup v4;
	struct lookup v6;
	struct xg_plain plain;	/* of frames in runs, in the places of their keys */
	__u32 hashes[XG_GROUP];	/* of their flows */
	struct run runs[XG_GROUP];
	uint32_t run_count;
};

enum kind { SENT, ENDED, OF_SERVICE, OF_TUNNEL, OF_ICMP_ERROR, NOTED };

struct burst {
	struct xg_packet packets[XG_BURST];
	const struct xg_service *services[XG_BURST];
	uint8_t key_at[XG_BURST];	/* among its family's */
	uint8_t kind[XG_BURST];
	uint32_t count;
	struct shape shape;	/* of the last frame for a service */
	struct group *group;	/* of the frames that are parsed */
	struct group groups[2];	/* in turn */
};

static inline struct lookup *lookup_of(struct group *group, const struct xg_packet *packet)
{
	return packet->family == 4 ? &group->v4 : &group->v6;
}

static inline void add_key(struct burst *burst, uint32_t frame, uint16_t slot)
{
	const struct xg_packet *packet = &burst->packets[frame];
	struct lookup *lookup = lookup_of(burst->group, packet);
	uint32_t words = packet->family == 4 ? KEY_WORDS_V4 : KEY_WORDS_V6;

	xg_forward_key(packet, slot, &lookup->keys[lookup->count * words]);
	burst->key_at[frame] = (uint8_t)lookup->count++;
}

/* Nothing is written yet, and nothing is to be sent beside the frame. */
static inline void clear_wishes(struct xg_frame *frame)
{
	frame->outer_len = frame->inner_mtu = frame->pieces = frame->copy_from = frame->copy_to = 0;
}

static inline void call_line(const uint8_t *line)
{
	/* Without this, gcc 12 finds the function without effect and leaves its calls out. */
	__asm__ volatile("");
	__builtin_prefetch(line, 1);
}

/* The line in front of a frame that is parsed, where its outer headers will lie, and the first one
 * of a frame to come. */
static inline void call_frames(const struct xg_frame *frames, uint32_t i, uint32_t count)
{
	call_line(frames[i].data - 1);
	if (i + AHEAD < count)
		call_line(frames[i + AHEAD].data);
}

/* The same for a run from frame `i` on. Returns the first frame behind it. */
static inline uint32_t add_run(const struct xg_frame *frames, uint32_t i, uint32_t to,
			       struct burst *burst)
{
	const struct shape shape = burst->shape;
	struct group *group = burst->group;
	struct run *run = &group->runs[group->run_count];
	uint32_t at = group->v4.count;

	*run = (struct run){ .frame = i, .at = at, .service = shape.service };
	for (; i < to && has_shape(&shape, &frames[i], &group->plain, at, &group->v4.keys[at]);
	     i++, at++)
		call_frames(frames, i, burst->count);
	run->count = i - run->frame;
	group->v4.count = at;
	group->run_count += run->count > 0;
	return i;
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

	clear_wishes(frame);
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

static struct group *group_at(struct burst *burst, uint32_t from)
{
	return &burst->groups[from / XG_GROUP % 2];
}

static void parse_group(const struct xg_forwarder *forwarder, struct xg_frame *frames,
			uint32_t from, uint32_t to, struct burst *burst)
{
	struct group *group = group_at(burst, from);

	burst->group = group;
	group->v4.count = group->v6.count = group->run_count = 0;
	for (uint32_t i = add_run(frames, from, to, burst); i < to;
	     i = add_run(frames, i + 1, to, burst)) {
		call_frames(frames, i, burst->count);
		parse_one(forwarder, &frames[i], i, burst);
	}
}

static void call_buckets(const struct xg_session_table *table, struct lookup *lookup)
{
	if (lookup->count && table)
		xg_session_table_plan(table, lookup->keys, lookup->count, &lookup->plan);
	else	/* without a table there is no session */
		memset(lookup->plan.metas, 0, lookup->count * sizeof(*lookup->plan.metas));
}

/* The three steps of session_burst.h. */
static void call_group(const struct xg_forwarder *forwarder, struct group *group)
{
	call_buckets(forwarder->table4, &group->v4);
	call_buckets(forwarder->table6, &group->v6);
}

static void probe_group(const struct xg_forwarder *forwarder, struct group *group)
{
	if (group->v4.count && forwarder->table4)
		xg_session_table_probe(forwarder->table4, &group->v4.plan);
	if (group->v6.count && forwarder->table6)
		xg_session_table_probe(forwarder->table6, &group->v6.plan);
}

static void take_group(const struct xg_forwarder *forwarder, struct group *group)
{
	if (group->v4.count && forwarder->table4)
		xg_session_table_take(forwarder->table4, &group->v4.plan);
	if (group->v6.count && forwarder->table6)
		xg_session_table_take(forwarder->table6, &group->v6.plan);
}

#endif
