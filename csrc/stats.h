/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The one list of data-path counters, a sentence each.
 *
 * Every frame that the XDP program sees ends in exactly one of XG_ENDINGS: in the program, or, if
 * it was handed over, in the AF_XDP loop. So the sum of these counters is the number of frames,
 * those that are on their way from one to the other apart. XG_SIDE_COUNTERS count things that
 * happen beside that.
 * An ending is also the verdict: the middle column is the only place that says what becomes
 * of the frame. Python reads this file to name the counters; keep one entry a line.
 */
#ifndef XG_STATS_H
#define XG_STATS_H

/* clang-format off */
#define XG_ENDINGS(X) \
	X(passed_not_ip, PASS, "Not IPv4 or IPv6 (ARP, LLDP, …).") \
	X(passed_unparsed, PASS, "Truncated, or a header that the parser does not know.") \
	X(passed_fragment, PASS, "A later fragment, to no VIP or of a packet that was passed.") \
	X(fragment_unknown, PASS, "A later fragment to a VIP whose first one did not come here.") \
	X(passed_echo, PASS, "An ICMP echo request to a VIP: each host answers by itself.") \
	X(passed_icmp, PASS, "ICMP to a VIP, neither echo nor an error that quotes a service.") \
	X(passed_icmp_own, PASS, "An ICMP error about a session of this host, or of no host.") \
	X(passed_no_service, PASS, "The destination is not a configured service.") \
	X(passed_own, PASS, "Owned by this host: by the table, and its kernel agrees.") \
	X(passed_unowned, PASS, "No host has the session: the local kernel may answer.") \
	X(passed_syn, PASS, "A SYN of a session that the table does not know: a new one.") \
	X(passed_known, PASS, "Not in the table, but this kernel knows the session.") \
	X(passed_stale_entry, PASS, "The table names another host, but this kernel knows it.") \
	X(passed_udp_new, PASS, "UDP to a service, not in the table: a new session.") \
	X(dropped_no_flags, DROP, "TCP with none of SYN, ACK and RST.") \
	X(stray_forwarded, TX, "A stray, encapsulated to the owner.") \
	X(syn_forwarded, TX, "A SYN of a session that another host owns, encapsulated to it.") \
	X(quic_forwarded, TX, "QUIC of another host by its connection id, encapsulated to it.") \
	X(miss_flooded, TX, "A miss, encapsulated to the flood group.") \
	X(miss_over_budget_new, DROP, "A miss seen for the first time, above the floods' budget.") \
	X(miss_over_budget_seen, DROP, "A miss seen before, above the floods' budget.") \
	X(miss_no_flood, DROP, "A miss, and there is no way to flood it.") \
	X(miss_relayed, TX, "To be flooded, without group and loop: sent to a host that will.") \
	X(fragment_forwarded, TX, "A later fragment, sent where its first one was sent.") \
	X(fragment_over_budget, DROP, "A later fragment of a flooded packet, above the budget.") \
	X(dropped_tiny_fragment, DROP, "A first fragment to a VIP that ends before its ports do.") \
	X(icmp_forwarded, TX, "An ICMP error, encapsulated to the owner of what it quotes.") \
	X(icmp_flooded, TX, "An ICMP error about a session of no table, flooded.") \
	X(icmp_dropped, DROP, "The same above the floods' budget, or without a flood group.") \
	X(fragmented, TX, "Too big for the path and without DF: sent in fragments by the loop.") \
	X(fragment_no_frames, DROP, "The same, but the loop had no frames free for that.") \
	X(too_big_answered, TX, "Too big for the path: its sender was told so by an ICMP error.") \
	X(too_big, DROP, "Too big for the path, not to be answered or above the budget for it.") \
	X(no_checksum, DROP, "No checksum inside to derive the outer UDP one over IPv6 from.") \
	X(no_headroom, DROP, "The driver left no room for the outer headers.") \
	X(overtaken, DROP, "Handed to the loop, but the table changed: the sender repeats it.") \
	X(loop_stale, DROP, "Lay in the loop's ring for seconds while the agent was frozen.") \
	X(loop_lost, DROP, "Handed to the loop, but lost with a killed agent or by the kernel.") \
	X(chain_refused, DROP, "In several buffers: too many, not the loop's own, or cut off.") \
	X(delivered_stray, PASS, "A stray sent here by another host, known here: stripped.") \
	X(delivered_syn, PASS, "A SYN sent here by another host: stripped.") \
	X(delivered_udp, PASS, "UDP of a service sent here by another host: stripped.") \
	X(delivered_flood, PASS, "A flood of a session that this kernel knows: stripped.") \
	X(delivered_fragment, PASS, "A later fragment sent here like its first one: stripped.") \
	X(delivered_icmp, PASS, "An ICMP error sent here about a session known here: stripped.") \
	X(fragment_refused, DROP, "A later fragment sent here, no first one was delivered.") \
	X(icmp_unknown, DROP, "An ICMP error sent here about a session not known here.") \
	X(flood_unknown, DROP, "A flood of a session that this kernel does not know.") \
	X(flood_syn, DROP, "A flooded SYN: a flood never opens a session.") \
	X(misdirected_flooded, TX, "Sent here, or to be flooded; not known here: flooded, once.") \
	X(misdirected_dropped, DROP, "Sent here as a stray, not known, not to be flooded again.") \
	X(tunnel_bad_source, DROP, "A tunnel packet whose outer source is no active host.") \
	X(tunnel_bad_cookie, DROP, "A tunnel packet with a wrong cookie.") \
	X(tunnel_malformed, DROP, "Not written as this POP does, or the inner packet is cut.") \
	X(tunnel_no_service, DROP, "A tunnel packet whose inner destination is no service.") \
	X(tunnel_ecn_dropped, DROP, "Congestion marked outside, no ECN inside (RFC 6040).") \
	X(probe_answered, TX, "A liveness probe, answered.")

#define XG_SIDE_COUNTERS(X) \
	X(socket_events_lost, "Socket events lost to a full ring; a resync answers it.") \
	X(packet_events_lost, "Packet events lost to a full ring; they are advice only.") \
	X(socket_events, "Sockets of services that opened or closed here.") \
	X(handed_over, "Frames that the XDP program handed to the AF_XDP loop, which ends them.") \
	X(loop_behind, "Frames that it sent by itself: a loop was stopped, frozen or behind.") \
	X(flood_copies, "Copies of floods, to hosts that the flood group does not reach.") \
	X(fragments_sent, "Fragments that the loop cut from what was too big for its path.") \
	X(fragments_lost, "Of those, for which there was no frame, room or way.") \
	X(flood_copies_lost, "Copies of floods for which there was no frame, room or way.") \
	X(tx_refused, "Frames that the loop or the kernel refused to send: a bad descriptor.")
/* clang-format on */

#define XG_ENUM_ENDING(name, action, sentence) XG_COUNT_##name,
#define XG_ENUM_SIDE(name, sentence) XG_COUNT_##name,

enum xg_counter {
	XG_ENDINGS(XG_ENUM_ENDING)
	XG_SIDE_COUNTERS(XG_ENUM_SIDE)
	XG_COUNTERS
};

#endif
