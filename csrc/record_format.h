/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bytes of a section of ownership records.
 *
 * A section is kind u8, flags u8 (0), length u16, body; a body is a row of records of one size.
 * Everything on the wire is in network order. `index` is the sender's number of the service.
 *
 *   IPv4 record, 8 bytes:   client address 4 | client port 2 | index 2
 *   IPv6 record, 20 bytes:  client address 16 | client port 2 | index 2
 */
#ifndef XG_RECORD_FORMAT_H
#define XG_RECORD_FORMAT_H

#include <stddef.h>
#include <string.h>

#include "session_table.h"

enum xg_section_kind {
	XG_SECTION_OPEN4 = 0x10,
	XG_SECTION_CLOSE4 = 0x11,
	XG_SECTION_LINGER4 = 0x12,
	XG_SECTION_OPEN6 = 0x18,
	XG_SECTION_CLOSE6 = 0x19,
	XG_SECTION_LINGER6 = 0x1a,
};

#define XG_SECTION_HEADER_LEN 4
#define XG_RECORD4_LEN 8
#define XG_RECORD6_LEN 20

static inline size_t xg_record_len(int family)
{
	return family == 4 ? XG_RECORD4_LEN : XG_RECORD6_LEN;
}

/* Write one record, its index the key's slot; returns nothing, for its length is its family's. */
static inline void xg_record_write(__u8 *out, const __u64 *key, int family)
{
	struct xg_key4 key4;
	struct xg_key6 key6;
	__u16 slot;

	if (family == 4) {
		memcpy(&key4, key, sizeof(key4));
		memcpy(out, &key4, 6);
		slot = key4.slot;
	} else {
		memcpy(&key6, key, sizeof(key6));
		memcpy(out, &key6, 18);
		slot = key6.slot;
	}
	out[xg_record_len(family) - 2] = (__u8)(slot >> 8);
	out[xg_record_len(family) - 1] = (__u8)slot;
}

/* Read one record's key, but for the slot, which comes from the caller. */
static inline void xg_record_read(__u64 key[XG_KEY_WORDS_MAX], const __u8 *record, int family,
				  __u16 slot)
{
	struct xg_key6 key6 = { .slot = slot };

	if (family == 4) {
		/* One load and a shift: three stores and a load would wait. */
		_Static_assert(offsetof(struct xg_key4, slot) == 6, "the slot: 16 bits on top");
		memcpy(key, record, XG_RECORD4_LEN);
		key[0] = (key[0] & 0xffffffffffffull) | (__u64)slot << 48;
		key[1] = key[2] = 0;
	} else {
		memcpy(&key6, record, 18);
		memcpy(key, &key6, sizeof(key6));
	}
}

static inline void xg_section_header_write(__u8 *out, __u8 kind, size_t len)
{
	out[0] = kind;
	out[1] = 0;
	out[2] = (__u8)(len >> 8);
	out[3] = (__u8)len;
}

/* Records of one section that fit into `budget` bytes, its header counted. */
static inline size_t xg_records_that_fit(int family, size_t budget)
{
	size_t room = budget > XG_SECTION_HEADER_LEN ? budget - XG_SECTION_HEADER_LEN : 0;

	return (room < UINT16_MAX ? room : UINT16_MAX) / xg_record_len(family);
}

#endif
