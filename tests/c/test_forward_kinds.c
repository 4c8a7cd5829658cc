// SPDX-License-Identifier: BSD-2-Clause
/*
 * Outer headers of each kind: in a burst a loop of its own writes them, alone the code for all.
 */
#include "forward_counted.h"

#include <stdio.h>

#define FORMATS 4
#define KINDS (FORMATS * 2 * 2 * 2)	/* IP version, tag, real checksum */

/* Of a kind by its number, with bytes that are nobody's headers. */
static struct xg_template template_of(uint32_t kind)
{
	const enum xg_encapsulation format = kind % FORMATS;
	const int ipv6 = kind / FORMATS & 1;
	const uint16_t l2_len = kind / FORMATS & 2 ? XG_ETH_LEN + XG_VLAN_LEN : XG_ETH_LEN;
	struct xg_template tmpl = {
		.len = (uint16_t)XG_OUTER_BYTES(format, ipv6, l2_len), .l2_len = l2_len, .mtu = MTU,
		.encapsulation = format, .sum = 0x1234 + kind,
		.flags = (uint8_t)((ipv6 ? XG_TEMPLATE_IPV6 : 0) |
				   (kind / FORMATS & 4 ? XG_TEMPLATE_SUM : 0)),
	};

	for (uint32_t i = 0; i < sizeof(tmpl.bytes); i++)
		tmpl.bytes[i] = (uint8_t)(i * 11 + kind);
	return tmpl;
}

static int has_loop(uint32_t kind)
{
	return !(kind / FORMATS & 4);
}

/* A plain packet of its own flow; of some the outer one is too big. */
static uint32_t build_plain(uint32_t number, uint8_t *bytes)
{
	struct recipe s = tcp(4, number & 1 ? OWNER_2 : OWNER_3, ACK);

	s.tos = (uint8_t)(number * 37);
	s.payload = (uint16_t)(number % 7 ? number * 13 % 300 : 1500 + number);
	s.padding = (uint8_t)(number % 5);
	return build(&s, bytes);
}

static void assert_alike(struct xg_forwarder *f)
{
	struct xg_frame burst[XG_BURST], alone[XG_BURST];
	uint8_t *blocks[XG_BURST], *others[XG_BURST];
	static uint8_t bytes[FRAME_MAX];

	for (uint32_t i = 0; i < XG_BURST; i++) {
		uint32_t len = build_plain(i, bytes);

		burst[i] = place(bytes, len, XG_TEMPLATE_BYTES, &blocks[i]);
		alone[i] = place(bytes, len, XG_TEMPLATE_BYTES, &others[i]);
		assert(xg_forward_burst(f, &alone[i], 1) == 0);
	}
	assert(went_short == 0);
	assert(xg_forward_burst(f, burst, XG_BURST) == 0);
	for (uint32_t i = 0; i < XG_BURST; i++) {
		assert_same(&burst[i], &alone[i]);
		free(blocks[i]);
		free(others[i]);
	}
}

/* The two owners' headers are of any two kinds, the same or not. */
static void test_a_kinds_loop_writes_what_is_written_alone(void)
{
	struct xg_forwarder f = make();

	for (uint32_t kind = 0; kind < KINDS * KINDS; kind++) {
		const uint32_t first = kind % KINDS, second = kind / KINDS;

		templates[TO_2] = template_of(first);
		templates[TO_3_TAGGED] = template_of(second);
		went_short = 0;
		assert_alike(&f);
		/* the loop of the first group is that of OWNER_2, of the second that of OWNER_3 */
		assert((went_short > 0) == (has_loop(first) || has_loop(second)));
		assert((went_short > XG_BURST / 2) == (first == second && has_loop(first)));
	}
	for (uint32_t i = 0; i < XG_COUNTERS; i++)
		assert(f.counters[i] % 2 == 0);
	assert(f.counters[XG_COUNT_stray_forwarded] > 0);
	assert(f.counters[XG_COUNT_too_big_answered] > 0);
	destroy(&f);
}

int main(void)
{
	test_a_kinds_loop_writes_what_is_written_alone();
	puts("ok");
	return 0;
}
