// SPDX-License-Identifier: BSD-2-Clause
/*
 * One loop, which the compiler turns into each instruction set's own.
 *
 * The formula is that of header_template.h, which the XDP program follows as well.
 */
#include "flow_hashes.h"

#include "header_template.h"

XG_INLINE void hash_each(const struct xg_plain *restrict plain, __u32 *restrict hashes)
{
	/* an IPv4 address as struct xg_packet has it, in its third word */
	const __u64 mapped = (__u64)XG_BE32(0xffff) << 16;

	for (unsigned int i = 0; i < XG_GROUP; i++) {
		const __u64 addresses = plain->addresses[i], ports = plain->ports[i];

		hashes[i] = xg_mix_flow((addresses << 32 | addresses >> 32) ^ mapped,
					(ports & 0xffff) << 16 | (ports >> 16 & 0xffff));
	}
}

static void hash_any(const struct xg_plain *plain, __u32 *hashes)
{
	hash_each(plain, hashes);
}

#if defined(__x86_64__)

/* GCC takes several turns of such a loop at once from -O3 on, clang from -O2. */
#if defined(__clang__)
#define FOR(isa) __attribute__((target(isa)))
#else
#define FOR(isa) __attribute__((optimize("O3"), target(isa)))
#endif

static FOR("avx2") void hash_avx2(const struct xg_plain *plain, __u32 *hashes)
{
	hash_each(plain, hashes);
}

static FOR("avx512f,avx512dq,avx512vl") void
hash_avx512(const struct xg_plain *plain, __u32 *hashes)
{
	hash_each(plain, hashes);
}

#endif

void xg_hash_flows(enum xg_burst_isa isa, const struct xg_plain *plain, __u32 hashes[XG_GROUP])
{
#if defined(__x86_64__)
	if (isa >= XG_BURST_AVX512)
		hash_avx512(plain, hashes);
	else if (isa == XG_BURST_AVX2)
		hash_avx2(plain, hashes);
	else
#else
	(void)isa;
#endif
		hash_any(plain, hashes);
}
