/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The header template: precomputed outer headers of one destination, and how they are patched.
 *
 * Built in Python (templates.py), written in front of the packet by BPF and by the C forwarder
 * with the code below. Per packet it reads nothing of the frame that the parser has not read.
 * First encapsulation: GUE variant 0 over UDP over IPv4, with or without a VLAN tag.
 */
#ifndef XG_HEADER_TEMPLATE_H
#define XG_HEADER_TEMPLATE_H

#include "packet_parse.h"

#define XG_TEMPLATE_BYTES 112	/* Ethernet, VLAN, IPv6, UDP and the longest shim that is planned */
#define XG_GUE_LEN 16
#define XG_GUE_IPV4_LEN (XG_ETH_LEN + XG_IPV4_LEN + XG_UDP_LEN + XG_GUE_LEN)
#define XG_GUE_IPV4_VLAN_LEN (XG_GUE_IPV4_LEN + XG_VLAN_LEN)

/* GUE's first octet: version 0, control bit, length of what follows the first 4 bytes / 4. */
#define XG_GUE_DATA 0x03
#define XG_GUE_CONTROL 0x23
#define XG_GUE_PROBE 1		/* control type: are you there? */
#define XG_GUE_PROBE_REPLY 2
#define XG_GUE_FORMAT 1		/* of our private data; another number is not ours to read */
#define XG_MARK_FLOOD 0x80	/* terminal: take it if your kernel knows it, else drop it */
#define XG_MARK_HOP 0x01	/* it was misdirected once already */
#define XG_MARK_RELAY 0x02	/* take it if your kernel knows it, else flood it for the sender */

/* GUE variant 0 (draft-ietf-intarea-gue) with 12 bytes of private data and no flag bits. */
struct xg_gue {
	__u8 version_hlen;
	__u8 proto_ctype;	/* data: IP protocol of the payload; control: XG_GUE_PROBE… */
	__u16 flags_be;		/* always 0: the kernel's own GUE refuses unknown flags */
	__u8 format;
	__u8 mark;
	__u16 reserved;
	__u64 cookie;		/* opaque bytes, keyed over the outer addresses */
} XG_UNALIGNED;

struct xg_template {
	__u8 bytes[XG_TEMPLATE_BYTES];
	__u16 len;		/* bytes of outer headers, Ethernet included; 0: no template */
	__u16 l2_len;		/* Ethernet and VLAN tag: 14 or 18 */
	__u16 mtu;		/* largest outer IP packet, bytes */
	__u16 reserved;
	__u32 ip_sum;		/* one's-complement sum of the IPv4 header, patched fields 0 */
	__u32 generation;	/* raised with each new content, for people who look */
};

_Static_assert(sizeof(struct xg_gue) == XG_GUE_LEN, "on the wire");
_Static_assert(sizeof(struct xg_template) == 128, "two cache lines; shared with BPF and Python");

/* Entropy for the outer UDP source port: the flow's hash, the same in both planes. */
XG_INLINE __u32 xg_flow_hash(const struct xg_packet *packet)
{
	__u64 mix = ((__u64)packet->source_be[3] << 32) | packet->destination_be[3];

	mix ^= ((__u64)packet->source_be[0] ^ packet->source_be[2]) << 16;
	mix ^= packet->source_be[1];
	mix += ((__u64)packet->source_port_be << 16 | packet->destination_port_be) *
	       0x9e3779b97f4a7c15ull;
	mix ^= mix >> 32;
	mix *= 0xd6e8feb86659fd93ull;
	return (__u32)(mix >> 32);
}

XG_INLINE __u16 xg_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* Bytes of the outer IP packet that would carry `packet`. */
XG_INLINE __u32 xg_outer_ip_len(const struct xg_template *tmpl, const struct xg_packet *packet)
{
	return (__u32)tmpl->len - tmpl->l2_len + packet->ip_len;
}

/* Copies `len` (a constant, even) bytes of a template; in BPF by words, where a memcpy of unknown
 * alignment would go by bytes. */
XG_INLINE void xg_template_copy(__u8 *dst, const __u8 *bytes, const __u32 len)
{
#ifdef __bpf__
	__u32 at = 0;

	for (; at + 8 <= len; at += 8)
		*(__u64 *)(dst + at) = *(const __u64 *)(bytes + at);
	for (; at < len; at += 2)
		*(__u16 *)(dst + at) = *(const __u16 *)(bytes + at);
#else
	__builtin_memcpy(dst, bytes, len);
#endif
}

/* Writes `len` (a constant) header bytes to dst and patches them; l2_len is a constant too. */
XG_INLINE void xg_template_write(__u8 *dst, const struct xg_template *tmpl,
				 const struct xg_packet *packet, __u8 mark,
				 const __u32 len, const __u32 l2_len)
{
	struct xg_ipv4 *ip = (void *)(dst + l2_len);
	struct xg_udp *udp = (void *)(dst + l2_len + XG_IPV4_LEN);
	struct xg_gue *gue = (void *)(dst + l2_len + XG_IPV4_LEN + XG_UDP_LEN);
	__u32 ip_len = len - l2_len + packet->ip_len;

	xg_template_copy(dst, tmpl->bytes, len);
	/* RFC 6040 4.1, normal mode: the outer header takes the inner ECN field, and DSCP. */
	ip->tos = packet->tos;
	ip->total_len_be = XG_BE16(ip_len);
	ip->check_be = XG_BE16((__u16)~xg_fold(tmpl->ip_sum + ip_len + packet->tos));
	udp->source_port_be = XG_BE16(0xc000 | (xg_flow_hash(packet) & 0x3fff));
	udp->len_be = XG_BE16(ip_len - XG_IPV4_LEN);
	gue->proto_ctype = packet->family == 4 ? XG_PROTO_IPIP : XG_PROTO_IPV6;
	gue->mark |= mark;
}

/* Writes the template to dst, which has room up to `end`. Returns the bytes written, or 0 if
 * the template is of no known length or does not fit. */
XG_INLINE __u32 xg_template_apply(void *dst, const void *end, const struct xg_template *tmpl,
				  const struct xg_packet *packet, __u8 mark)
{
	if (tmpl->len == XG_GUE_IPV4_LEN &&
	    (const __u8 *)dst + XG_GUE_IPV4_LEN <= (const __u8 *)end) {
		xg_template_write(dst, tmpl, packet, mark, XG_GUE_IPV4_LEN, XG_ETH_LEN);
		return XG_GUE_IPV4_LEN;
	}
	if (tmpl->len == XG_GUE_IPV4_VLAN_LEN &&
	    (const __u8 *)dst + XG_GUE_IPV4_VLAN_LEN <= (const __u8 *)end) {
		xg_template_write(dst, tmpl, packet, mark, XG_GUE_IPV4_VLAN_LEN,
				  XG_ETH_LEN + XG_VLAN_LEN);
		return XG_GUE_IPV4_VLAN_LEN;
	}
	return 0;
}

#endif
