/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The structs that the loader writes and the BPF programs read, beside those of xg_types.h.
 *
 * Included by BPF and by the Cython extension, which fills them: no BPF helper is named here.
 */
#ifndef XG_BPF_SHARED_H
#define XG_BPF_SHARED_H

#include <linux/types.h>

#include "services.h"
#include "stats.h"

#define XG_TEMPLATES 1024	/* hosts of one POP, twice (a template is replaced, not edited) */
#define XG_PEERS 1024
#define XG_RECENT 65536		/* flows remembered to tell a repeated miss from a new one */
#define XG_TRUSTED 1024		/* own flows a CPU whose packets come in bursts: a tick's worth */
#define XG_RING_BYTES (1u << 20)	/* 21,000 socket events: a burst of 20 ms at 1 M/s */
#define XG_COOKIES 2		/* of the present and of the previous key */

#define XG_STAMP_MAGIC 0x585453504d415453ull	/* "STAMPSTX" in memory */

#define XG_QUEUES 128		/* RX queues that may have a loop; the others' strays stay in XDP */
#define XG_QUEUE_COUNTERS 80	/* room for XG_COUNTERS, so that a queue is whole cache lines */

#define XG_RELAYS 511		/* hosts that this one may ask to flood: all that there may be */

#define XG_BUDGET_NEW 0		/* misses seen for the first time */
#define XG_BUDGET_SEEN 1	/* misses seen before: mostly a live client that sends again */
#define XG_BUDGET_TOO_BIG 2	/* ICMP errors to senders of what is too big for its path */
#define XG_BUDGETS 4		/* a power of two: the index is masked */

/* Written by the agent, one 64-bit store for what changes while packets flow. */
struct xg_config {
	__u64 heartbeat_ns;	/* CLOCK_MONOTONIC; older than 1 s: the agent does not run */
	__u64 netns_cookie;	/* sockets of other network namespaces are not ours */
	__u64 budget_interval_ns[XG_BUDGETS];	/* between two packets; 0: no limit */
	__u64 budget_burst_ns;	/* how far a budget may run ahead */
	__u32 address_be[4];	/* underlay address of this host, IPv6 or v4-mapped */
	__u32 flood_group_be[4];	/* 0: there is none */
	__u16 tunnel_port_be;
	__u16 host;
	__u16 flood_template;	/* index, or XG_NO_TEMPLATE */
	__u8 mac[6];
	__u16 encapsulation;	/* enum xg_encapsulation, of the whole POP */
	__u16 flood_copies;	/* hosts to which the loop must copy each flood */
	__u16 has_loops;	/* AF_XDP loops take what is handed over */
	__u16 relay_count;	/* of: */
	__u16 relays[XG_RELAYS];	/* template indices of who floods, without group and loop */
	__u16 mss4;		/* largest segment that SYN-ACKs over IPv4 may announce; 0: any */
	__u16 mss6;		/* the same over IPv6 */
	__u16 reserved[2];
};

/*
 * One RX queue, between the XDP program and the AF_XDP loop. Each side writes its own cache
 * lines. Counts only grow; they are compared modulo 2^64.
 */
struct xg_queue {
	__u64 redirected;	/* XDP: frames handed over */
	__u64 seen_consumed;	/* XDP: `consumed` as it was at ... */
	__u64 seen_at_ns;	/* ... this time; 0: nothing waited when it last looked */
	__u64 extra;		/* XDP: of the frames handed over, the buffers behind the first */
	__u64 reserved0[4];
	__u64 credit;		/* loop: `redirected` and `extra` together may grow to this */
	__u64 consumed;		/* loop: of `redirected`, taken from the ring, or lost */
	__u64 frame_max;	/* loop: bytes of the largest frame that fits one of its buffers */
	__u64 chain_max;	/* loop: ... or several of them; 0: its socket takes one a frame */
	__u64 reserved1[4];
	__u64 counters[XG_QUEUE_COUNTERS];	/* loop: endings of its frames; enum xg_counter */
};

/* All counters of one CPU: read and written as a whole. */
struct xg_counters {
	__u64 of[XG_COUNTERS];
};

struct xg_peer_key {
	__u32 address_be[4];	/* outer source address, v4-mapped */
};

struct xg_peer {
	__u16 host;
	__u16 reserved[3];
	__u64 unicast_cookie[XG_COOKIES];	/* from the peer to this host */
	__u64 flood_cookie[XG_COOKIES];		/* from the peer to the flood group */
	__u64 reply_cookie;			/* from this host to the peer */
};

/* Says what lies in the pinned maps, so that a later agent knows whether it may go on with them.
 * Written by the agent, read by no program. All 0: these maps were never at work. */
struct xg_stamp {
	__u64 magic;		/* XG_STAMP_MAGIC */
	__u64 layout;		/* digest of the headers, at build time */
	__u64 services;		/* digest of the services and their slots */
	__u32 buckets4;
	__u32 buckets6;
	__u16 host;
	__u16 reserved[3];
};

_Static_assert(sizeof(struct xg_stamp) == 40, "shared with the loader");
_Static_assert(sizeof(struct xg_config) == 1144, "shared with the loader");
_Static_assert(sizeof(struct xg_queue) == 768, "shared with the loop; whole cache lines");
_Static_assert(XG_COUNTERS <= XG_QUEUE_COUNTERS, "each has its place");
_Static_assert(sizeof(struct xg_peer) == 48, "shared with the loader");

#endif
