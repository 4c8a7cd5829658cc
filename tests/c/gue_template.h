/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Header templates for the C tests, and outer headers checked with the simplest code.
 *
 * Shares no code with header_template.h but its constants: the headers are built and read
 * byte by byte here.
 */
#ifndef GUE_TEMPLATE_H
#define GUE_TEMPLATE_H

#undef NDEBUG
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "header_template.h"

#define GUE_IPV4_LEN XG_OUTER_BYTES(XG_GUE, 0, XG_ETH_LEN)
#define GUE_IPV4_VLAN_LEN XG_OUTER_BYTES(XG_GUE, 0, XG_ETH_LEN + XG_VLAN_LEN)

/* RFC 1071 over a whole IPv4 header, not inverted: 0xffff if its checksum is right. */
static inline uint32_t ipv4_sum(const uint8_t *header)
{
	uint32_t sum = 0;

	for (int i = 0; i < XG_IPV4_LEN; i += 2)
		sum += (uint32_t)header[i] << 8 | header[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static inline uint32_t read_be16(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 8 | bytes[1];
}

/* To 10.0.0.`host`, with or without a VLAN tag; bytes behind the header are 0xee. */
static inline struct xg_template template_to(uint8_t host, int tagged, uint16_t mtu, uint8_t mark)
{
	static const uint8_t ethernet[] = { 2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9 };
	static const uint8_t tag[] = { 0x81, 0x00, 0x00, 0x07 };
	const uint8_t ip[] = { 8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0,
			       10, 0, 0, 9, 10, 0, 0, host };
	const uint8_t udp[] = { 0, 0, 0x17, 0xc1, 0, 0, 0, 0 };
	const uint8_t gue[] = { 0x03, 0, 0, 0, 1, mark, 0, 0, 1, 2, 3, 4, 5, 6, 7, host };
	struct xg_template tmpl = { .mtu = mtu };
	uint8_t *end = tmpl.bytes;

	memset(tmpl.bytes, 0xee, sizeof(tmpl.bytes));
	end = (uint8_t *)memcpy(end, ethernet, sizeof(ethernet)) + sizeof(ethernet);
	tmpl.bytes[5] = host;
	if (tagged)
		end = (uint8_t *)memcpy(end, tag, sizeof(tag)) + sizeof(tag);
	end = (uint8_t *)memcpy(end, ip, sizeof(ip)) + sizeof(ip);
	end = (uint8_t *)memcpy(end, udp, sizeof(udp)) + sizeof(udp);
	end = (uint8_t *)memcpy(end, gue, sizeof(gue)) + sizeof(gue);
	tmpl.len = (uint16_t)(end - tmpl.bytes);
	tmpl.l2_len = tagged ? 18 : 14;
	tmpl.sum = ipv4_sum(tmpl.bytes + tmpl.l2_len);
	return tmpl;
}

/* The outer headers at `outer` are the template's, with each patched field right. */
static inline void assert_outer(const uint8_t *outer, const struct xg_template *tmpl,
				uint32_t inner_len, uint8_t tos, int family, uint8_t mark)
{
	uint32_t outer_len = tmpl->len - tmpl->l2_len + inner_len;
	const uint8_t *ip = outer + tmpl->l2_len;
	uint8_t unpatched[XG_TEMPLATE_BYTES];
	uint8_t *out = unpatched + tmpl->l2_len;

	assert(ip[1] == tos && read_be16(ip + 2) == outer_len && ipv4_sum(ip) == 0xffff);
	assert(read_be16(ip + 20) >= 0xc000 && read_be16(ip + 24) == outer_len - 20);
	assert(ip[29] == (family == 4 ? 4 : 41));
	assert(ip[33] == (tmpl->bytes[tmpl->l2_len + 33] | mark));
	memcpy(unpatched, outer, tmpl->len);
	out[1] = out[2] = out[3] = out[10] = out[11] = 0;
	out[20] = out[21] = out[24] = out[25] = 0;
	out[29] = 0;
	out[33] = tmpl->bytes[tmpl->l2_len + 33];
	assert(memcmp(unpatched, tmpl->bytes, tmpl->len) == 0);
}

#endif
