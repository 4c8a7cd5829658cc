// SPDX-License-Identifier: BSD-2-Clause
/*
 * Explanations of every kind of frame, owner, headroom and kernel's answer, whole and cut: they
 * do what the forwarder does, count nothing, and stay within their steps and the frame.
 */
#include "explain.h"
#include "forward_world.h"

#include <stdio.h>

static uint32_t seen[XG_STEP_CODES];
static uint32_t explained;

/* What test_receive.c sees. */
static int is_of_tunnels(uint32_t code)
{
	return code == XG_STEP_flooded_syn || code == XG_STEP_hop_before ||
	       code == XG_STEP_first_hop;
}

static int is_sent(uint32_t ending)
{
	return ending == XG_COUNT_stray_forwarded || ending == XG_COUNT_syn_forwarded ||
	       ending == XG_COUNT_miss_flooded || ending == XG_COUNT_quic_forwarded ||
	       ending == XG_COUNT_icmp_forwarded || ending == XG_COUNT_icmp_flooded;
}

/* The steps are in order, the last one fits the ending, and no other could have been the last. */
static void assert_steps(const struct xg_explanation *found, uint32_t ending)
{
	uint32_t last = found->steps[found->step_count - 1].code;

	assert(found->step_count >= 1 && found->step_count <= XG_STEPS_MAX);
	for (uint32_t i = 0; i < found->step_count; i++) {
		assert(found->steps[i].code < XG_STEP_CODES);
		assert(i == 0 || found->steps[i].code > found->steps[i - 1].code);
		seen[found->steps[i].code]++;
	}
	assert(is_sent(ending) == (last == XG_STEP_fits));
	assert((ending == XG_COUNT_too_big || ending == XG_COUNT_too_big_answered) ==
	       (last == XG_STEP_too_big));
	assert((ending == XG_COUNT_fragmented) == (last == XG_STEP_fragmented));
	assert((ending == XG_COUNT_no_headroom) == (last == XG_STEP_no_headroom));
	assert((ending == XG_COUNT_miss_no_flood || ending == XG_COUNT_icmp_dropped) ==
	       (last == XG_STEP_flood_no_headers || last == XG_STEP_owner_empty_headers));
	if (found->steps[0].code == XG_STEP_parsed) {
		assert((ending == XG_COUNT_passed_no_service) == (last == XG_STEP_no_service));
		assert((ending == XG_COUNT_passed_unowned) == (last == XG_STEP_unowned));
	}
	assert((ending == XG_COUNT_dropped_no_flags) == (last == XG_STEP_no_flags));
}

static void assert_known(const struct xg_explanation *found, uint32_t ending)
{
	uint32_t entry = found->steps[found->step_count - 2].code;

	if (found->steps[0].code == XG_STEP_icmp_error)
		assert(ending == XG_COUNT_passed_icmp_own);
	else if (entry == XG_STEP_own)
		assert(ending == XG_COUNT_passed_own);
	else if (entry == XG_STEP_other)
		assert(ending == XG_COUNT_passed_stale_entry);
	else
		assert(ending == XG_COUNT_passed_known);
}

static void explain_one(const struct xg_forwarder *f, const uint8_t *bytes, uint32_t len,
			uint32_t headroom, enum xg_kernel_answer kernel)
{
	struct xg_forwarder counting = *f, before = *f;
	struct xg_explanation found;
	uint8_t *block, *other;
	struct xg_frame frame = place(bytes, len, headroom, &block);
	struct xg_frame same = place(bytes, len, headroom, &other);

	counting.own_is_known &= kernel == XG_KERNEL_NOT_ASKED;
	memset(&found, UNTOUCHED, sizeof(found));
	xg_explain(f, &frame, kernel, &found);
	assert(memcmp(f, &before, sizeof(before)) == 0);
	assert_steps(&found, frame.ending);
	if (found.steps[found.step_count - 1].code == XG_STEP_kernel_knows) {
		assert(kernel == XG_KERNEL_KNOWS);
		assert_known(&found, frame.ending);
		assert_untouched(&frame, block, bytes, len);
	} else {
		assert(xg_forward_burst(&counting, &same, 1) == 0);
		assert(frame.ending == same.ending && frame.len == same.len);
		assert(frame.data - block == same.data - other);
		assert(memcmp(block, other, headroom + len) == 0);
	}
	explained++;
	free(block);
	free(other);
}

static void explain_shape(const struct xg_forwarder *f, const struct recipe *s, int is_cut)
{
	static const uint32_t rooms[] = { 0, 29, 30, ROOM };
	uint8_t bytes[FRAME_MAX];
	uint32_t len = build(s, bytes);

	for (int kernel = XG_KERNEL_NOT_ASKED; kernel <= XG_KERNEL_UNKNOWN; kernel++)
		for (uint32_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++)
			explain_one(f, bytes, len, rooms[i], kernel);
	for (uint32_t cut = 0; is_cut && cut < len; cut++)
		explain_one(f, bytes, cut, ROOM, XG_KERNEL_NOT_ASKED);
}

static void explain_owner(const struct xg_forwarder *f, uint16_t client)
{
	static const uint8_t all_flags[] = { ACK, SYN, XG_TCP_RST, 0 };
	static const uint16_t payloads[] = { 0, MTU - 40 };

	for (uint32_t i = 0; i < sizeof(all_flags); i++)
		for (uint8_t family = 4; family <= 6; family += 2)
			for (uint8_t kind = 0; kind < 4; kind++) {
				struct recipe s = tcp(family, client, all_flags[i]);

				s.payload = payloads[kind / 2];
				s.protocol = kind % 2 ? XG_PROTO_UDP : XG_PROTO_TCP;
				s.tags = kind % 2;
				explain_shape(f, &s, client == OWNER_2 && !s.payload);
			}
}

/* Makes the ICMP packet an error that quotes the VIP's answer to each client; whole and cut. */
static void explain_icmp_error(const struct xg_forwarder *f, uint8_t *bytes, uint32_t len)
{
	uint8_t *ports = put_icmp_error(bytes + XG_ETH_LEN, 4, XG_PROTO_TCP, HOST);

	for (uint16_t client = HOST; client < OWNERS_END + 2; client++) {
		put_be16(ports + 2, client);
		for (int kernel = XG_KERNEL_NOT_ASKED; kernel <= XG_KERNEL_UNKNOWN; kernel++)
			explain_one(f, bytes, len, ROOM, kernel);
	}
	for (uint32_t size = XG_IPV4_LEN; size < XG_IPV4_LEN + 8 + XG_IPV4_LEN + 8; size++) {
		put_be16(bytes + 16, size);
		explain_one(f, bytes, XG_ETH_LEN + size, ROOM, XG_KERNEL_NOT_ASKED);
	}
}

static void explain_odd_frames(const struct xg_forwarder *f)
{
	struct recipe s = tcp(4, OWNER_2, ACK);
	uint8_t bytes[FRAME_MAX];
	uint32_t len;

	s.port = 81;
	explain_shape(f, &s, 0);
	s.port = 0;
	s.tags = 3;
	explain_shape(f, &s, 0);
	s.tags = 0;
	len = build(&s, bytes);
	bytes[21] = 1;			/* a later fragment */
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	bytes[21] = 0;
	bytes[20] = 0x20;		/* a first fragment with half a header */
	put_be16(bytes + 16, XG_IPV4_LEN + XG_TCP_LEN - 1);
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	bytes[20] = 0;
	put_be16(bytes + 16, len - XG_ETH_LEN);
	bytes[14] = 0x44;		/* a header of 16 bytes */
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	bytes[14] = 0x45;
	bytes[23] = 50;			/* ESP */
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	bytes[23] = 1;			/* ICMP */
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	bytes[34] = 8;			/* a ping */
	explain_one(f, bytes, len, ROOM, XG_KERNEL_NOT_ASKED);
	explain_icmp_error(f, bytes, len);
}

/* An id of each owner, in a session that the table does not know. */
static void explain_ids(const struct xg_forwarder *f)
{
	for (uint16_t named = HOST; named < OWNERS_END + 2; named++)
		for (uint8_t family = 4; family <= 6; family += 2) {
			struct recipe s = tcp(family, OWNERS_END, 0);

			s.protocol = XG_PROTO_UDP;
			s.port = QUIC_PORT;
			s.named = named;
			explain_shape(f, &s, named == OWNER_2);
			s.payload = MTU - 40;
			explain_shape(f, &s, 0);
			s.payload = 4;	/* too short for an id */
			explain_shape(f, &s, 0);
		}
}

static void explain_everything(const struct xg_forwarder *f)
{
	for (uint16_t client = HOST; client < OWNERS_END + 2; client++)
		explain_owner(f, client);
	explain_owner(f, XG_HOST_UNOWNED);
	explain_odd_frames(f);
	explain_ids(f);
}

int main(void)
{
	struct xg_forwarder f = make();

	explain_everything(&f);
	f.can_fragment = f.spare_frames = XG_BURST;
	explain_everything(&f);
	flood_list.group = XG_NO_TEMPLATE;
	explain_everything(&f);
	f.own_is_known = 1;
	explain_everything(&f);
	for (uint32_t code = XG_STEP_not_ip; code < XG_STEP_no_checksum; code++)
		assert(seen[code] > 0 || is_of_tunnels(code));
	assert(seen[XG_STEP_no_headroom] > 0);
	assert(explained > 4000);
	destroy(&f);
	puts("ok");
	return 0;
}
