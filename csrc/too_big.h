/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Turns a frame that is too big for its path into the ICMP error that tells its sender so.
 *
 * IPv4: destination unreachable, fragmentation needed (RFC 792, RFC 1191); IPv6: packet too big
 * (RFC 4443). The frame becomes its own answer, in place: what is quoted moves back by the new
 * headers, the Ethernet addresses are swapped, VLAN tags stay. The same code runs in BPF and in
 * the C forwarder. It says nothing about the session, so it is no answer to the client's TCP.
 */
#ifndef XG_TOO_BIG_H
#define XG_TOO_BIG_H

#include "header_template.h"

/* Bytes of the packet that are quoted: a constant for the verifier's sake. It holds the longest
 * IPv4 and TCP headers; of IPv6 also 80 bytes of extension headers. */
#define XG_QUOTE 128
#define XG_QUOTED_PORTS 8	/* of TCP or UDP: no client believes it without */
#define XG_ICMP_UNREACHABLE 3
#define XG_ICMP_FRAGMENTATION_NEEDED 4
#define XG_ICMPV6_TOO_BIG 2
#define XG_IPV4_MTU_MIN 68	/* RFC 791: every link carries that */
#define XG_IPV6_MTU_MIN 1280	/* RFC 8200 */
#define XG_IPV4_DF 0x4000
#define XG_ANSWER_TTL 64
#define XG_ANSWER_TOS 0xc0	/* RFC 1812 4.3.2.5: internetwork control */
#define XG_ANSWER4_LEN (XG_IPV4_LEN + XG_ICMP_LEN + XG_QUOTE)
#define XG_ANSWER6_LEN (XG_IPV6_LEN + XG_ICMP_LEN + XG_QUOTE)
#define XG_L2_MAX (XG_ETH_LEN + XG_VLAN_TAGS * XG_VLAN_LEN)

/* Bytes of the largest packet that a template's path takes. */
XG_INLINE __u32 xg_inner_mtu(const struct xg_template *tmpl)
{
	__u32 overhead = (__u32)tmpl->len - tmpl->l2_len;

	return tmpl->mtu > overhead ? tmpl->mtu - overhead : 0;
}

/* RFC 1122 3.2.2, RFC 4443 2.4: no error for what did not come from one host. */
XG_INLINE int xg_is_host_address(const struct xg_packet *packet)
{
	const __u32 *source = packet->source_be;
	__u8 first = (__u8)(packet->family == 4 ? source[3] : source[0]);	/* little-endian */

	if (packet->family == 4)
		return first != 0 && first != 127 && first < 224;
	return first != 0xff && (source[0] | source[1] | source[2]) != 0;
}

/* The MTU that the sender of a packet that exceeds `mtu` is told, or 0: it must not be told, or
 * it would not help. Not told is the sender of what came out of a tunnel (it does not lie behind
 * the Ethernet header): the frame's source is the host that sent it here, which is no way to the
 * client. */
XG_INLINE __u32 xg_too_big_mtu(const void *data, const void *end, const struct xg_packet *packet,
			       __u32 mtu)
{
	const struct xg_eth *eth = data;
	const struct xg_ipv4 *ip = (const void *)((const __u8 *)data +
						  XG_MASKED(packet->l3_offset, 0x1f));
	__u32 header_len = (__u32)packet->l4_offset - packet->l3_offset;

	if ((const void *)(eth + 1) > end || (const void *)(ip + 1) > end)
		return 0;
	/* RFC 1122 3.2.2: not about an ICMP error, nor about a later fragment */
	if (packet->is_error || packet->fragment == XG_FRAGMENT_LATER ||
	    (packet->protocol != XG_PROTO_TCP && packet->protocol != XG_PROTO_UDP) ||
	    packet->l3_offset > XG_L2_MAX || (eth->destination[0] & 1) ||
	    header_len > XG_QUOTE - XG_QUOTED_PORTS || !xg_is_host_address(packet))
		return 0;
	if (packet->family == 6) {
		if (mtu < XG_IPV6_MTU_MIN)
			mtu = XG_IPV6_MTU_MIN;
		return packet->ip_len > mtu ? mtu : 0;
	}
	/* Without DF too, where nobody fragments it: Linux heeds the answer all the same. */
	if (packet->ip_len < XG_ANSWER4_LEN)
		return 0;
	return mtu >= XG_IPV4_MTU_MIN ? mtu : 0;
}

/* Moves the quote back to `to`, which lies behind `from` and may overlap it; its sum. */
XG_INLINE __u64 xg_move_quote(__u8 *to, const __u8 *from)
{
	__u64 sum = 0, word;

#pragma GCC unroll 16
	for (__u32 at = XG_QUOTE; at > 0; at -= 8) {
#ifdef __bpf__
		word = *(const __u64 *)(from + at - 8);
		*(__u64 *)(to + at - 8) = word;
		/* one word at a time: all of them at once would take the stack that callers need */
		__asm__ volatile("" : : : "memory");
#else
		__builtin_memcpy(&word, from + at - 8, 8);
		__builtin_memcpy(to + at - 8, &word, 8);
#endif
		sum += (word & 0xffffffff) + (word >> 32);
	}
	return sum;
}

/* RFC 1071: the checksum of a sum of 32-bit words in the order of memory, in that order. */
XG_INLINE __u16 xg_checksum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return (__u16)~xg_fold((__u32)sum);
}

XG_INLINE void xg_write_icmp(struct xg_icmp *icmp, __u8 type, __u8 code, __u32 mtu, __u64 sum)
{
	icmp->type = type;
	icmp->code = code;
	icmp->rest_be = XG_BE32(mtu);
	icmp->check = xg_checksum(sum + type + (code << 8) + icmp->rest_be);
}

XG_INLINE void xg_write_answer4(__u8 *l3, const struct xg_packet *packet, __u32 mtu)
{
	struct xg_icmp *icmp = (void *)(l3 + XG_IPV4_LEN);
	struct xg_ipv4 *ip = (void *)l3;
	__u64 sum = xg_move_quote(l3 + XG_IPV4_LEN + XG_ICMP_LEN, l3);
	__u32 first = 0x45 | XG_ANSWER_TOS << 8 | (__u32)XG_BE16(XG_ANSWER4_LEN) << 16;
	__u32 second = (__u32)XG_BE16(XG_IPV4_DF) << 16;
	__u32 third = XG_ANSWER_TTL | XG_PROTO_ICMP << 8;

	xg_write_icmp(icmp, XG_ICMP_UNREACHABLE, XG_ICMP_FRAGMENTATION_NEEDED, mtu, sum);
	ip->version_ihl = 0x45;
	ip->tos = XG_ANSWER_TOS;
	ip->total_len_be = XG_BE16(XG_ANSWER4_LEN);
	ip->id_be = 0;
	ip->fragment_be = XG_BE16(XG_IPV4_DF);
	ip->ttl = XG_ANSWER_TTL;
	ip->protocol = XG_PROTO_ICMP;
	ip->source_be = packet->destination_be[3];
	ip->destination_be = packet->source_be[3];
	ip->check_be = xg_checksum((__u64)first + second + third + ip->source_be +
				   ip->destination_be);
}

XG_INLINE void xg_write_answer6(__u8 *l3, const struct xg_packet *packet, __u32 mtu)
{
	struct xg_icmp *icmp = (void *)(l3 + XG_IPV6_LEN);
	struct xg_ipv6 *ip = (void *)l3;
	__u64 sum = xg_move_quote(l3 + XG_IPV6_LEN + XG_ICMP_LEN, l3);

	for (int i = 0; i < 4; i++)	/* the pseudo-header */
		sum += (__u64)packet->source_be[i] + packet->destination_be[i];
	sum += XG_BE32(XG_ICMP_LEN + XG_QUOTE) + (__u64)XG_BE32(XG_PROTO_ICMPV6);
	xg_write_icmp(icmp, XG_ICMPV6_TOO_BIG, 0, mtu, sum);
	ip->version_class_flow_be = XG_BE32(6u << 28);
	ip->payload_len_be = XG_BE16(XG_ICMP_LEN + XG_QUOTE);
	ip->next_header = XG_PROTO_ICMPV6;
	ip->hop_limit = XG_ANSWER_TTL;
	__builtin_memcpy(ip->source_be, packet->destination_be, 16);
	__builtin_memcpy(ip->destination_be, packet->source_be, 16);
}

/* Makes the frame the answer that tells `mtu`, which xg_too_big_mtu() gave for it. Returns the
 * answer's length, which is below the frame's: what is behind must be cut off; or 0, and nothing
 * was written. */
XG_INLINE __u32 xg_too_big_write(void *data, const void *end, const struct xg_packet *packet,
				 __u32 mtu)
{
	__u32 l2_len = XG_MASKED(packet->l3_offset, 0x1f);
	__u8 *l3 = (__u8 *)data + l2_len;
	struct xg_eth *eth = data;
	__u8 mac[6];

	if ((const void *)(eth + 1) > end)
		return 0;
	if (packet->family == 4) {
		if ((const void *)(l3 + XG_ANSWER4_LEN) > end)
			return 0;
		xg_write_answer4(l3, packet, mtu);
	} else {
		if ((const void *)(l3 + XG_ANSWER6_LEN) > end)
			return 0;
		xg_write_answer6(l3, packet, mtu);
	}
	__builtin_memcpy(mac, eth->destination, 6);
	__builtin_memcpy(eth->destination, eth->source, 6);
	__builtin_memcpy(eth->source, mac, 6);
	return l2_len + (packet->family == 4 ? XG_ANSWER4_LEN : XG_ANSWER6_LEN);
}

#endif
