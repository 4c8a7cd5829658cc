/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ownership records of one datagram to and from the session table; the only C that reads gossip
 * bytes.
 *
 * Runs in the table's writing thread. Nothing allocates after xg_batch_create.
 */
#ifndef XG_RECORD_CODEC_H
#define XG_RECORD_CODEC_H

#include <stddef.h>

#include "merge.h"
#include "record_format.h"

#define XG_BATCH_MAX 256	/* sessions: more than one 1400-byte datagram holds */
#define XG_AHEAD 16	/* sessions whose cache misses are under way; a power of two */
#define XG_RIVALS_MAX 64	/* of one section; a host that loses more hears of them again */
#define XG_SERVICE_UNKNOWN 0xffff	/* in a translation: this host does not have the service */

/* Slots that one call of xg_shard_encode looks at: bounds its time to a few milliseconds. */
#define XG_SHARD_SLOTS (1u << 20)

/* The table's key of an event's session: one word for IPv4 (the others become 0), or three. */
void xg_session_key(__u64 key[XG_KEY_WORDS_MAX], const struct xg_event *event);

/* Hash a session whose key and family are there, and start its cache misses: for whoever goes
 * through many. The family is 4 or 6. */
void xg_session_prepare(const struct xg_tables *tables, struct xg_session_id *session);

/* When something was said: what every record of one batch has in common. */
struct xg_moment {
	__u64 clock;		/* hybrid logical clock of the batch */
	__u32 position;		/* of the batch in its sender's log, modulo 2^32 */
	__u32 now_ms;		/* CLOCK_MONOTONIC of this host, modulo 2^32 */
};

/* ---- own events ---- */

/* Sessions about which the other hosts are still to be told; one entry a session. */
struct xg_batch;

struct xg_batch_counts {
	__u64 ignored;		/* events of another kind or family, CLAIMs of a closed session */
	__u64 refused;		/* OPENs without room in the own table; told all the same */
	__u64 cancelled;	/* OPEN and CLOSE inside one flush: nobody is told */
};

int xg_batch_create(struct xg_batch **batch);	/* -ENOMEM */
void xg_batch_destroy(struct xg_batch *batch);
unsigned int xg_batch_pending(const struct xg_batch *batch);
struct xg_batch_counts xg_batch_counts(const struct xg_batch *batch);

/* Enter own events (struct xg_event, any alignment) and note what to tell. Returns how many of
 * `count` events were consumed: fewer if the batch is full; then encode, and call again with
 * the rest. */
size_t xg_batch_absorb(struct xg_batch *batch, struct xg_tables tables, __u16 own_host,
		       const void *events, size_t count, const struct xg_moment *moment);

/* Write sections (CLOSE4, LINGER4, CLOSE6, LINGER6, OPEN4, OPEN6) into `out`, at most `budget`
 * bytes, and forget what was written. Returns the bytes written; what did not fit stays. */
size_t xg_batch_encode(struct xg_batch *batch, __u8 *out, size_t budget);

/* Write own sessions that do not linger as one OPEN section: those that the table shows, then
 * those that only the ledger has. *cursor starts at 0 and becomes XG_SLOT_END behind the last
 * session. Returns the bytes written: 0 before the end if XG_SHARD_SLOTS slots held none, or if
 * `budget` has no room for one record. */
size_t xg_shard_encode(struct xg_tables tables, int family, __u16 own_host, __u64 *cursor,
		       __u8 *out, size_t budget);

/* ---- others' records ---- */

/* Each record ends in exactly one of the first five. */
struct xg_apply_result {
	__u32 applied;
	__u32 stale;		/* its owner said something later, or a CLOSE ended nothing */
	__u32 lost_conflicts;	/* another host's OPEN of that session is the newer one */
	__u32 unknown_service;
	__u32 refused;		/* no room in the table; kept in the ledger */
	__u32 rivals;		/* written to the rivals array */
	__u32 rivals_dropped;	/* beyond XG_RIVALS_MAX */
};

/* One section of `sender`, which is not this host. */
struct xg_section {
	__u16 sender;
	__u8 kind;		/* enum xg_section_kind */
	const __u8 *body;
	size_t len;
	const __u8 *translation;	/* a __u16 for each index of the sender, any alignment:
					 * the own slot, or XG_SERVICE_UNKNOWN */
	size_t translation_count;
	bool keep_closed;	/* an older OPEN of a session that it closes may still come */
};

/*
 * Enter a section's records. An OPEN of a session that this host owns by the newer OPEN comes
 * back in `rivals` (XG_RIVALS_MAX) as an XG_EVENT_CLAIM: say so again.
 * 0; -EBADMSG: the body is no row of records, nothing was applied; -EINVAL: unknown kind, or
 * the sender is this host or no host id.
 */
int xg_apply(struct xg_tables tables, __u16 own_host, const struct xg_section *section,
	     const struct xg_moment *moment, struct xg_apply_result *result,
	     struct xg_event *rivals);

#endif
