// SPDX-License-Identifier: BSD-2-Clause
/*
 * One's-complement sums: the numerical examples of RFC 1071 and RFC 1624, and an ECN field that is
 * set in any header against a sum over all of it.
 */
#include "tunnel_open.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* RFC 1071, section 3. */
static void test_the_example_of_rfc_1071(void)
{
	assert(xg_fold(0x0001 + 0xf203 + 0xf4f5 + 0xf6f7) == 0xddf2);
}

/* RFC 1624, section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285; RFC 1141 gives 0xffff there. */
static void test_the_example_of_rfc_1624(void)
{
	uint32_t sum = (uint16_t)~0xdd2f + (uint16_t)~0x5555 + 0x3285;

	assert(xg_fold(sum) == 0xffff);	/* so that HC' = 0x0000 */
}

/* RFC 1071, section 2: carries are added until there is none. */
static uint16_t fold_by_the_book(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void test_sums_of_any_size_are_folded(void)
{
	const uint64_t edge = 0x40000;

	for (uint64_t sum = 0; sum >> 32 == 0; sum += sum < edge || (uint32_t)-sum < edge ? 1 : 997)
		assert(xg_fold((uint32_t)sum) == fold_by_the_book((uint32_t)sum));
}

static uint16_t sum_of(const struct xg_ipv4 *ip)
{
	const uint8_t *bytes = (const uint8_t *)ip;
	uint32_t sum = 0;

	for (int i = 0; i < XG_IPV4_LEN; i += 2)
		sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* Every identification makes the checksum go through all its values. */
static void test_a_header_sums_up_as_before_after_its_ecn_was_set(void)
{
	struct xg_ipv4 ip;

	for (uint32_t i = 0; i <= 0xffff; i++) {
		memset(&ip, 0, sizeof(ip));
		ip.version_ihl = 0x45;
		ip.tos = (uint8_t)(i * 7);
		ip.id_be = XG_BE16(i);
		ip.check_be = XG_BE16((uint16_t)~sum_of(&ip));
		assert(sum_of(&ip) == 0xffff);
		xg_set_ecn4(&ip, i & 3);
		assert((ip.tos & 3) == (i & 3) && ip.tos >> 2 == (uint8_t)(i * 7) >> 2);
		assert(sum_of(&ip) == 0xffff);
	}
}

int main(void)
{
	test_the_example_of_rfc_1071();
	test_the_example_of_rfc_1624();
	test_sums_of_any_size_are_folded();
	test_a_header_sums_up_as_before_after_its_ecn_was_set();
	printf("ok\n");
	return 0;
}
