// SPDX-License-Identifier: BSD-2-Clause
/*
 * Tunnel packets of every format, family, purpose and inner packet, whole, cut after each byte and
 * with each byte changed: opened and explained alike, with no byte touched outside the frame.
 */
#include "explain.h"
#include "forward_world.h"
#include "receive.h"

#include <stdio.h>

#define TUNNEL_PORT 6080
#define SENDER 2	/* the host that sends; INACTIVE may not */

static uint32_t seen[XG_STEP_CODES];
static uint64_t endings[XG_COUNTERS];
static struct xg_sender *senders;	/* a block of just two */
static const __u32 group_be[4] = { 0, 0, 0xffff0000u, 0x0207c0efu };

static void set_address(__u32 out[4], int family, uint8_t host)
{
	uint8_t *at = (uint8_t *)out;

	memset(out, 0, 16);
	if (family == 4)
		at[10] = at[11] = 0xff;
	at[family == 4 ? 12 : 0] = family == 4 ? 10 : 0xfd;
	at[15] = host;
}

/* Outer headers and shim in front of an IP packet; `out` has room. Returns the frame's length. */
static uint32_t wrap(uint8_t *out, const struct xg_forwarder *f, int family, uint8_t from,
		     int to_group, int is_probe, uint8_t mark, uint8_t tags, uint8_t tos,
		     const uint8_t *inner, uint32_t len)
{
	int proto = inner[0] >> 4 == 4 ? XG_PROTO_IPIP : XG_PROTO_IPV6;
	int form = is_probe ? XG_GUE : f->encapsulation;
	uint8_t *at = out + 12, *l3, *l4;
	__u32 address[4];
	__u64 cookie = to_group ? 0x22 : 0x11;

	memset(out, 2, 12);
	for (uint8_t i = 0; i < tags; i++)
		at = put_be16(put_be16(at, 0x8100), 5);
	l3 = put_be16(at, family == 4 ? 0x0800 : 0x86dd);
	l4 = l3 + (family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN);
	memset(l3, 0, XG_IPV6_LEN);
	set_address(address, family, from);
	at = l4;
	if (form != XG_IPIP) {
		memset(at, 0, 64);
		put_be16(put_be16(at, 51515), TUNNEL_PORT);
		at += XG_UDP_LEN;
	}
	if (form == XG_GUE) {
		at[0] = is_probe ? XG_GUE_CONTROL : XG_GUE_DATA;
		at[1] = is_probe ? XG_GUE_PROBE : (uint8_t)proto;
		at[4] = XG_SHIM_FORMAT;
		at[5] = mark;
		memcpy(at + 8, &cookie, 8);
		at += XG_GUE_LEN;
	} else if (form == XG_GENEVE) {
		put_be16(at, XG_GENEVE_FIRST << 8);
		put_be16(at + 2, XG_ETHERTYPE_TEB);
		put_be16(put_be16(at + 8, XG_GENEVE_CLASS), XG_GENEVE_TYPE << 8 | XG_GENEVE_WORDS);
		at[12] = XG_SHIM_FORMAT;
		at[13] = mark;
		memcpy(at + 16, &cookie, 8);
		at += XG_GENEVE_LEN;
	} else if (form == XG_VXLAN) {
		at[0] = XG_VXLAN_FLAGS;
		at += XG_VXLAN_LEN;
	}
	if (form == XG_GENEVE || form == XG_VXLAN)
		at = put_be16(at + 12, proto == XG_PROTO_IPIP ? 0x0800 : 0x86dd);
	memcpy(at, inner, len);
	at += len;
	if (form != XG_IPIP)
		put_be16(l4 + 4, (uint32_t)(at - l4));
	if (family == 4) {
		l3[0] = 0x45;
		l3[1] = tos;
		put_be16(l3 + 2, (uint32_t)(at - l3));
		l3[9] = form == XG_IPIP ? (uint8_t)proto : XG_PROTO_UDP;
		memcpy(l3 + 12, &address[3], 4);
		memcpy(l3 + 16, to_group ? &f->flood_group_be[3] : &f->address_be[3], 4);
	} else {
		l3[0] = 0x60;
		l3[1] = (uint8_t)(tos << 4);
		put_be16(l3 + 4, (uint32_t)(at - l4));
		l3[6] = form == XG_IPIP ? (uint8_t)proto : XG_PROTO_UDP;
		memcpy(l3 + 8, address, 16);
		memcpy(l3 + 24, to_group ? f->flood_group_be : f->address_be, 16);
	}
	return (uint32_t)(at - out);
}

/* One frame in a block of just its size: ending and bytes of both ways are the same. */
static void take(const struct xg_forwarder *f, const uint8_t *bytes, uint32_t len, uint32_t room,
		 enum xg_kernel_answer kernel)
{
	struct xg_receiver receiver = *f->receiver;
	struct xg_forwarder counting = *f;
	struct xg_explanation found;
	uint8_t *block, *other;
	struct xg_frame frame = place(bytes, len, room, &block);
	struct xg_frame same = place(bytes, len, room, &other);

	receiver.knows_all = kernel == XG_KERNEL_KNOWS;
	counting.receiver = &receiver;
	counting.own_is_known &= kernel == XG_KERNEL_NOT_ASKED;
	memset(&found, UNTOUCHED, sizeof(found));
	xg_explain(f, &frame, kernel, &found);
	assert(found.step_count >= 1 && found.step_count <= XG_STEPS_MAX);
	for (uint32_t i = 0; i < found.step_count; i++) {
		assert(i == 0 || found.steps[i].code > found.steps[i - 1].code);
		seen[found.steps[i].code]++;
	}
	if (found.is_tunnel) {
		assert(!xg_forward_burst(&counting, &same, 1));
		assert(frame.ending == same.ending && frame.len == same.len);
		assert(frame.data - block == same.data - other);
		assert(frame.data >= block && frame.data + frame.len <= block + room + len);
		assert(memcmp(block, other, room + len) == 0);
		endings[frame.ending]++;
		if (found.has_packet)	/* what Python makes the kernel's question of */
			assert(found.packet.l3_offset < len);
	}
	free(block);
	free(other);
}

static void take_all(const struct xg_forwarder *f, const uint8_t *bytes, uint32_t len,
		     int is_thorough)
{
	uint8_t changed[FRAME_MAX];

	for (int kernel = XG_KERNEL_NOT_ASKED; kernel <= XG_KERNEL_UNKNOWN; kernel++)
		take(f, bytes, len, ROOM, kernel);
	take(f, bytes, len, 0, XG_KERNEL_NOT_ASKED);
	for (uint32_t cut = 0; is_thorough && cut < len; cut++)
		take(f, bytes, cut, ROOM, XG_KERNEL_KNOWS);
	for (uint32_t at = 12; is_thorough && at < len; at++) {
		static const uint8_t values[] = { 0, 1, 4, 41, 44, 0x45, 0x60, 0x7f, 0xff };

		for (uint32_t i = 0; i < sizeof(values); i++) {
			memcpy(changed, bytes, len);
			changed[at] = values[i];
			take(f, changed, len, ROOM, XG_KERNEL_KNOWS);
		}
	}
}

/* Cuts what is inside, under outer headers that say so. */
static void take_cuts(const struct xg_forwarder *f, int family, const uint8_t *inner, uint32_t len)
{
	uint8_t bytes[FRAME_MAX];

	for (uint32_t cut = 1; cut < len; cut++)
		take(f, bytes, wrap(bytes, f, family, SENDER, 0, 0, 0, 0, 0, inner, cut), ROOM,
		     XG_KERNEL_KNOWS);
}

static void take_inner(const struct xg_forwarder *f, int family, const uint8_t *inner,
		       uint32_t len, int is_thorough)
{
	static const uint8_t marks[] = { 0, XG_MARK_HOP, XG_MARK_RELAY, XG_MARK_FLOOD };
	uint8_t bytes[FRAME_MAX];

	for (int to_group = 0; to_group < 2; to_group++)
		for (uint32_t i = 0; i < sizeof(marks); i++)
			for (uint8_t tos = 0; tos < 4; tos += 3)
				take_all(f, bytes, wrap(bytes, f, family, SENDER, to_group, 0,
							marks[i], (uint8_t)i % 3, tos, inner, len),
					 is_thorough && !to_group && !tos && i < 2);
	take_all(f, bytes, wrap(bytes, f, family, INACTIVE, 0, 0, 0, 0, 0, inner, len), 0);
	take_all(f, bytes, wrap(bytes, f, family, 99, 0, 0, 0, 0, 0, inner, len), 0);
	if (is_thorough)
		take_cuts(f, family, inner, len);
}

static void take_probes(const struct xg_forwarder *f, int family)
{
	static const uint8_t nonce[9] = "the-nonc";
	uint8_t bytes[FRAME_MAX];

	for (uint32_t len = 1; len <= 9; len++)
		for (int to_group = 0; to_group < 2; to_group++)
			for (uint8_t tags = 0; tags < 3; tags++)
				take_all(f, bytes, wrap(bytes, f, family, SENDER, to_group, 1, 0,
							tags, 0, nonce, len), len == 8);
}

static void take_format(struct xg_forwarder *f, int family)
{
	for (uint8_t inner_family = 4; inner_family <= 6; inner_family += 2)
		for (int kind = 0; kind < 6; kind++) {
			struct recipe s = tcp(inner_family, HOST, kind == 1 ? SYN : ACK);
			uint8_t bytes[FRAME_MAX], *inner = bytes + XG_ETH_LEN;
			uint32_t len;

			s.protocol = kind == 2 ? XG_PROTO_UDP : XG_PROTO_TCP;
			s.payload = kind >= 4 ? 60 : kind * 3;
			s.tos = kind == 2 ? 0 : 2;
			if (kind == 3)
				s.port = 81;
			len = build(&s, bytes) - XG_ETH_LEN;
			if (kind == 4)
				put_icmp_error(inner, inner_family, XG_PROTO_TCP, HOST);
			if (kind == 5 && inner_family == 4)
				inner[7] = 1;	/* a later fragment */
			else if (kind == 5)
				put_icmp_error(inner, inner_family, XG_PROTO_UDP, HOST);
			take_inner(f, family, inner, len, kind != 3);
			s.payload = MTU;	/* too big to be flooded */
			len = build(&s, bytes) - XG_ETH_LEN;
			if (kind == 0)
				take_inner(f, family, inner, len, 0);
		}
	take_probes(f, family);
}

static void take_everything(struct xg_forwarder *f)
{
	for (int family = 4; family <= 6; family += 2)
		for (uint8_t form = XG_GUE; form <= XG_IPIP; form++) {
			f->encapsulation = form;
			set_address(f->address_be, family, HOST);
			set_address(f->flood_group_be, family, 250);
			if (family == 4)
				memcpy(f->flood_group_be, group_be, 16);
			set_address(senders[0].key.address_be, family, SENDER);
			set_address(senders[1].key.address_be, family, INACTIVE);
			take_format(f, family);
		}
}

int main(void)
{
	static const int reached[] = {
		XG_COUNT_delivered_stray, XG_COUNT_delivered_syn, XG_COUNT_delivered_udp,
		XG_COUNT_delivered_flood, XG_COUNT_delivered_icmp, XG_COUNT_fragment_refused,
		XG_COUNT_icmp_unknown, XG_COUNT_flood_unknown, XG_COUNT_flood_syn,
		XG_COUNT_misdirected_flooded, XG_COUNT_misdirected_dropped,
		XG_COUNT_tunnel_bad_source, XG_COUNT_tunnel_bad_cookie, XG_COUNT_tunnel_malformed,
		XG_COUNT_tunnel_no_service, XG_COUNT_tunnel_ecn_dropped, XG_COUNT_probe_answered,
		XG_COUNT_too_big,
	};
	struct xg_receiver receiver = { .sender_count = 2, .mac = { 2, 0, 0, 0, 0, 1 } };
	struct xg_forwarder f = make();

	senders = calloc(2, sizeof(*senders));
	for (int i = 0; i < 2; i++)
		senders[i].peer = (struct xg_peer){ .host = i ? INACTIVE : SENDER,
						    .unicast_cookie = { 0x11, 0x12 },
						    .flood_cookie = { 0x22, 0x23 } };
	receiver.senders = senders;
	f.receiver = &receiver;
	f.tunnel_port_be = XG_BE16(TUNNEL_PORT);
	take_everything(&f);
	f.own_is_known = 1;
	take_everything(&f);
	flood_list.group = XG_NO_TEMPLATE;
	f.own_is_known = 0;
	take_everything(&f);
	for (uint32_t i = 0; i < sizeof(reached) / sizeof(reached[0]); i++)
		assert(endings[reached[i]] > 0);
	for (uint32_t code = 0; code <= XG_STEP_inner_no_service; code++)
		assert(seen[code] > 0);
	assert(seen[XG_STEP_flooded_syn] && seen[XG_STEP_hop_before] && seen[XG_STEP_first_hop]);
	assert(seen[XG_STEP_ecn_kept] && seen[XG_STEP_ecn_changed] && seen[XG_STEP_ecn_lost]);
	free(senders);
	destroy(&f);
	puts("ok");
	return 0;
}
