/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The owner of a QUIC packet by its connection id, in XDP: reads the id, and finds the way there.
 */
#ifndef XG_BPF_QUIC_H
#define XG_BPF_QUIC_H

#include "quic_lb.h"
#include "session_maps.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XG_QUIC_LAYOUTS);
	__type(key, __u32);
	__type(value, struct xg_quic_lb);
} quic_lb SEC(".maps");

/* The host that the datagram at `offset` names, or XG_QUIC_NOBODY. Not static: the verifier looks
 * at it once, for all ways that lead here. */
__noinline int xg_quic_owner_at(struct xdp_md *ctx, __u32 offset, __u32 len)
{
	__u64 text[XG_QUIC_ID_WORDS] = {};
	__u8 head[8] = {};
	struct xg_quic_lb *layout;
	struct xg_quic_id id;
	__u32 index, id_len;
	__u8 first;

	if (bpf_xdp_load_bytes(ctx, offset, head, XG_QUIC_HEAD))
		return XG_QUIC_NOBODY;
	id = xg_quic_find_id(head, len);
	id_len = XG_MASKED(id.len, 0x1f);
	if (id_len < XG_QUIC_ID_MIN || id_len > XG_QUIC_ID_MAX ||
	    bpf_xdp_load_bytes(ctx, offset + id.offset, text, id_len))
		return XG_QUIC_NOBODY;
	first = xg_quic_take_first(text);
	index = first >> 5;
	layout = bpf_map_lookup_elem(&quic_lb, &index);
	return layout ? xg_quic_host(layout, first, text, id) : XG_QUIC_NOBODY;
}

/* The template to another active host that the packet's id names, or XG_NO_TEMPLATE. */
static __always_inline __u16 template_by_id(struct xdp_md *ctx, const struct xg_config *cfg,
					    const struct xg_packet *packet)
{
	__u32 l4_offset = packet->l4_offset;
	struct xg_owner_state *slot, state;
	struct xg_udp udp;
	int owner;

	if (bpf_xdp_load_bytes(ctx, l4_offset, &udp, sizeof(udp)))
		return XG_NO_TEMPLATE;
	owner = xg_quic_owner_at(ctx, l4_offset + XG_UDP_LEN,
				 xg_quic_payload_len(packet, XG_BE16(udp.len_be)));
	if (owner < 0 || owner == cfg->host)
		return XG_NO_TEMPLATE;
	slot = owner_state((__u16)owner);
	if (!slot)
		return XG_NO_TEMPLATE;
	state = *slot;
	return state.flags & XG_OWNER_ACTIVE ? state.template_index : XG_NO_TEMPLATE;
}

#endif
