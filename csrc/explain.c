// SPDX-License-Identifier: BSD-2-Clause
/*
 * Why a frame ends as it does: what the forwarder asked on its way, and what it found.
 */
#include "explain.h"

#include <assert.h>
#include <string.h>

#include "decide.h"
#include "odd_packets.h"

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

/* Which headers the frame would get: the owner's if the packet is its, else the flood group's.
 * Returns the template's index, or XG_NO_TEMPLATE. */
static uint16_t note_headers(const struct xg_forwarder *forwarder, struct xg_explanation *out,
			     int decision, uint16_t owner)
{
	uint16_t index;

	if (decision == XG_DECIDE_STRAY || decision == XG_DECIDE_FORWARD_SYN) {
		index = xg_owner_load(&forwarder->owners[owner]).template_index;
		if (index != XG_NO_TEMPLATE) {
			note(out,
			     xg_forward_template(forwarder, index) ? XG_STEP_owner_headers :
								     XG_STEP_owner_empty_headers,
			     index, 0);
			return index;
		}
		note(out, XG_STEP_owner_no_headers, 0, 0);
		if (decision == XG_DECIDE_FORWARD_SYN)
			return XG_NO_TEMPLATE;
	}
	index = forwarder->flood ? forwarder->flood->group : XG_NO_TEMPLATE;
	if (xg_forward_template(forwarder, index))
		note(out, XG_STEP_flood_headers, index, 0);
	else
		note(out, XG_STEP_flood_no_headers, 0, 0);
	return index;
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
		note(out,
		     xg_forward_template(forwarder, index) ? XG_STEP_owner_headers :
							     XG_STEP_owner_empty_headers,
		     index, 0);
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
	else if (ending == XG_COUNT_no_headroom)
		code = XG_STEP_no_headroom;
	note(out, code, xg_outer_ip_len(tmpl, &out->packet), tmpl->mtu);
}

static __u64 meta_of(const struct xg_forwarder *forwarder, const struct xg_packet *packet,
		     uint16_t slot)
{
	const struct xg_session_table *table =
		packet->family == 4 ? forwarder->table4 : forwarder->table6;
	__u64 key[XG_KEY_WORDS_MAX];
	__u64 meta = 0;

	if (!table)
		return 0;
	xg_forward_key(packet, slot, key);
	xg_session_table_find_burst(table, key, 1, &meta);
	return meta;
}

/* The ending and the bytes, by the forwarder itself; its counters stay as they are. */
static void forward_uncounted(const struct xg_forwarder *forwarder, struct xg_frame *frame)
{
	struct xg_forwarder copy = *forwarder;
	uint64_t counters[XG_COUNTERS] = { 0 };

	copy.counters = counters;
	xg_forward_burst(&copy, frame, 1);
}

void xg_explain(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		enum xg_kernel_answer kernel, struct xg_explanation *out)
{
	struct xg_forwarder asked = *forwarder;
	const struct xg_service *service;
	int reason = xg_parse_frame(frame->data, frame->data + frame->len, &out->packet);
	int decision, is_error = 0;
	uint16_t index;
	__u64 meta;

	if (kernel != XG_KERNEL_NOT_ASKED)	/* its word counts, and nothing is assumed */
		asked.own_is_known = 0;
	forwarder = &asked;
	out->step_count = 0;
	if (reason == XG_PARSE_OK)
		note(out, XG_STEP_parsed, out->packet.protocol, out->packet.ip_len);
	else
		is_error = note_odd(forwarder, frame, reason, out);
	if (reason != XG_PARSE_OK && !is_error) {
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
	meta = meta_of(forwarder, &out->packet, service->slot);
	decision = xg_decide(&out->packet, meta, forwarder->host, 1);
	if (is_error)
		out->packet.tcp_flags = 0;	/* those of no packet that there is */
	else
		note_kind(out, decision);
	if (decision != XG_COUNT_dropped_no_flags)
		note_entry(out, meta, forwarder->host);
	if (decision == XG_DECIDE_OWN && asked.own_is_known) {
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
