/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's part on frames that are sent in fragments: planned, and written one by one.
 *
 * Included by forward.c alone.
 */
#ifndef XG_FORWARD_PIECES_H
#define XG_FORWARD_PIECES_H

#include <errno.h>
#include <string.h>

#include "forward.h"
#include "fragmenting.h"
#include "note.h"
#include "too_big.h"

/* Whether the XDP program asks for it. */
static inline int is_noted(const struct xg_frame *frame)
{
	struct xg_note note;

	if (frame->len < sizeof(note))
		return 0;
	memcpy(&note, frame->data, sizeof(note));
	return note.ethertype_be == XG_BE16(XG_NOTE_ETHERTYPE);
}

/* Fragments that the packet at l3 may be sent in; 0: it may not. If its frame is in several buffers
 * its sender is told, as by the XDP program. */
static inline uint32_t allowed_pieces(const struct xg_forwarder *forwarder,
				      const struct xg_frame *frame, const uint8_t *l3,
				      const struct xg_packet *packet, uint32_t mtu)
{
	if (!forwarder->can_fragment || frame->beyond)
		return 0;
	return xg_pieces(l3, frame->data + frame->len, packet, mtu);
}

static inline void begin_pieces(struct xg_frame *frame, const struct xg_packet *packet,
				uint32_t index, uint32_t pieces)
{
	frame->pieces = (uint16_t)pieces;
	frame->piece = 0;
	frame->piece_template = (uint16_t)index;
	frame->source_port_be = packet->source_port_be;
	frame->destination_port_be = packet->destination_port_be;
}

/* The packet will be sent in `pieces` fragments: the frame is what they are cut from. */
static inline uint32_t plan_pieces(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			    const struct xg_packet *packet, uint32_t index, uint8_t mark,
			    uint32_t pieces)
{
	if (pieces > forwarder->spare_frames)
		return XG_COUNT_fragment_no_frames;
	begin_pieces(frame, packet, index, pieces);
	frame->data += packet->l3_offset;
	frame->len -= packet->l3_offset;
	frame->family = packet->family;
	frame->mark = mark;
	return XG_COUNT_fragmented;
}

/* The sum that a real UDP checksum needs: of all bytes, since a fragment has none of its own. */
static inline uint32_t sum_of_piece(const struct xg_template *tmpl, const uint8_t *piece,
				    uint32_t len)
{
	return tmpl->flags & XG_TEMPLATE_SUM ? xg_sum_bytes(piece, len) : 0;
}

static inline int write_piece(const struct xg_forwarder *forwarder, const struct xg_frame *frame,
		       struct xg_frame *copy)
{
	const struct xg_template *tmpl = xg_forward_template(forwarder, frame->piece_template);
	const uint8_t *l3 = frame->data + frame->outer_len, *end = frame->data + frame->len;
	struct xg_packet packet = { .l3_offset = 0 };
	uint32_t mtu, written;

	if (!tmpl)
		return -ENOENT;
	mtu = xg_inner_mtu(tmpl);
	(void)xg_parse_ipv4(l3, end, &packet);	/* it was parsed before: only the fields count */
	/* the template may have changed since */
	if (xg_pieces(l3, end, &packet, mtu) != (uint32_t)frame->piece + frame->pieces)
		return -ENOENT;
	if (mtu > copy->len || copy->headroom < tmpl->len)
		return -ENOSPC;
	packet.source_port_be = frame->source_port_be;
	packet.destination_port_be = frame->destination_port_be;
	packet.ip_len = (uint16_t)xg_write_piece(copy->data, l3, &packet, mtu, frame->piece);
	written = xg_template_apply(copy->data - tmpl->len, copy->data, tmpl, &packet, frame->mark,
				    sum_of_piece(tmpl, copy->data, packet.ip_len));
	if (!written)
		return -ENOENT;
	copy->data -= written;
	copy->len = packet.ip_len + written;
	return 0;
}

static inline int next_piece(struct xg_forwarder *forwarder, struct xg_frame *frame,
			     struct xg_frame *copy)
{
	int rc = write_piece(forwarder, frame, copy);

	if (rc)
		forwarder->counters[XG_COUNT_fragments_lost] += frame->pieces;
	else
		forwarder->counters[XG_COUNT_fragments_sent]++;
	frame->pieces = rc ? 0 : frame->pieces - 1;
	frame->piece++;
	return rc;
}

/* The copy is too big for its path: its first fragment. */
static inline int write_first_piece(struct xg_forwarder *forwarder, struct xg_frame *frame,
			     const struct xg_packet *packet, uint32_t index, struct xg_frame *copy)
{
	uint32_t mtu = xg_inner_mtu(xg_forward_template(forwarder, index));
	uint32_t pieces = allowed_pieces(forwarder, frame, frame->data + frame->outer_len, packet,
					 mtu);

	if (!pieces)
		return -EMSGSIZE;
	begin_pieces(frame, packet, index, pieces);
	return next_piece(forwarder, frame, copy);
}

#endif
