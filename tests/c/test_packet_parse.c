// SPDX-License-Identifier: BSD-2-Clause
/*
 * Lets Python drive the parser and the header template: frames in, one line a frame out.
 *
 * Each frame lies in memory of exactly its size, so AddressSanitizer sees a read behind it.
 *   parse     frames (u16 length, bytes)              reason and fields
 *   apply     a template, a mark, then frames         the outer headers, in hex
 *   checksum  a template                              every length and TOS: the header's sum
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "header_template.h"
#include "packet_parse.h"

static void print_hex(const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		printf("%02x", ((const uint8_t *)bytes)[i]);
}

/* The next frame of stdin in a block of its own size, or NULL at the end. */
static uint8_t *read_frame(size_t *len)
{
	uint16_t prefix;
	uint8_t *frame;

	if (fread(&prefix, sizeof(prefix), 1, stdin) != 1)
		return NULL;
	frame = malloc(prefix);
	if (!frame || fread(frame, 1, prefix, stdin) != prefix)
		abort();
	*len = prefix;
	return frame;
}

static void print_packet(const struct xg_packet *packet)
{
	printf(" %u %u %u %u %u %u %u %u %u %u %u ", packet->family, packet->protocol,
	       packet->tcp_flags, packet->tos, packet->l3_offset, packet->l4_offset,
	       packet->ip_len, XG_BE16(packet->source_port_be),
	       XG_BE16(packet->destination_port_be), packet->seq, packet->ack);
	print_hex(packet->source_be, 16);
	printf(" ");
	print_hex(packet->destination_be, 16);
}

static int parse_all(void)
{
	uint8_t *frame;
	size_t len;

	while ((frame = read_frame(&len))) {
		struct xg_packet packet = {0};
		int reason = xg_parse_frame(frame, frame + len, &packet);

		printf("%d", reason);
		if (reason == XG_PARSE_OK)
			print_packet(&packet);
		printf("\n");
		free(frame);
	}
	return 0;
}

static void read_template(struct xg_template *tmpl)
{
	if (fread(tmpl, sizeof(*tmpl), 1, stdin) != 1)
		abort();
}

/* Applies into a block of exactly the template's length, and into one that is a byte short; "none"
 * if a checksum is wanted that the packet does not give. */
static int apply_all(void)
{
	struct xg_template tmpl;
	uint8_t mark, *frame;
	size_t len;

	read_template(&tmpl);
	if (fread(&mark, 1, 1, stdin) != 1)
		abort();
	while ((frame = read_frame(&len))) {
		struct xg_packet packet = {0};
		uint8_t *room = malloc(tmpl.len);
		uint32_t sum = 0;

		if (!room || xg_parse_frame(frame, frame + len, &packet) != XG_PARSE_OK)
			abort();
		if ((tmpl.flags & XG_TEMPLATE_SUM) &&
		    xg_inner_sum(frame + packet.l3_offset, frame + len, &packet, &sum)) {
			printf("none\n");
			free(room);
			free(frame);
			continue;
		}
		if (xg_template_apply(room, room + tmpl.len - 1, &tmpl, &packet, mark, sum) != 0)
			abort();
		if (xg_template_apply(room, room + tmpl.len, &tmpl, &packet, mark, sum) != tmpl.len)
			abort();
		print_hex(room, tmpl.len);
		printf("\n");
		free(room);
		free(frame);
	}
	return 0;
}

/* RFC 1071 over a whole header, with the simplest code: 0xffff if the checksum is right. */
static uint32_t header_sum(const uint8_t *header)
{
	uint32_t sum = 0;

	for (int i = 0; i < XG_IPV4_LEN; i += 2)
		sum += (uint32_t)header[i] << 8 | header[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static int check_one(const struct xg_template *tmpl, uint32_t inner_len, uint32_t tos)
{
	struct xg_packet packet = {.family = 4, .protocol = XG_PROTO_TCP};
	uint8_t room[XG_TEMPLATE_BYTES];
	const uint8_t *ip = room + tmpl->l2_len;
	uint32_t outer_len = tmpl->len - tmpl->l2_len + inner_len;

	packet.ip_len = (uint16_t)inner_len;
	packet.tos = (uint8_t)tos;
	if (!xg_template_apply(room, room + sizeof(room), tmpl, &packet, 0, 0))
		return 0;
	return header_sum(ip) == 0xffff && ((uint32_t)ip[2] << 8 | ip[3]) == outer_len &&
	       ip[1] == tos && ((uint32_t)ip[24] << 8 | ip[25]) == outer_len - XG_IPV4_LEN;
}

/* Every inner length that an outer packet can carry; every TOS at three of them each. */
static int check_all(void)
{
	struct xg_template tmpl;
	uint32_t largest, checked = 0;

	read_template(&tmpl);
	largest = 65535u - (tmpl.len - tmpl.l2_len);
	for (uint32_t len = XG_IPV4_LEN; len <= largest; len++, checked++) {
		if (!check_one(&tmpl, len, len & 0xff)) {
			fprintf(stderr, "inner length %u: the outer header is wrong\n", len);
			return 1;
		}
	}
	for (uint32_t tos = 0; tos < 256; tos++, checked++) {
		if (!check_one(&tmpl, XG_IPV4_LEN, tos) || !check_one(&tmpl, 1500, tos) ||
		    !check_one(&tmpl, largest, tos)) {
			fprintf(stderr, "TOS %u: the outer header is wrong\n", tos);
			return 1;
		}
	}
	printf("%u\n", checked);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "parse"))
		return parse_all();
	if (argc == 2 && !strcmp(argv[1], "apply"))
		return apply_all();
	if (argc == 2 && !strcmp(argv[1], "checksum"))
		return check_all();
	fprintf(stderr, "usage: test_packet_parse parse|apply|checksum\n");
	return 2;
}
