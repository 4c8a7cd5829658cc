// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst: parse, look up, encapsulate, on plain buffers; knows no ring and no kernel.
 *
 * Its first half, up to what the table says, is in forward_keys.h.
 */
#include "forward.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "decide.h"
#include "forward_keys.h"
#include "forward_pieces.h"
#include "forward_plain.h"
#include "note.h"
#include "receive.h"
#include "too_big.h"

const struct xg_service *xg_forward_service_of(const struct xg_forwarder *forwarder,
					       const struct xg_packet *packet)
{
	if (!forwarder->services)
		return NULL;
	return xg_service_find(forwarder->services, forwarder->service_mask,
			       packet->destination_be, packet->destination_port_be,
			       packet->protocol);
}

int xg_forward_is_vip(const struct xg_forwarder *forwarder, const struct xg_packet *packet)
{
	return forwarder->services && xg_service_find(forwarder->services, forwarder->service_mask,
						      packet->destination_be, 0, 0);
}

static void note_inner_mtu(struct xg_frame *frame, uint32_t mtu)
{
	if (frame->inner_mtu == 0 || mtu < frame->inner_mtu)
		frame->inner_mtu = (uint16_t)mtu;
}

static uint32_t exceed(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		       const struct xg_packet *packet, uint32_t index, uint8_t mark)
{
	uint32_t mtu = xg_inner_mtu(xg_forward_template(forwarder, index));
	uint32_t pieces = allowed_pieces(forwarder, frame, frame->data + packet->l3_offset, packet,
					 mtu);

	if (pieces)
		return plan_pieces(forwarder, frame, packet, index, mark, pieces);
	note_inner_mtu(frame, mtu);
	return XG_COUNT_too_big;
}

/* Outer headers in the place of what lies in front of the IP header. False: there is no room for
 * them, or they are of no known kind; then nothing was done. */
static bool put_headers(struct xg_frame *frame, const struct xg_template *tmpl,
			const struct xg_packet *packet, uint8_t mark, uint32_t inner_sum)
{
	const uint32_t l3_offset = packet->l3_offset;
	uint32_t written;

	if (frame->headroom + l3_offset < tmpl->len)
		return false;
	written = xg_template_apply(frame->data + l3_offset - tmpl->len, frame->data + l3_offset,
				    tmpl, packet, mark, inner_sum);
	if (!written)
		return false;
	frame->data = frame->data + l3_offset - written;
	frame->len = frame->len - l3_offset + written;
	frame->outer_len = (uint16_t)written;
	frame->family = packet->family;
	frame->mark = mark;
	return true;
}

static uint32_t encapsulate(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			    const struct xg_packet *packet, uint32_t index, uint8_t mark,
			    uint32_t ending)
{
	const struct xg_template *tmpl = xg_forward_template(forwarder, index);
	uint32_t inner_sum = 0;

	if (!tmpl)
		return XG_COUNT_miss_no_flood;
	if (xg_outer_ip_len(tmpl, packet) > tmpl->mtu)
		return exceed(forwarder, frame, packet, index, mark);
	if ((tmpl->flags & XG_TEMPLATE_SUM) &&
	    xg_inner_sum(frame->data + packet->l3_offset, frame->data + frame->len, packet,
			 &inner_sum))
		return XG_COUNT_no_checksum;
	return put_headers(frame, tmpl, packet, mark, inner_sum) ? ending : XG_COUNT_no_headroom;
}

/* To the group, and by copies to the hosts beyond it; without a group the first of them gets the
 * frame itself. */
static uint32_t flood(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		      const struct xg_packet *packet, uint8_t mark, uint32_t ending)
{
	const struct xg_flood *list = forwarder->flood;
	uint16_t group, copies, first = 0;
	uint32_t result = XG_COUNT_miss_no_flood;

	if (!list)
		return XG_COUNT_miss_no_flood;
	group = __atomic_load_n(&list->group, __ATOMIC_ACQUIRE);
	copies = __atomic_load_n(&list->copies, __ATOMIC_ACQUIRE);
	if (copies > XG_FLOOD_COPIES)
		copies = XG_FLOOD_COPIES;
	if (group != XG_NO_TEMPLATE)
		result = encapsulate(forwarder, frame, packet, group, mark, ending);
	else
		while (result != ending && result != XG_COUNT_fragmented && first < copies)
			result = encapsulate(forwarder, frame, packet, list->to[first++], mark,
					     ending);
	if (result == ending || result == XG_COUNT_fragmented) {
		frame->copy_from = first;
		frame->copy_to = copies;
	}
	return result;
}

/* A tunnel packet that the XDP program found misdirected: its inner packet is flooded, once. */
static uint32_t flood_misdirected(const struct xg_forwarder *forwarder, struct xg_frame *frame,
				  const struct xg_packet *outer)
{
	const uint8_t *end = frame->data + frame->len;
	struct xg_shim shim = { 0 };
	struct xg_packet inner = { .beyond = frame->beyond };

	if (xg_read_shim(frame->data, end, outer, forwarder->encapsulation, &shim) ||
	    xg_parse_inner(frame->data, end, &shim, &inner) != XG_PARSE_OK)
		return XG_COUNT_tunnel_malformed;
	if (shim.mark & XG_MARK_HOP)
		return XG_COUNT_misdirected_dropped;
	return flood(forwarder, frame, &inner, XG_MARK_FLOOD | XG_MARK_HOP,
		     XG_COUNT_misdirected_flooded);
}

/* A tunnel packet: misdirected, as the XDP program found, or nobody has opened it yet. */
static uint32_t take_tunnel(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			    const struct xg_packet *outer)
{
	int ending = XG_RECEIVE_MISDIRECTED;

	if (forwarder->receiver)
		ending = xg_receive(forwarder, frame, outer);
	if (ending != XG_RECEIVE_MISDIRECTED)
		return (uint32_t)ending;
	if (forwarder->receiver && !xg_forward_floods(forwarder))
		return XG_COUNT_misdirected_dropped;
	return flood_misdirected(forwarder, frame, outer);
}

static uint32_t flood_miss(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			   const struct xg_packet *packet)
{
	return flood(forwarder, frame, packet, XG_MARK_FLOOD, XG_COUNT_miss_flooded);
}

/* The frame is too big for each path that it might take: its sender is told, if it may be. */
static uint32_t answer_too_big(struct xg_forwarder *forwarder, struct xg_frame *frame,
			       const struct xg_packet *packet)
{
	const uint8_t *end = frame->data + frame->len;
	uint32_t mtu = xg_too_big_mtu(frame->data, end, packet, frame->inner_mtu);
	uint32_t len;

	if (!mtu || !xg_answer_allowed(&forwarder->answers))
		return XG_COUNT_too_big;
	len = xg_too_big_write(frame->data, end, packet, mtu);
	if (!len)
		return XG_COUNT_too_big;
	frame->len = len;
	frame->beyond = 0;
	return XG_COUNT_too_big_answered;
}

int xg_forward_quic_owner(const struct xg_forwarder *forwarder, const struct xg_frame *frame,
			  const struct xg_packet *packet)
{
	const uint8_t *l4 = frame->data + packet->l4_offset;
	uint32_t len, held = frame->len - packet->l4_offset - XG_UDP_LEN;
	struct xg_udp udp;

	if (!forwarder->quic)
		return XG_QUIC_NOBODY;
	memcpy(&udp, l4, sizeof(udp));
	len = xg_quic_payload_len(packet, XG_BE16(udp.len_be));
	return xg_quic_owner(forwarder->quic, l4 + XG_UDP_LEN, len < held ? len : held);
}

uint16_t xg_forward_quic_template(const struct xg_forwarder *forwarder, int owner)
{
	struct xg_owner_state state;

	if (owner < 0 || owner == forwarder->host)
		return XG_NO_TEMPLATE;
	state = xg_owner_load(&forwarder->owners[owner]);
	return state.flags & XG_OWNER_ACTIVE ? state.template_index : XG_NO_TEMPLATE;
}

static uint32_t act_by_id(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			  const struct xg_packet *packet, uint32_t otherwise)
{
	int owner = xg_forward_quic_owner(forwarder, frame, packet);
	uint16_t index = xg_forward_quic_template(forwarder, owner);

	if (index == XG_NO_TEMPLATE)
		return otherwise;
	return encapsulate(forwarder, frame, packet, index, 0, XG_COUNT_quic_forwarded);
}

static uint32_t act(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		    const struct xg_packet *packet, const struct xg_service *service, __u64 meta)
{
	int decision = xg_decide(packet, meta, forwarder->host, 1);
	uint32_t ending = decision == XG_DECIDE_FORWARD_SYN ? XG_COUNT_syn_forwarded :
							      XG_COUNT_stray_forwarded;
	uint16_t index;

	if (decision == XG_DECIDE_OWN && forwarder->own_is_known)
		return XG_COUNT_passed_own;
	/* what comes here was asked for already: our own entry for it is one that lags behind */
	if (decision == XG_DECIDE_MISS || decision == XG_DECIDE_OWN)
		return flood_miss(forwarder, frame, packet);
	if (xg_asks_id(service, decision))
		return act_by_id(forwarder, frame, packet, (uint32_t)decision);
	if (decision != XG_DECIDE_FORWARD_SYN && decision != XG_DECIDE_STRAY)
		return (uint32_t)decision;
	index = xg_owner_load(&forwarder->owners[xg_meta_owner(meta)]).template_index;
	if (index != XG_NO_TEMPLATE)
		return encapsulate(forwarder, frame, packet, index, 0, ending);
	if (decision == XG_DECIDE_FORWARD_SYN)
		return XG_COUNT_passed_syn;
	return flood_miss(forwarder, frame, packet);
}

/* What the XDP program has chosen headers for: a fragment, or what must become fragments. */
static uint32_t act_on_note(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			    struct xg_packet *packet)
{
	const struct xg_template *tmpl;
	struct xg_note note;
	uint32_t pieces;
	int reason;

	memcpy(&note, frame->data, sizeof(note));
	packet->l3_offset = sizeof(note);
	packet->beyond = 0;
	packet->is_error = 0;
	reason = xg_parse_ipv4(frame->data + sizeof(note), frame->data + frame->len, packet);
	if (reason != XG_PARSE_OK && reason != XG_PARSE_FRAGMENT)
		return XG_COUNT_overtaken;	/* the program has parsed it */
	packet->source_port_be = note.source_port_be;
	packet->destination_port_be = note.destination_port_be;
	tmpl = xg_forward_template(forwarder, note.template_index);
	if (!tmpl)
		return XG_COUNT_miss_no_flood;
	pieces = xg_pieces(frame->data + sizeof(note), frame->data + frame->len, packet,
			   xg_inner_mtu(tmpl));
	if (pieces > 1)
		return plan_pieces(forwarder, frame, packet, note.template_index, note.mark,
				   pieces);
	return pieces ? encapsulate(forwarder, frame, packet, note.template_index, note.mark,
				    XG_COUNT_fragment_forwarded) :
			XG_COUNT_too_big;
}

/* An ICMP error goes where a segment of the session that it quotes would go. */
static uint32_t act_on_error(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			     const struct xg_packet *session, __u64 meta)
{
	int decision = xg_decide(session, meta, forwarder->host, 1);
	uint16_t index = XG_NO_TEMPLATE;

	if (decision < XG_COUNTERS || (decision == XG_DECIDE_OWN && forwarder->own_is_known))
		return XG_COUNT_passed_icmp_own;
	if (decision == XG_DECIDE_STRAY)
		index = xg_owner_load(&forwarder->owners[xg_meta_owner(meta)]).template_index;
	if (index != XG_NO_TEMPLATE)
		return encapsulate(forwarder, frame, session, index, 0, XG_COUNT_icmp_forwarded);
	index = forwarder->flood ? forwarder->flood->group : XG_NO_TEMPLATE;
	if (index == XG_NO_TEMPLATE)
		return XG_COUNT_icmp_dropped;
	return encapsulate(forwarder, frame, session, index, XG_MARK_FLOOD, XG_COUNT_icmp_flooded);
}

#define PASSES(name, action, sentence) PASSES_##action(name)
#define PASSES_PASS(name) case XG_COUNT_##name:
#define PASSES_DROP(name)
#define PASSES_TX(name)

static uint32_t without_stack(uint32_t ending)
{
	switch (ending) {
		XG_ENDINGS(PASSES)
		return XG_COUNT_overtaken;
	default:
		return ending;
	}
}

/* What the table says of a frame that has a key. */
static __u64 meta_of(const struct burst *burst, struct group *group, uint32_t i)
{
	return lookup_of(group, &burst->packets[i])->plan.metas[burst->key_at[i]];
}

static void end_frame(struct xg_forwarder *forwarder, struct xg_frame *frame, uint32_t i,
		      struct burst *burst, struct group *group)
{
	struct xg_packet *packet = &burst->packets[i];

	if (burst->kind[i] == SENT)
		return;
	if (burst->kind[i] == OF_SERVICE)
		frame->ending = act(forwarder, frame, packet, burst->services[i],
				    meta_of(burst, group, i));
	else if (burst->kind[i] == OF_ICMP_ERROR)
		frame->ending = act_on_error(forwarder, frame, packet,
					     meta_of(burst, group, i));
	else if (burst->kind[i] == OF_TUNNEL)
		frame->ending = take_tunnel(forwarder, frame, packet);
	else if (burst->kind[i] == NOTED)
		frame->ending = act_on_note(forwarder, frame, packet);
	forwarder->spare_frames -= frame->pieces;
	if (frame->ending == XG_COUNT_too_big && burst->kind[i] == OF_SERVICE)
		frame->ending = answer_too_big(forwarder, frame, packet);
	if (forwarder->cannot_pass)
		frame->ending = without_stack(frame->ending);
	forwarder->counters[frame->ending]++;
}

static void end_group(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t from,
		      uint32_t to, struct burst *burst)
{
	struct group *group = group_at(burst, from);

	take_group(forwarder, group);
	if (send_runs(forwarder, frames, burst, group) == to - from)
		return;
	for (uint32_t i = from; i < to; i++)
		end_frame(forwarder, &frames[i], i, burst, group);
}

int xg_forward_burst(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count)
{
	struct burst burst;
	struct group *before = NULL, *group;
	uint32_t from, to;

	if (count > XG_BURST)
		return -E2BIG;
	burst.count = count;
	burst.shape.len = NO_SHAPE;
	for (from = 0; from < count && from < AHEAD; from++)
		call_line(frames[from].data);
	for (from = 0; from < count; from = to) {
		to = count - from > XG_GROUP ? from + XG_GROUP : count;
		group = group_at(&burst, from);
		parse_group(forwarder, frames, from, to, &burst);
		if (before)
			probe_group(forwarder, before);
		call_group(forwarder, group);
		if (before)
			end_group(forwarder, frames, from - XG_GROUP, from, &burst);
		before = group;
	}
	if (before) {
		probe_group(forwarder, before);
		end_group(forwarder, frames, (count - 1) / XG_GROUP * XG_GROUP, count, &burst);
	}
	return 0;
}

int xg_forward_piece(struct xg_forwarder *forwarder, struct xg_frame *frame, struct xg_frame *copy)
{
	return next_piece(forwarder, frame, copy);
}

static int write_copy(struct xg_forwarder *forwarder, struct xg_frame *frame,
		      uint32_t index, struct xg_frame *copy)
{
	const struct xg_template *tmpl = xg_forward_template(forwarder, index);
	uint32_t inner_len = frame->len - frame->outer_len;
	struct xg_packet packet = { .l3_offset = 0, .beyond = frame->beyond };
	int reason;

	if (!tmpl)
		return -ENOENT;
	if (inner_len > copy->len || copy->headroom < tmpl->len)
		return -ENOSPC;
	memcpy(copy->data, frame->data + frame->outer_len, inner_len);
	if (frame->family == 4)
		reason = xg_parse_ipv4(copy->data, copy->data + inner_len, &packet);
	else
		reason = xg_parse_ipv6(copy->data, copy->data + inner_len, &packet);
	if (reason != XG_PARSE_OK)
		return -EMSGSIZE;
	if (xg_outer_ip_len(tmpl, &packet) > tmpl->mtu)
		return write_first_piece(forwarder, frame, &packet, index, copy);
	copy->len = inner_len;
	copy->beyond = frame->beyond;
	if (encapsulate(forwarder, copy, &packet, index, frame->mark, XG_COUNT_flood_copies) !=
	    XG_COUNT_flood_copies)
		return -ENOENT;
	return 0;
}

int xg_forward_copy(struct xg_forwarder *forwarder, struct xg_frame *frame, struct xg_frame *copy)
{
	uint16_t place = frame->copy_from++;
	int rc = -ENOENT;

	if (place < XG_FLOOD_COPIES)
		rc = write_copy(forwarder, frame, forwarder->flood->to[place], copy);
	forwarder->counters[rc ? XG_COUNT_flood_copies_lost : XG_COUNT_flood_copies]++;
	return rc;
}
