/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The sockops program: tells the agent which sockets of the services open and close here, and
 * limits the segments that their listeners announce.
 *
 * Sees sockets of its cgroup; those of other network namespaces are left alone. Sockets that
 * were accepted before it was attached give no CLOSE (the flag is per socket).
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "mss_clamp.h"

/* A load that the compiler must not merge with that of another branch: the verifier refuses
 * one through a computed context pointer. */
#define FIELD(field)                              \
	({                                        \
		__u32 value_ = skops->field;      \
		asm volatile("" : "+r"(value_));  \
		value_;                           \
	})

/* The socket's local address, v4-mapped if it is IPv4. False: it is neither. */
static __always_inline int local_address(struct bpf_sock_ops *skops, __u32 vip_be[4])
{
	if (skops->family == AF_INET_) {
		vip_be[0] = vip_be[1] = 0;
		vip_be[2] = bpf_htonl(0xffff);
		vip_be[3] = FIELD(local_ip4);
	} else if (skops->family == AF_INET6_) {
		vip_be[0] = FIELD(local_ip6[0]);
		vip_be[1] = FIELD(local_ip6[1]);
		vip_be[2] = FIELD(local_ip6[2]);
		vip_be[3] = FIELD(local_ip6[3]);
	} else {
		return 0;
	}
	return 1;
}

static __always_inline void fill_client(struct bpf_sock_ops *skops, struct xg_event *event)
{
	__u32 address_be[4] = {};

	event->family = 4;
	if (skops->family == AF_INET_) {
		address_be[0] = FIELD(remote_ip4);
	} else {
		address_be[0] = FIELD(remote_ip6[0]);
		address_be[1] = FIELD(remote_ip6[1]);
		address_be[2] = FIELD(remote_ip6[2]);
		address_be[3] = FIELD(remote_ip6[3]);
		if (is_v4_mapped(address_be)) {	/* a dual-stack listener */
			address_be[0] = address_be[3];
			address_be[1] = address_be[2] = address_be[3] = 0;
		} else {
			event->family = 6;
		}
	}
	__builtin_memcpy(event->address, address_be, 16);
	/* remote_port: network order in the upper 16 bits */
	event->port_be = bpf_htons((__u16)bpf_ntohl(skops->remote_port));
}

static __always_inline void tell(struct bpf_sock_ops *skops, __u8 kind, __u16 slot)
{
	struct xg_event *event = bpf_ringbuf_reserve(&socket_events, sizeof(*event), 0);

	if (!event) {
		count(XG_COUNT_socket_events_lost);
		return;
	}
	event->kind = kind;
	event->slot = slot;
	event->host = 0;
	event->seq = 0;
	event->ack = 0;
	event->at_ns = bpf_ktime_get_ns();
	fill_client(skops, event);
	bpf_ringbuf_submit(event, 0);
	count(XG_COUNT_socket_events);
}

/* A socket that goes to CLOSE from these states leaves a TIME_WAIT socket or an orphan behind:
 * the client's last FIN or ACK is still to come, so its entry lingers. */
static __always_inline __u8 close_kind(__u32 old_state)
{
	return old_state == BPF_TCP_FIN_WAIT1 || old_state == BPF_TCP_FIN_WAIT2 ||
	       old_state == BPF_TCP_CLOSING || old_state == BPF_TCP_TIME_WAIT ?
		       XG_EVENT_CLOSE_LINGER : XG_EVENT_CLOSE;
}

SEC("sockops")
int xg_sessions(struct bpf_sock_ops *skops)
{
	struct xg_config *config_ = the_config();
	struct xg_service *service;
	__u32 local_be[4] = {};

	if (skops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
	    skops->op != BPF_SOCK_OPS_STATE_CB && skops->op != BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	if (!config_ || bpf_get_netns_cookie(skops) != config_->netns_cookie)
		return 1;
	if (!local_address(skops, local_be))
		return 1;
	if (skops->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		clamp_new_listener(skops, config_, local_be);
		return 1;
	}
	service = service_at(local_be, bpf_htons((__u16)skops->local_port), PROTO_TCP);
	if (!service)
		return 1;
	if (skops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		/* the flags that other programs have set stay */
		bpf_sock_ops_cb_flags_set(skops, (int)FIELD(bpf_sock_ops_cb_flags) |
							 BPF_SOCK_OPS_STATE_CB_FLAG);
		tell(skops, XG_EVENT_OPEN, service->slot);
	} else if (skops->args[1] == BPF_TCP_CLOSE || skops->args[1] == BPF_TCP_TIME_WAIT) {
		tell(skops, close_kind(skops->args[0]), service->slot);
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
