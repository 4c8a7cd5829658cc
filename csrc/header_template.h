/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The header template: precomputed outer headers of one destination, and how they are patched.
 *
 * Built in Python (templates.py), written in front of the packet by BPF and by the C forwarder
 * with the code below. Per packet it reads nothing of the frame that the parser has not read; but
 * for a real UDP checksum over IPv6, which is derived from the inner packet's own (the payload is
 * not read for it either). Formats: encapsulation.h; each over IPv4 or IPv6, with or without a
 * VLAN tag.
 */
#ifndef XG_HEADER_TEMPLATE_H
#define XG_HEADER_TEMPLATE_H

#include "encapsulation.h"

#define XG_TEMPLATE_BYTES 112	/* Ethernet, VLAN, IPv6, UDP, Geneve and an inner Ethernet: 104 */
#define XG_TEMPLATE_IPV6 0x01	/* the outer header is IPv6 */
#define XG_TEMPLATE_SUM 0x02	/* ... with a real UDP checksum */

/* Bytes of outer headers; of constants it is one. */
#define XG_SHIM_BYTES(encapsulation) \
	((encapsulation) == XG_GUE    ? XG_UDP_LEN + XG_GUE_LEN : \
	 (encapsulation) == XG_GENEVE ? XG_UDP_LEN + XG_GENEVE_LEN + XG_ETH_LEN : \
	 (encapsulation) == XG_VXLAN  ? XG_UDP_LEN + XG_VXLAN_LEN + XG_ETH_LEN : 0)
#define XG_OUTER_BYTES(encapsulation, ipv6, l2_len) \
	((__u32)(l2_len) + ((ipv6) ? XG_IPV6_LEN : XG_IPV4_LEN) + XG_SHIM_BYTES(encapsulation))

struct xg_template {
	__u8 bytes[XG_TEMPLATE_BYTES];
	__u16 len;		/* bytes of outer headers, Ethernet included; 0: no template */
	__u16 l2_len;		/* Ethernet and VLAN tag: 14 or 18 */
	__u16 mtu;		/* largest outer IP packet, bytes */
	__u8 encapsulation;	/* enum xg_encapsulation */
	__u8 flags;		/* XG_TEMPLATE_* */
	__u32 sum;		/* one's-complement, patched fields 0: of the IPv4 header, or of
				 * what UDP's checksum over IPv6 covers */
	__u32 generation;	/* raised with each new content, for people who look */
};

_Static_assert(__builtin_offsetof(struct xg_template, flags) ==
	       __builtin_offsetof(struct xg_template, len) + 7, "one word: xg_template_kind");
_Static_assert(sizeof(struct xg_template) == 128, "two cache lines; shared with BPF and Python");

/* Entropy for the outer UDP source port: the flow's hash, the same in both planes. Of the addresses
 * and the ports of both ends, in one word each. */
XG_INLINE __u32 xg_mix_flow(__u64 addresses, __u64 ports)
{
	__u64 mix = addresses + ports * 0x9e3779b97f4a7c15ull;

	mix ^= mix >> 32;
	mix *= 0xd6e8feb86659fd93ull;
	return (__u32)(mix >> 32);
}

XG_INLINE __u32 xg_flow_hash(const struct xg_packet *packet)
{
	__u64 addresses = ((__u64)packet->source_be[3] << 32) | packet->destination_be[3];

	addresses ^= ((__u64)packet->source_be[0] ^ packet->source_be[2]) << 16;
	addresses ^= packet->source_be[1];
	return xg_mix_flow(addresses, (__u64)packet->source_port_be << 16 |
				      packet->destination_port_be);
}

/* Both halves are added to each other: the lower sum's carry goes into the upper one. */
XG_INLINE __u16 xg_fold(__u32 sum)
{
	return (__u16)((sum + (sum >> 16 | sum << 16)) >> 16);
}

/* Bytes of the outer IP packet that would carry `packet`. */
XG_INLINE __u32 xg_outer_ip_len(const struct xg_template *tmpl, const struct xg_packet *packet)
{
	return (__u32)tmpl->len - tmpl->l2_len + packet->ip_len;
}

/* Copies `len` (a constant, even) bytes of a template; in BPF by words, where a memcpy of unknown
 * alignment would go by bytes. Elsewhere in two parts: the last one overwrites the frame's own
 * Ethernet header, which mostly begins a cache line, and no store lies in two of them. */
XG_INLINE void xg_template_copy(__u8 *dst, const __u8 *bytes, const __u32 len)
{
#ifdef __bpf__
	__u32 at = 0;

	for (; at + 8 <= len; at += 8)
		*(__u64 *)(dst + at) = *(const __u64 *)(bytes + at);
	for (; at < len; at += 2)
		*(__u16 *)(dst + at) = *(const __u16 *)(bytes + at);
#else
	__builtin_memcpy(dst, bytes, len - XG_ETH_LEN);
	__builtin_memcpy(dst + len - XG_ETH_LEN, bytes + len - XG_ETH_LEN, XG_ETH_LEN);
#endif
}

/* RFC 6040 4.1, normal mode: the outer header takes the inner ECN field, and DSCP. */
XG_INLINE void xg_patch_ipv4(struct xg_ipv4 *ip, const struct xg_template *tmpl,
			     const struct xg_packet *packet, __u32 ip_len, const __u8 protocol)
{
	ip->tos = packet->tos;
	ip->total_len_be = XG_BE16(ip_len);
	if (protocol)
		ip->protocol = protocol;
	ip->check_be = XG_BE16((__u16)~xg_fold(tmpl->sum + ip_len + packet->tos + protocol));
}

/* RFC 6438: the flow label tells flows apart for those who look at no port. */
XG_INLINE void xg_patch_ipv6(struct xg_ipv6 *ip, const struct xg_packet *packet, __u32 ip_len,
			     __u32 hash, const __u8 protocol)
{
	ip->version_class_flow_be =
		XG_BE32(0x60000000u | (__u32)packet->tos << 20 | (hash & 0xfffff));
	ip->payload_len_be = XG_BE16(ip_len - XG_IPV6_LEN);
	if (protocol)
		ip->next_header = protocol;
}

/* Writes what the format says of the packet. Returns what that adds to the sum. */
XG_INLINE __u32 xg_patch_shim(void *at, const struct xg_packet *packet, __u8 mark,
			      const enum xg_encapsulation encapsulation)
{
	__u16 ethertype = packet->family == 4 ? XG_ETHERTYPE_IPV4 : XG_ETHERTYPE_IPV6;
	struct xg_gue *gue = at;
	struct xg_geneve *geneve = at;
	struct xg_eth *eth;
	__u32 added;

	if (encapsulation == XG_GUE) {
		gue->proto_ctype = packet->family == 4 ? XG_PROTO_IPIP : XG_PROTO_IPV6;
		added = gue->proto_ctype + (mark & (__u8)~gue->mark);
		gue->mark |= mark;
		return added;
	}
	if (encapsulation == XG_GENEVE) {
		eth = (void *)((__u8 *)at + XG_GENEVE_LEN);
		eth->ethertype_be = XG_BE16(ethertype);
		added = ethertype + (mark & (__u8)~geneve->mark);
		geneve->mark |= mark;
		return added;
	}
	eth = (void *)((__u8 *)at + XG_VXLAN_LEN);
	eth->ethertype_be = XG_BE16(ethertype);
	return ethertype;
}

/* Writes the header bytes to dst and patches them. `hash`: of xg_flow_hash(). All of the last three
 * are constants. */
XG_INLINE void xg_template_write(__u8 *dst, const struct xg_template *tmpl,
				 const struct xg_packet *packet, __u32 hash, __u8 mark,
				 __u32 inner_sum, const enum xg_encapsulation encapsulation,
				 const int ipv6, const __u32 l2_len)
{
	const __u32 len = XG_OUTER_BYTES(encapsulation, ipv6, l2_len);
	const __u32 l3_len = ipv6 ? XG_IPV6_LEN : XG_IPV4_LEN;
	struct xg_udp *udp = (void *)(dst + l2_len + l3_len);
	__u32 ip_len = len - l2_len + packet->ip_len;
	__u32 sum, udp_len, port;
	__u8 protocol = 0;

	if (encapsulation == XG_IPIP)
		protocol = packet->family == 4 ? XG_PROTO_IPIP : XG_PROTO_IPV6;
	xg_template_copy(dst, tmpl->bytes, len);
	if (ipv6)
		xg_patch_ipv6((void *)(dst + l2_len), packet, ip_len, hash, protocol);
	else
		xg_patch_ipv4((void *)(dst + l2_len), tmpl, packet, ip_len, protocol);
	if (encapsulation == XG_IPIP)
		return;
	port = 0xc000 | (hash & 0x3fff);
	udp_len = ip_len - l3_len;
	udp->source_port_be = XG_BE16(port);
	udp->len_be = XG_BE16(udp_len);
	sum = xg_patch_shim(udp + 1, packet, mark, encapsulation);
	if (ipv6 && (tmpl->flags & XG_TEMPLATE_SUM)) {
		sum = (__u16)~xg_fold(sum + tmpl->sum + inner_sum + port + 2 * udp_len);
		udp->check_be = sum ? XG_BE16(sum) : 0xffff;	/* 0 would mean: none */
	}
}

/* What says by which code a template is written, in one word: its fields from `len` on, but for the
 * MTU and the flag of a real checksum. */
#define XG_KIND(encapsulation, ipv6, l2_len) \
	((__u64)((ipv6) ? XG_TEMPLATE_IPV6 : 0) << 56 | (__u64)(encapsulation) << 48 | \
	 (__u64)(l2_len) << 16 | XG_OUTER_BYTES(encapsulation, ipv6, l2_len))

#define XG_KIND_SUM ((__u64)XG_TEMPLATE_SUM << 56)
#define XG_KIND_MTU (0xffffull << 32)

XG_INLINE __u64 xg_template_fields(const struct xg_template *tmpl)
{
	__u64 fields;

	__builtin_memcpy(&fields, &tmpl->len, sizeof(fields));
	return fields;
}

XG_INLINE __u64 xg_template_kind(const struct xg_template *tmpl)
{
	return xg_template_fields(tmpl) & ~(XG_KIND_SUM | XG_KIND_MTU);
}

/* One format over one IP version, with or without a tag. */
#define XG_TRY(encapsulation_, ipv6_, l2_len_) \
	if (kind == XG_KIND(encapsulation_, ipv6_, l2_len_)) { \
		if ((const __u8 *)dst + XG_OUTER_BYTES(encapsulation_, ipv6_, l2_len_) > \
		    (const __u8 *)end) \
			return 0; \
		xg_template_write(dst, tmpl, packet, xg_flow_hash(packet), mark, inner_sum, \
				  encapsulation_, ipv6_, l2_len_); \
		return XG_OUTER_BYTES(encapsulation_, ipv6_, l2_len_); \
	}
#define XG_TRY_TAGS(encapsulation_, ipv6_) \
	XG_TRY(encapsulation_, ipv6_, XG_ETH_LEN) \
	XG_TRY(encapsulation_, ipv6_, XG_ETH_LEN + XG_VLAN_LEN)

/* Writes the template to dst, which has room up to `end`. `inner_sum`: of xg_inner_sum, if the
 * template wants it. Returns the bytes written, or 0 if the template is of no known kind or does
 * not fit. */
XG_INLINE __u32 xg_template_apply(void *dst, const void *end, const struct xg_template *tmpl,
				  const struct xg_packet *packet, __u8 mark, __u32 inner_sum)
{
	const __u64 kind = xg_template_kind(tmpl);

	XG_TRY_TAGS(XG_GUE, 0)
	XG_TRY_TAGS(XG_GUE, 1)
	XG_TRY_TAGS(XG_GENEVE, 0)
	XG_TRY_TAGS(XG_GENEVE, 1)
	XG_TRY_TAGS(XG_VXLAN, 0)
	XG_TRY_TAGS(XG_VXLAN, 1)
	XG_TRY_TAGS(XG_IPIP, 0)
	XG_TRY_TAGS(XG_IPIP, 1)
	return 0;
}

/* ---- a real UDP checksum, derived from the inner packet's (as Linux's LCO does) ---- */

XG_INLINE __u32 xg_sum_of_word(__u32 be)
{
	return (XG_BE32(be) >> 16) + (XG_BE32(be) & 0xffff);
}

/* Whether a checksum covers exactly what lies behind the IP header. */
XG_INLINE int xg_has_checksum(const __u8 *l4, const void *end, __u8 protocol, __u32 l4_len)
{
	const struct xg_udp *udp = (const void *)l4;

	if (protocol == XG_PROTO_UDP)
		return (const void *)(udp + 1) <= end && udp->check_be != 0 &&
		       XG_BE16(udp->len_be) == l4_len;
	return protocol == XG_PROTO_TCP || protocol == XG_PROTO_ICMP ||
	       protocol == XG_PROTO_ICMPV6;
}

XG_INLINE int xg_inner_sum4(const struct xg_ipv4 *ip, const void *l4, const void *end,
			    __u32 l4_len, __u32 *sum)
{
	if ((const void *)(ip + 1) > end || (XG_BE16(ip->fragment_be) & 0x3fff) ||
	    ip->protocol == XG_PROTO_ICMPV6 || !xg_has_checksum(l4, end, ip->protocol, l4_len))
		return -1;
	/* ICMP has no pseudo header: all of it sums up to nothing */
	if (ip->protocol == XG_PROTO_ICMP)
		return 0;
	*sum = (__u16)~xg_fold(xg_sum_of_word(ip->source_be) + l4_len + ip->protocol +
			       xg_sum_of_word(ip->destination_be));
	return 0;
}

/* The one's-complement sum of a packet whose checksums are right: an IPv4 header sums up to
 * nothing, and what TCP, UDP or ICMPv6 covers to the complement of its pseudo header. 0; -1: it
 * has no such checksum (a fragment, a datagram without one, extension headers). The protocol is
 * the header's: an ICMP error goes by the session that it quotes. `sum`: 0. */
XG_INLINE int xg_inner_sum(const void *l3, const void *end, const struct xg_packet *packet,
			   __u32 *sum)
{
	__u32 header_len = (__u32)packet->l4_offset - packet->l3_offset;
	__u32 l4_len = packet->ip_len - header_len;
	const __u8 *l4 = (const __u8 *)l3 + XG_MASKED(header_len, 0x7ff);
	const struct xg_ipv6 *ip = l3;

	if (packet->family == 4)
		return xg_inner_sum4(l3, l4, end, l4_len, sum);
	if ((const void *)(ip + 1) > end || header_len != XG_IPV6_LEN ||
	    ip->next_header == XG_PROTO_ICMP || !xg_has_checksum(l4, end, ip->next_header, l4_len))
		return -1;
	/* addresses and length are in both sums, and cancel */
	*sum = xg_sum_of_word(ip->version_class_flow_be) +
	       ((__u32)ip->next_header << 8 | ip->hop_limit) + (__u16)~ip->next_header;
	return 0;
}

#endif
