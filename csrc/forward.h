/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The burst: parse, look up, encapsulate, on plain buffers; knows no ring and no kernel.
 *
 * Takes the decisions of decide.h for packets of which the kernel knows nothing: that is what
 * the XDP program hands on. It also floods a tunnel packet that came to the wrong host, which
 * the XDP program, or the receiver (receive.h), has checked. One forwarder a thread; tables,
 * owners, templates and flood list may be written by another thread meanwhile.
 */
#ifndef XG_FORWARD_H
#define XG_FORWARD_H

#include <stddef.h>
#include <stdint.h>

#include "answer_budget.h"
#include "header_template.h"
#include "quic_lb.h"
#include "services.h"
#include "session_table.h"
#include "stats.h"

#define XG_BURST 64		/* frames a call; the look-up's limit as well */
#define XG_FLOOD_COPIES 1022	/* hosts that floods may be copied to: all of a POP but this one */

/* One frame: `headroom` bytes may be written in front of `data`. Out: `data` and `len` of what
 * is to be sent or passed, its ending, and what a flood still needs. */
struct xg_frame {
	uint8_t *data;
	uint32_t len;
	uint32_t headroom;
	uint32_t beyond;	/* bytes of it in further buffers, which are not seen here */
	uint32_t ending;	/* enum xg_counter; its action is in stats.h */
	uint16_t outer_len;	/* bytes of outer headers that were written; 0: none */
	uint16_t inner_mtu;	/* too big: what would have fit the path, the least of several */
	uint16_t pieces;	/* fragments still to be sent, each in a frame of its own */
	uint8_t family;		/* of the packet behind the outer headers, 4 or 6 */
	uint8_t mark;		/* XG_MARK_* that were set */
	uint16_t copy_from;	/* first place in the flood list that still has to get a copy */
	uint16_t copy_to;	/* the place after the last one */
	uint16_t piece;		/* number of the next one */
	uint16_t piece_template;	/* whose headers they get */
	uint16_t source_port_be;	/* of a later fragment's session */
	uint16_t destination_port_be;
};

/* How misses reach all hosts: one packet to the group, and one to each host beyond it. Written
 * in place while it is read: a host that comes or goes may miss one copy, or get one twice. */
struct xg_flood {
	uint16_t group;		/* template index, or XG_NO_TEMPLATE: there is no group */
	uint16_t copies;
	uint16_t to[XG_FLOOD_COPIES];	/* template indices */
};

struct xg_receiver;

struct xg_forwarder {
	const struct xg_session_table *table4;
	const struct xg_session_table *table6;
	const struct xg_owner_state *owners;	/* XG_OWNERS entries */
	const struct xg_template *templates;
	uint32_t template_count;
	uint16_t host;
	uint16_t tunnel_port_be;		/* 0: knows no tunnel packets */
	uint32_t address_be[4];			/* of this host: IPv6, or v4-mapped */
	uint32_t flood_group_be[4];		/* asked for by a receiver only; 0: there is none */
	uint8_t encapsulation;			/* enum xg_encapsulation, of the whole POP */
	const struct xg_flood *flood;
	const struct xg_quic_lb *quic;		/* XG_QUIC_LAYOUTS of them, or NULL: none */
	const struct xg_service *services;	/* places of services.h */
	uint32_t service_mask;			/* places - 1 */
	uint32_t cannot_pass;			/* what should pass is dropped: `overtaken` */
	uint32_t reads_notes;			/* frames come from the XDP program: note.h */
	uint32_t can_fragment;			/* what is too big and has no DF */
	uint32_t spare_frames;			/* that fragments may take, before each burst */
	uint32_t own_is_known;			/* without a kernel to ask: own entries are right */
	const struct xg_receiver *receiver;	/* opens tunnel packets; NULL: that was done */
	uint64_t *counters;			/* XG_COUNTERS of them, written by this thread */
	struct xg_answer_budget answers;	/* ICMP errors about what is too big */
};

/* Decides and, where it must be sent, encapsulates each of `count` frames (at most XG_BURST).
 * 0, or -E2BIG. */
int xg_forward_burst(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count);

/* Writes the next fragment of a frame with `pieces` to `copy`, of which as below. The frame itself
 * is not sent. 0; -ENOSPC: no room; -ENOENT: no way to that host; the other fragments then are
 * given up too. */
int xg_forward_piece(struct xg_forwarder *forwarder, struct xg_frame *frame,
		     struct xg_frame *copy);

/* Writes the next copy of a flooded frame to `copy`, whose `data` has `len` bytes of room behind
 * it and `headroom` in front, and counts it. `frame->copy_from` grows by one in any case. If the
 * copy is too big for its path, this is its first fragment, and `pieces` says how many follow.
 * 0; -ENOSPC: no room; -EMSGSIZE: too big for that path; -ENOENT: no way to that host. */
int xg_forward_copy(struct xg_forwarder *forwarder, struct xg_frame *frame,
		    struct xg_frame *copy);

/* Whether a frame, for which the parser said `reason`, is a tunnel packet for this host. */
static inline int xg_forward_is_tunnel(const struct xg_forwarder *forwarder, int reason,
				       const struct xg_packet *packet)
{
	return (reason == XG_PARSE_OK || reason == XG_PARSE_NOT_TRANSPORT) &&
	       forwarder->tunnel_port_be != 0 &&
	       xg_is_tunnel(packet, forwarder->tunnel_port_be, forwarder->encapsulation,
			    forwarder->address_be, forwarder->flood_group_be);
}

/* The two first questions of a parsed packet, for those who explain its way: the service that it
 * is for, or NULL; and the key of its session, 1 word for IPv4 and 3 for IPv6. */
const struct xg_service *xg_forward_service_of(const struct xg_forwarder *forwarder,
					       const struct xg_packet *packet);
int xg_forward_is_vip(const struct xg_forwarder *forwarder, const struct xg_packet *packet);

static inline void xg_forward_key(const struct xg_packet *packet, uint16_t slot, __u64 *words)
{
	if (packet->family == 4) {
		struct xg_key4 key = { packet->source_be[3], packet->source_port_be, slot };

		memcpy(words, &key, sizeof(key));
	} else {
		struct xg_key6 key = { .port_be = packet->source_port_be, .slot = slot };

		memcpy(key.address, packet->source_be, sizeof(key.address));
		memcpy(words, &key, sizeof(key));
	}
}

/* The third question, of a packet of a QUIC service that the table does not know: the host that
 * its connection id names, or XG_QUIC_NOBODY. */
int xg_forward_quic_owner(const struct xg_forwarder *forwarder, const struct xg_frame *frame,
			  const struct xg_packet *packet);

/* The template to that host, if it is another one and active, or XG_NO_TEMPLATE. */
uint16_t xg_forward_quic_template(const struct xg_forwarder *forwarder, int owner);

/* Whether there is anybody to flood to. */
static inline int xg_forward_floods(const struct xg_forwarder *forwarder)
{
	const struct xg_flood *list = forwarder->flood;

	return list && (list->group != XG_NO_TEMPLATE || list->copies > 0);
}

/* The headers at a place of the templates, or NULL: outside, empty or broken. */
static inline const struct xg_template *
xg_forward_template(const struct xg_forwarder *forwarder, uint32_t index)
{
	const struct xg_template *tmpl;

	if (index >= forwarder->template_count)
		return NULL;
	tmpl = &forwarder->templates[index];
	return tmpl->len > 0 && tmpl->len <= XG_TEMPLATE_BYTES ? tmpl : NULL;
}

#endif
