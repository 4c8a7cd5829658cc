/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Another session in the same frame at each repeat of BPF_PROG_TEST_RUN, which does not restore it;
 * then the product's XDP program, or nothing but a look-up in a map of the kernel's.
 *
 * Each program here begins alike and ends in XDP_TX. Those that have no measured part say what the
 * beginning costs. They are made for frames in several buffers as the product's is: else the
 * kernel allows no tail call to it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "packet_parse.h"

#define FRAME_LEN 60
#define ADDED 44		/* bytes: GUE over IPv4 without a tag, but for Ethernet */
#define TCP_OFFSET (XG_ETH_LEN + XG_IPV4_LEN)

struct session {
	__u32 client_be;
	__u16 port_be;
	__u16 reserved;
};

/* All sessions, in the order of their packets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);		/* the loader sets the real number */
	__type(key, __u32);
	__type(value, struct session);
} order SEC(".maps");

struct running {
	__u64 ethernet[2];	/* the frame's header: the first 14 bytes */
	__u32 next;		/* in the order */
	__u32 count;		/* sessions of which the order is used */
	__u32 vip_be;
	__u16 port_be;
	__u16 reserved;
	__u64 hits;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct running);
} running SEC(".maps");

#define OURS 0
#define NOTHING 1

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} measured SEC(".maps");

/* A flow over IPv4, and what katran keeps of one. */
struct flow {
	__u32 source_be;
	__u32 destination_be;
	__u16 source_port_be;
	__u16 destination_port_be;
	__u32 protocol;
};

struct place {
	__u32 host;	/* 1: each look-up counts one hit */
	__u32 reserved;
	__u64 at_ns;
};

_Static_assert(sizeof(struct flow) == 16, "a key of two words");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);		/* the loader sets the real number */
	__type(key, struct flow);
	__type(value, struct place);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow);
	__type(value, struct place);
} flows_hash SEC(".maps");

/* The next session of the order; a null pointer: the maps are not filled. */
static __always_inline const struct session *next_session(struct running *r)
{
	const struct session *session;
	__u32 next = r->next;

	session = bpf_map_lookup_elem(&order, &next);
	r->next = next + 1 < r->count ? next + 1 : 0;
	return session;
}

/* Makes the frame of it. */
static __always_inline int restore(struct xdp_md *ctx, const struct running *r,
				   const struct session *session)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_ipv4 *ip = data + XG_ETH_LEN;
	struct xg_tcp *tcp = data + TCP_OFFSET;

	if (data + FRAME_LEN > end)
		return -1;
	*(__u64 *)data = r->ethernet[0];
	*(__u32 *)(data + 8) = (__u32)r->ethernet[1];
	*(__u16 *)(data + 12) = (__u16)(r->ethernet[1] >> 32);
	ip->source_be = session->client_be;
	tcp->source_port_be = session->port_be;
	return 0;
}

static __always_inline int is_longer(struct xdp_md *ctx)
{
	return (void *)(long)ctx->data + FRAME_LEN < (void *)(long)ctx->data_end;
}

static __always_inline struct running *the_running(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&running, &zero);
}

static __always_inline void fill_flow(const struct running *r, const struct session *session,
				      struct flow *flow)
{
	flow->source_be = session->client_be;
	flow->destination_be = r->vip_be;
	flow->source_port_be = session->port_be;
	flow->destination_port_be = r->port_be;
	flow->protocol = XG_PROTO_TCP;
}

/* The frame without headers, then the product's program. It returns only if that is not there. */
SEC("xdp.frags")
int bench_ours(struct xdp_md *ctx)
{
	struct running *r = the_running();
	const struct session *session;

	if (!r)
		return XDP_ABORTED;
	session = next_session(r);
	if (!session || (is_longer(ctx) && bpf_xdp_adjust_head(ctx, ADDED)) ||
	    restore(ctx, r, session))
		return XDP_ABORTED;
	bpf_tail_call(ctx, &measured, OURS);
	return XDP_ABORTED;
}

/* What is called in the product's place. */
SEC("xdp.frags")
int bench_nothing(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* The same without it: each run moves the frame's head once, as above, now forth, now back. */
SEC("xdp.frags")
int bench_ours_empty(struct xdp_md *ctx)
{
	struct running *r = the_running();
	const struct session *session;
	int by = is_longer(ctx) ? ADDED : -ADDED;

	if (!r)
		return XDP_ABORTED;
	session = next_session(r);
	if (!session || bpf_xdp_adjust_head(ctx, by) || restore(ctx, r, session))
		return XDP_ABORTED;
	bpf_tail_call(ctx, &measured, NOTHING);
	return XDP_ABORTED;
}

/* A look-up and nothing else. */
#define LOOK_UP(name, map)                                                        \
	SEC("xdp.frags")                                                          \
	int bench_##name(struct xdp_md *ctx)                                      \
	{                                                                         \
		struct running *r = the_running();                                \
		const struct session *session;                                    \
		struct flow flow;                                                 \
		struct place *found;                                              \
										  \
		if (!r)                                                           \
			return XDP_ABORTED;                                       \
		session = next_session(r);                                        \
		if (!session || restore(ctx, r, session))                         \
			return XDP_ABORTED;                                       \
		fill_flow(r, session, &flow);                                     \
		found = bpf_map_lookup_elem(&map, &flow);                         \
		if (!found)                                                       \
			return XDP_DROP;                                          \
		r->hits += found->host;                                           \
		return XDP_TX;                                                    \
	}

LOOK_UP(lru, flows)
LOOK_UP(hash, flows_hash)

SEC("xdp.frags")
int bench_empty(struct xdp_md *ctx)
{
	struct running *r = the_running();
	const struct session *session;

	if (!r)
		return XDP_ABORTED;
	session = next_session(r);
	if (!session || restore(ctx, r, session))
		return XDP_ABORTED;
	return XDP_TX;
}

/* Fills both maps, a session each run. */
SEC("xdp.frags")
int bench_fill(struct xdp_md *ctx)
{
	struct running *r = the_running();
	const struct session *session;
	struct place place = { .host = 1 };
	struct flow flow;

	if (!r)
		return XDP_ABORTED;
	session = next_session(r);
	if (!session)
		return XDP_ABORTED;
	fill_flow(r, session, &flow);
	if (bpf_map_update_elem(&flows, &flow, &place, BPF_ANY) ||
	    bpf_map_update_elem(&flows_hash, &flow, &place, BPF_ANY))
		return XDP_DROP;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
