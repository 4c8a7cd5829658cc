/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Frame to session key or reason: the one parser of BPF and user space.
 *
 * Bounds-checked against `end` before every read; reads nothing behind the transport header.
 * Knows Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with up to four extension
 * headers, TCP and UDP.
 */
#ifndef XG_PACKET_PARSE_H
#define XG_PACKET_PARSE_H

#include <linux/types.h>

#ifndef XG_INLINE
#define XG_INLINE static inline __attribute__((always_inline))
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian hosts only: the table's keys are compared as words"
#endif
#define XG_BE16(x) ((__u16)__builtin_bswap16((__u16)(x)))
#define XG_BE32(x) ((__u32)__builtin_bswap32((__u32)(x)))

/* An offset or length to add to a packet pointer, masked where BPF's verifier sees it: the
 * compiler, which knows the range, leaves a plain mask out, and Linux 6.1's verifier has
 * forgotten the range of a value that was byte-swapped or spilled. `mask`: 2^n - 1. */
#ifdef __bpf__
#define XG_MASKED(x, mask) ({ \
	__u32 masked_ = (x); \
	__asm__ volatile("" : "+r"(masked_)); \
	masked_ & (mask); })
#else
#define XG_MASKED(x, mask) ((__u32)(x) & (mask))
#endif

/* Bytes from one packet pointer to another. BPF's compiler would take the low halves, which the
 * verifier does not let it subtract. */
XG_INLINE __u64 xg_distance(const void *from, const void *to)
{
	__u64 distance = (__u64)(unsigned long)to;

#ifdef __bpf__
	__asm__ volatile("%0 -= %1" : "+r"(distance) : "r"(from));
#else
	distance -= (unsigned long)from;
#endif
	return distance;
}

/* Headers lie at any address. User space says so (packed), and its compiler makes one load of it;
 * BPF's would make one of each byte, where the kernel takes an unaligned word as it is. */
#ifdef __bpf__
#define XG_UNALIGNED
#else
#define XG_UNALIGNED __attribute__((packed))
#endif

#define XG_ETH_LEN 14
#define XG_VLAN_LEN 4
#define XG_VLAN_TAGS 2		/* 802.1ad outside, 802.1Q inside; more is nobody's rack */
#define XG_IPV4_LEN 20
#define XG_IPV4_DF 0x4000u	/* of fragment_be, as the next two */
#define XG_IPV4_MF 0x2000u
#define XG_IPV4_OFFSET 0x1fffu	/* in units of 8 bytes */
#define XG_IPV6_LEN 40
#define XG_IPV6_EXTENSIONS 4	/* hop-by-hop, destination options, routing, fragment */
#define XG_TCP_LEN 20
#define XG_UDP_LEN 8

#define XG_ETHERTYPE_IPV4 0x0800
#define XG_ETHERTYPE_IPV6 0x86dd
#define XG_ETHERTYPE_VLAN 0x8100
#define XG_ETHERTYPE_QINQ 0x88a8

#define XG_PROTO_ICMP 1
#define XG_PROTO_IPIP 4
#define XG_PROTO_TCP 6
#define XG_PROTO_UDP 17
#define XG_PROTO_IPV6 41
#define XG_PROTO_ICMPV6 58

#define XG_IPV6_FRAGMENT 44	/* the extension header's number, RFC 8200 4.5 */

#define XG_TCP_FIN 0x01
#define XG_TCP_SYN 0x02
#define XG_TCP_RST 0x04
#define XG_TCP_ACK 0x10

enum xg_parse_reason {
	XG_PARSE_OK = 0,
	XG_PARSE_NOT_IP,	/* another EtherType, or a third VLAN tag */
	XG_PARSE_TRUNCATED,	/* a header or the IP length reaches behind the frame's end */
	XG_PARSE_BAD_HEADER,	/* version, header length or total length is impossible */
	XG_PARSE_NOT_TRANSPORT,	/* neither TCP nor UDP, or too many extension headers */
	XG_PARSE_FRAGMENT,	/* a later fragment: no ports */
};

enum xg_fragment {
	XG_FRAGMENT_NONE = 0,	/* a whole packet */
	XG_FRAGMENT_FIRST = 1,	/* it has the ports, and more fragments follow */
	XG_FRAGMENT_LATER,
};

/* What the parser found. Addresses are IPv6; IPv4 ones are v4-mapped (RFC 4291 2.5.5.2). */
struct xg_packet {
	__u32 source_be[4];
	__u32 destination_be[4];
	__u32 seq;		/* TCP, host order */
	__u32 ack;		/* TCP, host order */
	__u32 beyond;		/* in: bytes of the frame behind `end`, in further buffers */
	__u32 fragment_id;	/* as on the wire; of a whole packet it means nothing */
	__u16 source_port_be;
	__u16 destination_port_be;
	__u16 l3_offset;	/* bytes from the frame's start to the IP header */
	__u16 l4_offset;	/* bytes from the frame's start to the TCP or UDP header */
	__u16 ip_len;		/* bytes from the IP header to the packet's end, by the IP header */
	__u8 family;		/* 4 or 6 */
	__u8 protocol;		/* XG_PROTO_TCP or XG_PROTO_UDP */
	__u8 tcp_flags;
	__u8 tos;		/* DSCP and ECN: IPv4 TOS, IPv6 traffic class */
	__u8 fragment;		/* enum xg_fragment */
	__u8 is_error;		/* an ICMP error: the session is the one that it quotes */
};

struct xg_eth {
	__u8 destination[6];
	__u8 source[6];
	__u16 ethertype_be;
} XG_UNALIGNED;

struct xg_vlan {
	__u16 tci_be;
	__u16 ethertype_be;
} XG_UNALIGNED;

struct xg_ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__u16 total_len_be;
	__u16 id_be;
	__u16 fragment_be;
	__u8 ttl;
	__u8 protocol;
	__u16 check_be;
	__u32 source_be;
	__u32 destination_be;
} XG_UNALIGNED;

struct xg_ipv6 {
	__u32 version_class_flow_be;
	__u16 payload_len_be;
	__u8 next_header;
	__u8 hop_limit;
	__u32 source_be[4];
	__u32 destination_be[4];
} XG_UNALIGNED;

struct xg_tcp {
	__u16 source_port_be;
	__u16 destination_port_be;
	__u32 seq_be;
	__u32 ack_be;
	__u8 data_offset;
	__u8 flags;
	__u16 window_be;
	__u16 check_be;
	__u16 urgent_be;
} XG_UNALIGNED;

struct xg_udp {
	__u16 source_port_be;
	__u16 destination_port_be;
	__u16 len_be;
	__u16 check_be;
} XG_UNALIGNED;

#define XG_ICMP_LEN 8

struct xg_icmp {
	__u8 type;
	__u8 code;
	__u16 check;	/* in the order of memory, as a sum of such words is */
	__u32 rest_be;	/* IPv4: the MTU, 16 bits behind 16 unused ones; IPv6: the MTU */
} XG_UNALIGNED;

_Static_assert(sizeof(struct xg_icmp) == XG_ICMP_LEN, "on the wire");
_Static_assert(sizeof(struct xg_eth) == XG_ETH_LEN, "on the wire");
_Static_assert(sizeof(struct xg_ipv4) == XG_IPV4_LEN, "on the wire");
_Static_assert(sizeof(struct xg_ipv6) == XG_IPV6_LEN, "on the wire");
_Static_assert(sizeof(struct xg_tcp) == XG_TCP_LEN, "on the wire");
_Static_assert(sizeof(struct xg_udp) == XG_UDP_LEN, "on the wire");
_Static_assert(sizeof(struct xg_packet) == 64, "no padding: BPF hands the struct on whole");

/* The header must lie in the frame and, as padding may follow it, in the IP packet too. */
XG_INLINE int xg_parse_l4(const void *l4, const void *end, struct xg_packet *packet)
{
	__u32 offset = (__u32)packet->l4_offset - packet->l3_offset;

	if (packet->protocol == XG_PROTO_TCP) {
		const struct xg_tcp *tcp = l4;

		if ((const void *)(tcp + 1) > end || offset + XG_TCP_LEN > packet->ip_len)
			return XG_PARSE_TRUNCATED;
		packet->source_port_be = tcp->source_port_be;
		packet->destination_port_be = tcp->destination_port_be;
		packet->seq = XG_BE32(tcp->seq_be);
		packet->ack = XG_BE32(tcp->ack_be);
		packet->tcp_flags = tcp->flags;
		return XG_PARSE_OK;
	}
	if (packet->protocol == XG_PROTO_UDP) {
		const struct xg_udp *udp = l4;

		if ((const void *)(udp + 1) > end || offset + XG_UDP_LEN > packet->ip_len)
			return XG_PARSE_TRUNCATED;
		packet->source_port_be = udp->source_port_be;
		packet->destination_port_be = udp->destination_port_be;
		packet->seq = 0;
		packet->ack = 0;
		packet->tcp_flags = 0;
		return XG_PARSE_OK;
	}
	return XG_PARSE_NOT_TRANSPORT;
}

XG_INLINE int xg_parse_ipv4(const void *l3, const void *end, struct xg_packet *packet)
{
	const struct xg_ipv4 *ip = l3;
	__u32 header_len, total_len;
	__u16 fragment;

	if ((const void *)(ip + 1) > end)
		return XG_PARSE_TRUNCATED;
	header_len = (ip->version_ihl & 0x0f) * 4u;
	total_len = XG_MASKED(XG_BE16(ip->total_len_be), 0xffff);
	if ((ip->version_ihl >> 4) != 4 || header_len < XG_IPV4_LEN || total_len < header_len)
		return XG_PARSE_BAD_HEADER;
	if (total_len > xg_distance(l3, end) + packet->beyond)
		return XG_PARSE_TRUNCATED;
	packet->family = 4;
	packet->protocol = ip->protocol;
	packet->tos = ip->tos;
	packet->ip_len = (__u16)total_len;
	packet->l4_offset = (__u16)(packet->l3_offset + header_len);
	packet->source_be[0] = packet->source_be[1] = 0;
	packet->source_be[2] = XG_BE32(0xffff);
	packet->source_be[3] = ip->source_be;
	packet->destination_be[0] = packet->destination_be[1] = 0;
	packet->destination_be[2] = XG_BE32(0xffff);
	packet->destination_be[3] = ip->destination_be;
	fragment = XG_BE16(ip->fragment_be);
	packet->fragment_id = ip->id_be;
	packet->fragment = fragment >> 13 & XG_FRAGMENT_FIRST;	/* more fragments */
	if (fragment & XG_IPV4_OFFSET) {
		packet->fragment = XG_FRAGMENT_LATER;
		return XG_PARSE_FRAGMENT;
	}
	return xg_parse_l4((const __u8 *)l3 + header_len, end, packet);
}

/* Steps over one extension header. Returns the next header's protocol, or -reason. */
XG_INLINE int xg_step_extension(const __u8 **cursor, const void *end, __u8 kind)
{
	const __u8 *header = *cursor;

	if ((const void *)(header + 8) > end)
		return -XG_PARSE_TRUNCATED;
	if (kind == XG_IPV6_FRAGMENT) {
		*cursor = header + 8;
		if (((header[2] << 8) | header[3]) & 0xfff8)
			return -XG_PARSE_FRAGMENT;
		return header[0];
	}
	*cursor = header + ((header[1] & 0x1f) + 1u) * 8u;	/* at most 256 bytes each */
	if (header[1] > 0x1f)
		return -XG_PARSE_NOT_TRANSPORT;
	return header[0];
}

/* A fragment header that says neither "more" nor an offset makes no fragment (RFC 6946). */
XG_INLINE void xg_note_fragment(const __u8 *header, const void *end, struct xg_packet *packet)
{
	if ((const void *)(header + 8) > end)
		return;
	__builtin_memcpy(&packet->fragment_id, header + 4, 4);
	packet->fragment |= header[3] & XG_FRAGMENT_FIRST;	/* more fragments */
}

XG_INLINE int xg_parse_ipv6(const void *l3, const void *end, struct xg_packet *packet)
{
	const struct xg_ipv6 *ip = l3;
	const __u8 *cursor = (const __u8 *)l3 + XG_IPV6_LEN;
	int next;

	if ((const void *)(ip + 1) > end)
		return XG_PARSE_TRUNCATED;
	if ((*(const __u8 *)l3 >> 4) != 6)
		return XG_PARSE_BAD_HEADER;
	if (XG_BE16(ip->payload_len_be) > 65535 - XG_IPV6_LEN)
		return XG_PARSE_BAD_HEADER;
	packet->family = 6;
	packet->tos = (__u8)(XG_BE32(ip->version_class_flow_be) >> 20);
	packet->ip_len = (__u16)(XG_IPV6_LEN + XG_BE16(ip->payload_len_be));
	if (packet->ip_len > xg_distance(l3, end) + packet->beyond)
		return XG_PARSE_TRUNCATED;
	__builtin_memcpy(packet->source_be, ip->source_be, 16);
	__builtin_memcpy(packet->destination_be, ip->destination_be, 16);
	next = ip->next_header;
#pragma GCC unroll 4
	for (int i = 0; i < XG_IPV6_EXTENSIONS; i++) {
		if (next != 0 && next != 43 && next != XG_IPV6_FRAGMENT && next != 60)
			break;
		if (next == XG_IPV6_FRAGMENT)
			xg_note_fragment(cursor, end, packet);
		next = xg_step_extension(&cursor, end, (__u8)next);
		if (next == -XG_PARSE_FRAGMENT)
			packet->fragment = XG_FRAGMENT_LATER;
		if (next < 0)
			return -next;
	}
	packet->protocol = (__u8)next;
	packet->l4_offset = (__u16)(packet->l3_offset + (cursor - (const __u8 *)l3));
	return xg_parse_l4(cursor, end, packet);
}

/* Parses an IP packet at l3; packet->l3_offset and `beyond` must be set. Returns an
 * xg_parse_reason. */
XG_INLINE int xg_parse_ip(const void *l3, const void *end, __u16 ethertype,
			  struct xg_packet *packet)
{
	if (ethertype == XG_ETHERTYPE_IPV4)
		return xg_parse_ipv4(l3, end, packet);
	if (ethertype == XG_ETHERTYPE_IPV6)
		return xg_parse_ipv6(l3, end, packet);
	return XG_PARSE_NOT_IP;
}

/* Parses the frame [data, end), of which there may be more (`beyond`). */
XG_INLINE int xg_parse_first_buffer(const void *data, const void *end, struct xg_packet *packet)
{
	const struct xg_eth *eth = data;
	const __u8 *l3 = (const __u8 *)data + XG_ETH_LEN;
	__u16 ethertype;

	packet->protocol = 0;	/* of a header that was not read */
	packet->fragment = XG_FRAGMENT_NONE;
	packet->is_error = 0;
	if ((const void *)(eth + 1) > end)
		return XG_PARSE_TRUNCATED;
	ethertype = XG_BE16(eth->ethertype_be);
	packet->l3_offset = XG_ETH_LEN;
#pragma GCC unroll 2
	for (int i = 0; i < XG_VLAN_TAGS; i++) {
		const struct xg_vlan *vlan = (const void *)l3;

		if (ethertype != XG_ETHERTYPE_VLAN && ethertype != XG_ETHERTYPE_QINQ)
			break;
		if ((const void *)(vlan + 1) > end)
			return XG_PARSE_TRUNCATED;
		ethertype = XG_BE16(vlan->ethertype_be);
		l3 += XG_VLAN_LEN;
		packet->l3_offset += XG_VLAN_LEN;
	}
	return xg_parse_ip(l3, end, ethertype, packet);
}

/* Parses the frame [data, end). Returns an xg_parse_reason; on others than OK the fields of
 * the layers that were read are set, the rest is undefined. */
XG_INLINE int xg_parse_frame(const void *data, const void *end, struct xg_packet *packet)
{
	packet->beyond = 0;
	return xg_parse_first_buffer(data, end, packet);
}

#endif
