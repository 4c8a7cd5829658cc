// SPDX-License-Identifier: BSD-2-Clause
/*
 * The hashes of many flows at once are those that the XDP program gives to each.
 */
#include "flow_hashes.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "header_template.h"

#define GROUPS 2000

static uint64_t state = 0x9e3779b97f4a7c15ull;

/* xorshift64* (Vigna) */
static uint64_t any(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1dull;
}

/* An Ethernet frame's IPv4 and transport headers, of which the parser reads the rest. */
static void write_frame(uint8_t frame[54], uint64_t addresses, uint32_t ports)
{
	static const uint8_t begin[] = { [12] = 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6 };

	memset(frame, 0, 54);
	memcpy(frame, begin, sizeof(begin));
	memcpy(frame + 26, &addresses, sizeof(addresses));
	memcpy(frame + 34, &ports, sizeof(ports));
	frame[46] = 0x50;
}

static uint32_t hash_of(uint64_t addresses, uint32_t ports)
{
	struct xg_packet packet = { .beyond = 0 };
	uint8_t frame[54];

	write_frame(frame, addresses, ports);
	assert(xg_parse_first_buffer(frame, frame + sizeof(frame), &packet) == XG_PARSE_OK);
	return xg_flow_hash(&packet);
}

static void test_each_set_of_instructions_gives_what_the_packets_hash_is(void)
{
	for (int group = 0; group < GROUPS; group++) {
		__u32 hashes[XG_GROUP];
		struct xg_plain plain;

		for (unsigned int i = 0; i < XG_GROUP; i++) {
			plain.heads[i] = any();
			plain.addresses[i] = any();
			plain.ports[i] = any();
		}
		for (unsigned int isa = 0; isa <= xg_session_burst_widest(); isa++) {
			memset(hashes, 0, sizeof(hashes));
			xg_hash_flows((enum xg_burst_isa)isa, &plain, hashes);
			for (unsigned int i = 0; i < XG_GROUP; i++)
				assert(hashes[i] ==
				       hash_of(plain.addresses[i], (uint32_t)plain.ports[i]));
		}
	}
}

int main(void)
{
	test_each_set_of_instructions_gives_what_the_packets_hash_is();
	puts("ok");
	return 0;
}
