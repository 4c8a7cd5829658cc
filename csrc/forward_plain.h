/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The forwarder's short way, its second half: plain frames that are strays, as nearly all are, get
 * outer headers of one kind by a loop that knows it.
 *
 * Included by forward.c alone.
 */
#ifndef XG_FORWARD_PLAIN_H
#define XG_FORWARD_PLAIN_H

#include "decide.h"
#include "forward_keys.h"

/* What the loop reads of the forwarder: nothing that it writes is part of it. */
struct view {
	const struct xg_owner_state *owners;
	const struct xg_template *templates;
	uint32_t template_count;
	uint16_t host;
};

/* The headers for a plain frame's owner, or NULL: it is no stray. Without SYN, segments of TCP and
 * datagrams of UDP are strays by the same rows of the table. */
static inline const struct xg_template *stray_headers(const struct view *view, __u64 meta)
{
	static const struct xg_packet segment = {
		.family = 4, .protocol = XG_PROTO_TCP, .tcp_flags = XG_TCP_ACK,
	};
	uint32_t index;

	if (xg_decide(&segment, meta, view->host, 1) != XG_DECIDE_STRAY)
		return NULL;
	index = xg_owner_load(&view->owners[xg_meta_owner(meta)]).template_index;
	if (index == XG_NO_TEMPLATE || index >= view->template_count)
		return NULL;
	return &view->templates[index];
}

/* The kind of the run's first stray's headers: that of all, in most POPs. 0: there is no stray, or
 * its headers have a checksum that no loop here derives. */
static __u64 kind_of(const struct view *view, const struct group *group, const struct run *run)
{
	for (uint32_t k = 0; k < run->count; k++) {
		const struct xg_template *headers =
			stray_headers(view, group->v4.plan.metas[run->at + k]);

		if (headers)
			return headers->flags & XG_TEMPLATE_SUM ? 0 : xg_template_kind(headers);
	}
	return 0;
}

/* Frame `k` of the run goes the way of all frames. */
static void leave(struct xg_frame *frames, struct burst *burst, const struct group *group,
		  const struct run *run, uint32_t k)
{
	const uint32_t i = run->frame + k, at = run->at + k;

	clear_wishes(&frames[i]);
	burst->packets[i] = plain_packet(&group->plain, at, &frames[i]);
	burst->services[i] = run->service;
	burst->key_at[i] = (uint8_t)at;
	burst->kind[i] = OF_SERVICE;
}

/* Of a plain frame, all that its outer headers depend on but for its flow's hash. */
static inline struct xg_packet sent_packet(__u64 head)
{
	return (struct xg_packet){
		.ip_len = (__u16)plain_len(head), .tos = (__u8)plain_tos(head), .family = 4,
	};
}

/* Sends what goes by headers of this kind, and leaves the rest. Returns how many were sent. All of
 * the last three are constants. */
static inline __attribute__((always_inline)) uint32_t
send_kind(const struct view view, struct xg_frame *frames, struct burst *burst,
	  const struct group *group, const struct run *run,
	  const enum xg_encapsulation encapsulation, const int ipv6, const __u32 l2_len)
{
	const uint32_t outer_len = XG_OUTER_BYTES(encapsulation, ipv6, l2_len);
	uint32_t sent = 0;

	for (uint32_t k = 0; k < run->count; k++) {
		const uint32_t at = run->at + k;
		const struct xg_template *headers = stray_headers(&view, group->v4.plan.metas[at]);
		const struct xg_packet packet = sent_packet(group->plain.heads[at]);
		struct xg_frame *frame = &frames[run->frame + k];
		__u64 fields;

		if (!headers) {
			leave(frames, burst, group, run, k);
			continue;
		}
		fields = xg_template_fields(headers);
		if ((fields & ~XG_KIND_MTU) != XG_KIND(encapsulation, ipv6, l2_len) ||
		    outer_len - l2_len + packet.ip_len > (fields & XG_KIND_MTU) >> 32) {
			leave(frames, burst, group, run, k);
			continue;
		}
		if (k + AHEAD_OF_WRITING < run->count) {
			call_line(frame[AHEAD_OF_WRITING].data - 1);
			call_line(frame[AHEAD_OF_WRITING].data);
		}
		frame->data += XG_ETH_LEN - (int)outer_len;
		xg_template_write(frame->data, headers, &packet, group->hashes[at], 0, 0,
				  encapsulation, ipv6, l2_len);
		frame->len += outer_len - XG_ETH_LEN;
		frame->ending = XG_COUNT_stray_forwarded;
		clear_wishes(frame);
		frame->outer_len = outer_len;
		frame->family = 4;
		frame->mark = 0;
		burst->kind[run->frame + k] = SENT;
		sent++;
	}
	return sent;
}

#define TRY(encapsulation, ipv6, l2_len) \
	if (kind == XG_KIND(encapsulation, ipv6, l2_len)) \
		return send_kind(*view, frames, burst, group, run, encapsulation, ipv6, l2_len);
#define TRY_TAGS(encapsulation, ipv6) \
	TRY(encapsulation, ipv6, XG_ETH_LEN) \
	TRY(encapsulation, ipv6, XG_ETH_LEN + XG_VLAN_LEN)

static uint32_t send_run(const struct view *view, struct xg_frame *frames, struct burst *burst,
			 const struct group *group, const struct run *run, __u64 kind)
{
	TRY_TAGS(XG_GUE, 0)
	TRY_TAGS(XG_GUE, 1)
	TRY_TAGS(XG_GENEVE, 0)
	TRY_TAGS(XG_GENEVE, 1)
	TRY_TAGS(XG_VXLAN, 0)
	TRY_TAGS(XG_VXLAN, 1)
	TRY_TAGS(XG_IPIP, 0)
	TRY_TAGS(XG_IPIP, 1)
	for (uint32_t k = 0; k < run->count; k++)
		leave(frames, burst, group, run, k);
	return 0;
}

#undef TRY
#undef TRY_TAGS

/* Returns how many frames of the group need nothing more. */
static uint32_t send_runs(struct xg_forwarder *forwarder, struct xg_frame *frames,
			  struct burst *burst, struct group *group)
{
	const struct view view = {
		forwarder->owners, forwarder->templates, forwarder->template_count,
		forwarder->host,
	};
	bool is_hashed = false;
	uint32_t sent = 0;

	for (uint32_t i = 0; i < group->run_count; i++) {
		const __u64 kind = kind_of(&view, group, &group->runs[i]);

		if (kind && !is_hashed)
			xg_hash_flows(xg_session_burst_widest(), &group->plain, group->hashes);
		is_hashed |= kind != 0;
		sent += send_run(&view, frames, burst, group, &group->runs[i], kind);
	}
	forwarder->counters[XG_COUNT_stray_forwarded] += sent;
	return sent;
}

#endif
