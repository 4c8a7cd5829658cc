/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Makes room in the session table: entries move to their other bucket, along the shortest path.
 */
#include "session_slots.h"

/* Buckets looked at to make room for one entry. Breadth-first, so that few entries move: at
 * 80 % load two or three moves are the rule. 256 buckets bound the time of a put. */
#define XG_SEARCH_NODES 256
#define XG_SEARCH_END XG_SEARCH_NODES	/* the parent of a root */

struct search_node {
	__u32 bucket;
	__u16 parent;	/* index of the node whose entry would move here, or XG_SEARCH_END */
	__u8 place;		/* of that entry in the parent's bucket */
};

struct search {
	struct search_node nodes[XG_SEARCH_NODES];
	unsigned int count;
	__u32 evictable;	/* slot of the oldest entry that may go, or XG_NO_SLOT */
	unsigned int evictable_node;
	__u32 evictable_age_ms;
};

static __u32 other_bucket(const struct xg_session_table *t, __u32 slot)
{
	__u64 hash = hash_of(t, entry_at(t, slot));
	__u32 first = xg_hash_bucket1(hash, t->buckets);

	if (first != slot / XG_BUCKET_ENTRIES)
		return first;
	return xg_hash_bucket2(hash, t->buckets);
}

static void move_entry(struct xg_session_table *t, __u32 from, __u32 to)
{
	__u64 moves = t->header->moves, meta = meta_at(t, from);

	clear_slot(t, to);
	if (!is_away(meta))
		go_beyond(t, from / XG_BUCKET_ENTRIES);
	set_key(t, to, entry_at(t, from));
	t->cold[to] = t->cold[from];
	if (is_evictable(meta))
		t->times[to] = t->times[from];
	set_meta(t, to, meta ^ (__u64)XG_META_AWAY << XG_META_FLAGS_SHIFT);
	/* Release: the copy is there before the counter says that something moved ... */
	__atomic_store_n(&t->header->moves, moves + 1, __ATOMIC_RELEASE);
	/* ... and the counter is raised before the old place is empty (set_meta: release). */
	set_meta(t, from, 0);
	if (is_away(meta))
		come_back(t, to / XG_BUCKET_ENTRIES);
}

/* Shift entries along the path to `node`, whose slot `gap` is free. Returns the slot that this
 * frees in a root's bucket. */
static __u32 shift_path(struct xg_session_table *t, const struct search *search,
			   unsigned int node, __u32 gap)
{
	while (search->nodes[node].parent != XG_SEARCH_END) {
		const struct search_node *step = &search->nodes[node];
		__u32 from = search->nodes[step->parent].bucket * XG_BUCKET_ENTRIES + step->place;

		move_entry(t, from, gap);
		gap = from;
		node = step->parent;
	}
	return gap;
}

static void note_evictable(const struct xg_session_table *t, struct search *search,
			   unsigned int node, __u32 slot, __u32 now_ms)
{
	__u32 age_ms;

	if (!is_evictable(meta_at(t, slot)))
		return;
	age_ms = now_ms - t->times[slot];
	if (search->evictable != XG_NO_SLOT && age_ms <= search->evictable_age_ms)
		return;
	search->evictable = slot;
	search->evictable_node = node;
	search->evictable_age_ms = age_ms;
}

/* Follow the entries of one full bucket to their other buckets. Returns the slot freed in a
 * root's bucket, if one of those has a gap. */
static __u32 expand_node(struct xg_session_table *t, struct search *search, unsigned int node,
			    __u32 now_ms)
{
	__u32 slot = search->nodes[node].bucket * XG_BUCKET_ENTRIES;

	for (__u8 place = 0; place < XG_BUCKET_ENTRIES; place++, slot++) {
		struct search_node *child = &search->nodes[search->count];
		__u32 gap;

		note_evictable(t, search, node, slot, now_ms);
		if (search->count == XG_SEARCH_NODES)
			continue;
		child->bucket = other_bucket(t, slot);
		child->parent = (__u16)node;
		child->place = place;
		search->count++;
		gap = free_slot_in(t, child->bucket);
		if (gap != XG_NO_SLOT)
			return shift_path(t, search, search->count - 1, gap);
	}
	return XG_NO_SLOT;
}

/* Find the nearest gap and shift entries towards it. Breadth-first: the path found is the
 * shortest, so no bucket lies on it twice. */
__u32 xg_session_make_room(struct xg_session_table *t, __u64 hash, __u32 now_ms)
{
	struct search search;

	search.nodes[0] = (struct search_node){
		xg_hash_bucket1(hash, t->buckets), XG_SEARCH_END, 0 };
	search.nodes[1] = (struct search_node){
		xg_hash_bucket2(hash, t->buckets), XG_SEARCH_END, 0 };
	search.count = 2;
	search.evictable = XG_NO_SLOT;
	search.evictable_node = 0;
	search.evictable_age_ms = 0;
	for (unsigned int node = 0; node < search.count; node++) {
		__u32 slot = expand_node(t, &search, node, now_ms);

		if (slot != XG_NO_SLOT)
			return slot;
	}
	if (search.evictable == XG_NO_SLOT)
		return XG_NO_SLOT;
	t->evicted++;
	clear_slot(t, search.evictable);
	return shift_path(t, &search, search.evictable_node, search.evictable);
}
