// SPDX-License-Identifier: BSD-2-Clause
/*
 * The header template: each length, every inner length and TOS, and what it refuses.
 *
 * Rooms are blocks of exactly the bytes that may be written, so AddressSanitizer sees one more.
 */
#include "gue_template.h"

#include <stdio.h>
#include <stdlib.h>

#define MTU 9000
#define LARGEST_OUTER 65535u

static struct xg_packet packet_of(int family, uint32_t inner_len, uint8_t tos)
{
	struct xg_packet packet = { .family = (uint8_t)family, .protocol = XG_PROTO_TCP };

	packet.ip_len = (uint16_t)inner_len;
	packet.tos = tos;
	packet.source_port_be = (uint16_t)(inner_len * 31);
	packet.source_be[3] = inner_len * 0x9e3779b9u;
	return packet;
}

static void check(const struct xg_template *tmpl, int family, uint32_t inner_len, uint8_t tos,
		  uint8_t mark, uint8_t *room)
{
	struct xg_packet packet = packet_of(family, inner_len, tos);

	assert(xg_outer_ip_len(tmpl, &packet) == tmpl->len - tmpl->l2_len + inner_len);
	assert(xg_template_apply(room, room + tmpl->len, tmpl, &packet, mark, 0) == tmpl->len);
	assert_outer(room, tmpl, inner_len, tos, family, mark);
}

/* Every inner length that an outer packet can carry, and every TOS with lengths that make the
 * checksum carry in each way. */
static void test_every_length_and_tos_gives_right_headers(int tagged)
{
	struct xg_template tmpl = template_to(2, tagged, MTU, 0);
	uint32_t largest = LARGEST_OUTER - (tmpl.len - tmpl.l2_len);
	const uint32_t lengths[] = { 20, 40, 41, 1500, 9000, 32767, 65000, largest };
	uint8_t *room = malloc(tmpl.len);

	assert(tmpl.len == (tagged ? 62 : 58));
	for (uint32_t len = 20; len <= largest; len++)
		check(&tmpl, len & 1 ? 4 : 6, len, (uint8_t)(len * 7), 0, room);
	for (uint32_t tos = 0; tos < 256; tos++)
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
			check(&tmpl, 4, lengths[i], (uint8_t)tos, 0, room);
	free(room);
}

/* The sum of the header's fixed part runs through all its values, 0 and 0xffff among them. */
static void test_every_sum_of_the_fixed_part_gives_a_right_checksum(void)
{
	struct xg_template tmpl = template_to(2, 0, MTU, 0);
	uint8_t *room = malloc(tmpl.len);
	uint8_t *ip = tmpl.bytes + tmpl.l2_len;

	for (uint32_t id = 0; id <= 0xffff; id++) {
		ip[4] = (uint8_t)(id >> 8);
		ip[5] = (uint8_t)id;
		tmpl.sum = ipv4_sum(ip);
		check(&tmpl, 4, 20 + id % 65000, (uint8_t)id, 0, room);
		/* the one total of which the first fold leaves a carry: 0x1ffff */
		if (tmpl.sum > 0xff00)
			check(&tmpl, 4, LARGEST_OUTER - 44, (uint8_t)(0x10000 - tmpl.sum), 0,
			      room);
	}
	free(room);
}

static void test_marks_are_added_to_those_of_the_template(void)
{
	const uint8_t marks[] = { 0, XG_MARK_HOP, XG_MARK_FLOOD, XG_MARK_FLOOD | XG_MARK_HOP };

	for (int tagged = 0; tagged < 2; tagged++)
		for (int i = 0; i < 16; i++) {
			struct xg_template tmpl = template_to(2, tagged, MTU, marks[i / 4]);
			uint8_t *room = malloc(tmpl.len);

			check(&tmpl, 6, 1280, 0xb9, marks[i % 4], room);
			assert(room[tmpl.l2_len + 33] == (marks[i / 4] | marks[i % 4]));
			free(room);
		}
}

static void test_ecn_and_dscp_are_those_of_the_inner_packet(void)
{
	struct xg_template tmpl = template_to(2, 0, MTU, 0);
	uint8_t *room = malloc(tmpl.len);

	for (uint32_t ecn = 0; ecn < 4; ecn++) {
		check(&tmpl, 4, 1500, (uint8_t)(46 << 2 | ecn), 0, room);
		assert((room[15] & 3) == ecn && room[15] >> 2 == 46);
	}
	free(room);
}

static void test_a_room_that_is_too_small_is_refused_and_left_alone(int tagged)
{
	struct xg_template tmpl = template_to(2, tagged, MTU, 0);
	struct xg_packet packet = packet_of(4, 1500, 0);

	for (uint32_t room_len = 1; room_len < tmpl.len; room_len++) {
		uint8_t *room = malloc(room_len);

		memset(room, 0x5a, room_len);
		assert(xg_template_apply(room, room + room_len, &tmpl, &packet, 0, 0) == 0);
		for (uint32_t i = 0; i < room_len; i++)
			assert(room[i] == 0x5a);
		free(room);
	}
}

static void test_templates_of_other_lengths_are_refused(void)
{
	struct xg_packet packet = packet_of(4, 1500, 0);
	uint8_t room[XG_TEMPLATE_BYTES];

	memset(room, 0x5a, sizeof(room));
	for (uint32_t len = 0; len <= 0xffff; len++) {
		struct xg_template tmpl = template_to(2, 0, MTU, 0);

		if (len == GUE_IPV4_LEN || len == GUE_IPV4_VLAN_LEN)
			continue;
		tmpl.len = (uint16_t)len;
		assert(xg_template_apply(room, room + sizeof(room), &tmpl, &packet, 0, 0) == 0);
	}
	for (size_t i = 0; i < sizeof(room); i++)
		assert(room[i] == 0x5a);
}

/* The outer source port: the same for a session, spread over sessions, in the dynamic range. */
static void test_source_ports_are_steady_and_spread(void)
{
	struct xg_template tmpl = template_to(2, 0, MTU, 0);
	static uint8_t seen[0x4000];
	uint8_t *room = malloc(tmpl.len), *again = malloc(tmpl.len);
	uint32_t distinct = 0;

	for (uint32_t port = 0; port < 0x4000; port++) {
		struct xg_packet packet = packet_of(4, 40, 0);

		packet.source_be[3] = 0x0200000a;
		packet.source_port_be = XG_BE16(port);
		xg_template_apply(room, room + tmpl.len, &tmpl, &packet, 0, 0);
		packet.ip_len = 1500;
		packet.seq = port;
		xg_template_apply(again, again + tmpl.len, &tmpl, &packet, 0, 0);
		assert(memcmp(room + 34, again + 34, 2) == 0);
		distinct += !seen[read_be16(room + 34) & 0x3fff];
		seen[read_be16(room + 34) & 0x3fff] = 1;
	}
	/* As many balls as bins: 63 % of the bins are hit by chance. */
	assert(distinct > 0x4000 * 55 / 100);
	free(room);
	free(again);
}

int main(void)
{
	for (int tagged = 0; tagged < 2; tagged++) {
		test_every_length_and_tos_gives_right_headers(tagged);
		test_a_room_that_is_too_small_is_refused_and_left_alone(tagged);
	}
	test_every_sum_of_the_fixed_part_gives_a_right_checksum();
	test_marks_are_added_to_those_of_the_template();
	test_ecn_and_dscp_are_those_of_the_inner_packet();
	test_templates_of_other_lengths_are_refused();
	test_source_ports_are_steady_and_spread();
	puts("ok");
	return 0;
}
