/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The maps, one definition for both programs; the loader makes them once and shares them.
 */
#ifndef XG_BPF_MAPS_H
#define XG_BPF_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "header_template.h"
#include "shared.h"
#include "stats.h"
#include "xg_types.h"

#define HEARTBEAT_LIMIT_NS 1000000000ull

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xg_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XG_SERVICE_PLACES);
	__type(key, __u32);
	__type(value, struct xg_service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xg_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, XG_RING_BYTES);
} socket_events SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u32 zero = 0;
	struct xg_counters *counts = bpf_map_lookup_elem(&counters, &zero);

	if (counts && counter < XG_COUNTERS)
		counts->of[counter] += 1;
}

static __always_inline struct xg_service *service_at(const __u32 vip_be[4], __u16 port_be,
						     __u8 protocol)
{
	__u32 place = xg_service_hash(vip_be, port_be, protocol) & (XG_SERVICE_PLACES - 1);

	for (int i = 0; i < XG_SERVICE_PROBES; i++) {
		struct xg_service *service = bpf_map_lookup_elem(&services, &place);

		if (!service || !service->used)
			return NULL;
		if (xg_service_is(service, vip_be, port_be, protocol))
			return service;
		place = (place + 1) & (XG_SERVICE_PLACES - 1);
	}
	return NULL;
}

static __always_inline struct xg_config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline int agent_alive(const struct xg_config *cfg)
{
	/* the agent on another core may have stamped after we read the clock: signed */
	return (__s64)(bpf_ktime_get_ns() - cfg->heartbeat_ns) < (__s64)HEARTBEAT_LIMIT_NS;
}

#endif
