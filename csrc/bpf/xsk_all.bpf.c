/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Redirects each frame of a queue that has an AF_XDP socket to it, and passes all others: the
 * program for sockets that are used alone.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define QUEUES 1024 /* more than a NIC has; 8 bytes each */

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

SEC("xdp")
int xg_to_socket(struct xdp_md *ctx)
{
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
