/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The flow hashes of a group of plain frames, several at once by the widest instructions.
 */
#ifndef XG_FLOW_HASHES_H
#define XG_FLOW_HASHES_H

#include "session_table.h"

#define XG_GROUP 32u		/* frames that are taken together */

/* Words of untagged IPv4 packets without options, as they lie there (little-endian). */
struct xg_plain {
	__u64 heads[XG_GROUP];		/* from 12: EtherType, version, TOS, length, id */
	__u64 addresses[XG_GROUP];	/* from 26: source, destination */
	__u64 ports[XG_GROUP];		/* from 34: source, destination, and four bytes more */
};

/* xg_flow_hash() of each place, also of those that hold nothing. `isa`: at most
 * xg_session_burst_widest(). */
void xg_hash_flows(enum xg_burst_isa isa, const struct xg_plain *plain, __u32 hashes[XG_GROUP]);

#endif
