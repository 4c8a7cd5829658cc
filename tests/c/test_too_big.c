// SPDX-License-Identifier: BSD-2-Clause
/*
 * What the forwarder answers to frames that are too big for their path, and when it is silent.
 */
#include "forward_world.h"

#include <stdio.h>

#include "too_big.h"

#define OVERHEAD (GUE_IPV4_LEN - XG_ETH_LEN)
#define HOUR_NS 3600000000000ull

static uint32_t l3_of(const struct recipe *s)
{
	return XG_ETH_LEN + s->tags * (uint32_t)XG_VLAN_LEN;
}

/* The frame of `s`; in IPv4 it must not be fragmented. */
static uint32_t build_whole(const struct recipe *s, uint8_t *bytes)
{
	uint32_t len = build(s, bytes);

	bytes[3] = 0x77;	/* another source address than the destination's */
	if (s->family == 4)
		bytes[l3_of(s) + 6] = 0x40;
	return len;
}

static struct recipe big(uint8_t family)
{
	struct recipe s = tcp(family, OWNER_2, ACK);

	s.payload = MTU;
	return s;
}

/* RFC 1071, by bytes. */
static uint32_t sum_of(const uint8_t *at, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i < len; i += 2)
		sum += (uint32_t)at[i] << 8 | at[i + 1];
	while (sum > 0xffff)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The frame became the answer that tells `mtu`, and nothing was written outside it. */
static void assert_told(const struct xg_frame *frame, const struct recipe *s, const uint8_t *bytes,
			uint32_t mtu)
{
	uint32_t l3 = l3_of(s), header = s->family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN;
	const uint8_t *ip = frame->data + l3, *icmp = ip + header, *client = bytes + l3;

	assert(frame->len == l3 + header + XG_ICMP_LEN + XG_QUOTE);
	assert(memcmp(frame->data, bytes + 6, 6) == 0 && memcmp(frame->data + 6, bytes, 6) == 0);
	assert(memcmp(frame->data + 12, bytes + 12, l3 - 12) == 0);
	assert(memcmp(icmp + XG_ICMP_LEN, client, XG_QUOTE) == 0);
	assert(read_be16(icmp + 6) == mtu && read_be16(icmp + 4) == 0);
	if (s->family == 4) {
		assert(icmp[0] == 3 && icmp[1] == 4 && ipv4_sum(ip) == 0xffff);
		assert(sum_of(icmp, XG_ICMP_LEN + XG_QUOTE, 0) == 0xffff);
		assert(memcmp(ip + 12, client + 16, 4) == 0);
		assert(memcmp(ip + 16, client + 12, 4) == 0);
	} else {
		assert(icmp[0] == 2 && icmp[1] == 0 && read_be16(ip + 4) == XG_ICMP_LEN + XG_QUOTE);
		assert(sum_of(ip + 8, 32 + XG_ICMP_LEN + XG_QUOTE,
			      XG_ICMP_LEN + XG_QUOTE + XG_PROTO_ICMPV6) == 0xffff);
		assert(memcmp(ip + 8, client + 24, 16) == 0);
		assert(memcmp(ip + 24, client + 8, 16) == 0);
	}
}

/* One frame alone; `mtu` 0: it is dropped as it came. */
static void expect(struct xg_forwarder *f, struct recipe s, uint32_t headroom, uint32_t mtu)
{
	uint8_t bytes[FRAME_MAX], *block;
	uint32_t len = build_whole(&s, bytes);
	struct xg_frame frame = place(bytes, len, headroom, &block);
	uint64_t frames = counted(f);

	assert(xg_forward_burst(f, &frame, 1) == 0 && counted(f) == frames + 1);
	assert(frame.ending == (mtu ? XG_COUNT_too_big_answered : XG_COUNT_too_big));
	assert(frame.copy_from == frame.copy_to);
	if (mtu) {
		assert(frame.data == block + headroom);
		assert_told(&frame, &s, bytes, mtu);
		for (uint32_t i = 0; i < headroom; i++)
			assert(block[i] == UNTOUCHED);
	} else {
		assert_untouched(&frame, block, bytes, len);
	}
	free(block);
}

static void test_the_sender_is_told_whatever_the_headroom_and_the_tags(uint8_t family)
{
	struct xg_forwarder f = make();
	struct recipe s = big(family);

	for (s.tags = 0; s.tags <= XG_VLAN_TAGS; s.tags++)
		for (uint32_t headroom = 0; headroom <= ROOM; headroom += ROOM)
			expect(&f, s, headroom, MTU - OVERHEAD);
	s.tags = 0;
	s.padding = 9;
	expect(&f, s, ROOM, MTU - OVERHEAD);
	s.protocol = XG_PROTO_UDP;
	expect(&f, s, ROOM, MTU - OVERHEAD);
	s = big(family);
	s.client = 999;	/* a miss */
	expect(&f, s, ROOM, MTU - OVERHEAD);
	destroy(&f);
}

static void test_paths_that_are_too_small_to_tell_of(void)
{
	struct xg_forwarder f = make();
	struct recipe s = big(4);

	templates[TO_2].mtu = OVERHEAD + XG_IPV4_MTU_MIN;
	expect(&f, s, ROOM, XG_IPV4_MTU_MIN);
	for (uint16_t mtu = 0; mtu < OVERHEAD + XG_IPV4_MTU_MIN; mtu++) {
		templates[TO_2].mtu = mtu;
		expect(&f, s, ROOM, 0);
	}
	s.family = 6;
	expect(&f, s, ROOM, XG_IPV6_MTU_MIN);
	s.payload = XG_IPV6_MTU_MIN - XG_IPV6_LEN - XG_TCP_LEN;
	expect(&f, s, ROOM, 0);
	destroy(&f);
}

static void test_above_the_budget_nobody_is_told(uint8_t family)
{
	struct xg_forwarder f = make();

	f.answers.interval_ns = HOUR_NS;
	expect(&f, big(family), ROOM, MTU - OVERHEAD);
	for (int i = 0; i < 100; i++)
		expect(&f, big(family), ROOM, 0);
	f.answers.interval_ns = 0;
	expect(&f, big(family), ROOM, MTU - OVERHEAD);
	destroy(&f);
}

/* Without a group each host gets a copy of a flood: the least path is told, if none takes it. */
static void test_a_flood_that_no_path_takes_tells_the_least_of_them(uint8_t family)
{
	struct xg_forwarder f = make();
	struct recipe s = big(family);
	uint8_t bytes[FRAME_MAX], *block;
	struct xg_frame frame;

	s.client = 999;
	flood_list = (struct xg_flood){ .group = XG_NO_TEMPLATE, .copies = 3,
					.to = { TO_2, FLOOD, TO_3_TAGGED } };
	templates[FLOOD].mtu = MTU - 100;
	expect(&f, s, ROOM, MTU - 100 - OVERHEAD);
	templates[TO_3_TAGGED].mtu = MTU + 200;	/* one takes it: nobody is told */
	frame = place(bytes, build_whole(&s, bytes), ROOM, &block);
	assert(xg_forward_burst(&f, &frame, 1) == 0 && frame.ending == XG_COUNT_miss_flooded);
	free(block);
	destroy(&f);
}

/* What came to the wrong host by the tunnel and is too big to be flooded: its client is not where
 * the frame came from. */
static void test_the_sender_of_what_came_out_of_a_tunnel_is_not_told(uint8_t family)
{
	struct xg_forwarder f = make();
	struct xg_template to_us = template_to(1, 0, UINT16_MAX, 0);
	uint8_t inner[FRAME_MAX], bytes[FRAME_MAX + XG_TEMPLATE_BYTES], *block;
	struct recipe s = big(family);
	uint32_t len = build_whole(&s, inner) - XG_ETH_LEN, outer_len;
	struct xg_packet packet = { .family = family, .ip_len = (uint16_t)len };
	struct xg_frame frame;

	f.tunnel_port_be = XG_BE16(0x17c1);
	memcpy(f.address_be, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01", 16);
	outer_len = xg_template_apply(bytes, bytes + sizeof(bytes), &to_us, &packet, 0, 0);
	memcpy(bytes + outer_len, inner + XG_ETH_LEN, len);
	frame = place(bytes, outer_len + len, ROOM, &block);
	assert(xg_forward_burst(&f, &frame, 1) == 0);
	assert(frame.ending == XG_COUNT_too_big);
	assert_untouched(&frame, block, bytes, outer_len + len);
	free(block);
	destroy(&f);
}

int main(void)
{
	for (uint8_t family = 4; family <= 6; family += 2) {
		test_the_sender_is_told_whatever_the_headroom_and_the_tags(family);
		test_above_the_budget_nobody_is_told(family);
		test_a_flood_that_no_path_takes_tells_the_least_of_them(family);
		test_the_sender_of_what_came_out_of_a_tunnel_is_not_told(family);
	}
	test_paths_that_are_too_small_to_tell_of();
	puts("ok");
	return 0;
}
