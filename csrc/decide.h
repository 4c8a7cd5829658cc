/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The decision table for a packet of a service that came without a tunnel header.
 *
 * Pure: packet, table's answer and the agent's state in, an ending or a question out. The same
 * code decides in the XDP program, in the C forwarder and in what explains a packet's way. The
 * rows are documented, with their reasons, in docs/decision-table.md.
 */
#ifndef XG_DECIDE_H
#define XG_DECIDE_H

#include "packet_parse.h"
#include "services.h"
#include "session_lookup.h"
#include "stats.h"
#include "xg_types.h"

/* Beyond the endings: what must be asked or done next. */
enum xg_decision {
	XG_DECIDE_FORWARD_SYN = XG_COUNTERS,	/* encapsulate to the owner, no question */
	XG_DECIDE_STRAY,			/* the owner's, unless this kernel knows it */
	XG_DECIDE_OWN,				/* ours by the table, if this kernel agrees */
	XG_DECIDE_MISS,				/* flood it, unless this kernel knows it */
};

XG_INLINE int xg_is_syn(const struct xg_packet *packet)
{
	return packet->protocol == XG_PROTO_TCP &&
	       (packet->tcp_flags & (XG_TCP_SYN | XG_TCP_ACK | XG_TCP_RST)) == XG_TCP_SYN;
}

/* The row "not in the table". */
XG_INLINE int xg_decide_absent(const struct xg_packet *packet)
{
	if (packet->protocol == XG_PROTO_UDP)
		return XG_COUNT_passed_udp_new;
	return xg_is_syn(packet) ? XG_COUNT_passed_syn : XG_DECIDE_MISS;
}

/* `meta` is a valid entry's meta word, or 0. Returns an ending or an xg_decision. */
XG_INLINE int xg_decide(const struct xg_packet *packet, __u64 meta, __u16 own_host,
			int agent_alive)
{
	__u16 owner = xg_meta_owner(meta);

	if (packet->protocol == XG_PROTO_TCP &&
	    !(packet->tcp_flags & (XG_TCP_SYN | XG_TCP_ACK | XG_TCP_RST)))
		return XG_COUNT_dropped_no_flags;
	if (meta == 0)
		return xg_decide_absent(packet);
	/* The mark is short-lived by the agent's care: without an agent it counts for nothing. */
	if (owner == XG_HOST_UNOWNED)
		return agent_alive ? XG_COUNT_passed_unowned : xg_decide_absent(packet);
	if (owner != own_host)
		return xg_is_syn(packet) ? XG_DECIDE_FORWARD_SYN : XG_DECIDE_STRAY;
	/* The agent may lag behind the sockets: an entry alone does not make a session ours. */
	if (packet->protocol == XG_PROTO_UDP || xg_is_syn(packet))
		return XG_COUNT_passed_own;
	return XG_DECIDE_OWN;
}

/* True: addresses and ports name no owner, but the connection id may. */
XG_INLINE int xg_asks_id(const struct xg_service *service, int decision)
{
	return (service->flags & XG_SERVICE_QUIC) && (decision == XG_COUNT_passed_udp_new ||
						      decision == XG_COUNT_passed_unowned);
}

/* The ending of XG_DECIDE_STRAY, _OWN or _MISS if this kernel knows the session. */
XG_INLINE int xg_decide_known(int decision)
{
	if (decision == XG_DECIDE_OWN)
		return XG_COUNT_passed_own;
	return decision == XG_DECIDE_STRAY ? XG_COUNT_passed_stale_entry : XG_COUNT_passed_known;
}

#endif
