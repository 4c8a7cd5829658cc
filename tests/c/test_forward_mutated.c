// SPDX-License-Identifier: BSD-2-Clause
/*
 * The burst forwarder over frames changed and cut at random: it reads and writes within them, and
 * ends each as it would end it alone.
 */
#include "forward_counted.h"

#include <errno.h>
#include <stdio.h>

#include "too_big.h"

#define MUTATED_FRAMES 200000u

static uint64_t random_state = 0x9e3779b97f4a7c15ull;

/* xorshift64*: the same frames on each machine. */
static uint32_t below(uint32_t limit)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 33) % limit;
}

/* For any outer headers, in most cases; or just not. */
static uint32_t some_headroom(void)
{
	return below(4) ? XG_TEMPLATE_BYTES + below(20) : below(XG_TEMPLATE_BYTES + 1);
}

/* Of one shape, up to a change; most of one owner. */
static uint32_t build_alike(uint8_t *bytes)
{
	uint16_t client = below(4) ? OWNER_2 : (uint16_t)(1 + below(OWNERS_END));
	struct recipe s = tcp(4, client, ACK);
	uint32_t len;

	s.tos = (uint8_t)below(256);
	s.payload = (uint16_t)(below(8) ? below(200) : 1450 + below(100));
	s.padding = (uint8_t)below(3);
	len = build(&s, bytes);
	if (!below(8))
		bytes[20] = below(2) ? 0x20 : 0x40;	/* a first fragment; not to be cut */
	if (!below(8))
		bytes[12 + below(40)] ^= (uint8_t)(1u << below(8));
	return below(32) ? len : below(len + 1);
}

static uint32_t build_mutated(uint8_t *bytes)
{
	static const uint8_t telling[] = { 0, 1, 4, 5, 6, 8, 17, 43, 44, 45, 60, 0x45, 0x46,
					   0x4f, 0x60, 0x81, 0x86, 0x88, 0xa8, 0xdd, 0xff };
	static const uint8_t all_flags[] = { ACK, SYN, XG_TCP_RST, 0 };
	uint16_t client = below(16) ? (uint16_t)(1 + below(OWNERS_END)) : XG_HOST_UNOWNED;
	struct recipe s = tcp(below(2) ? 4 : 6, client, 0);
	uint32_t len;

	s.flags = all_flags[below(4)];
	s.protocol = below(4) ? XG_PROTO_TCP : XG_PROTO_UDP;
	s.tags = (uint8_t)below(4);
	s.payload = (uint16_t)(below(8) ? below(200) : 1450 + below(100));
	s.padding = (uint8_t)(below(4) ? 0 : below(20));
	if (s.protocol == XG_PROTO_UDP && below(2)) {
		s.port = QUIC_PORT;
		s.payload = (uint16_t)(4 + below(30));
		s.named = (uint16_t)(1 + below(OWNERS_END));
	}
	len = build(&s, bytes);
	if (s.tags == 0 && s.payload >= 60 && below(2))
		put_icmp_error(bytes + XG_ETH_LEN, s.family, s.protocol, client);
	else if (s.tags == 0 && s.family == 4 && !below(20)) {	/* a small first fragment */
		bytes[20] = 0x20;
		put_be16(bytes + 16, XG_IPV4_LEN + below(XG_UDP_LEN));
	}
	for (uint32_t changes = below(5); changes > 0; changes--)
		bytes[12 + below(70) % (len - 12)] =
			below(2) ? telling[below(sizeof(telling))] : (uint8_t)below(256);
	return below(3) ? len : below(len + 1);
}

static int is_sent(uint32_t ending)
{
	return ending == XG_COUNT_stray_forwarded || ending == XG_COUNT_syn_forwarded ||
	       ending == XG_COUNT_miss_flooded || ending == XG_COUNT_quic_forwarded ||
	       ending == XG_COUNT_icmp_forwarded || ending == XG_COUNT_icmp_flooded;
}

/* It became an answer, in its place, that quotes it. */
static void assert_told(const struct xg_frame *frame, const uint8_t *block, const uint8_t *bytes,
			uint32_t len)
{
	struct xg_packet packet = { 0 };
	uint32_t header;

	assert(xg_parse_frame(bytes, bytes + len, &packet) == XG_PARSE_OK);
	header = packet.l3_offset + (packet.family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN) + XG_ICMP_LEN;
	assert(frame->data == block + frame->headroom && frame->len == header + XG_QUOTE);
	assert(frame->len < len);
	assert(memcmp(frame->data + header, bytes + packet.l3_offset, XG_QUOTE) == 0);
	for (uint32_t i = 0; i < frame->headroom; i++)
		assert(block[i] == UNTOUCHED);
}

/* Whatever the frame was: it passes as it came, or its IP packet goes behind outer headers. */
static void assert_kept(const struct xg_frame *frame, const uint8_t *block, const uint8_t *bytes,
			uint32_t len)
{
	uint32_t outer, kept;

	if (frame->ending == XG_COUNT_too_big_answered) {
		assert_told(frame, block, bytes, len);
		return;
	}
	if (frame->ending == XG_COUNT_fragmented) {
		assert(frame->data > block && frame->data + frame->len ==
						     block + frame->headroom + len);
		return;
	}
	if (!is_sent(frame->ending)) {
		assert_untouched(frame, block, bytes, len);
		return;
	}
	outer = frame->data[12] == 0x81 ? GUE_IPV4_VLAN_LEN : GUE_IPV4_LEN;
	kept = frame->len - outer;
	assert(frame->data >= block && frame->data + frame->len == block + frame->headroom + len);
	assert(len - kept == 14 || len - kept == 18 || len - kept == 22);
	assert(memcmp(frame->data + outer, bytes + len - kept, kept) == 0);
	assert(ipv4_sum(frame->data + outer - 44) == 0xffff);
	for (const uint8_t *at = block; at < frame->data && at < block + frame->headroom; at++)
		assert(*at == UNTOUCHED);
}

/* Fragments in blocks of just the room that they need: all the payload, and each fits. */
static void assert_cut(struct xg_forwarder *f, struct xg_frame *frame)
{
	uint32_t header = (frame->data[0] & 15) * 4u, payload = 0, count = frame->pieces;
	uint32_t total = (uint32_t)frame->data[2] << 8 | frame->data[3];

	assert(count >= 2);
	while (frame->pieces) {
		uint8_t *block = malloc(XG_TEMPLATE_BYTES + MTU);
		struct xg_frame piece = { .data = block + XG_TEMPLATE_BYTES,
					  .headroom = XG_TEMPLATE_BYTES, .len = MTU };

		if (frame->piece_template == ODD_LENGTH) {	/* of no known kind */
			assert(xg_forward_piece(f, frame, &piece) == -ENOENT && !frame->pieces);
			free(block);
			return;
		}
		assert(xg_forward_piece(f, frame, &piece) == 0);
		assert(piece.data >= block && piece.len <= MTU + XG_ETH_LEN + XG_VLAN_LEN);
		payload += piece.len - (piece.data[12] == 0x81 ? GUE_IPV4_VLAN_LEN : GUE_IPV4_LEN);
		free(block);
	}
	assert(payload == total - header + count * header);
}

static void test_frames_changed_at_random_are_read_within_their_bounds(void)
{
	static uint8_t bytes[XG_BURST][FRAME_MAX];
	struct xg_forwarder f = make();
	uint32_t done = 0;

	while (done < MUTATED_FRAMES) {
		uint32_t count = 1 + below(XG_BURST), lens[XG_BURST];
		struct xg_frame burst[XG_BURST];
		uint8_t *blocks[XG_BURST];

		for (uint32_t i = 0; i < count; i++) {
			lens[i] = build_mutated(bytes[i]);
			burst[i] = place(bytes[i], lens[i], some_headroom(), &blocks[i]);
		}
		f.can_fragment = below(4) > 0;
		f.spare_frames = below(8);
		assert(xg_forward_burst(&f, burst, count) == 0);
		for (uint32_t i = 0; i < count; i++) {
			assert_kept(&burst[i], blocks[i], bytes[i], lens[i]);
			if (burst[i].pieces)
				assert_cut(&f, &burst[i]);
			free(blocks[i]);
		}
		done += count;
		assert(counted(&f) - f.counters[XG_COUNT_fragments_sent] -
			       f.counters[XG_COUNT_fragments_lost] == done);
	}
	/* The changes are small enough that every kind of ending comes up. */
	for (uint32_t i = XG_COUNT_passed_not_ip; i <= XG_COUNT_no_headroom; i++)
		assert(f.counters[i] > 0 || i == XG_COUNT_passed_known ||
		       i == XG_COUNT_passed_stale_entry || i == XG_COUNT_miss_over_budget_new ||
		       i == XG_COUNT_miss_over_budget_seen || i == XG_COUNT_miss_relayed ||
		       i == XG_COUNT_no_checksum || i == XG_COUNT_fragment_forwarded ||
		       i == XG_COUNT_icmp_dropped || i == XG_COUNT_fragment_over_budget);
	destroy(&f);
}

/* Frames after the like of them take a shorter way than those that come first, or alone. */
static void test_a_frame_ends_in_a_burst_as_it_does_alone(void)
{
	static uint8_t bytes[FRAME_MAX];
	struct xg_forwarder f = make();

	f.can_fragment = 1;
	for (uint32_t done = 0; done < MUTATED_FRAMES; done += XG_BURST) {
		struct xg_frame burst[XG_BURST], alone[XG_BURST];
		uint8_t *blocks[XG_BURST], *others[XG_BURST];
		const int are_alike = below(2) > 0;

		for (uint32_t i = 0; i < XG_BURST; i++) {
			uint32_t len = are_alike ? build_alike(bytes) : build_mutated(bytes);
			uint32_t headroom = some_headroom();

			burst[i] = place(bytes, len, headroom, &blocks[i]);
			alone[i] = place(bytes, len, headroom, &others[i]);
			burst[i].beyond = alone[i].beyond = below(8) ? 0 : below(200);
			f.spare_frames = XG_BURST;
			assert(xg_forward_burst(&f, &alone[i], 1) == 0);
		}
		f.spare_frames = XG_BURST * XG_BURST;
		assert(xg_forward_burst(&f, burst, XG_BURST) == 0);
		for (uint32_t i = 0; i < XG_BURST; i++) {
			assert_same(&burst[i], &alone[i]);
			free(blocks[i]);
			free(others[i]);
		}
	}
	for (uint32_t i = 0; i < XG_COUNTERS; i++)
		assert(f.counters[i] % 2 == 0);
	assert(went_short > MUTATED_FRAMES / 10);
	destroy(&f);
}

int main(void)
{
	test_a_frame_ends_in_a_burst_as_it_does_alone();
	test_frames_changed_at_random_are_read_within_their_bounds();
	puts("ok");
	return 0;
}
