// SPDX-License-Identifier: BSD-2-Clause
/*
 * What is too big for its path and has no DF is sent in fragments that add up to it.
 */
#include "forward_world.h"

#include <stdio.h>

#include "fragmenting.h"
#include "note.h"

#define OVERHEAD (GUE_IPV4_LEN - XG_ETH_LEN)

/* An IPv4 packet in a block of its own, with options of each kind. */
static uint8_t *packet_of(uint32_t header_len, uint32_t payload, uint32_t flags)
{
	static const uint8_t options[40] = { 0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1, 0x88, 4, 9, 9 };
	uint8_t *ip = calloc(1, header_len + payload);
	uint32_t sum;

	ip[0] = (uint8_t)(0x40 | header_len / 4);
	put_be16(ip + 2, header_len + payload);
	put_be16(ip + 4, 0x1234);
	put_be16(ip + 6, flags);
	ip[8] = 64;
	ip[9] = XG_PROTO_UDP;
	ip[12] = 10;
	memcpy(ip + 16, &services[0].vip_be[3], 4);
	memcpy(ip + XG_IPV4_LEN, options, header_len - XG_IPV4_LEN);
	for (uint32_t i = 0; i < payload; i++)
		ip[header_len + i] = (uint8_t)(i * 11 + i / 256);
	sum = (uint16_t)~xg_sum_bytes(ip, header_len);
	put_be16(ip + 10, sum);
	return ip;
}

/* Cuts the packet and puts it together again. Returns the number of fragments. */
static uint32_t cut(const uint8_t *ip, uint32_t mtu)
{
	struct xg_packet packet = { .l3_offset = 0 };
	uint32_t header_len = (ip[0] & 15) * 4u, pieces, at = 0, payload;
	uint32_t flags = (uint32_t)ip[6] << 8 | ip[7];
	uint8_t *whole;

	xg_parse_ipv4(ip, ip + ((uint32_t)ip[2] << 8 | ip[3]), &packet);
	payload = packet.ip_len - header_len;
	pieces = xg_pieces(ip, ip + packet.ip_len, &packet, mtu);
	whole = calloc(1, payload + 1);
	for (uint32_t n = 0; n < pieces && pieces > 1; n++) {
		uint8_t *piece = malloc(mtu);
		uint32_t len = xg_write_piece(piece, ip, &packet, mtu, n);
		uint32_t said = (uint32_t)piece[6] << 8 | piece[7];
		int is_last = n + 1 == pieces;

		assert(len <= mtu && len == ((uint32_t)piece[2] << 8 | piece[3]));
		assert(len > header_len && (is_last || (len - header_len) % 8 == 0));
		assert(xg_sum_bytes(piece, header_len) == xg_sum_bytes(ip, header_len));
		assert((said & 0x1fff) * 8 == (flags & 0x1fff) * 8 + at);
		assert((said & 0xe000) == ((flags & 0xe000) | (is_last ? 0 : 0x2000)));
		assert(memcmp(piece, ip, 2) == 0 && memcmp(piece + 4, ip + 4, 2) == 0);
		assert(memcmp(piece + 8, ip + 8, 2) == 0 && memcmp(piece + 12, ip + 12, 8) == 0);
		memcpy(whole + at, piece + header_len, len - header_len);
		at += len - header_len;
		free(piece);
	}
	if (pieces > 1)
		assert(at == payload && memcmp(whole, ip + header_len, payload) == 0);
	free(whole);
	return pieces;
}

static void test_fragments_of_any_length_and_mtu_add_up(void)
{
	for (uint32_t header = 20; header <= 60; header += 4)
		for (uint32_t payload = 0; payload < 700; payload++) {
			uint8_t *ip = packet_of(header, payload, payload % 3 ? 0 : 0x2005);

			for (uint32_t mtu = XG_CUT_MTU_MIN; mtu < 700; mtu += 13)
				assert((cut(ip, mtu) == 1) == (header + payload <= mtu));
			assert(cut(ip, header + payload) == 1);
			free(ip);
		}
}

static void test_what_may_not_be_cut_is_not(void)
{
	uint8_t *ip = packet_of(20, 1400, 0x4000);

	assert(cut(ip, 1000) == 0);
	ip[6] = 0;
	assert(cut(ip, 1000) == 2 && cut(ip, XG_CUT_MTU_MIN) == 14);
	assert(cut(ip, XG_CUT_MTU_MIN - 1) == 0);
	put_be16(ip + 6, 0x1fff - 1400 / 8);	/* its end is the last that an offset can say */
	assert(cut(ip, 1000) == 2);
	put_be16(ip + 6, 0x1fff);
	assert(cut(ip, 1000) == 0);
	free(ip);
	ip = packet_of(20, 104 * XG_PIECES_MAX, 0);
	assert(cut(ip, XG_CUT_MTU_MIN) == XG_PIECES_MAX);
	free(ip);
	ip = packet_of(20, 104 * XG_PIECES_MAX + 1, 0);
	assert(cut(ip, XG_CUT_MTU_MIN) == 0);
	free(ip);
}

static void test_only_copied_options_are_in_later_fragments(void)
{
	static const uint8_t kept[] = { 0x94, 4, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0x88, 4, 9, 9 };
	uint8_t *ip = packet_of(36, 1400, 0), piece[1000];
	struct xg_packet packet = { .l3_offset = 0 };

	xg_parse_ipv4(ip, ip + 1436, &packet);
	xg_write_piece(piece, ip, &packet, 1000, 0);
	assert(memcmp(piece + 20, ip + 20, 16) == 0);
	xg_write_piece(piece, ip, &packet, 1000, 1);
	assert(memcmp(piece + 20, kept, 16) == 0);
	ip[10] ^= 1;	/* corrupted on the way: not to be covered */
	xg_write_piece(piece, ip, &packet, 1000, 1);
	assert(xg_sum_bytes(piece, 36) != 0xffff);
	for (uint32_t length = 0; length < 256; length++) {	/* malformed ones */
		ip[21] = (uint8_t)length;
		xg_write_piece(piece, ip, &packet, 1000, 1);
	}
	free(ip);
}

/* A later fragment with the XDP program's note: its headers and ports are the note's. */
static void test_a_note_says_where_a_fragment_goes(uint32_t payload, uint32_t pieces)
{
	struct xg_forwarder f = make();
	struct xg_note note = { .template_index = TO_2, .source_port_be = 0x3412,
				.destination_port_be = 0x5000,
				.ethertype_be = XG_BE16(XG_NOTE_ETHERTYPE) };
	uint8_t *ip = packet_of(20, payload, 0x2010), bytes[FRAME_MAX], *block;
	uint32_t len = XG_ETH_LEN + 20 + payload, sent = 0;
	uint16_t port = 0;
	struct xg_frame frame;

	f.reads_notes = f.can_fragment = 1;
	f.spare_frames = pieces;
	memcpy(bytes, &note, sizeof(note));
	memcpy(bytes + XG_ETH_LEN, ip, len - XG_ETH_LEN);
	frame = place(bytes, len, ROOM, &block);
	assert(xg_forward_burst(&f, &frame, 1) == 0);
	if (pieces == 0) {
		assert(frame.ending == XG_COUNT_fragment_forwarded && frame.outer_len);
		assert_outer(frame.data, &templates[TO_2], 20 + payload, 0, 4, 0);
	} else {
		assert(frame.ending == XG_COUNT_fragmented && frame.pieces == pieces);
		assert(f.spare_frames == 0);
	}
	for (; frame.pieces; sent++) {
		uint8_t out[XG_TEMPLATE_BYTES + MTU];
		struct xg_frame piece = { .data = out + XG_TEMPLATE_BYTES, .len = MTU,
					  .headroom = XG_TEMPLATE_BYTES };

		assert(xg_forward_piece(&f, &frame, &piece) == 0);
		assert(piece.len - XG_ETH_LEN <= MTU);
		assert(!sent || port == read_be16(piece.data + 34));	/* one way for all */
		port = (uint16_t)read_be16(piece.data + 34);
		assert_outer(piece.data, &templates[TO_2], piece.len - GUE_IPV4_LEN, 0, 4, 0);
	}
	assert(sent == pieces && f.counters[XG_COUNT_fragments_sent] == pieces);
	free(block);
	if (pieces) {	/* one frame too few: all of it is dropped */
		frame = place(bytes, len, ROOM, &block);
		f.spare_frames = pieces - 1;
		assert(xg_forward_burst(&f, &frame, 1) == 0);
		assert(frame.ending == XG_COUNT_fragment_no_frames && !frame.pieces);
		assert_untouched(&frame, block, bytes, len);
		free(block);
	}
	free(ip);
	destroy(&f);
}

/* From the router nobody's word is taken. */
static void test_a_note_counts_in_the_loop_only(void)
{
	struct xg_forwarder f = make();
	struct xg_note note = { .ethertype_be = XG_BE16(XG_NOTE_ETHERTYPE) };
	uint8_t *ip = packet_of(20, 100, 0), bytes[XG_ETH_LEN + 120], *block;
	struct xg_frame frame;

	memcpy(bytes, &note, sizeof(note));
	memcpy(bytes + XG_ETH_LEN, ip, 120);
	frame = place(bytes, sizeof(bytes), ROOM, &block);
	assert(xg_forward_burst(&f, &frame, 1) == 0 && frame.ending == XG_COUNT_passed_not_ip);
	free(block);
	f.reads_notes = 1;
	for (uint32_t len = XG_ETH_LEN; len < sizeof(bytes); len++) {	/* cut: never read on */
		frame = place(bytes, len, ROOM, &block);
		assert(xg_forward_burst(&f, &frame, 1) == 0);
		assert(frame.ending == XG_COUNT_overtaken);
		free(block);
	}
	free(ip);
	destroy(&f);
}

int main(void)
{
	test_fragments_of_any_length_and_mtu_add_up();
	test_what_may_not_be_cut_is_not();
	test_only_copied_options_are_in_later_fragments();
	test_a_note_says_where_a_fragment_goes(MTU - OVERHEAD - 20, 0);
	test_a_note_says_where_a_fragment_goes(MTU - OVERHEAD - 12, 2);
	test_a_note_says_where_a_fragment_goes(1800, 2);
	test_a_note_counts_in_the_loop_only();
	puts("ok");
	return 0;
}
