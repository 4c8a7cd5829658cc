/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the XDP program writes in the place of a frame's Ethernet header when the AF_XDP loop shall
 * send it, in fragments if it must, with headers that the program has chosen already.
 *
 * The loop could not choose them by itself: a later fragment has no ports, and a miss was paid for
 * from the program's budget. No such frame comes from a link: the program hands over IP only, and
 * its forwarder looks for notes only in the loop (struct xg_forwarder).
 */
#ifndef XG_NOTE_H
#define XG_NOTE_H

#include "packet_parse.h"

#define XG_NOTE_ETHERTYPE 0x88b5	/* IEEE 802: for local experiments */

struct xg_note {
	__u16 template_index;
	__u16 source_port_be;	/* of the session, for the outer source port */
	__u16 destination_port_be;
	__u8 mark;		/* XG_MARK_* */
	__u8 reserved[5];
	__u16 ethertype_be;
} XG_UNALIGNED;

_Static_assert(sizeof(struct xg_note) == XG_ETH_LEN, "it takes an Ethernet header's place");

#endif
