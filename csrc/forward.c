// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst: parse, look up, encapsulate, on plain buffers; knows no ring and no kernel.
 *
 * Three passes over at most 64 frames, so that the table's cache misses overlap.
 */
#include "forward.h"

#include <errno.h>
#include <string.h>

#include "decide.h"

#define KEY_WORDS_V4 1
#define KEY_WORDS_V6 3

struct lookup {
	__u64 keys[XG_BURST * XG_KEY_WORDS_MAX];
	__u64 metas[XG_BURST];
	uint32_t frame_of[XG_BURST];
	uint32_t count;
};

struct burst {
	struct xg_packet packets[XG_BURST];
	__u64 metas[XG_BURST];
	uint8_t of_service[XG_BURST];
	struct lookup v4;
	struct lookup v6;
};

const struct xg_forward_service *xg_forward_service_of(const struct xg_forwarder *forwarder,
						       const struct xg_packet *packet)
{
	for (uint32_t i = 0; i < forwarder->service_count; i++) {
		const struct xg_forward_service *service = &forwarder->services[i];

		if (service->port_be == packet->destination_port_be &&
		    service->protocol == packet->protocol &&
		    memcmp(service->vip_be, packet->destination_be, 16) == 0)
			return service;
	}
	return NULL;
}

static uint32_t ending_of_reason(int reason)
{
	if (reason == XG_PARSE_NOT_IP)
		return XG_COUNT_passed_not_ip;
	if (reason == XG_PARSE_FRAGMENT)
		return XG_COUNT_passed_fragment;
	return XG_COUNT_passed_unparsed;
}

void xg_forward_key(const struct xg_packet *packet, uint16_t slot, __u64 *words)
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

static void add_key(struct burst *burst, uint32_t frame, uint16_t slot)
{
	const struct xg_packet *packet = &burst->packets[frame];
	struct lookup *lookup = packet->family == 4 ? &burst->v4 : &burst->v6;
	uint32_t words = packet->family == 4 ? KEY_WORDS_V4 : KEY_WORDS_V6;

	xg_forward_key(packet, slot, &lookup->keys[lookup->count * words]);
	lookup->frame_of[lookup->count++] = frame;
}

static void parse_all(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count,
		      struct burst *burst)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct xg_forward_service *service;
		int reason = xg_parse_frame(frames[i].data, frames[i].data + frames[i].len,
					    &burst->packets[i]);

		burst->of_service[i] = 0;
		if (reason != XG_PARSE_OK) {
			frames[i].ending = ending_of_reason(reason);
			continue;
		}
		service = xg_forward_service_of(forwarder, &burst->packets[i]);
		frames[i].ending = XG_COUNT_passed_no_service;
		if (service) {
			burst->of_service[i] = 1;
			add_key(burst, i, service->slot);
		}
	}
}

static void look_up(const struct xg_session_table *table, struct lookup *lookup,
		    __u64 metas[XG_BURST])
{
	if (lookup->count == 0 || !table)
		return;
	xg_session_table_find_burst(table, lookup->keys, lookup->count, lookup->metas);
	for (uint32_t i = 0; i < lookup->count; i++)
		metas[lookup->frame_of[i]] = lookup->metas[i];
}

static uint32_t encapsulate(const struct xg_forwarder *forwarder, struct xg_frame *frame,
			    const struct xg_packet *packet, uint32_t index, uint8_t mark,
			    uint32_t ending)
{
	const struct xg_template *tmpl;
	uint32_t written;

	if (index >= forwarder->template_count)
		return XG_COUNT_miss_no_flood;
	tmpl = &forwarder->templates[index];
	if (tmpl->len == 0 || tmpl->len > XG_TEMPLATE_BYTES)
		return XG_COUNT_miss_no_flood;
	if (xg_outer_ip_len(tmpl, packet) > tmpl->mtu)
		return XG_COUNT_too_big;
	if (frame->headroom + packet->l3_offset < tmpl->len)
		return XG_COUNT_no_headroom;
	written = xg_template_apply(frame->data + packet->l3_offset - tmpl->len,
				    frame->data + packet->l3_offset, tmpl, packet, mark);
	if (!written)
		return XG_COUNT_no_headroom;
	frame->data = frame->data + packet->l3_offset - written;
	frame->len = frame->len - packet->l3_offset + written;
	return ending;
}

static uint32_t flood(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		      const struct xg_packet *packet)
{
	if (forwarder->flood_template == XG_NO_TEMPLATE)
		return XG_COUNT_miss_no_flood;
	return encapsulate(forwarder, frame, packet, forwarder->flood_template, XG_MARK_FLOOD,
			   XG_COUNT_miss_flooded);
}

static uint32_t act(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		    const struct xg_packet *packet, __u64 meta)
{
	int decision = xg_decide(packet, meta, forwarder->host, 1);
	uint32_t ending = decision == XG_DECIDE_FORWARD_SYN ? XG_COUNT_syn_forwarded :
							      XG_COUNT_stray_forwarded;
	uint16_t index;

	/* what comes here was asked for already: our own entry for it is one that lags behind */
	if (decision == XG_DECIDE_MISS || decision == XG_DECIDE_OWN)
		return flood(forwarder, frame, packet);
	if (decision != XG_DECIDE_FORWARD_SYN && decision != XG_DECIDE_STRAY)
		return (uint32_t)decision;
	index = xg_owner_load(&forwarder->owners[xg_meta_owner(meta)]).template_index;
	if (index != XG_NO_TEMPLATE)
		return encapsulate(forwarder, frame, packet, index, 0, ending);
	if (decision == XG_DECIDE_FORWARD_SYN)
		return XG_COUNT_passed_syn;
	return flood(forwarder, frame, packet);
}

int xg_forward_burst(struct xg_forwarder *forwarder, struct xg_frame *frames, uint32_t count)
{
	struct burst burst;

	if (count > XG_BURST)
		return -E2BIG;
	burst.v4.count = 0;
	burst.v6.count = 0;
	memset(burst.metas, 0, sizeof(burst.metas));
	parse_all(forwarder, frames, count, &burst);
	look_up(forwarder->table4, &burst.v4, burst.metas);
	look_up(forwarder->table6, &burst.v6, burst.metas);
	for (uint32_t i = 0; i < count; i++) {
		if (burst.of_service[i])
			frames[i].ending = act(forwarder, &frames[i], &burst.packets[i],
					       burst.metas[i]);
		forwarder->counters[frames[i].ending]++;
	}
	return 0;
}
