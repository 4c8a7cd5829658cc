/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compares the kernel's sockets with what this host said of its own sessions.
 *
 * After events were lost, and at start: what was missed comes out as OPEN and CLOSE events, to
 * be absorbed like those of the ring. Writer's thread only.
 */
#ifndef XG_RECONCILE_H
#define XG_RECONCILE_H

#include <stddef.h>
#include <stdint.h>

#include "merge.h"

struct xg_reconcile_key {
	uint8_t family;
	uint8_t zero[7];
	__u64 words[XG_KEY_WORDS_MAX];
};

/*
 * `dump`: `count` OPEN events, all sockets that the kernel holds now. `scratch`: room for
 * `count` keys. `out`: room for `limit` events; first the OPENs that this host did not say, then
 * the CLOSEs of what it said is open, shown or lost to another's claim, without a socket, stamped
 * `now_ns`.
 * Returns how many events there are; -ENOSPC if `limit` is too small: then `out` is incomplete.
 */
int64_t xg_reconcile(const struct xg_tables *tables, uint16_t own_host,
		     const struct xg_event *dump, size_t count,
		     struct xg_reconcile_key *scratch, struct xg_event *out, size_t limit,
		     uint64_t now_ns);

#endif
