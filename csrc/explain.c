// SPDX-License-Identifier: BSD-2-Clause
/*
 * Why a frame ends as it does: what the forwarder asked on its way, and what it found.
 */
#include "explain.h"

#include <assert.h>
#include <string.h>

#include "decide.h"
#include "odd_packets.h"
#include "receive.h"

static void note(struct xg_explanation *out, enum xg_step_code code, uint32_t value,
		 uint32_t bound)
{
	assert(out->step_count < XG_STEPS_MAX);
	out->steps[out->step_count++] = (struct xg_step){ code, value, bound };
}

/* Of what could not be read. */
static enum xg_step_code code_of_reason(int reason)
{
	switch (reason) {
	case XG_PARSE_NOT_IP:
		return XG_STEP_not_ip;
	case XG_PARSE_TRUNCATED:
		return XG_STEP_truncated;
	case XG_PARSE_BAD_HEADER:
		return XG_STEP_bad_header;
	case XG_PARSE_FRAGMENT:
		return XG_STEP_fragment;
	default:
		return XG_STEP_not_transport;
	}
}

/* Of a frame without ports. 1: it is an ICMP error, and the packet is now the client's of the
 * session that it quotes. */
static int note_odd(const struct xg_forwarder *forwarder, const struct xg_frame *frame, int reason,
		    struct xg_explanation *out)
{
	int kind = xg_odd_kind(reason, &out->packet);

	if (kind == XG_ODD_NONE || !xg_forward_is_vip(forwarder, &out->packet)) {
		note(out, code_of_reason(reason), 0, 0);
		return 0;
	}
	if (kind == XG_ODD_TINY) {
		note(out, XG_STEP_tiny_fragment, 0, 0);
		return 0;
	}
	kind = xg_read_icmp(frame->data + out->packet.l4_offset, frame->data + frame->len,
			    &out->packet);
	if (kind == XG_ODD_ERROR)
		note(out, XG_STEP_icmp_error, out->packet.protocol, 0);
	else
		note(out, kind == XG_ODD_ECHO ? XG_STEP_echo : XG_STEP_icmp, 0, 0);
	return kind == XG_ODD_ERROR;
}

static void note_kind(struct xg_explanation *out, int decision)
{
	if (out->packet.protocol == XG_PROTO_UDP)
		note(out, XG_STEP_datagram, 0, 0);
	else if (decision == XG_COUNT_dropped_no_flags)
		note(out, XG_STEP_no_flags, 0, 0);
	else
		note(out, xg_is_syn(&out->packet) ? XG_STEP_opens : XG_STEP_segment, 0, 0);
}

static void note_entry(struct xg_explanation *out, __u64 meta, uint16_t own_host)
{
	uint16_t owner = xg_meta_owner(meta);

	if (meta == 0)
		note(out, XG_STEP_absent, 0, 0);
	else if (owner == XG_HOST_UNOWNED)
		note(out, XG_STEP_unowned, 0, 0);
	else
		note(out, owner == own_host ? XG_STEP_own : XG_STEP_other, owner, 0);
}

static void note_kernel(struct xg_explanation *out, enum xg_kernel_answer kernel)
{
	static const enum xg_step_code codes[] = {
		[XG_KERNEL_NOT_ASKED] = XG_STEP_kernel_not_asked,
		[XG_KERNEL_KNOWS] = XG_STEP_kernel_knows,
		[XG_KERNEL_UNKNOWN] = XG_STEP_kernel_unknown,
	};

	note(out, codes[kernel], 0, 0);
}

static void note_owner_headers(const struct xg_forwarder *forwarder, struct xg_explanation *out,
			       uint16_t index)
{
	note(out,
	     xg_forward_template(forwarder, index) ? XG_STEP_owner_headers :
						     XG_STEP_owner_empty_headers,
	     index, 0);
}

static uint16_t note_flood_headers(const struct xg_forwarder *forwarder,
				   struct xg_explanation *out)
{
	uint16_t index = forwarder->flood ? forwarder->flood->group : XG_NO_TEMPLATE;

	if (xg_forward_template(forwarder, index))
		note(out, XG_STEP_flood_headers, index, 0);
	else
		note(out, XG_STEP_flood_no_headers, 0, 0);
	return index;
}

/* Which headers the frame would get: the owner's if the packet is its, else the flood group's.
 * Returns the template's index, or XG_NO_TEMPLATE. */
static uint16_t note_headers(const struct xg_forwarder *forwarder, struct xg_explanation *out,
			     int decision, uint16_t owner)
{
	uint16_t index;

	if (decision == XG_DECIDE_STRAY || decision == XG_DECIDE_FORWARD_SYN) {
		index = xg_owner_load(&forwarder->owners[owner]).template_index;
		if (index != XG_NO_TEMPLATE) {
			note_owner_headers(forwarder, out, index);
			return index;
		}
		note(out, XG_STEP_owner_no_headers, 0, 0);
		if (decision == XG_DECIDE_FORWARD_SYN)
			return XG_NO_TEMPLATE;
	}
	return note_flood_headers(forwarder, out);
}

/* What the connection id says. Returns the index of the template to another host that it names, or
 * XG_NO_TEMPLATE. */
static uint16_t note_id(const struct xg_forwarder *forwarder, struct xg_explanation *out,
			const struct xg_frame *frame)
{
	int owner = xg_forward_quic_owner(forwarder, frame, &out->packet);
	uint16_t index = xg_forward_quic_template(forwarder, owner);

	if (owner < 0) {
		note(out, XG_STEP_id_nobody, 0, 0);
	} else if (owner == forwarder->host) {
		note(out, XG_STEP_id_here, (uint32_t)owner, 0);
	} else if (index == XG_NO_TEMPLATE) {
		note(out, XG_STEP_id_no_way, (uint32_t)owner, 0);
	} else {
		note(out, XG_STEP_id_other, (uint32_t)owner, 0);
		note_owner_headers(forwarder, out, index);
	}
	return index;
}

static void note_size(const struct xg_forwarder *forwarder, struct xg_explanation *out,
		      uint16_t index, uint32_t ending)
{
	const struct xg_template *tmpl = xg_forward_template(forwarder, index);
	enum xg_step_code code = XG_STEP_fits;

	if (!tmpl)
		return;
	if (ending == XG_COUNT_fragmented)
		code = XG_STEP_fragmented;
	else if (ending == XG_COUNT_too_big || ending == XG_COUNT_too_big_answered)
		code = XG_STEP_too_big;
	else if (ending == XG_COUNT_no_checksum)
		code = XG_STEP_no_checksum;
	else if (ending == XG_COUNT_no_headroom)
		code = XG_STEP_no_headroom;
	note(out, code, xg_outer_ip_len(tmpl, &out->packet), tmpl->mtu);
}

/* The ending and the bytes, by the forwarder itself; its counters stay as they are. */
static void forward_uncounted(const struct xg_forwarder *forwarder, struct xg_frame *frame)
{
	struct xg_forwarder copy = *forwarder;
	uint64_t counters[XG_COUNTERS] = { 0 };

	copy.counters = counters;
	xg_forward_burst(&copy, frame, 1);
}

static void explain_plain(const struct xg_forwarder *forwarder, struct xg_frame *frame, int reason,
			  enum xg_kernel_answer kernel, struct xg_explanation *out)
{
	const struct xg_service *service;
	int decision, is_error = 0;
	uint16_t index;
	__u64 meta;

	if (reason == XG_PARSE_OK)
		note(out, XG_STEP_parsed, out->packet.protocol, out->packet.ip_len);
	else
		is_error = note_odd(forwarder, frame, reason, out);
	out->has_packet = reason == XG_PARSE_OK || is_error;
	if (!out->has_packet) {
		forward_uncounted(forwarder, frame);
		return;
	}
	service = xg_forward_service_of(forwarder, &out->packet);
	if (!service) {
		note(out, XG_STEP_no_service, 0, 0);
		forward_uncounted(forwarder, frame);
		return;
	}
	note(out, XG_STEP_service, service->slot, 0);
	meta = xg_receive_meta(forwarder, &out->packet, service->slot);
	decision = xg_decide(&out->packet, meta, forwarder->host, 1);
	if (is_error)
		out->packet.tcp_flags = 0;	/* those of no packet that there is */
	else
		note_kind(out, decision);
	if (decision != XG_COUNT_dropped_no_flags)
		note_entry(out, meta, forwarder->host);
	if (decision == XG_DECIDE_OWN && forwarder->own_is_known) {
		note(out, XG_STEP_kernel_assumed, 0, 0);
		forward_uncounted(forwarder, frame);
		return;
	}
	if (decision > XG_DECIDE_FORWARD_SYN) {
		note_kernel(out, kernel);
		if (kernel == XG_KERNEL_KNOWS) {
			frame->ending = is_error ? (uint32_t)XG_COUNT_passed_icmp_own :
						   (uint32_t)xg_decide_known(decision);
			return;
		}
	}
	if (!is_error && xg_asks_id(service, decision)) {
		index = note_id(forwarder, out, frame);
		forward_uncounted(forwarder, frame);
		note_size(forwarder, out, index, frame->ending);
		return;
	}
	if (decision < XG_COUNTERS) {
		forward_uncounted(forwarder, frame);
		return;
	}
	index = note_headers(forwarder, out, decision, xg_meta_owner(meta));
	forward_uncounted(forwarder, frame);
	note_size(forwarder, out, index, frame->ending);
}

/* ---- tunnel packets ---- */

/* Sender, cookie and format. 1: nothing is wrong with them. */
static int note_opened(const struct xg_forwarder *forwarder, const struct xg_frame *frame,
		       const struct xg_packet *outer, struct xg_opened *opened,
		       struct xg_explanation *out)
{
	int ending = xg_receive_open(forwarder, frame, outer, opened);
	const struct xg_shim *shim = &opened->tunnel.shim;

	note(out, XG_STEP_tunnel, forwarder->encapsulation, 0);
	memcpy(out->sender_be, outer->source_be, sizeof(out->sender_be));
	if (!opened->sender) {
		note(out,
		     ending == XG_COUNT_tunnel_bad_source ? XG_STEP_no_sender :
							    XG_STEP_tunnel_cut,
		     0, 0);
		return 0;
	}
	note(out, XG_STEP_sender, opened->sender->host, 0);
	if (ending == XG_COUNT_tunnel_bad_cookie) {
		note(out, XG_STEP_wrong_cookie, 0, 0);
		return 0;
	}
	note(out, shim->has_cookie ? XG_STEP_cookie : XG_STEP_cookie_no_room, 0, 0);
	if (ending == XG_TUNNEL_OPEN)
		note(out, XG_STEP_sound, 0, 0);
	else
		note(out, shim->is_sound ? XG_STEP_probe_to_group : XG_STEP_unsound, 0, 0);
	return ending == XG_TUNNEL_OPEN;
}

static void note_purpose(const struct xg_tunnel *tunnel, struct xg_explanation *out)
{
	enum xg_step_code code = XG_STEP_sent_here;

	if (tunnel->is_search)
		code = tunnel->is_flood ? XG_STEP_flooded : XG_STEP_relayed;
	note(out, code, tunnel->host, 0);
}

/* Reads the inner packet to out->packet. 1: it, or what it quotes, has ports. */
static int note_inner(const struct xg_frame *frame, const struct xg_opened *opened,
		      struct xg_explanation *out)
{
	struct xg_packet *inner = &out->packet;
	int found = xg_open_inner(frame->data, frame->data + frame->len, &opened->tunnel, inner);

	if (found == XG_TUNNEL_OPEN) {
		note(out, XG_STEP_inner_parsed, inner->protocol, inner->ip_len);
		return 1;
	}
	if (found == XG_TUNNEL_ODD && inner->fragment == XG_FRAGMENT_LATER) {
		note(out, XG_STEP_inner_fragment, 0, 0);
		return 0;
	}
	if (found != XG_TUNNEL_ODD || !xg_receive_error(frame, inner)) {
		note(out, XG_STEP_inner_unread, 0, 0);
		return 0;
	}
	note(out, XG_STEP_inner_error, inner->protocol, 0);
	return 1;
}

/* What the kernel is taken to say of the inner packet's session. */
static void note_inner_kernel(const struct xg_forwarder *forwarder, enum xg_kernel_answer kernel,
			      uint16_t slot, struct xg_explanation *out)
{
	__u64 meta;

	if (kernel != XG_KERNEL_NOT_ASKED || !forwarder->own_is_known) {
		note_kernel(out, kernel);
		return;
	}
	meta = xg_receive_meta(forwarder, &out->packet, slot);
	note_entry(out, meta, forwarder->host);
	if (meta && xg_meta_owner(meta) == forwarder->host)
		note(out, XG_STEP_kernel_assumed, 0, 0);
	else
		note_kernel(out, kernel);
}

/* Service, kind and kernel. Returns the ending, or XG_RECEIVE_MISDIRECTED; before the ECN mark. */
static int note_judged(const struct xg_forwarder *forwarder, const struct xg_frame *frame,
		       const struct xg_tunnel *tunnel, enum xg_kernel_answer kernel,
		       struct xg_explanation *out)
{
	const struct xg_service *service = xg_forward_service_of(forwarder, &out->packet);
	int is_error = out->packet.is_error, ending;
	struct xg_packet again = { 0 };

	if (is_error) {
		xg_open_inner(frame->data, frame->data + frame->len, tunnel, &again);
		ending = xg_receive_odd(forwarder, frame, tunnel->is_search, &again);
	} else {
		ending = xg_receive_judge(forwarder, tunnel, &out->packet);
	}
	if (!service) {
		note(out, XG_STEP_inner_no_service, 0, 0);
		return ending;
	}
	note(out, XG_STEP_service, service->slot, 0);
	if (ending == XG_COUNT_flood_syn) {
		note(out, XG_STEP_flooded_syn, 0, 0);
		return ending;
	}
	if (out->packet.protocol == XG_PROTO_UDP)
		note(out, XG_STEP_datagram, 0, 0);
	else if (!is_error)
		note(out, xg_is_syn(&out->packet) ? XG_STEP_opens : XG_STEP_segment, 0, 0);
	if (ending == XG_COUNT_delivered_syn ||
	    (!tunnel->is_search && out->packet.protocol == XG_PROTO_UDP))
		return ending;
	note_inner_kernel(forwarder, kernel, service->slot, out);
	return ending;
}

static void note_ecn(const struct xg_packet *outer, struct xg_explanation *out)
{
	int was = out->packet.tos & 3, now = xg_combine_ecn(out->packet.tos, outer->tos);

	if (now < 0)
		note(out, XG_STEP_ecn_lost, 0, 0);
	else
		note(out, now == was ? XG_STEP_ecn_kept : XG_STEP_ecn_changed, (uint32_t)now,
		     (uint32_t)was);
}

static void explain_tunnel(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			   enum xg_kernel_answer kernel, struct xg_explanation *out)
{
	const struct xg_packet outer = out->packet;
	struct xg_opened opened;
	uint16_t index;
	int ending;

	out->is_tunnel = 1;
	memset(&out->packet, 0, sizeof(out->packet));
	if (!note_opened(forwarder, frame, &outer, &opened, out)) {
		forward_uncounted(forwarder, frame);
		return;
	}
	if (opened.tunnel.shim.is_probe) {
		forward_uncounted(forwarder, frame);
		note(out,
		     frame->ending == XG_COUNT_probe_answered ? XG_STEP_probe :
								XG_STEP_probe_malformed,
		     0, 0);
		return;
	}
	note_purpose(&opened.tunnel, out);
	out->has_packet = (uint8_t)note_inner(frame, &opened, out);
	if (!out->has_packet) {
		forward_uncounted(forwarder, frame);
		return;
	}
	ending = note_judged(forwarder, frame, &opened.tunnel, kernel, out);
	forward_uncounted(forwarder, frame);
	if (xg_is_delivery(ending) || ending == XG_COUNT_delivered_icmp)
		note_ecn(&outer, out);
	if (out->packet.is_error)
		out->packet.tcp_flags = 0;	/* those of no packet that there is */
	if (ending != XG_RECEIVE_MISDIRECTED)
		return;
	if (opened.tunnel.shim.mark & XG_MARK_HOP) {
		note(out, XG_STEP_hop_before, 0, 0);
		return;
	}
	note(out, XG_STEP_first_hop, 0, 0);
	index = note_flood_headers(forwarder, out);
	note_size(forwarder, out, index, frame->ending);
}

/* ---- all ---- */

void xg_explain(const struct xg_forwarder *given, struct xg_frame *frame,
		enum xg_kernel_answer kernel, struct xg_explanation *out)
{
	int reason = xg_parse_frame(frame->data, frame->data + frame->len, &out->packet);
	struct xg_forwarder asked = *given;
	struct xg_receiver receiver;

	if (kernel != XG_KERNEL_NOT_ASKED)	/* its word counts, and nothing is assumed */
		asked.own_is_known = 0;
	out->step_count = 0;
	out->has_packet = out->is_tunnel = 0;
	if (asked.receiver && xg_forward_is_tunnel(&asked, reason, &out->packet)) {
		receiver = *asked.receiver;
		receiver.knows_all = kernel == XG_KERNEL_KNOWS;
		asked.receiver = &receiver;
		explain_tunnel(&asked, frame, kernel, out);
		return;
	}
	explain_plain(&asked, frame, reason, kernel, out);
}
