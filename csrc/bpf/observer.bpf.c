/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The programs on the router of a test POP: one sees what hosts answer, one clears hashes.
 *
 * The observer is also the XDP program that a veth must have before frames sent by XDP_TX on
 * its peer arrive. Always XDP_PASS. Encapsulated packets are UDP and are not looked at.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Flows of one box: 400 connections need 400; a test of short connections needs thousands.
 * An entry is made per connection and goes with the box; full is counted, never evicted. */
#define FLOWS_MAX 262144
/* VIPs times ports that a box may answer for. */
#define SERVICES_MAX 64

#define TCP_SYN 0x02
#define TCP_RST 0x04

/* Packed: an IPv4 header after a 14-byte Ethernet header is not aligned. */
struct ipv4 {
	__u8 version_words;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__u8 source[4];
	__u8 destination[4];
} __attribute__((packed));

struct ipv6 {
	__u8 first[4];
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
} __attribute__((packed));

struct tcp {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
} __attribute__((packed));

/* A service as Python writes it: an IPv4 address lies in the first 4 bytes, rest 0. */
struct service_key {
	__u8 vip[16];
	__be16 port;
	__u16 family;	/* 4 or 6 */
};

struct flow_key {
	__u8 client[16];
	__u8 vip[16];
	__be16 client_port;
	__be16 port;
};

/* MACs as numbers, 0: not seen yet. */
struct flow {
	__u64 owner;		/* source of the first packet that is neither SYN nor RST */
	__u64 syn_acks[2];	/* a SYN sent twice may be answered by two hosts; both are right */
};

struct counters {
	__u64 packets;		/* TCP packets from a service, RST and SYN-ACK included */
	__u64 syn_acks;
	__u64 resets;
	__u64 misdelivered;	/* packets of a live flow from a host that is not its owner */
	__u64 orphans_answered;	/* ... from another host, after the owner was killed */
	__u64 flows_full;	/* flows not watched: the map was full */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICES_MAX);
	__type(key, struct service_key);
	__type(value, __u32);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICES_MAX);
	__type(key, __u64);	/* MAC of a host that was killed */
	__type(value, __u32);
} dead SEC(".maps");

struct answer {
	struct flow_key key;
	__u64 mac;
	__u8 flags;
	__u16 family;
};

static __always_inline __u64 mac_number(const __u8 *mac)
{
	return (__u64)mac[0] << 40 | (__u64)mac[1] << 32 | (__u64)mac[2] << 24 |
	       (__u64)mac[3] << 16 | (__u64)mac[4] << 8 | mac[5];
}

static __always_inline int parse_tcp(void *data, void *end, struct answer *answer)
{
	struct tcp *tcp = data;

	if ((void *)(tcp + 1) > end)
		return -1;
	answer->key.port = tcp->source;
	answer->key.client_port = tcp->destination;
	answer->flags = tcp->flags;
	return 0;
}

static __always_inline int parse_ipv4(void *data, void *end, struct answer *answer)
{
	struct ipv4 *ip = data;
	__u32 header_len;

	if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_TCP)
		return -1;
	header_len = (ip->version_words & 0x0f) * 4;
	if (header_len < sizeof(*ip) || (ip->fragment & bpf_htons(0x1fff)))
		return -1;
	__builtin_memcpy(answer->key.vip, ip->source, sizeof(ip->source));
	__builtin_memcpy(answer->key.client, ip->destination, sizeof(ip->destination));
	answer->family = 4;
	return parse_tcp(data + header_len, end, answer);
}

static __always_inline int parse_ipv6(void *data, void *end, struct answer *answer)
{
	struct ipv6 *ip = data;

	if ((void *)(ip + 1) > end || ip->next_header != IPPROTO_TCP)
		return -1;
	__builtin_memcpy(answer->key.vip, ip->source, sizeof(ip->source));
	__builtin_memcpy(answer->key.client, ip->destination, sizeof(ip->destination));
	answer->family = 6;
	return parse_tcp(ip + 1, end, answer);
}

static __always_inline int parse(struct xdp_md *ctx, struct answer *answer)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return -1;
	answer->mac = mac_number(eth->h_source);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(eth + 1, end, answer);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(eth + 1, end, answer);
	return -1;
}

static __always_inline int is_service(const struct answer *answer)
{
	struct service_key key = { .port = answer->key.port, .family = answer->family };

	__builtin_memcpy(key.vip, answer->key.vip, sizeof(key.vip));
	return bpf_map_lookup_elem(&services, &key) != NULL;
}

/* A SYN-ACK begins a connection, maybe one that reuses the client's port. */
static __always_inline void begin(const struct answer *answer, struct counters *count)
{
	struct flow *known = bpf_map_lookup_elem(&flows, &answer->key);
	struct flow fresh = { .syn_acks = { answer->mac, 0 } };

	count->syn_acks++;
	if (known && known->syn_acks[0] && !known->owner)
		fresh.syn_acks[1] = known->syn_acks[0];
	if (bpf_map_update_elem(&flows, &answer->key, &fresh, BPF_ANY))
		count->flows_full++;
}

static __always_inline void continue_flow(const struct answer *answer, struct counters *count)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &answer->key);

	if (!flow)	/* its beginning was not seen: nothing can be said of its owner */
		return;
	if (flow->owner) {
		if (flow->owner == answer->mac)
			return;
		/* A session dies with its owner: whoever says so to the client is right. */
		if (bpf_map_lookup_elem(&dead, &flow->owner))
			count->orphans_answered++;
		else
			count->misdelivered++;
	} else if (!(answer->flags & TCP_RST)) {
		flow->owner = answer->mac;
	} else if (flow->syn_acks[0] != answer->mac && flow->syn_acks[1] != answer->mac) {
		count->misdelivered++;	/* a host reset what another one had begun to accept */
	}
}

SEC("xdp")
int observe(struct xdp_md *ctx)
{
	struct answer answer = {};
	struct counters *count;
	__u32 zero = 0;

	if (parse(ctx, &answer) || !is_service(&answer))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&counters, &zero);
	if (!count)
		return XDP_PASS;
	count->packets++;
	if (answer.flags & TCP_RST)
		count->resets++;
	if (answer.flags & TCP_SYN)
		begin(&answer, count);
	else
		continue_flow(&answer, count);
	return XDP_PASS;
}

/*
 * A veth hands over the hash of the sending socket with the packet, the router's ECMP takes it
 * for the hash of the headers, and the sender draws a new one at each retransmission timeout.
 * No wire does that: without the hash the router computes it from the five-tuple.
 */
SEC("tc")
int clear_hash(struct __sk_buff *skb)
{
	bpf_set_hash_invalid(skb);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
