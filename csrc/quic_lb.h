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
#define XG_QUIC_ID_MIN 7	/* of those that name a host: two octets, and a nonce of four */
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

/* Bytes of a UDP packet's payload, by its own length and by that of the IP packet. */
XG_INLINE __u32 xg_quic_payload_len(const struct xg_packet *packet, __u16 udp_len)
{
	__u32 room = packet->ip_len - (__u32)(packet->l4_offset - packet->l3_offset);
	__u32 len = udp_len < room ? udp_len : room;

	return len < XG_UDP_LEN ? 0 : len - XG_UDP_LEN;
}

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

/* 128 bits, the first one highest. */
struct xg_quic_bits {
	__u64 high;
	__u64 low;
};

/* Shifts by 1..127 bits, but not by 64. */
XG_INLINE struct xg_quic_bits xg_quic_right(struct xg_quic_bits x, __u32 bits)
{
	if (bits > 64)
		return (struct xg_quic_bits){ 0, x.high >> (bits & 63) };
	return (struct xg_quic_bits){ x.high >> (bits & 63),
				      x.high << (-bits & 63) | x.low >> (bits & 63) };
}

/* What of a half counts: its `bits` bits, behind the four zero ones of an odd text's right half. */
XG_INLINE struct xg_quic_bits xg_quic_masked(struct xg_quic_bits x, __u32 zeros, __u32 bits)
{
	__u32 end = zeros + bits;

	x.high &= ~0ull >> zeros;
	if (end > 64)
		x.low &= ~0ull << (-end & 63);
	else
		x = (struct xg_quic_bits){ x.high & ~0ull << (-end & 63), 0 };
	return x;
}

/* What follows the first `bits` bits of a text of three words. */
XG_INLINE struct xg_quic_bits xg_quic_behind(const __u64 text[XG_QUIC_ID_WORDS], __u32 bits)
{
	__u32 up = bits & 63, down = -bits & 63;

	if (bits > 64)
		return (struct xg_quic_bits){ text[1] << up | text[2] >> down, text[2] << up };
	return (struct xg_quic_bits){ text[0] << up | text[1] >> down,
				      text[1] << up | text[2] >> down };
}

/* The round function: AES of one half, its length and the round's number; section 5.4.2. */
XG_INLINE struct xg_quic_bits xg_quic_round(const __u32 *keys, struct xg_quic_bits half, __u32 len,
					    __u32 number)
{
	__u32 block[4] = { (__u32)(half.high >> 32), (__u32)half.high, (__u32)(half.low >> 32),
			   (__u32)half.low | len << 8 | number };

	xg_aes128_encrypt(keys, block);
	/* odd rounds change the right half, which begins with zeros where the length is odd */
	return xg_quic_masked((struct xg_quic_bits){ (__u64)block[0] << 32 | block[1],
						     (__u64)block[2] << 32 | block[3] },
			      number & len & 1 ? 4 : 0, 4 * len);
}

/* The first 128 bits of what four rounds made of a text of `len` bytes: the rounds backwards. */
XG_INLINE struct xg_quic_bits xg_quic_feistel(const struct xg_quic_lb *layout,
					      const __u64 text[XG_QUIC_ID_WORDS], __u32 len)
{
	struct xg_quic_bits left = xg_quic_masked((struct xg_quic_bits){ text[0], text[1] }, 0,
						  4 * len);
	struct xg_quic_bits right = xg_quic_masked(xg_quic_behind(text, 4 * len), 0, 4 * len);
	struct xg_quic_bits made;

	if (len & 1)
		right = xg_quic_right(right, 4);
	for (__u32 number = 4; number >= 1; number--) {
		/* a server id of at most half the text lies in the left half */
		if (number == 1 && layout->server_id_len <= layout->nonce_len)
			break;
		made = xg_quic_round(layout->keys, number & 1 ? left : right, len, number);
		if (number & 1) {
			right.high ^= made.high;
			right.low ^= made.low;
		} else {
			left.high ^= made.high;
			left.low ^= made.low;
		}
	}
	if (len & 1)
		right = (struct xg_quic_bits){ right.high << 4 | right.low >> 60, right.low << 4 };
	right = xg_quic_right(right, 4 * len);
	return (struct xg_quic_bits){ left.high | right.high, left.low | right.low };
}

/* The first 128 bits of an id's plaintext; `text` is the id without its first octet. */
XG_INLINE struct xg_quic_bits xg_quic_open(const struct xg_quic_lb *layout,
					   const __u64 text[XG_QUIC_ID_WORDS], __u32 len)
{
	__u32 block[4] = { (__u32)(text[0] >> 32), (__u32)text[0], (__u32)(text[1] >> 32),
			   (__u32)text[1] };

	if (!layout->encrypted)
		return (struct xg_quic_bits){ text[0], text[1] };
	if (len != XG_QUIC_BLOCK)
		return xg_quic_feistel(layout, text, len);
	xg_aes128_decrypt(layout->keys, block);
	return (struct xg_quic_bits){ (__u64)block[0] << 32 | block[1],
				      (__u64)block[2] << 32 | block[3] };
}

/* Takes the first octet off an id, as it came with zeros behind it, and returns it; `id` holds the
 * others then, highest first. */
XG_INLINE __u8 xg_quic_take_first(__u64 id[XG_QUIC_ID_WORDS])
{
	__u64 a = __builtin_bswap64(id[0]), b = __builtin_bswap64(id[1]);
	__u64 c = __builtin_bswap64(id[2]);

	id[0] = a << 8 | b >> 56;
	id[1] = b << 8 | c >> 56;
	id[2] = c << 8;
	return (__u8)(a >> 56);
}

/* The host that an id names in a layout, or XG_QUIC_NOBODY. `first` and `text`: of
 * xg_quic_take_first. */
XG_INLINE int xg_quic_host(const struct xg_quic_lb *layout, __u8 first,
			   const __u64 text[XG_QUIC_ID_WORDS], struct xg_quic_id id)
{
	__u32 server_id_len = layout->server_id_len & 15;
	__u32 len = server_id_len + (layout->nonce_len & 31);
	struct xg_quic_bits found;

	if (server_id_len < 2 || len > XG_QUIC_ID_MAX - 1 || id.len <= len)
		return XG_QUIC_NOBODY;
	/* What a client chose is noise, which would name some host now and then. A server of ours
	 * says in the id how long it is. */
	if (id.by_client && (first & 0x1f) != id.len - 1)
		return XG_QUIC_NOBODY;
	found = xg_quic_open(layout, text, len);
	if (server_id_len == 8)
		found = (struct xg_quic_bits){ 0, found.high };
	else
		found = xg_quic_right(found, 128 - 8 * server_id_len);
	if (found.high != 0 || found.low > XG_HOST_MAX)
		return XG_QUIC_NOBODY;
	return (int)found.low;
}

#ifndef __bpf__
#include <linux/errno.h>
#include <string.h>

/* `key`: 16 bytes, or a null pointer. 0; -EINVAL: the lengths are no id's. */
static inline int xg_quic_lb_init(struct xg_quic_lb *layout, __u8 server_id_len, __u8 nonce_len,
				  const __u8 *key)
{
	if (server_id_len < 2 || server_id_len > 15 || nonce_len < 4 ||
	    server_id_len + nonce_len > XG_QUIC_ID_MAX - 1)
		return -EINVAL;
	memset(layout, 0, sizeof(*layout));
	layout->server_id_len = server_id_len;
	layout->nonce_len = nonce_len;
	if (key) {
		layout->encrypted = 1;
		xg_aes128_expand(key, layout->keys);
	}
	return 0;
}

/* The host that a datagram of `len` bytes names, or XG_QUIC_NOBODY. */
static inline int xg_quic_owner(const struct xg_quic_lb layouts[XG_QUIC_LAYOUTS],
				const __u8 *datagram, __u32 len)
{
	struct xg_quic_id id = xg_quic_find_id(datagram, len);
	__u64 text[XG_QUIC_ID_WORDS] = { 0 };
	__u8 first;

	if (id.len < XG_QUIC_ID_MIN)
		return XG_QUIC_NOBODY;
	memcpy(text, datagram + id.offset, id.len);
	first = xg_quic_take_first(text);
	return xg_quic_host(&layouts[first >> 5], first, text, id);
}
#endif

#endif
