/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A small POP for the tests of the forwarder: frames, templates, tables with each kind of owner.
 *
 * A frame lies in a block of its headroom and its bytes, no more, so AddressSanitizer sees one
 * byte too many on either side.
 */
#ifndef FORWARD_WORLD_H
#define FORWARD_WORLD_H

#include "gue_template.h"

#include <stdlib.h>

#include "forward.h"

#define HOST 1
#define MTU 1600
#define ROOM 128u
#define BUCKETS 64
#define FRAME_MAX 2048
#define UNTOUCHED 0xa5
#define QUIC_PORT 4433
#define ACK XG_TCP_ACK
#define SYN XG_TCP_SYN

enum template_place { TO_2, TO_3_TAGGED, FLOOD, EMPTY, ODD_LENGTH, TOO_LONG, TEMPLATES };
enum owner { OWNER_2 = 2, OWNER_3, NO_WAY, BAD_INDEX, EMPTY_SLOT, ODD, LONG, INACTIVE, OWNERS_END };

static const __u64 hash_key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };
static struct xg_owner_state owners[XG_OWNERS];
static struct xg_template *templates;	/* a block of just TEMPLATES of them */
static struct xg_flood flood_list;
static uint64_t counters[XG_COUNTERS];

#define PLACES 16

static struct xg_service places[PLACES];
static const struct xg_service services[] = {
	{ { 0, 0, 0xffff0000u, 0x016433c6u }, 0x5000, XG_PROTO_TCP, 0, 1, 0 },
	{ { 0, 0, 0xffff0000u, 0x016433c6u }, 0x5000, XG_PROTO_UDP, 0, 2, 0 },
	{ { 0xb80d0120u, 0, 0, 0x01000000u }, 0x5000, XG_PROTO_TCP, 0, 3, 0 },
	{ { 0xb80d0120u, 0, 0, 0x01000000u }, 0x5000, XG_PROTO_UDP, 0, 4, 0 },
	{ { 0, 0, 0xffff0000u, 0x016433c6u }, 0x5111, XG_PROTO_UDP, 0, 5, XG_SERVICE_QUIC },
	{ { 0xb80d0120u, 0, 0, 0x01000000u }, 0x5111, XG_PROTO_UDP, 0, 6, XG_SERVICE_QUIC },
};
static const struct xg_quic_lb layouts[XG_QUIC_LAYOUTS] = {
	{ .server_id_len = 2, .nonce_len = 6 },
};

/* One frame to build. The client's port is the owner that the table names. */
struct recipe {
	uint16_t client;
	uint8_t family;
	uint8_t protocol;
	uint8_t flags;
	uint8_t tags;
	uint8_t tos;
	uint8_t padding;	/* Ethernet's, behind the IP packet */
	uint16_t payload;
	uint16_t port;		/* destination; 0: the service's */
	uint16_t named;		/* the host in a QUIC id; 0: no id, the payload is as it is */
};

/* ---- frames ---- */

static inline uint8_t *put_be16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
	return at + 2;
}

static inline uint8_t *put_ip(uint8_t *at, const struct recipe *s, uint32_t l4_len)
{
	const struct xg_service *service = &services[s->family == 4 ? 0 : 2];

	memset(at, 0, XG_IPV6_LEN);
	if (s->family == 4) {
		at[0] = 0x45;
		at[1] = s->tos;
		put_be16(at + 2, XG_IPV4_LEN + l4_len);
		at[8] = 64;
		at[9] = s->protocol;
		at[12] = 10;
		memcpy(at + 16, &service->vip_be[3], 4);
		return at + XG_IPV4_LEN;
	}
	at[0] = (uint8_t)(0x60 | s->tos >> 4);
	at[1] = (uint8_t)(s->tos << 4);
	put_be16(at + 4, l4_len);
	at[6] = s->protocol;
	at[7] = 64;
	at[8] = 0xfd;
	memcpy(at + 24, service->vip_be, 16);
	return at + XG_IPV6_LEN;
}

/* Writes the frame that `s` describes; its length. */
static inline uint32_t build(const struct recipe *s, uint8_t *frame)
{
	uint32_t l4_len = (s->protocol == XG_PROTO_UDP ? XG_UDP_LEN : XG_TCP_LEN) + s->payload;
	uint8_t *at = frame + 12, *l4;

	memset(frame, 2, 12);
	for (uint8_t i = 0; i < s->tags; i++)
		at = put_be16(put_be16(at, i + 1 < s->tags ? 0x88a8 : 0x8100), 5);
	at = put_be16(at, s->family == 4 ? 0x0800 : 0x86dd);
	l4 = put_ip(at, s, l4_len);
	for (uint32_t i = 0; i < l4_len + s->padding; i++)
		l4[i] = (uint8_t)(i * 7);
	put_be16(l4, s->client);
	put_be16(l4 + 2, s->port ? s->port : 80);
	if (s->protocol == XG_PROTO_TCP)
		l4[13] = s->flags;
	else
		put_be16(l4 + 4, l4_len);
	if (s->named) {
		l4[XG_UDP_LEN] = 0x40;
		put_be16(l4 + XG_UDP_LEN + 1, 0x0800 | s->named >> 8);
		l4[XG_UDP_LEN + 3] = (uint8_t)s->named;
	}
	return (uint32_t)(l4 - frame) + l4_len + s->padding;
}

/* Makes a built packet of 60 bytes or more behind its IP header an ICMP error, which quotes what
 * the service sent to a client. Returns the quoted ports. */
static inline uint8_t *put_icmp_error(uint8_t *l3, uint8_t family, uint8_t protocol,
				      uint16_t client)
{
	uint8_t *l4 = l3 + (family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN), *quote = l4 + 8, *ports;

	l3[family == 4 ? 9 : 6] = family == 4 ? 1 : 58;
	l4[0] = family == 4 ? 3 : 1;
	memset(quote, 0, XG_IPV6_LEN + 8);
	quote[0] = family == 4 ? 0x45 : 0x60;
	quote[family == 4 ? 9 : 6] = protocol;
	memcpy(quote + (family == 4 ? 12 : 8), l3 + (family == 4 ? 16 : 24),
	       family == 4 ? 4 : 16);
	quote[family == 4 ? 16 : 24] = family == 4 ? 10 : 0xfd;
	ports = quote + (family == 4 ? XG_IPV4_LEN : XG_IPV6_LEN);
	put_be16(put_be16(ports, 80), client);
	return ports;
}

static inline struct recipe tcp(uint8_t family, uint16_t client, uint8_t flags)
{
	return (struct recipe){ .client = client, .family = family, .protocol = XG_PROTO_TCP,
			       .flags = flags, .payload = 100, .tos = 0xba };
}

/* A frame in a block of its own, filled with UNTOUCHED in front. */
static inline struct xg_frame place(const uint8_t *bytes, uint32_t len, uint32_t headroom,
				    uint8_t **block)
{
	struct xg_frame frame = { .len = len, .headroom = headroom, .ending = UINT32_MAX };

	*block = malloc(headroom + len);
	memset(*block, UNTOUCHED, headroom);
	memcpy(*block + headroom, bytes, len);
	frame.data = *block + headroom;
	return frame;
}

/* Nothing was written: not to the frame, not in front of it. */
static inline void assert_untouched(const struct xg_frame *frame, const uint8_t *block,
				    const uint8_t *bytes, uint32_t len)
{
	assert(frame->data == block + frame->headroom && frame->len == len);
	assert(memcmp(frame->data, bytes, len) == 0);
	for (uint32_t i = 0; i < frame->headroom; i++)
		assert(block[i] == UNTOUCHED);
}

/* ---- the world ---- */

/* An entry of each owner, at the client's port of its number; for UDP owners 2 and 3 swapped. */
static inline void put_entries(struct xg_session_table *t, int family, uint16_t tcp_slot)
{
	static const uint16_t named[] = { HOST, XG_HOST_UNOWNED };

	for (uint16_t slot = tcp_slot; slot < tcp_slot + 2; slot++)
		for (uint32_t i = 0; i < OWNERS_END; i++) {
			uint16_t port = i < 2 ? named[i] : (uint16_t)i;
			int is_swapped = slot != tcp_slot && (i == OWNER_2 || i == OWNER_3);
			struct xg_session_claim claim = { .owner = is_swapped ? i ^ 1 : port };
			struct xg_key4 key4 = { .port_be = XG_BE16(port), .slot = slot };
			struct xg_key6 key6 = { .port_be = XG_BE16(port), .slot = slot };
			__u64 words[XG_KEY_WORDS_MAX];

			memcpy(&key4.address_be, "\x0a\0\0", 4);
			key6.address[0] = 0xfd;
			if (family == 4)
				memcpy(words, &key4, sizeof(key4));
			else
				memcpy(words, &key6, sizeof(key6));
			assert(!xg_session_table_put(t, words, &claim));
		}
}

static inline void make_templates(void)
{
	templates = malloc(TEMPLATES * sizeof(*templates));
	templates[TO_2] = template_to(2, 0, MTU, 0);
	templates[TO_3_TAGGED] = template_to(3, 1, MTU, 0);
	templates[FLOOD] = template_to(99, 0, MTU, 0);	/* the mark is added */
	templates[EMPTY] = (struct xg_template){ 0 };
	templates[ODD_LENGTH] = template_to(2, 0, MTU, 0);
	templates[ODD_LENGTH].len += 2;
	templates[TOO_LONG] = template_to(2, 0, MTU, 0);
	templates[TOO_LONG].len = XG_TEMPLATE_BYTES + 1;
}

static inline struct xg_forwarder make(void)
{
	static const uint16_t indices[OWNERS_END] = {
		[OWNER_2] = TO_2, [OWNER_3] = TO_3_TAGGED, [NO_WAY] = XG_NO_TEMPLATE,
		[BAD_INDEX] = TEMPLATES, [EMPTY_SLOT] = EMPTY, [ODD] = ODD_LENGTH,
		[LONG] = TOO_LONG, [INACTIVE] = TO_2,
	};
	struct xg_forwarder f = { .host = HOST, .owners = owners, .flood = &flood_list,
				  .counters = counters, .quic = layouts };
	struct xg_session_table *v4, *v6;

	make_templates();
	flood_list = (struct xg_flood){ .group = FLOOD };
	memset(counters, 0, sizeof(counters));
	for (int host = HOST; host < OWNERS_END; host++)
		owners[host] = (struct xg_owner_state){ .flags = XG_OWNER_ACTIVE,
							.template_index = indices[host] };
	owners[INACTIVE].flags = 0;
	assert(!xg_session_table_create(&v4, 4, BUCKETS, NULL, 0, owners, hash_key));
	assert(!xg_session_table_create(&v6, 6, BUCKETS, NULL, 0, owners, hash_key));
	put_entries(v4, 4, 1);
	put_entries(v6, 6, 3);
	f.table4 = v4;
	f.table6 = v6;
	f.templates = templates;
	f.template_count = TEMPLATES;
	memset(places, 0, sizeof(places));
	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++)
		assert(!xg_service_put_both(places, PLACES - 1, &services[i]));
	f.services = places;
	f.service_mask = PLACES - 1;
	return f;
}

static inline void destroy(struct xg_forwarder *f)
{
	xg_session_table_destroy((struct xg_session_table *)(uintptr_t)f->table4);
	xg_session_table_destroy((struct xg_session_table *)(uintptr_t)f->table6);
	free(templates);
}

static inline uint64_t counted(const struct xg_forwarder *f)
{
	uint64_t sum = 0;

	for (int i = 0; i < XG_COUNTERS; i++)
		sum += f->counters[i];
	return sum;
}

#endif
