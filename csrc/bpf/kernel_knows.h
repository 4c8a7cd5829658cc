/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Does this host's kernel know the session, and does the segment fit its socket?
 *
 * A socket alone is not enough: a stale ESTABLISHED socket or one in TIME_WAIT must not answer
 * a segment of a newer connection with the same addresses and ports. The rules are those of
 * docs/decision-table.md.
 */
#ifndef XG_BPF_KERNEL_KNOWS_H
#define XG_BPF_KERNEL_KNOWS_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "packet_parse.h"

/* A stray answer to data of the last 64 KiB may still be under way, whatever the window says. */
#define XG_FIT_WINDOW 65536u
#define XG_TIMEWAIT_WINDOW 0xffffu

enum xg_known {
	XG_UNKNOWN = 0,		/* no socket with these addresses and ports, but for a listener */
	XG_UNFIT,		/* a socket, but the segment is not of its connection: in doubt */
	XG_KNOWN_HALF,		/* it opens or closes, or is a cookie's: no claim comes of it */
	XG_KNOWN_FULL,		/* a full socket holds the session */
};

/* The fields that are read, by CO-RE; the kernel's own types have many more. */
struct tcp_sock {
	__u32 snd_una;
	__u32 write_seq;
	__u32 max_window;
} __attribute__((preserve_access_index));

struct sock_common {
	__u32 skc_tw_rcv_nxt;
	__u32 skc_tw_snd_nxt;
} __attribute__((preserve_access_index));

struct inet_timewait_sock {
	struct sock_common __tw_common;
} __attribute__((preserve_access_index));

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
} __attribute__((preserve_access_index));

struct tcp_request_sock {
	__u32 rcv_isn;
	__u32 snt_isn;
} __attribute__((preserve_access_index));

#define XG_STATE_ESTABLISHED 1
#define XG_STATE_SYN_SENT 2
#define XG_STATE_SYN_RECV 3
#define XG_STATE_TIME_WAIT 6
#define XG_STATE_LAST_ACK 9
#define XG_STATE_CLOSING 11
#define XG_STATE_LISTEN 10
#define XG_STATE_NEW_SYN_RECV 12

/* The acknowledgement number lies between what the peer may still acknowledge again and what
 * the application has written. write_seq, not snd_nxt: snd_nxt is raised only after the
 * transmission, and ACKs overtake it. */
static __always_inline int fits_full(void *sk, __u32 state, const struct xg_packet *packet)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	__u32 window;

	if (!tcp)
		return XG_UNFIT;
	/* Nothing in it says of which connection it is: the socket may judge, nobody may claim. */
	if (!(packet->tcp_flags & XG_TCP_ACK))
		return XG_KNOWN_HALF;
	window = tcp->max_window > XG_FIT_WINDOW ? tcp->max_window : XG_FIT_WINDOW;
	if ((__s32)(packet->ack - (tcp->snd_una - window)) < 0 ||
	    (__s32)(tcp->write_seq - packet->ack) < 0)
		return XG_UNFIT;
	/* Its end may be told before a claim that this segment would make. */
	return state == XG_STATE_LAST_ACK || state == XG_STATE_CLOSING ? XG_KNOWN_HALF :
									 XG_KNOWN_FULL;
}

static __always_inline int fits_timewait(void *sk, const struct xg_packet *packet)
{
	struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);
	__s32 distance;

	if (!tw)
		return XG_UNFIT;
	/* unsigned: it never sent anything that a larger number could acknowledge */
	if ((packet->tcp_flags & XG_TCP_ACK) &&
	    tw->tw_sk.__tw_common.skc_tw_snd_nxt - packet->ack > XG_TIMEWAIT_WINDOW)
		return XG_UNFIT;
	distance = (__s32)(packet->seq - tw->tw_sk.__tw_common.skc_tw_rcv_nxt);
	if (distance > (__s32)XG_FIT_WINDOW || distance < -(__s32)XG_FIT_WINDOW)
		return XG_UNFIT;
	return XG_KNOWN_HALF;
}

static __always_inline int fits_half_open(void *sk, const struct xg_packet *packet)
{
	struct tcp_request_sock *request = bpf_skc_to_tcp_request_sock(sk);

	if (!request)
		return XG_UNFIT;
	if (packet->tcp_flags & XG_TCP_ACK)
		return packet->ack == request->snt_isn + 1 ? XG_KNOWN_HALF : XG_UNFIT;
	if (packet->tcp_flags & XG_TCP_RST)
		return packet->seq == request->rcv_isn + 1 ? XG_KNOWN_HALF : XG_UNFIT;
	return XG_UNFIT;
}

/* The listener comes back for every miss; only a valid SYN cookie makes it count. */
static __always_inline int fits_cookie(struct xdp_md *ctx, struct bpf_sock *sk,
				       const struct xg_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 l3 = packet->l3_offset & 0x1ff;
	__u32 l4 = packet->l4_offset & 0x7ff;
	struct xg_tcp *tcp = data + l4;

	if (!(packet->tcp_flags & XG_TCP_ACK) || (packet->tcp_flags & (XG_TCP_RST | XG_TCP_SYN)))
		return XG_UNKNOWN;
	if ((void *)(tcp + 1) > end)
		return XG_UNKNOWN;
	if (packet->family == 4) {
		struct xg_ipv4 *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return XG_UNKNOWN;
		return bpf_tcp_check_syncookie(sk, ip, sizeof(*ip), (void *)tcp,
					       sizeof(*tcp)) == 0 ? XG_KNOWN_HALF : XG_UNKNOWN;
	}
	struct xg_ipv6 *ip6 = data + l3;

	if ((void *)(ip6 + 1) > end)
		return XG_UNKNOWN;
	return bpf_tcp_check_syncookie(sk, ip6, sizeof(*ip6), (void *)tcp,
				       sizeof(*tcp)) == 0 ? XG_KNOWN_HALF : XG_UNKNOWN;
}

static __always_inline void fill_tuple(const struct xg_packet *packet, struct bpf_sock_tuple *tuple)
{
	if (packet->family == 4) {
		tuple->ipv4.saddr = packet->source_be[3];
		tuple->ipv4.daddr = packet->destination_be[3];
		tuple->ipv4.sport = packet->source_port_be;
		tuple->ipv4.dport = packet->destination_port_be;
		return;
	}
	__builtin_memcpy(tuple->ipv6.saddr, packet->source_be, 16);
	__builtin_memcpy(tuple->ipv6.daddr, packet->destination_be, 16);
	tuple->ipv6.sport = packet->source_port_be;
	tuple->ipv6.dport = packet->destination_port_be;
}

static __always_inline int fits(struct xdp_md *ctx, struct bpf_sock *sk,
				const struct xg_packet *packet)
{
	switch (sk->state) {
	case XG_STATE_LISTEN:
		return fits_cookie(ctx, sk, packet);
	case XG_STATE_NEW_SYN_RECV:
		return fits_half_open(sk, packet);
	case XG_STATE_TIME_WAIT:
		return fits_timewait(sk, packet);
	case XG_STATE_SYN_SENT:
	case XG_STATE_SYN_RECV:
		return XG_KNOWN_HALF;	/* simultaneous open: the socket itself checks */
	default:
		return fits_full(sk, sk->state, packet);
	}
}

/* The packet's IP and TCP headers must lie at packet->l3_offset and l4_offset of the frame. */
static __always_inline int ask_kernel(struct xdp_md *ctx, const struct xg_packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int known;

	fill_tuple(packet, &tuple);

	if (packet->protocol == XG_PROTO_UDP) {
		sk = packet->family == 4 ? bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4),
							     BPF_F_CURRENT_NETNS, 0) :
					   bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6),
							     BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return XG_UNKNOWN;
		known = sk->state == XG_STATE_ESTABLISHED ? XG_KNOWN_HALF : XG_UNKNOWN;
		bpf_sk_release(sk);
		return known;
	}
	sk = packet->family == 4 ? bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4),
						      BPF_F_CURRENT_NETNS, 0) :
				   bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6),
						      BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return XG_UNKNOWN;
	known = fits(ctx, sk, packet);
	bpf_sk_release(sk);
	return known;
}

/* The same, where a call costs less than it saves. */
static __noinline int kernel_knows(struct xdp_md *ctx, const struct xg_packet *packet)
{
	return ask_kernel(ctx, packet);
}

#endif
