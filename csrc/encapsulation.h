/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The tunnel formats on the wire, and how what one of them says is read.
 *
 * One POP speaks one format. GUE and IP-in-IP carry the IP packet, Geneve and VXLAN an Ethernet
 * frame. GUE and Geneve have room for marks and a cookie; the others have none: they rely on the
 * check of the outer source. A liveness probe is a GUE control message in every POP: no data
 * header of the other formats begins with its first octet. Bits: docs/wire-format.md.
 */
#ifndef XG_ENCAPSULATION_H
#define XG_ENCAPSULATION_H

#include "packet_parse.h"

enum xg_encapsulation {
	XG_GUE = 0,
	XG_GENEVE,
	XG_VXLAN,
	XG_IPIP,
};

#define XG_GUE_LEN 16
#define XG_GENEVE_LEN 24
#define XG_VXLAN_LEN 8

/* GUE's first octet: version 0, control bit, length of what follows the first 4 bytes / 4. */
#define XG_GUE_DATA 0x03
#define XG_GUE_CONTROL 0x23
#define XG_GUE_PROBE 1		/* control type: are you there? */
#define XG_GUE_PROBE_REPLY 2
#define XG_SHIM_FORMAT 1	/* of our private data; another number is not ours to read */
#define XG_MARK_FLOOD 0x80	/* terminal: take it if your kernel knows it, else drop it */
#define XG_MARK_HOP 0x01	/* it was misdirected once already */
#define XG_MARK_RELAY 0x02	/* take it if your kernel knows it, else flood it for the sender */

#define XG_GENEVE_FIRST 0x04	/* version 0, four words of options */
#define XG_GENEVE_CLASS 0xff58	/* of the experimental range of option classes (RFC 8926 7) */
#define XG_GENEVE_TYPE 0x01	/* not critical: others may skip it */
#define XG_GENEVE_WORDS 3	/* of the option behind its own first word */
#define XG_ETHERTYPE_TEB 0x6558	/* an Ethernet frame follows */
#define XG_VXLAN_FLAGS 0x08	/* the network identifier is valid; nothing else */

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

/* Geneve (RFC 8926) with one option. */
struct xg_geneve {
	__u8 version_words;
	__u8 flags;
	__u16 protocol_be;	/* XG_ETHERTYPE_TEB */
	__u32 vni_be;		/* and 8 reserved bits */
	__u16 class_be;
	__u8 type;
	__u8 words;
	__u8 format;
	__u8 mark;
	__u16 reserved;
	__u64 cookie;
} XG_UNALIGNED;

/* VXLAN (RFC 7348). */
struct xg_vxlan {
	__u32 flags_be;		/* 8 flags, 24 reserved bits: 0 */
	__u32 vni_be;		/* and 8 reserved bits: 0 */
} XG_UNALIGNED;

_Static_assert(sizeof(struct xg_gue) == XG_GUE_LEN, "on the wire");
_Static_assert(sizeof(struct xg_geneve) == XG_GENEVE_LEN, "on the wire");
_Static_assert(sizeof(struct xg_vxlan) == XG_VXLAN_LEN, "on the wire");

/* What the headers between the outer IP header and the inner one say. */
struct xg_shim {
	__u64 cookie;
	__u16 offset;		/* of the first of them: the GUE header, for a probe */
	__u16 inner_offset;	/* of the inner IP header */
	__u8 has_cookie;
	__u8 mark;
	__u8 proto;		/* of the inner packet, 4 or 41; of a probe: its control type */
	__u8 is_probe;
	__u8 is_sound;		/* the sender writes the format as this POP does */
};

XG_INLINE int xg_same_address(const __u32 a_be[4], const __u32 b_be[4])
{
	return a_be[3] == b_be[3] && a_be[2] == b_be[2] && a_be[1] == b_be[1] && a_be[0] == b_be[0];
}

/* Whether a packet is one of the tunnel for the host of this address, or for the flood group.
 * IP-in-IP has no transport that the parser knows, but its addresses are read. */
XG_INLINE int xg_is_tunnel(const struct xg_packet *packet, __u16 tunnel_port_be,
			   __u8 encapsulation, const __u32 address_be[4],
			   const __u32 flood_group_be[4])
{
	if (packet->protocol == XG_PROTO_UDP) {
		if (packet->destination_port_be != tunnel_port_be)
			return 0;
	} else if (encapsulation != XG_IPIP ||
		   (packet->protocol != XG_PROTO_IPIP && packet->protocol != XG_PROTO_IPV6)) {
		return 0;
	}
	return xg_same_address(packet->destination_be, address_be) ||
	       xg_same_address(packet->destination_be, flood_group_be);
}

XG_INLINE int xg_read_gue(const void *at, const void *end, struct xg_shim *shim)
{
	const struct xg_gue *gue = at;

	if ((const void *)(gue + 1) > end)
		return -1;
	shim->cookie = gue->cookie;
	shim->has_cookie = 1;
	shim->mark = gue->mark;
	shim->proto = gue->proto_ctype;
	shim->is_probe = gue->version_hlen == XG_GUE_CONTROL;
	shim->is_sound = gue->flags_be == 0 && gue->format == XG_SHIM_FORMAT &&
			 (shim->is_probe ? gue->proto_ctype == XG_GUE_PROBE :
					   gue->version_hlen == XG_GUE_DATA);
	shim->inner_offset = (__u16)(shim->offset + XG_GUE_LEN);
	return 0;
}

/* The Ethernet header inside: whose it is says nothing, all hosts are known by the outer one. */
XG_INLINE int xg_read_inner_ethernet(const void *at, const void *end, struct xg_shim *shim)
{
	const struct xg_eth *eth = at;

	if ((const void *)(eth + 1) > end)
		return -1;
	shim->proto = eth->ethertype_be == XG_BE16(XG_ETHERTYPE_IPV4) ? XG_PROTO_IPIP : 0;
	if (eth->ethertype_be == XG_BE16(XG_ETHERTYPE_IPV6))
		shim->proto = XG_PROTO_IPV6;
	return 0;
}

XG_INLINE int xg_read_geneve(const void *at, const void *end, struct xg_shim *shim)
{
	const struct xg_geneve *geneve = at;

	if ((const void *)(geneve + 1) > end)
		return -1;
	shim->cookie = geneve->cookie;
	shim->has_cookie = 1;
	shim->mark = geneve->mark;
	shim->is_sound = geneve->version_words == XG_GENEVE_FIRST && geneve->flags == 0 &&
			 geneve->protocol_be == XG_BE16(XG_ETHERTYPE_TEB) &&
			 geneve->class_be == XG_BE16(XG_GENEVE_CLASS) &&
			 geneve->type == XG_GENEVE_TYPE && geneve->words == XG_GENEVE_WORDS &&
			 geneve->format == XG_SHIM_FORMAT;
	shim->inner_offset = (__u16)(shim->offset + XG_GENEVE_LEN + XG_ETH_LEN);
	return xg_read_inner_ethernet(geneve + 1, end, shim);
}

XG_INLINE int xg_read_vxlan(const void *at, const void *end, struct xg_shim *shim)
{
	const struct xg_vxlan *vxlan = at;

	if ((const void *)(vxlan + 1) > end)
		return -1;
	shim->is_sound = vxlan->flags_be == XG_BE32((__u32)XG_VXLAN_FLAGS << 24);
	shim->inner_offset = (__u16)(shim->offset + XG_VXLAN_LEN + XG_ETH_LEN);
	return xg_read_inner_ethernet(vxlan + 1, end, shim);
}

/* Reads what follows the outer headers of a packet of the tunnel. 0; -1: cut. `shim`: zeroed. */
XG_INLINE int xg_read_shim(const void *data, const void *end, const struct xg_packet *outer,
			   __u8 encapsulation, struct xg_shim *shim)
{
	const __u8 *at = (const __u8 *)data + XG_MASKED(outer->l4_offset, 0x7ff);

	shim->offset = outer->l4_offset;
	if (outer->protocol != XG_PROTO_UDP) {
		shim->inner_offset = shim->offset;
		shim->proto = outer->protocol;
		shim->is_sound = 1;
		return 0;
	}
	at += XG_UDP_LEN;
	shim->offset = (__u16)(shim->offset + XG_UDP_LEN);
	if (at + 1 > (const __u8 *)end)
		return -1;
	if (encapsulation == XG_GUE || *at == XG_GUE_CONTROL || encapsulation == XG_IPIP) {
		if (xg_read_gue(at, end, shim))
			return -1;
		if (encapsulation != XG_GUE && !shim->is_probe)
			shim->is_sound = 0;
		return 0;
	}
	return encapsulation == XG_GENEVE ? xg_read_geneve(at, end, shim) :
					    xg_read_vxlan(at, end, shim);
}

/* Parses the inner packet; shim->proto says of which family. Returns an xg_parse_reason. */
XG_INLINE int xg_parse_inner(const void *data, const void *end, const struct xg_shim *shim,
			     struct xg_packet *inner)
{
	const __u8 *at = (const __u8 *)data + XG_MASKED(shim->inner_offset, 0x7ff);

	inner->l3_offset = shim->inner_offset;
	if (shim->proto == XG_PROTO_IPIP)
		return xg_parse_ipv4(at, end, inner);
	if (shim->proto == XG_PROTO_IPV6)
		return xg_parse_ipv6(at, end, inner);
	return XG_PARSE_NOT_IP;
}

#endif
