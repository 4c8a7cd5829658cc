/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst: parse, look up, encapsulate, on plain buffers; knows no ring and no kernel.
 *
 * Takes the decisions of decide.h for packets of which the kernel knows nothing: that is what
 * the XDP program hands on. One forwarder a thread; tables, owners and templates may be
 * written by another thread meanwhile.
 */
#ifndef XG_FORWARD_H
#define XG_FORWARD_H

#include <stdint.h>

#include "header_template.h"
#include "session_table.h"
#include "stats.h"

#define XG_BURST 64		/* frames a call; the look-up's limit as well */

struct xg_forward_service {
	uint32_t vip_be[4];	/* IPv6, or v4-mapped */
	uint16_t port_be;
	uint8_t protocol;
	uint8_t zero;
	uint16_t slot;
	uint16_t reserved;
};

/* One frame: `headroom` bytes may be written in front of `data`. Out: `data` and `len` of what
 * is to be sent or passed, and its ending. */
struct xg_frame {
	uint8_t *data;
	uint32_t len;
	uint32_t headroom;
	uint32_t ending;	/* enum xg_counter; its action is in stats.h */
};

struct xg_forwarder {
	const struct xg_session_table *table4;
	const struct xg_session_table *table6;
	const struct xg_owner_state *owners;	/* XG_OWNERS entries */
	const struct xg_template *templates;
	uint32_t template_count;
	uint16_t host;
	uint16_t flood_template;		/* index, or XG_NO_TEMPLATE */
	const struct xg_forward_service *services;
	uint32_t service_count;
	uint64_t counters[XG_COUNTERS];
};

/* Decides and, where it must be sent, encapsulates each of `count` frames (at most XG_BURST).
 * 0, or -E2BIG. */
int xg_forward_burst(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count);

/* The two first questions of a parsed packet, for those who explain its way: the service that it
 * is for, or NULL; and the key of its session, 1 word for IPv4 and 3 for IPv6. */
const struct xg_forward_service *xg_forward_service_of(const struct xg_forwarder *forwarder,
						       const struct xg_packet *packet);
void xg_forward_key(const struct xg_packet *packet, uint16_t slot, __u64 *words);

#endif
