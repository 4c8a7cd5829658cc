/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The maps of the XDP program and their readers: sessions, owners, budgets, recent flows.
 */
#ifndef XG_BPF_SESSION_MAPS_H
#define XG_BPF_SESSION_MAPS_H

#include "maps.h"
#include "session_lookup.h"

#define RECENT_HOT_MS 100	/* an event for the agent at most this often for one flow */
/* Misses of one flow in that time that count as a live client's: the ACKs of a download at
 * 100 Mbit/s. */
#define RECENT_PACKETS_MAX 512

/* The compiler forgets what it knows of a value: it neither follows each one that it may have
 * through the code behind, nor computes it before it is needed. BPF has few registers for that. */
#define XG_FORGET(x) __asm__ volatile("" : "+r"(x))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);		/* the loader sets the real number */
	__type(key, __u32);
	__type(value, struct xg_bucket4);
} sessions4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xg_bucket6);
} sessions6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XG_OWNERS);
	__type(key, __u32);
	__type(value, struct xg_owner_state);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XG_TEMPLATES);
	__type(key, __u32);
	__type(value, struct xg_template);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XG_PEERS);
	__type(key, struct xg_peer_key);
	__type(value, struct xg_peer);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, XG_RING_BYTES);
} packet_events SEC(".maps");

struct recent {
	__u32 tag;	/* of the flow's keyed hash */
	__u32 at_ms;	/* when the agent was told last */
	__u32 packets;	/* since then */
};

struct recent_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XG_RECENT);
	__type(key, __u32);
	__type(value, struct recent);
};

struct recent_map recent_misses SEC(".maps");
struct recent_map recent_claims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XG_BUDGETS);
	__type(key, __u32);
	__type(value, __u64);	/* when the budget is full again, CLOCK_MONOTONIC */
} budgets SEC(".maps");

/* An own session whose full socket the kernel has just found: its word holds for a tick. */
struct trusted {
	__u64 hash;
	__u64 tick_ns;	/* the kernel's coarse clock, when it was asked */
	__u32 ack;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XG_TRUSTED);
	__type(key, __u32);
	__type(value, struct trusted);
} trusted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, XG_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XG_QUEUES);
	__type(key, __u32);
	__type(value, struct xg_queue);
} queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xg_stamp);
} stamp SEC(".maps");

struct found {
	__u64 hash;
	__u64 meta;	/* of a valid entry, or 0 */
	__u16 template_index;	/* that leads to its owner, or XG_NO_TEMPLATE */
};

static __always_inline struct xg_owner_state *owner_state(__u32 host)
{
	return bpf_map_lookup_elem(&owners, &host);
}

/* Takes a meta word as what was found, if its owner's state says that it counts. */
static __always_inline void take_valid(struct found *found, __u64 meta)
{
	struct xg_owner_state *slot, state;

	if (!meta)
		return;
	slot = owner_state(xg_meta_owner(meta));
	if (!slot)
		return;
	*(__u64 *)&state = *(volatile __u64 *)slot;
	if (!xg_meta_valid(meta, state))
		return;
	found->meta = meta;
	found->template_index = state.template_index;
}

static __always_inline __u64 key4_of(const struct xg_packet *packet, __u16 slot)
{
	return (__u64)packet->source_be[3] | (__u64)packet->source_port_be << 32 |
	       (__u64)slot << 48;
}

static __always_inline void key6_of(const struct xg_packet *packet, __u16 slot, __u64 key[3])
{
	key[0] = packet->source_be[0] | (__u64)packet->source_be[1] << 32;
	key[1] = packet->source_be[2] | (__u64)packet->source_be[3] << 32;
	key[2] = packet->source_port_be | (__u64)slot << 16;
}

/* The table's header: element 0 of its array. */
static __always_inline struct xg_table_header *table_header(int family)
{
	__u32 zero = 0;

	return family == 4 ? bpf_map_lookup_elem(&sessions4, &zero) :
			     bpf_map_lookup_elem(&sessions6, &zero);
}

static __always_inline __u64 hash_with(const struct xg_table_header *header,
				       const struct xg_packet *packet, __u16 slot)
{
	__u64 key[3];

	if (packet->family == 4)
		return xg_hash4(header->hash_key, key4_of(packet, slot));
	key6_of(packet, slot, key);
	return xg_hash6(header->hash_key, key);
}

static __always_inline __u64 session_hash(const struct xg_packet *packet, __u16 slot)
{
	struct xg_table_header *header = table_header(packet->family);

	return header ? hash_with(header, packet, slot) : 0;
}

/* Sets `beyond` if the session may lie in its second bucket. */
static __always_inline __u64 probe4(__u32 bucket, __u64 key, __u32 check, int *beyond)
{
	__u32 element = bucket + 1;
	struct xg_bucket4 *b = bpf_map_lookup_elem(&sessions4, &element);

	*beyond = b ? xg_bucket4_goes_beyond(b) : 0;
	return b ? xg_bucket4_find(b, key, check) : 0;
}

static __always_inline __u64 probe6(__u32 bucket, const __u64 key[3], __u32 check, int *beyond)
{
	__u32 element = bucket + 1;
	struct xg_bucket6 *b = bpf_map_lookup_elem(&sessions6, &element);

	*beyond = b ? xg_bucket6_goes_beyond(b) : 0;
	return b ? xg_bucket6_find(b, key, check) : 0;
}

/* Loads a word of each cache line of a bucket, so that it comes while other things are asked. */
static __always_inline void touch(void *bucket, __u32 bytes)
{
	if (!bucket)
		return;
	for (__u32 at = 0; at < bytes; at += 64)
		(void)*(volatile __u64 *)(bucket + at);
}

/* The first half of a look-up: hashes the session and calls for its first bucket. */
static __always_inline void locate_session(const struct xg_packet *packet, __u16 slot,
					   struct found *found)
{
	struct xg_table_header *header = table_header(packet->family);
	__u32 bucket;

	if (!header)
		return;
	found->hash = hash_with(header, packet, slot);
	bucket = xg_hash_bucket1(found->hash, header->buckets) + 1;
	if (packet->family == 4)
		touch(bpf_map_lookup_elem(&sessions4, &bucket), sizeof(struct xg_bucket4));
	else
		touch(bpf_map_lookup_elem(&sessions6, &bucket), sizeof(struct xg_bucket6));
}

/* Computed only where it is needed: most sessions lie in their first bucket. */
static __always_inline __u32 second_bucket(__u64 hash, const struct xg_table_header *header)
{
	XG_FORGET(hash);
	return xg_hash_bucket2(hash, header->buckets);
}

/* One map in each function: of two, merged, the compiler could not inline the look-up. */
static __always_inline __u64 look4(__u64 hash, __u64 key, const int both)
{
	__u32 check = xg_hash_check(hash);
	struct xg_table_header *header = table_header(4);
	__u64 meta = 0, moves;
	int beyond;

	if (!header)
		return 0;
	for (int i = 0; i < XG_LOOKUP_TRIES; i++) {
		moves = *(volatile __u64 *)&header->moves;
		meta = probe4(xg_hash_bucket1(hash, header->buckets), key, check, &beyond);
		if (!meta && (both || beyond))
			meta = probe4(second_bucket(hash, header), key, check, &beyond);
		if (meta || moves == *(volatile __u64 *)&header->moves)
			break;
	}
	return meta;
}

static __always_inline __u64 look6(__u64 hash, const __u64 key[3], const int both)
{
	__u32 check = xg_hash_check(hash);
	struct xg_table_header *header = table_header(6);
	__u64 meta = 0, moves;
	int beyond;

	if (!header)
		return 0;
	for (int i = 0; i < XG_LOOKUP_TRIES; i++) {
		moves = *(volatile __u64 *)&header->moves;
		meta = probe6(xg_hash_bucket1(hash, header->buckets), key, check, &beyond);
		if (!meta && (both || beyond))
			meta = probe6(second_bucket(hash, header), key, check, &beyond);
		if (meta || moves == *(volatile __u64 *)&header->moves)
			break;
	}
	return meta;
}

/* The second half: the first bucket, the second if that goes beyond, or `both` always; again if an
 * entry was moved between the two looks. */
static __always_inline void find_session_in(const struct xg_packet *packet, __u16 slot,
					    struct found *found, const int both)
{
	__u64 key[3];

	if (packet->family == 4) {
		take_valid(found, look4(found->hash, key4_of(packet, slot), both));
		return;
	}
	key6_of(packet, slot, key);
	take_valid(found, look6(found->hash, key, both));
}

static __always_inline void find_session(const struct xg_packet *packet, __u16 slot,
					 struct found *found)
{
	find_session_in(packet, slot, found, 0);
}

/* How far an acknowledgement may be ahead of the one that the kernel judged: a tick's worth at
 * 2 Gbit/s. Of another connection's, which are random, one in 4096 lies there. */
#define TRUSTED_AHEAD (1u << 20)

static __always_inline struct trusted *trusted_at(__u64 hash)
{
	__u32 index = (__u32)hash & (XG_TRUSTED - 1);

	return bpf_map_lookup_elem(&trusted, &index);
}

/* Is this the continuation, within the same tick, of an own session that the kernel knew? */
static __always_inline int is_trusted(const struct xg_packet *packet, __u64 hash)
{
	const __u8 flags = XG_TCP_SYN | XG_TCP_FIN | XG_TCP_RST | XG_TCP_ACK;
	struct trusted *at;

	if (packet->protocol != XG_PROTO_TCP || (packet->tcp_flags & flags) != XG_TCP_ACK)
		return 0;
	at = trusted_at(hash);
	return at && at->hash == hash && packet->ack - at->ack < TRUSTED_AHEAD &&
	       at->tick_ns == bpf_ktime_get_coarse_ns();
}

static __always_inline void trust(const struct xg_packet *packet, __u64 hash)
{
	struct trusted *at = trusted_at(hash);

	if (!at)
		return;
	at->hash = hash;
	at->tick_ns = bpf_ktime_get_coarse_ns();
	at->ack = packet->ack;
}

#define RECENT_NEW 0	/* not remembered: remembered now */
#define RECENT_SEEN 1	/* remembered, and the agent was not told lately */
#define RECENT_HOT 2	/* remembered, and the agent was told a moment ago */
#define RECENT_FLOODING 3	/* hot, and more packets than a live flow has */

/* A small memory of flows, overwritten by newer ones; a wrong answer costs one budget token. */
static __always_inline int remember(void *map, __u64 hash)
{
	__u32 now_ms = (__u32)(bpf_ktime_get_ns() / 1000000);
	__u32 index = (__u32)hash & (XG_RECENT - 1);
	__u32 tag = (__u32)(hash >> 32);
	struct recent *recent = bpf_map_lookup_elem(map, &index);
	int seen;

	if (!recent)
		return RECENT_HOT;
	seen = recent->tag == tag && recent->at_ms != 0;
	if (seen && now_ms - recent->at_ms < RECENT_HOT_MS)
		return recent->packets++ < RECENT_PACKETS_MAX ? RECENT_HOT : RECENT_FLOODING;
	recent->tag = tag;
	recent->at_ms = now_ms;
	recent->packets = 0;
	return seen ? RECENT_SEEN : RECENT_NEW;
}

/* Generic cell rate: one 64-bit "full again at" a budget. Two cores may race for one token;
 * the budget is a limit against storms, not an account. */
static __always_inline int within_budget(const struct xg_config *cfg, __u32 budget)
{
	__u64 *full_at = bpf_map_lookup_elem(&budgets, &budget);
	__u64 now = bpf_ktime_get_ns();
	__u64 start;

	if (!full_at)
		return 0;
	if (cfg->budget_interval_ns[XG_MASKED(budget, XG_BUDGETS - 1)] == 0)
		return 1;
	start = *full_at > now ? *full_at : now;
	if (start - now > cfg->budget_burst_ns)
		return 0;
	*full_at = start + cfg->budget_interval_ns[XG_MASKED(budget, XG_BUDGETS - 1)];
	return 1;
}

static __noinline void tell_agent(const struct xg_packet *packet, __u8 kind, __u16 slot,
				       __u16 host)
{
	struct xg_event *event = bpf_ringbuf_reserve(&packet_events, sizeof(*event), 0);
	__u32 address_be[4];

	if (!event) {
		count(XG_COUNT_packet_events_lost);
		return;
	}
	__builtin_memcpy(address_be, packet->source_be, 16);
	if (packet->family == 4) {
		address_be[0] = address_be[3];
		address_be[2] = address_be[3] = 0;
	}
	event->kind = kind;
	event->family = packet->family;
	event->slot = slot;
	event->port_be = packet->source_port_be;
	event->host = host;
	event->seq = packet->seq;
	event->ack = packet->ack;
	__builtin_memcpy(event->address, address_be, 16);
	event->at_ns = bpf_ktime_get_ns();
	bpf_ringbuf_submit(event, 0);
}

#endif
