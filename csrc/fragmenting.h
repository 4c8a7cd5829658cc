/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Cuts an IPv4 packet that is too big for its path into fragments (RFC 791), as a router does.
 *
 * Its sender asks for that by leaving DF clear. The fragments are whole IP packets: they get outer
 * headers each, and the owner's kernel puts them together. A packet that is a fragment itself is
 * cut again. Pure; BPF asks only whether it may be done, since it cannot make two frames of one.
 */
#ifndef XG_FRAGMENTING_H
#define XG_FRAGMENTING_H

#ifndef __bpf__
#include <string.h>
#endif

#include "header_template.h"

#define XG_IPV4_FLAG_DF 0x4000u
#define XG_IPV4_FLAG_MF 0x2000u
#define XG_IPV4_OFFSET 0x1fffu	/* in units of 8 bytes */
#define XG_IPV4_HEADER_MAX 60u
#define XG_IPV4_BYTES_MAX 65535u
#define XG_OPTION_END 0
#define XG_OPTION_NOP 1
#define XG_OPTION_COPIED 0x80
/* The first fragment holds the longest TCP header, so that its receiver finds the session. */
#define XG_PIECE_PAYLOAD_MIN 64u
#define XG_CUT_MTU_MIN (XG_IPV4_HEADER_MAX + XG_PIECE_PAYLOAD_MIN)
#define XG_PIECES_MAX 64u	/* 64 KiB at an MTU of 1100; a limit on what one packet may cost */

/* Whether the packet may be cut for a path that takes `mtu` bytes of it. An ICMP error may not:
 * its receiver needs the quote. */
XG_INLINE int xg_may_cut(const void *l3, const void *end, const struct xg_packet *packet, __u32 mtu)
{
	const struct xg_ipv4 *ip = l3;

	if ((const void *)(ip + 1) > end || packet->family != 4 || packet->is_error)
		return 0;
	return !(ip->fragment_be & XG_BE16(XG_IPV4_FLAG_DF)) && mtu >= XG_CUT_MTU_MIN;
}

#ifndef __bpf__

/* Bytes of payload in each fragment but the last: a multiple of 8. */
static inline __u32 xg_piece_room(__u32 header_len, __u32 mtu)
{
	return (mtu - header_len) & ~7u;
}

/* Fragments that the packet at l3 must be sent in; 1: it fits; 0: it may not be cut, there would
 * be too many, or its end is behind what an offset can say. */
static inline __u32 xg_pieces(const __u8 *l3, const void *end, const struct xg_packet *packet,
			      __u32 mtu)
{
	__u32 header_len, payload, pieces, offset;

	if (packet->ip_len <= mtu)
		return 1;
	if (!xg_may_cut(l3, end, packet, mtu))
		return 0;
	header_len = (l3[0] & 0x0f) * 4u;
	payload = packet->ip_len - header_len;
	offset = ((__u32)l3[6] << 8 | l3[7]) & XG_IPV4_OFFSET;
	pieces = (payload + xg_piece_room(header_len, mtu) - 1) / xg_piece_room(header_len, mtu);
	if (offset * 8 + payload > XG_IPV4_BYTES_MAX || pieces > XG_PIECES_MAX)
		return 0;
	return pieces;
}

/* One's-complement sum of `len` bytes at an even offset, host order, folded. */
static inline __u32 xg_sum_bytes(const __u8 *at, __u32 len)
{
	__u64 sum = 0;

	for (__u32 i = 0; i + 1 < len; i += 2)
		sum += (__u32)at[i] << 8 | at[i + 1];
	if (len & 1)
		sum += (__u32)at[len - 1] << 8;
	sum = (sum & 0xffffffff) + (sum >> 32);
	return xg_fold((__u32)((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)));
}

/* The options that belong into the first fragment only become no-operations, as in Linux: the
 * header stays as long as it is, so that all fragments have the same room. */
static inline void xg_blank_options(__u8 *header, __u32 header_len)
{
	__u32 at = XG_IPV4_LEN, len;

	while (at < header_len && header[at] != XG_OPTION_END) {
		if (header[at] == XG_OPTION_NOP) {
			at++;
			continue;
		}
		len = at + 1 < header_len ? header[at + 1] : 0;
		if (len < 2 || len > header_len - at)
			return;
		if (!(header[at] & XG_OPTION_COPIED))
			memset(header + at, XG_OPTION_NOP, len);
		at += len;
	}
}

/* Writes fragment `number` of the packet at l3, of which xg_pieces() says that it exists, to `to`:
 * at most `mtu` bytes. Returns its length. A header checksum that was wrong stays as wrong: who
 * corrupted the header must not be covered. */
static inline __u32 xg_write_piece(__u8 *to, const __u8 *l3, const struct xg_packet *packet,
				   __u32 mtu, __u32 number)
{
	__u32 header_len = (l3[0] & 0x0f) * 4u, room = xg_piece_room(header_len, mtu);
	__u32 payload = packet->ip_len - header_len, at = number * room;
	__u32 flags = (__u32)l3[6] << 8 | l3[7], error = xg_sum_bytes(l3, header_len), len, sum;
	int is_last = at + room >= payload;

	len = is_last ? payload - at : room;
	memcpy(to, l3, header_len);
	memcpy(to + header_len, l3 + header_len + at, len);
	if (number)
		xg_blank_options(to, header_len);
	flags = (flags & ~XG_IPV4_OFFSET) | ((flags & XG_IPV4_OFFSET) + at / 8);
	if (!is_last)
		flags |= XG_IPV4_FLAG_MF;
	len += header_len;
	to[2] = (__u8)(len >> 8);
	to[3] = (__u8)len;
	to[6] = (__u8)(flags >> 8);
	to[7] = (__u8)flags;
	to[10] = to[11] = 0;
	sum = xg_sum_bytes(to, header_len);
	sum = xg_fold((error == 0xffff ? 0 : error) + (__u16)~sum);
	to[10] = (__u8)(sum >> 8);
	to[11] = (__u8)sum;
	return len;
}

#endif
#endif
