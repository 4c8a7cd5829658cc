/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading a frame of the forwarder's that may be in several buffers: the headers lie in the first
 * one, the length is that of all of them.
 */
#ifndef XG_WHOLE_FRAME_H
#define XG_WHOLE_FRAME_H

#include "forward.h"

/* Returns an xg_parse_reason. */
static inline int xg_parse_whole(const struct xg_frame *frame, struct xg_packet *packet)
{
	packet->beyond = frame->beyond;
	return xg_parse_first_buffer(frame->data, frame->data + frame->len, packet);
}

#endif
