/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's whole work on strays: parse, look up, encapsulate, account; and its floors.
 */
#ifndef XG_LOOKUP_PIPELINE_H
#define XG_LOOKUP_PIPELINE_H

#include "lookup_questions.h"
#include "session_table.h"

struct pipeline;

/* Over this table, whose sessions all belong to other hosts; they are sent to by this template
 * (128 bytes). NULL: no memory. */
struct pipeline *pipeline_make(const struct xg_session_table *table4, struct xg_owner_state *owners,
			       const void *headers);

/* Forwards a frame of `frame_len` bytes from each session asked for. Returns how many became
 * strays; *untimed_ns: what it took to put the frames where a driver would have put them. */
uint64_t pipeline_run(struct pipeline *p, const struct questions *q, uint32_t frame_len,
		      uint64_t *untimed_ns);

/* For each frame: a random line of `lines`, the frame's first line, and the headers copied in
 * front of it. */
uint64_t pipeline_floors(struct pipeline *p, const struct questions *q, const uint64_t *lines,
			 uint64_t line_count, uint64_t *untimed_ns);

#endif
