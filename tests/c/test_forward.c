// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst forwarder: each ending, each refusal, the last byte that fits, and whole bursts.
 */
#include "forward_world.h"

#include <errno.h>
#include <stdio.h>

#define NONE TEMPLATES	/* the row sends nothing */

static uint32_t tagged_l3(const struct recipe *s)
{
	return XG_ETH_LEN + s->tags * (uint32_t)XG_VLAN_LEN;
}

/* The frame alone ends so; what is sent is the template, patched, and the packet behind it. */
static void expect_in(struct xg_forwarder *f, struct recipe s, uint32_t headroom, uint32_t ending,
		      enum template_place sent_by)
{
	uint8_t bytes[FRAME_MAX], *block;
	uint32_t len = build(&s, bytes), l3 = tagged_l3(&s);
	struct xg_frame frame = place(bytes, len, headroom, &block);
	uint64_t before = f->counters[ending], frames = counted(f);

	assert(xg_forward_burst(f, &frame, 1) == 0);
	if (frame.ending != ending)
		fprintf(stderr, "ending %u, expected %u\n", frame.ending, ending);
	assert(frame.ending == ending && f->counters[ending] == before + 1);
	assert(counted(f) == frames + 1);
	if (sent_by == NONE) {
		assert_untouched(&frame, block, bytes, len);
	} else {
		const struct xg_template *tmpl = &templates[sent_by];

		assert(frame.len == len - l3 + tmpl->len);
		assert(frame.data + frame.len == block + headroom + len);
		assert_outer(frame.data, tmpl, len - l3 - s.padding, s.tos, s.family,
			     sent_by == FLOOD ? XG_MARK_FLOOD : 0);
		assert(memcmp(frame.data + tmpl->len, bytes + l3, len - l3) == 0);
		for (uint8_t *at = block; at < frame.data && at < block + headroom; at++)
			assert(*at == UNTOUCHED);
	}
	free(block);
}

static void expect(struct xg_forwarder *f, struct recipe s, uint32_t ending,
		   enum template_place sent_by)
{
	expect_in(f, s, ROOM, ending, sent_by);
}

static struct recipe udp(uint8_t family, uint16_t client)
{
	return (struct recipe){ .client = client, .family = family, .protocol = XG_PROTO_UDP,
			       .payload = 30 };
}

#define ABSENT 999

static void test_each_ending(int family)
{
	struct xg_forwarder f = make();
	struct recipe other_port = tcp(family, OWNER_2, ACK), sctp = other_port;

	expect(&f, tcp(family, OWNER_2, ACK), XG_COUNT_stray_forwarded, TO_2);
	expect(&f, tcp(family, OWNER_3, ACK), XG_COUNT_stray_forwarded, TO_3_TAGGED);
	expect(&f, tcp(family, OWNER_2, XG_TCP_RST), XG_COUNT_stray_forwarded, TO_2);
	expect(&f, udp(family, OWNER_2), XG_COUNT_stray_forwarded, TO_3_TAGGED);
	expect(&f, udp(family, OWNER_3), XG_COUNT_stray_forwarded, TO_2);
	expect(&f, tcp(family, OWNER_2, SYN), XG_COUNT_syn_forwarded, TO_2);
	expect(&f, tcp(family, OWNER_3, SYN), XG_COUNT_syn_forwarded, TO_3_TAGGED);
	expect(&f, tcp(family, OWNER_2, SYN | ACK), XG_COUNT_stray_forwarded, TO_2);
	expect(&f, tcp(family, ABSENT, ACK), XG_COUNT_miss_flooded, FLOOD);
	expect(&f, tcp(family, ABSENT, SYN), XG_COUNT_passed_syn, NONE);
	expect(&f, udp(family, ABSENT), XG_COUNT_passed_udp_new, NONE);
	expect(&f, tcp(family, INACTIVE, ACK), XG_COUNT_miss_flooded, FLOOD);
	expect(&f, tcp(family, INACTIVE, SYN), XG_COUNT_passed_syn, NONE);
	/* asked for already: an own entry without a socket is a miss */
	expect(&f, tcp(family, HOST, ACK), XG_COUNT_miss_flooded, FLOOD);
	expect(&f, tcp(family, HOST, SYN), XG_COUNT_passed_own, NONE);
	expect(&f, udp(family, HOST), XG_COUNT_passed_own, NONE);
	expect(&f, tcp(family, XG_HOST_UNOWNED, ACK), XG_COUNT_passed_unowned, NONE);
	expect(&f, tcp(family, XG_HOST_UNOWNED, SYN), XG_COUNT_passed_unowned, NONE);
	expect(&f, tcp(family, OWNER_2, XG_TCP_FIN), XG_COUNT_dropped_no_flags, NONE);
	other_port.port = 81;
	expect(&f, other_port, XG_COUNT_passed_no_service, NONE);
	sctp.protocol = 132;
	expect(&f, sctp, XG_COUNT_passed_unparsed, NONE);
	destroy(&f);
}

static void test_templates_that_are_missing_or_not_known_send_nothing(int family)
{
	struct xg_forwarder f = make();

	expect(&f, tcp(family, NO_WAY, SYN), XG_COUNT_passed_syn, NONE);
	expect(&f, tcp(family, NO_WAY, ACK), XG_COUNT_miss_flooded, FLOOD);
	for (uint8_t flags = SYN; flags <= ACK; flags = (uint8_t)(flags + ACK - SYN)) {
		expect(&f, tcp(family, BAD_INDEX, flags), XG_COUNT_miss_no_flood, NONE);
		expect(&f, tcp(family, EMPTY_SLOT, flags), XG_COUNT_miss_no_flood, NONE);
		expect(&f, tcp(family, LONG, flags), XG_COUNT_miss_no_flood, NONE);
		expect(&f, tcp(family, ODD, flags), XG_COUNT_no_headroom, NONE);
	}
	flood_list.group = XG_NO_TEMPLATE;
	expect(&f, tcp(family, ABSENT, ACK), XG_COUNT_miss_no_flood, NONE);
	expect(&f, tcp(family, NO_WAY, ACK), XG_COUNT_miss_no_flood, NONE);
	expect(&f, tcp(family, OWNER_2, ACK), XG_COUNT_stray_forwarded, TO_2);
	flood_list.group = TEMPLATES;
	expect(&f, tcp(family, ABSENT, ACK), XG_COUNT_miss_no_flood, NONE);
	flood_list.group = EMPTY;
	expect(&f, tcp(family, ABSENT, ACK), XG_COUNT_miss_no_flood, NONE);
	destroy(&f);
}

/* The last byte that fits the path and the room in front, and the first that does not. */
static void test_limits_of_size_and_room(int family, uint8_t tags)
{
	struct xg_forwarder f = make();
	uint32_t ip_len = family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN;
	struct recipe s = tcp(family, OWNER_2, ACK);
	uint32_t room = GUE_IPV4_LEN - XG_ETH_LEN - tags * (uint32_t)XG_VLAN_LEN;

	s.tags = tags;
	for (uint16_t client = OWNER_2; client <= OWNER_3; client++, room += XG_VLAN_LEN) {
		enum template_place by = client == OWNER_2 ? TO_2 : TO_3_TAGGED;

		s.client = client;
		s.payload = (uint16_t)(MTU - 44 - ip_len - XG_TCP_LEN);
		expect(&f, s, XG_COUNT_stray_forwarded, by);
		expect_in(&f, s, room, XG_COUNT_stray_forwarded, by);
		for (uint32_t less = 0; less < room; less++)
			expect_in(&f, s, less, XG_COUNT_no_headroom, NONE);
		s.padding = 7;	/* is carried along, and counts for no length */
		expect(&f, s, XG_COUNT_stray_forwarded, by);
		s.padding = 0;
	}
	destroy(&f);
}

/* ---- frames that are no sessions ---- */

static void expect_bytes(struct xg_forwarder *f, const uint8_t *bytes, uint32_t len,
			 uint32_t ending)
{
	uint8_t *block;
	struct xg_frame frame = place(bytes, len, 0, &block);

	assert(xg_forward_burst(f, &frame, 1) == 0 && frame.ending == ending);
	assert_untouched(&frame, block, bytes, len);
	free(block);
}

static void test_what_is_no_session_passes(void)
{
	struct xg_forwarder f = make();
	struct recipe s = tcp(4, OWNER_2, ACK);
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(&s, bytes);

	for (uint32_t cut = 0; cut < len; cut++)
		expect_bytes(&f, bytes, cut, XG_COUNT_passed_unparsed);
	bytes[20] = 0x00;
	bytes[21] = 0x10;
	expect_bytes(&f, bytes, len, XG_COUNT_fragment_unknown);
	put_be16(bytes + 12, 0x0806);
	expect_bytes(&f, bytes, len, XG_COUNT_passed_not_ip);
	s.tags = 3;
	expect_bytes(&f, bytes, build(&s, bytes), XG_COUNT_passed_not_ip);
	destroy(&f);
}

static void test_without_tables_or_services_nothing_is_a_stray(void)
{
	struct xg_forwarder f = make(), bare = f;

	bare.table4 = bare.table6 = NULL;
	for (uint8_t family = 4; family <= 6; family += 2) {
		expect(&bare, tcp(family, OWNER_2, ACK), XG_COUNT_miss_flooded, FLOOD);
		expect(&bare, tcp(family, OWNER_2, SYN), XG_COUNT_passed_syn, NONE);
	}
	bare.services = NULL;
	expect(&bare, tcp(4, OWNER_2, ACK), XG_COUNT_passed_no_service, NONE);
	destroy(&f);
}

/* ---- bursts ---- */

/* A frame of each kind in turn, and its ending. */
static struct recipe mixed(uint32_t i, uint32_t *ending)
{
	uint8_t family = i % 2 ? 6 : 4;
	struct recipe s = tcp(family, OWNER_2, ACK);

	switch (i / 2 % 6) {
	case 0:
		*ending = XG_COUNT_stray_forwarded;
		return s;
	case 1:
		*ending = XG_COUNT_passed_syn;
		return tcp(family, ABSENT, SYN);
	case 2:
		*ending = XG_COUNT_miss_flooded;
		return tcp(family, ABSENT, ACK);
	case 3:
		*ending = XG_COUNT_passed_no_service;
		s.port = 443;
		return s;
	case 4:
		*ending = XG_COUNT_syn_forwarded;
		return tcp(family, OWNER_3, SYN);
	default:
		*ending = XG_COUNT_passed_own;
		return udp(family, HOST);
	}
}

static void test_bursts_of_every_size_end_as_their_frames_alone(void)
{
	struct xg_forwarder f = make();
	uint64_t frames = 0;

	for (uint32_t count = 0; count <= XG_BURST; count++) {
		struct xg_frame *burst = malloc(count * sizeof(*burst));
		uint8_t *blocks[XG_BURST], bytes[FRAME_MAX];
		uint32_t endings[XG_BURST];

		for (uint32_t i = 0; i < count; i++) {
			struct recipe s = mixed(count + i, &endings[i]);

			burst[i] = place(bytes, build(&s, bytes), ROOM, &blocks[i]);
		}
		assert(xg_forward_burst(&f, burst, count) == 0);
		for (uint32_t i = 0; i < count; i++) {
			assert(burst[i].ending == endings[i]);
			free(blocks[i]);
		}
		frames += count;
		assert(counted(&f) == frames);
		free(burst);
	}
	destroy(&f);
}

static void test_65_frames_are_refused_and_left_alone(void)
{
	struct xg_forwarder f = make();
	struct recipe s = tcp(4, OWNER_2, ACK);
	struct xg_frame burst[XG_BURST + 1];
	uint8_t bytes[FRAME_MAX], *block;
	uint32_t len = build(&s, bytes);
	struct xg_frame frame = place(bytes, len, ROOM, &block);

	for (uint32_t i = 0; i <= XG_BURST; i++)
		burst[i] = frame;
	assert(xg_forward_burst(&f, burst, XG_BURST + 1) == -E2BIG);
	assert(xg_forward_burst(&f, burst, UINT32_MAX) == -E2BIG);
	assert_untouched(&burst[0], block, bytes, len);
	assert(burst[0].ending == UINT32_MAX && counted(&f) == 0);
	free(block);
	destroy(&f);
}

int main(void)
{
	for (int family = 4; family <= 6; family += 2) {
		test_each_ending(family);
		test_templates_that_are_missing_or_not_known_send_nothing(family);
		for (uint8_t tags = 0; tags <= XG_VLAN_TAGS; tags++)
			test_limits_of_size_and_room(family, tags);
	}
	test_what_is_no_session_passes();
	test_without_tables_or_services_nothing_is_a_stray();
	test_bursts_of_every_size_end_as_their_frames_alone();
	test_65_frames_are_refused_and_left_alone();
	puts("ok");
	return 0;
}
