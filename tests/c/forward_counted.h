/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst forwarder, with a count of the frames that took its short way: a test that means to try
 * that way must not pass because no frame went it. Included in the place of linking forward.c.
 */
#ifndef FORWARD_COUNTED_H
#define FORWARD_COUNTED_H

#include "forward_plain.h"

static uint64_t went_short;

static uint32_t send_and_count(struct xg_forwarder *forwarder, struct xg_frame *frames,
			       struct burst *burst, struct group *group)
{
	uint32_t sent = send_runs(forwarder, frames, burst, group);

	went_short += sent;
	return sent;
}

#define send_runs send_and_count
#include "forward.c"
#undef send_runs

#include "forward_world.h"

/* The same end, the same bytes, the same wishes. */
static inline void assert_same(const struct xg_frame *frame, const struct xg_frame *other)
{
	assert(frame->ending == other->ending && frame->len == other->len);
	assert(frame->outer_len == other->outer_len && frame->pieces == other->pieces);
	assert(frame->copy_from == other->copy_from && frame->copy_to == other->copy_to);
	assert(frame->inner_mtu == other->inner_mtu);
	assert(memcmp(frame->data, other->data, frame->len) == 0);
	assert(!frame->outer_len || (frame->family == other->family && frame->mark == other->mark));
}

#endif
