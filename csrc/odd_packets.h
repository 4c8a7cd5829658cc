/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the parser leaves without ports, though it may belong to a session: fragments that are cut
 * and ICMP, whose errors quote the packet that they are about. BPF and user space.
 *
 * Everything of a quote is checked before it is read: anybody can send one.
 */
#ifndef XG_ODD_PACKETS_H
#define XG_ODD_PACKETS_H

#include "packet_parse.h"

#define XG_QUOTED_PORTS 8	/* bytes of TCP or UDP that a quote must have: RFC 792 */

enum xg_odd {
	XG_ODD_NONE = 0,	/* nothing that could belong to a session */
	XG_ODD_TINY,		/* a first fragment that ends before its ports do */
	XG_ODD_ICMP,		/* not read yet */
	XG_ODD_ECHO,		/* an echo request */
	XG_ODD_ERROR,		/* an ICMP error that quotes TCP or UDP */
};

/* What a packet is that the parser gave up on for `reason`. Of all but XG_ODD_NONE the addresses
 * were read. */
XG_INLINE int xg_odd_kind(int reason, const struct xg_packet *packet)
{
	if (reason == XG_PARSE_TRUNCATED && packet->fragment == XG_FRAGMENT_FIRST)
		return XG_ODD_TINY;
	if (reason != XG_PARSE_NOT_TRANSPORT || packet->fragment != XG_FRAGMENT_NONE)
		return XG_ODD_NONE;
	if (packet->protocol == (packet->family == 4 ? XG_PROTO_ICMP : XG_PROTO_ICMPV6))
		return XG_ODD_ICMP;
	return XG_ODD_NONE;
}

XG_INLINE int xg_is_icmp_error(__u8 family, __u8 type)
{
	if (family == 4)	/* unreachable, time exceeded, parameter problem */
		return type == 3 || type == 11 || type == 12;
	return type >= 1 && type <= 4;	/* the same, and packet too big */
}

/* Makes `packet` one of the client's in the session of which a packet was quoted: addresses and
 * ports swapped. Its place and length stay the ICMP packet's, so that this is what is sent, with
 * the outer headers of the session's own packets. A reset stands for any segment: in the
 * kernel's view it finds each socket but a listener. */
XG_INLINE int xg_take_quote(struct xg_packet *packet, __u8 protocol, const struct xg_udp *ports)
{
	if (protocol != XG_PROTO_TCP && protocol != XG_PROTO_UDP)
		return XG_ODD_ICMP;
	packet->protocol = protocol;
	packet->source_port_be = ports->destination_port_be;
	packet->destination_port_be = ports->source_port_be;
	packet->tcp_flags = protocol == XG_PROTO_TCP ? XG_TCP_RST : 0;
	packet->seq = packet->ack = 0;
	packet->is_error = 1;
	return XG_ODD_ERROR;
}

/* `left`: bytes of the ICMP packet from `quote` on, by its IP header. */
XG_INLINE int xg_read_quote4(const void *quote, const void *end, __u32 left,
			     struct xg_packet *packet)
{
	const struct xg_ipv4 *ip = quote;
	const __u8 *ports;
	__u32 len;

	if ((const void *)(ip + 1) > end || left < XG_IPV4_LEN)
		return XG_ODD_ICMP;
	len = XG_MASKED((ip->version_ihl & 0x0f) * 4u, 0x3f);
	ports = (const __u8 *)quote + len;
	if ((ip->version_ihl >> 4) != 4 || len < XG_IPV4_LEN || left < len + XG_QUOTED_PORTS ||
	    (const void *)(ports + XG_QUOTED_PORTS) > end)
		return XG_ODD_ICMP;
	/* a later fragment has no ports; what the VIP did not send is none of its sessions' */
	if ((XG_BE16(ip->fragment_be) & XG_IPV4_OFFSET) ||
	    ip->source_be != packet->destination_be[3])
		return XG_ODD_ICMP;
	packet->source_be[3] = ip->destination_be;
	return xg_take_quote(packet, ip->protocol, (const void *)ports);
}

XG_INLINE int xg_read_quote6(const void *quote, const void *end, __u32 left,
			     struct xg_packet *packet)
{
	const struct xg_ipv6 *ip = quote;
	const __u8 *at = (const __u8 *)quote + XG_IPV6_LEN;
	__u32 len = XG_IPV6_LEN;
	int next;

	if ((const void *)(ip + 1) > end || left < XG_IPV6_LEN || (*(const __u8 *)quote >> 4) != 6)
		return XG_ODD_ICMP;
	next = ip->next_header;
	if (next == XG_IPV6_FRAGMENT) {	/* the one extension header that a stack adds by itself */
		next = xg_step_extension(&at, end, XG_IPV6_FRAGMENT);
		len += 8;
	}
	if (next < 0 || left < len + XG_QUOTED_PORTS ||
	    (const void *)(at + XG_QUOTED_PORTS) > end)
		return XG_ODD_ICMP;
	for (int i = 0; i < 4; i++)
		if (ip->source_be[i] != packet->destination_be[i])
			return XG_ODD_ICMP;
	if (next == XG_PROTO_TCP || next == XG_PROTO_UDP)
		__builtin_memcpy(packet->source_be, ip->destination_be, 16);
	return xg_take_quote(packet, (__u8)next, (const void *)at);
}

/* Reads the ICMP header at l4 and what it quotes. Returns XG_ODD_ECHO, XG_ODD_ERROR with the
 * quoted session in `packet`, or XG_ODD_ICMP: anything else, `packet` may be spoiled. */
XG_INLINE int xg_read_icmp(const void *l4, const void *end, struct xg_packet *packet)
{
	const struct xg_icmp *icmp = l4;
	__u32 left = (__u32)packet->ip_len - (packet->l4_offset - packet->l3_offset);

	if ((const void *)(icmp + 1) > end || left > 0xffff || left < XG_ICMP_LEN)
		return XG_ODD_ICMP;
	if (icmp->type == (packet->family == 4 ? 8 : 128))
		return XG_ODD_ECHO;
	if (!xg_is_icmp_error(packet->family, icmp->type))
		return XG_ODD_ICMP;
	left -= XG_ICMP_LEN;
	return packet->family == 4 ? xg_read_quote4(icmp + 1, end, left, packet) :
				     xg_read_quote6(icmp + 1, end, left, packet);
}

#endif
