/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Limits the segments that the services' listeners announce in their SYN-ACKs, if configured.
 *
 * A listener's TCP_MAXSEG limits what its SYN-ACKs say, those with SYN cookies too, and what the
 * accepted sockets send. A listener that is bound to no address counts if any service has its
 * port. A smaller limit of the application's own stays.
 */
#ifndef XG_BPF_MSS_CLAMP_H
#define XG_BPF_MSS_CLAMP_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

#define AF_INET_ 2
#define AF_INET6_ 10
#define PROTO_TCP 6
#define SOL_TCP_ 6
#define TCP_MAXSEG_ 2
#define STATE_LISTEN 10

/* The fields that are read, by CO-RE. */
struct tcp_options_received {
	__u16 user_mss;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct tcp_options_received rx_opt;
} __attribute__((preserve_access_index));

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
} __attribute__((preserve_access_index));

struct sock_common {
	__u32 skc_rcv_saddr;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	struct in6_addr skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct bpf_iter__tcp {
	struct sock_common *sk_common;
} __attribute__((preserve_access_index));

struct port_search {
	__u16 port_be;
	__u16 found;
};

static __always_inline int is_v4_mapped(const __u32 address_be[4])
{
	return !address_be[0] && !address_be[1] && address_be[2] == bpf_htonl(0xffff);
}

static long has_port(void *map, const void *key, void *value, void *context)
{
	const struct xg_service *service = value;
	struct port_search *search = context;

	search->found = service->used && service->protocol == PROTO_TCP &&
			service->port_be == search->port_be;
	return search->found;
}

/* What the SYN-ACKs of a listener may announce; 0: anything. `address_be`: IPv4 v4-mapped. */
static __always_inline __u32 mss_of_listener(const struct xg_config *cfg,
					     const __u32 address_be[4], __u16 port_be)
{
	__u32 mapped = is_v4_mapped(address_be);
	__u32 any = mapped ? address_be[3] :
			     address_be[0] | address_be[1] | address_be[2] | address_be[3];
	struct port_search search = { .port_be = port_be };

	if (any)
		search.found = service_at(address_be, port_be, PROTO_TCP) != NULL;
	else
		bpf_for_each_map_elem(&services, has_port, &search, 0);
	if (!search.found)
		return 0;
	return mapped ? cfg->mss4 : cfg->mss6;
}

static __always_inline int is_above(struct tcp_sock *tcp, __u32 mss)
{
	return mss && tcp && (tcp->rx_opt.user_mss == 0 || tcp->rx_opt.user_mss > mss);
}

/* A socket of this network namespace begins to listen; the caller has read its address. */
static __always_inline void clamp_new_listener(struct bpf_sock_ops *skops,
					       const struct xg_config *cfg,
					       const __u32 address_be[4])
{
	__u16 port_be = bpf_htons((__u16)skops->local_port);
	int mss = (int)mss_of_listener(cfg, address_be, port_be);
	struct bpf_sock *sk = skops->sk;

	if (sk && is_above(bpf_skc_to_tcp_sock(sk), (__u32)mss))
		bpf_setsockopt(skops, SOL_TCP_, TCP_MAXSEG_, &mss, sizeof(mss));
}

/* Run once, after the sockops program was attached: the listeners that were there before. The
 * kernel shows the sockets of the reader's network namespace. */
SEC("iter/tcp")
int xg_clamp_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct xg_config *cfg = the_config();
	__u32 address_be[4] = {};
	struct tcp_sock *tcp;
	int mss;

	if (!sk || !cfg || sk->skc_state != STATE_LISTEN)
		return 0;
	if (sk->skc_family == AF_INET_) {
		address_be[2] = bpf_htonl(0xffff);
		address_be[3] = sk->skc_rcv_saddr;
	} else {
		for (int i = 0; i < 4; i++)
			address_be[i] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
	}
	mss = (int)mss_of_listener(cfg, address_be, bpf_htons(sk->skc_num));
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp && is_above(tcp, (__u32)mss))
		bpf_setsockopt(tcp, SOL_TCP_, TCP_MAXSEG_, &mss, sizeof(mss));
	return 0;
}

#endif
