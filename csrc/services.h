/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The services of a host: (VIP, port, protocol) to slot, in a small open-addressed array.
 *
 * Beside each service lies a row of its VIP alone, with port and protocol 0: what carries no ports
 * is ours if there is such a row.
 *
 * Read by BPF and by user space while further services come: a place's `used` is written last. A
 * BPF array's look-up is inlined, a hash map's is not: each packet pays for this one.
 */
#ifndef XG_SERVICES_H
#define XG_SERVICES_H

#include <linux/types.h>

#include "packet_parse.h"

#define XG_SERVICES 4096	/* slots of one host */
#define XG_SERVICE_PLACES 32768	/* with VIPs a quarter full at most: runs are short */
#define XG_SERVICE_PROBES 32	/* the longest run that is looked through */

#define XG_SERVICE_QUIC 0x01	/* UDP: connection ids name their owner, see quic_lb.h */

struct xg_service {
	__u32 vip_be[4];	/* IPv6, or v4-mapped */
	__u16 port_be;
	__u8 protocol;
	__u8 used;		/* 0: the end of every run through this place */
	__u16 slot;
	__u16 flags;		/* XG_SERVICE_* */
};

_Static_assert(sizeof(struct xg_service) == 24, "shared with BPF and Python");

/* Where the search begins. Not keyed: the operator chooses what is in the array. */
XG_INLINE __u32 xg_service_hash(const __u32 vip_be[4], __u16 port_be, __u8 protocol)
{
	__u64 mix = ((__u64)(vip_be[0] ^ vip_be[2]) << 32 | (vip_be[1] ^ vip_be[3])) ^
		    ((__u64)port_be << 8 | protocol);

	return (__u32)((mix * 0x9e3779b97f4a7c15ull) >> 40);
}

XG_INLINE int xg_service_is(const struct xg_service *service, const __u32 vip_be[4],
			    __u16 port_be, __u8 protocol)
{
	return service->port_be == port_be && service->vip_be[3] == vip_be[3] &&
	       service->protocol == protocol && service->vip_be[2] == vip_be[2] &&
	       service->vip_be[1] == vip_be[1] && service->vip_be[0] == vip_be[0];
}

#ifndef __bpf__
#include <linux/errno.h>

/* The service, or a null pointer. `mask`: places - 1, a power of two less one. */
static inline const struct xg_service *xg_service_find(const struct xg_service *places, __u32 mask,
						       const __u32 vip_be[4], __u16 port_be,
						       __u8 protocol)
{
	__u32 place = xg_service_hash(vip_be, port_be, protocol);

	for (__u32 i = 0; i < XG_SERVICE_PROBES; i++, place++) {
		const struct xg_service *service = &places[place & mask];

		if (!service->used)
			return 0;
		if (xg_service_is(service, vip_be, port_be, protocol))
			return service;
	}
	return 0;
}

/* Puts a service into zeroed places. 0; -EEXIST: it is there; -ENOSPC: its run is too long. */
static inline int xg_service_put(struct xg_service *places, __u32 mask,
				 const struct xg_service *service)
{
	__u32 place = xg_service_hash(service->vip_be, service->port_be, service->protocol);

	for (__u32 i = 0; i < XG_SERVICE_PROBES; i++, place++) {
		struct xg_service *at = &places[place & mask];

		if (at->used &&
		    xg_service_is(at, service->vip_be, service->port_be, service->protocol))
			return -EEXIST;
		if (at->used)
			continue;
		*at = *service;
		at->used = 1;
		return 0;
	}
	return -ENOSPC;
}

/* The same for a service and, if it is the first one of it, the row of its VIP. */
static inline int xg_service_put_both(struct xg_service *places, __u32 mask,
				      const struct xg_service *service)
{
	struct xg_service vip = { .used = 1 };
	int rc = xg_service_put(places, mask, service);

	if (rc)
		return rc;
	__builtin_memcpy(vip.vip_be, service->vip_be, sizeof(vip.vip_be));
	rc = xg_service_put(places, mask, &vip);
	return rc == -EEXIST ? 0 : rc;
}
#endif

#endif
