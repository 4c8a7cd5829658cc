/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The shared vocabulary of user space and BPF: keys, table layout, records and limits.
 *
 * Types only. Every struct here lies in memory that two programs read (C and BPF, C and
 * Python), so each has its size asserted. Included by BPF: uapi headers only.
 * Fields named *_be are in network order; everything else is in host order.
 */
#ifndef XG_TYPES_H
#define XG_TYPES_H

#include <linux/types.h>

/* ---- hosts ---- */

#define XG_HOST_MAX 65000	/* highest host id an operator may configure */
#define XG_HOST_UNOWNED 65535	/* owner of the short-lived mark "no host has this session" */
#define XG_OWNERS 65536		/* entries of the owner array: any 16-bit id is a valid index */

#define XG_OWNER_ACTIVE 0x01	/* may own sessions and get strays */
#define XG_OWNER_PREVIOUS 0x02	/* entries of epoch - 1 count too (restart, no snapshot yet) */

#define XG_NO_TEMPLATE 0xffff	/* the host is active but no header template exists for it yet */

/* What every table entry of one owner depends on. Read and written as one aligned 64-bit word,
 * so that a change of epoch, state and template is seen as one. */
struct xg_owner_state {
	__u8 epoch;		/* entries with another epoch are void: a dead owner goes in O(1) */
	__u8 flags;		/* XG_OWNER_* */
	__u16 template_index;	/* into the template array, or XG_NO_TEMPLATE */
	__u32 reserved;
};

/* ---- session table: one layout for user space and BPF ---- */

#define XG_TABLE_MAGIC 0x58475442u	/* "XGTB" */
#define XG_TABLE_LAYOUT 3		/* grows with any change of the structs below */
#define XG_BUCKET_ENTRIES 4

#define XG_META_USED 0x80	/* flag: the word is an entry, not an empty slot */
#define XG_META_LINGER 0x01	/* flag: closed from FIN_WAIT or CLOSING; first to be evicted */
#define XG_META_AWAY 0x02	/* flag: the entry lies in its second bucket */
/* Flags of a bucket's first word, whether that is an entry or free: how many entries whose first
 * bucket this is lie in their second one; so many or more, if all four bits are set. */
#define XG_META_BEYOND 0x78
#define XG_META_BEYOND_ONE 0x08

/* Meta word, from the lowest bit: check 32, owner 16, epoch 8, flags 8. Zero: the slot is free. */
#define XG_META_CHECK_SHIFT 0
#define XG_META_OWNER_SHIFT 32
#define XG_META_EPOCH_SHIFT 48
#define XG_META_FLAGS_SHIFT 56

/* The exact key of an IPv4 session; compared as one 64-bit word. */
struct xg_key4 {
	__u32 address_be;	/* client address */
	__u16 port_be;		/* client port */
	__u16 slot;		/* service slot, local to this host */
};

/* The exact key of an IPv6 session; compared as three 64-bit words. */
struct xg_key6 {
	__u8 address[16];	/* client address, network order */
	__u16 port_be;
	__u16 slot;
	__u32 zero;		/* always 0: there is no padding to forget */
};

struct xg_entry4 {
	__u64 key;		/* struct xg_key4 */
	__u64 meta;
};

struct xg_entry6 {
	__u64 key[3];		/* struct xg_key6 */
	__u64 meta;
};

struct xg_bucket4 {
	struct xg_entry4 entries[XG_BUCKET_ENTRIES];
};

struct xg_bucket6 {
	struct xg_entry6 entries[XG_BUCKET_ENTRIES];
};

/* Stands in the place of the first bucket; bucket i is element i + 1 of the memory. */
struct xg_table_header {
	__u32 magic;
	__u32 layout;
	__u32 family;		/* 4 or 6 */
	__u32 buckets;		/* how many follow: an even number */
	__u64 hash_key[2];	/* SipHash-1-3, random at start */
	__u64 moves;		/* raised between an entry's copy and the old one's end */
	__u64 reserved[3];
};

/* ---- events: BPF to agent, and agent to record codec ---- */

enum xg_event_kind {
	XG_EVENT_OPEN = 1,		/* a socket of a service became established here */
	XG_EVENT_CLOSE = 2,		/* ... closed from LAST_ACK or by reset: forget at once */
	XG_EVENT_CLOSE_LINGER = 3,	/* ... closed into TIME_WAIT: the entry lingers */
	XG_EVENT_CLAIM = 4,		/* this kernel knows what the table does not give us */
	XG_EVENT_MISS = 5,		/* flooded: ask the others who has it */
	XG_EVENT_MISDIRECTED = 6,	/* `host` sent what this kernel does not know */
};

/* One record of both BPF ring buffers, and of sock_diag dumps. */
struct xg_event {
	__u8 kind;		/* enum xg_event_kind */
	__u8 family;		/* 4 or 6 */
	__u16 slot;		/* service slot */
	__u16 port_be;		/* client port */
	__u16 host;		/* XG_EVENT_MISDIRECTED: who sent it; else 0 */
	__u32 seq;		/* TCP sequence number of the packet, host order; else 0 */
	__u32 ack;		/* TCP acknowledgement number, host order; else 0 */
	__u8 address[16];	/* client; an IPv4 address lies in the first 4 bytes, rest 0 */
	__u64 at_ns;		/* CLOCK_MONOTONIC */
};

_Static_assert(sizeof(struct xg_owner_state) == 8, "one 64-bit word");
_Static_assert(sizeof(struct xg_key4) == 8, "one 64-bit word");
_Static_assert(sizeof(struct xg_key6) == 24, "three 64-bit words");
_Static_assert(sizeof(struct xg_bucket4) == 64, "one cache line");
_Static_assert(sizeof(struct xg_bucket6) == 128, "two cache lines");
_Static_assert(sizeof(struct xg_table_header) == 64, "fits in the smallest bucket");
_Static_assert(sizeof(struct xg_event) == 40, "shared with BPF and Python");

#endif
