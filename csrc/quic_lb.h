/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Whose connection a QUIC datagram belongs to, by the host id in its connection id.
 *
 * Pure, for BPF and user space: the datagram's first bytes and its id in, a host id out. An id is
 * three words, its first octet highest, so that its parts are found by shifts.
 *
 * Source: draft-ietf-quic-load-balancers-21 ("QUIC-LB"); RFC 9000 section 17; RFC 9369 section 3.
 */
#ifndef XG_QUIC_LB_H
#define XG_QUIC_LB_H

#include "aes128.h"
#include "xg_types.h"

#define XG_QUIC_LAYOUTS 8	/* three bits of an id say which; the last one is no layout */
#define XG_QUIC_HEAD 6		/* bytes of a long header up to its destination id */
#define XG_QUIC_ID_MAX 20
#define XG_QUIC_ID_WORDS 3
#define XG_QUIC_BLOCK 16	/* an id of so many bytes behind its first is one block of AES */
#define XG_QUIC_V1 1
#define XG_QUIC_V2 0x6b3343cf
#define XG_QUIC_NOBODY (-1)

/* One layout of ids. All 0: there is none. */
struct xg_quic_lb {
	__u8 server_id_len;
	__u8 nonce_len;
	__u8 encrypted;
	__u8 reserved[5];
	__u32 keys[XG_AES_WORDS];
};

/* Where in a datagram the id lies. */
struct xg_quic_id {
	__u8 offset;
	__u8 len;		/* 0: none; of a short header: what there is, at most 20 */
	__u8 by_client;		/* perhaps the client chose it: Initial and 0-RTT packets */
};

_Static_assert(sizeof(struct xg_quic_lb) == 184, "shared with BPF and Python");

/* Is this long header's id one that a server chose (1), or perhaps the client (2), or none to go
 * by (0): a Retry packet, which no client sends, or a version that nobody here knows? */
XG_INLINE int xg_quic_chooser(__u8 first, __u32 version)
{
	__u32 type = first >> 4 & 3;

	if (version == XG_QUIC_V2)	/* the types of version 1, turned by one */
		type = (type - 1) & 3;
	else if (version != XG_QUIC_V1)
		return 0;
	if (type == 3)
		return 0;
	return type == 2 ? 1 : 2;
}

/* `head`: the first XG_QUIC_HEAD bytes of a datagram of `len` bytes. */
XG_INLINE struct xg_quic_id xg_quic_find_id(const __u8 *head, __u32 len)
{
	struct xg_quic_id id = {};
	int chooser;

	if (len <= XG_QUIC_HEAD)
		return id;
	if (!(head[0] & 0x80)) {
		id.offset = 1;
		id.len = len - 1 < XG_QUIC_ID_MAX ? (__u8)(len - 1) : XG_QUIC_ID_MAX;
		return id;
	}
	chooser = xg_quic_chooser(head[0], (__u32)head[1] << 24 | (__u32)head[2] << 16 |
						   (__u32)head[3] << 8 | head[4]);
	if (chooser == 0 || head[5] > XG_QUIC_ID_MAX || head[5] > len - XG_QUIC_HEAD)
		return id;
	id.offset = XG_QUIC_HEAD;
	id.len = head[5];
	id.by_client = chooser == 2;
	return id;
}

/* Bits 64.. of the result of a round over `half`, as many as the mask has. */
struct xg_quic_half {
	__u64 high, low;
};

XG_INLINE struct xg_quic_half xg_quic_shift_right(struct xg_quic_half x, __u32 bits)
{
	if (bits == 0)
		return x;
	if (bits >= 64)
		return (struct xg_quic_half){ 0, x.high >> (bits - 64) };
	return (struct xg_quic_half){ x.high >> bits, x.high << (64 - bits) | x.low >> bits };
}

XG_INLINE struct xg_quic_half xg_quic_shift_left(struct xg_quic_half x, __u32 bits)
{
	if (bits == 0)
		return x;
	if (bits >= 64)
		return (struct xg_quic_half){ x.low << (bits - 64), 0 };
	return (struct xg_quic_half){ x.high << bits | x.low >> (64 - bits), x.low << bits };
}
