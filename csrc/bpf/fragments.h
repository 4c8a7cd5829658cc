/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Fragments in XDP: what became of a first fragment is remembered, and the later ones, which have
 * no ports, follow it.
 *
 * The memory is in one place, so the AF_XDP loop gets a fragment only with a note that says where
 * it goes (note.h). It is bounded by the map's size and by time; what it does not know is passed
 * to the stack, which can answer nothing without the first fragment, or, if another host sent it
 * here, dropped.
 */
#ifndef XG_BPF_FRAGMENTS_H
#define XG_BPF_FRAGMENTS_H

#include "session_maps.h"

#define XG_FRAGMENTS 4096	/* packets of which fragments are under way */
/* From the first fragment to the last: a packet's fragments leave the sender back to back. Soon
 * enough over that an IPv4 identification is not yet in use again. */
#define FRAGMENTS_NS 2000000000ull
#define FRAGMENT_BY_LOOP 0x100u	/* beside the mark: the loop sends it */

struct fragment_key {
	__u32 source_be[4];
	__u32 destination_be[4];
	__u32 id;
	__u32 protocol;		/* RFC 791; 0 for IPv6, RFC 8200 4.5 */
};

struct first_fragment {
	__u64 at_ns;
	__u16 template_index;	/* where it was sent, or XG_NO_TEMPLATE: to the stack here */
	__u16 source_port_be;	/* the later ones get the same outer source port */
	__u16 destination_port_be;
	__u8 mark;
	__u8 by_loop;		/* it was too big, and the loop's: so are the later ones */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, XG_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct first_fragment);
} fragments SEC(".maps");

static __always_inline int is_vip(const struct xg_packet *packet)
{
	return service_at(packet->destination_be, 0, 0) != NULL;
}

static __always_inline void fragment_key_of(const struct xg_packet *packet,
					    struct fragment_key *key)
{
	__builtin_memcpy(key->source_be, packet->source_be, 16);
	__builtin_memcpy(key->destination_be, packet->destination_be, 16);
	key->id = packet->fragment_id;
	key->protocol = packet->family == 4 ? packet->protocol : 0;
}

/* A first fragment was sent, or passed (XG_NO_TEMPLATE); of others nothing is remembered. Not
 * static, so that the verifier looks at it once. */
__noinline int remember_fragment(const struct xg_packet *packet, __u32 index, __u32 mark)
{
	struct fragment_key key = {};
	struct first_fragment first = {};

	if (!packet || packet->fragment != XG_FRAGMENT_FIRST || !is_vip(packet))
		return 0;
	fragment_key_of(packet, &key);
	first.at_ns = bpf_ktime_get_ns();
	first.template_index = (__u16)index;
	first.source_port_be = packet->source_port_be;
	first.destination_port_be = packet->destination_port_be;
	first.mark = (__u8)mark;
	first.by_loop = (mark & FRAGMENT_BY_LOOP) != 0;
	return (int)bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}

/* What became of the first fragment of a later one's packet, or a null pointer. */
static __always_inline struct first_fragment *first_fragment_of(const struct xg_packet *packet)
{
	struct fragment_key key = {};
	struct first_fragment *first;

	fragment_key_of(packet, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	/* another core may have written it after we read the clock: signed */
	if (first && (__s64)(bpf_ktime_get_ns() - first->at_ns) < (__s64)FRAGMENTS_NS)
		return first;
	return NULL;
}

#endif
