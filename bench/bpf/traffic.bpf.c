/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The two ends of a forwarding benchmark, and the trivial forwarders it is measured against.
 *
 * `bench_send` runs in BPF_PROG_TEST_RUN with live frames: it writes another session into each
 * frame and redirects it into a veth. The sinks count what comes back to that veth.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "header_template.h"
#include "packet_parse.h"

#define FRAME_LEN 60
#define PORTS_A_CLIENT 16
#define FIRST_PORT 1024
#define SPINS 1024		/* 25 us: more than one interval of any rate that is measured */
#define CATCH_UP 512		/* frames: two batches, which every receive ring here can hold */
#define TCP_OFFSET (XG_ETH_LEN + XG_IPV4_LEN)

/* One sending thread: no counter here is per CPU. */
struct sending {
	__u64 sent;
	__u64 interval_ns;	/* between two frames; 0: flat out */
	__u64 due_ns;		/* when the next frame may go */
	__u32 ifindex;		/* of the sender's end of the veth */
	__u32 state;		/* of the generator, any value */
	__u32 shift;		/* 32 - log2(sessions) */
	__u32 first_client;	/* host order */
	__u32 ip_sum;		/* of the IPv4 header without source address and checksum */
	__u32 reserved;
	__u8 frame[FRAME_LEN + 4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sending);
} sending SEC(".maps");

/* What a frame must look like that a forwarder gives back. */
struct expected {
	__u8 destination[6];
	__u16 inner_offset;	/* of a plane that encapsulates: bytes of outer headers */
	__u32 vip_be;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct expected);
} expected SEC(".maps");

#define SUNK_GOOD 0
#define SUNK_OTHER 1

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sunk SEC(".maps");

static __always_inline int sink(int good)
{
	__u32 which = good ? SUNK_GOOD : SUNK_OTHER;
	__u64 *value = bpf_map_lookup_elem(&sunk, &which);

	if (value)
		*value += 1;
	return XDP_DROP;
}

/* Waits for the frame's time, but never makes up for more than one batch that came late. */
static __always_inline void wait_for_turn(struct sending *s)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 late_ns = s->interval_ns * CATCH_UP;

	s->due_ns += s->interval_ns;
	if (s->due_ns + late_ns < now)
		s->due_ns = now;
	for (int i = 0; i < SPINS && now < s->due_ns; i++)
		now = bpf_ktime_get_ns();
}

/* Another pseudo-random session each time (a linear congruential generator's high bits; its
 * period is 2^32). The client is session / PORTS_A_CLIENT, the port the rest. */
SEC("xdp")
int bench_send(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_ipv4 *ip = data + XG_ETH_LEN;
	struct xg_tcp *tcp = data + TCP_OFFSET;
	__u32 zero = 0, session, client;
	struct sending *s = bpf_map_lookup_elem(&sending, &zero);

	if (!s || data + FRAME_LEN > end)
		return XDP_ABORTED;
	if (s->interval_ns)
		wait_for_turn(s);
	s->state = s->state * 1664525 + 1013904223;
	session = s->state >> (s->shift & 31);
	client = s->first_client + session / PORTS_A_CLIENT;
	__builtin_memcpy(data, s->frame, FRAME_LEN);
	ip->source_be = XG_BE32(client);
	ip->check_be = XG_BE16((__u16)~xg_fold(s->ip_sum + (client >> 16) + (client & 0xffff)));
	tcp->source_port_be = XG_BE16(FIRST_PORT + session % PORTS_A_CLIENT);
	s->sent++;
	return bpf_redirect(s->ifindex, 0);
}

/* For forwarders that swap the MAC addresses. */
SEC("xdp")
int bench_sink_plain(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_eth *eth = data;
	struct xg_ipv4 *ip = data + XG_ETH_LEN;
	__u32 zero = 0;
	struct expected *want = bpf_map_lookup_elem(&expected, &zero);

	if (!want || data + FRAME_LEN > end)
		return sink(0);
	return sink(*(__u32 *)eth->destination == *(__u32 *)want->destination &&
		    eth->ethertype_be == XG_BE16(XG_ETHERTYPE_IPV4) &&
		    ip->destination_be == want->vip_be);
}

/* For planes that encapsulate, whatever the format: the packet lies behind its headers. */
SEC("xdp")
int bench_sink_tunnel(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_eth *eth = data;
	__u32 zero = 0;
	struct expected *want = bpf_map_lookup_elem(&expected, &zero);
	struct xg_ipv4 *inner;

	if (!want || (void *)(eth + 1) > end)
		return sink(0);
	inner = data + (want->inner_offset & 0x7f);
	if ((void *)(inner + 1) > end)
		return sink(0);
	return sink(*(__u32 *)eth->destination == *(__u32 *)want->destination &&
		    inner->version_ihl == 0x45 && inner->destination_be == want->vip_be);
}

/* The floor of a forwarder in XDP: it reads one cache line of the frame and nothing else. */
SEC("xdp")
int bench_macswap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct xg_eth *eth = data;
	__u8 source[6];

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(source, eth->source, 6);
	__builtin_memcpy(eth->source, eth->destination, 6);
	__builtin_memcpy(eth->destination, source, 6);
	return XDP_TX;
}

/* The floor of a program that lets the host's own traffic through. */
SEC("xdp")
int bench_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
