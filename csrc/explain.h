/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Why a frame ends as it does: what the forwarder asked on its way, and what it found.
 *
 * The ending and the bytes are the forwarder's own (forward.h), so the two cannot disagree; the
 * steps are noted from the functions that the forwarder calls. For people who ask, one frame at
 * a time: nothing here is on the path of packets. Nothing may write the tables meanwhile.
 */
#ifndef XG_EXPLAIN_H
#define XG_EXPLAIN_H

#include "forward.h"
#include "packet_parse.h"

/* What was found; each belongs to one question. Python has the sentences (explanation.py), which
 * may name `value`, `bound` and what Python makes of them. Keep one entry a line. */
/* clang-format off */
#define XG_STEPS(X) \
	X(tunnel)		/* tunnel; format: its name, by value; sender: outer source */ \
	X(tunnel_cut)		/* format; ends */ \
	X(sender)		/* sender; value: host */ \
	X(no_sender)		/* sender; ends */ \
	X(cookie)		/* cookie */ \
	X(cookie_no_room)	/* cookie */ \
	X(wrong_cookie)		/* cookie; ends */ \
	X(sound)		/* format */ \
	X(unsound)		/* format; ends */ \
	X(probe_to_group)	/* format; ends */ \
	X(probe)		/* purpose; ends */ \
	X(probe_malformed)	/* purpose; ends */ \
	X(flooded)		/* purpose; value: host */ \
	X(relayed)		/* purpose; value: host */ \
	X(sent_here)		/* purpose; value: host */ \
	X(inner_unread)		/* inner; ends */ \
	X(inner_fragment)	/* inner; ends */ \
	X(inner_error)		/* inner; value: IP protocol of the packet that is quoted */ \
	X(inner_parsed)		/* inner; value: IP protocol, bound: bytes of the IP packet */ \
	X(inner_no_service)	/* service; ends */ \
	X(not_ip)		/* parse; ends */ \
	X(truncated)		/* parse; ends */ \
	X(bad_header)		/* parse; ends */ \
	X(not_transport)	/* parse; ends */ \
	X(fragment)		/* parse; ends */ \
	X(tiny_fragment)	/* parse; ends */ \
	X(echo)			/* parse; ends */ \
	X(icmp)			/* parse; ends */ \
	X(icmp_error)		/* parse; value: IP protocol of the packet that is quoted */ \
	X(parsed)		/* parse; value: IP protocol, bound: bytes of the IP packet */ \
	X(no_service)		/* service; ends */ \
	X(service)		/* service; value: slot */ \
	X(no_flags)		/* kind; ends */ \
	X(flooded_syn)		/* kind: a SYN that nobody sent here as ours; ends */ \
	X(opens)		/* kind: a SYN */ \
	X(segment)		/* kind: any other TCP segment */ \
	X(datagram)		/* kind: UDP */ \
	X(absent)		/* table */ \
	X(unowned)		/* table; QUIC goes on to the id; ends */ \
	X(own)			/* table; value: host */ \
	X(other)		/* table; value: owner */ \
	X(kernel_not_asked)	/* kernel: taken as "does not know it" */ \
	X(kernel_assumed)	/* kernel: nobody was asked, taken as the table says; ends */ \
	X(kernel_knows)		/* kernel; ends */ \
	X(kernel_unknown)	/* kernel */ \
	X(hop_before)		/* hop; ends */ \
	X(first_hop)		/* hop */ \
	X(id_other)		/* id; value: the host that it names */ \
	X(id_here)		/* id; value: this host; ends */ \
	X(id_no_way)		/* id; value: a host to which there is no way; ends */ \
	X(id_nobody)		/* id; ends */ \
	X(owner_headers)	/* headers; value: template index */ \
	X(owner_no_headers)	/* headers */ \
	X(owner_empty_headers)	/* headers; value: template index; ends */ \
	X(flood_headers)	/* headers; value: template index */ \
	X(flood_no_headers)	/* headers; ends */ \
	X(fits)			/* size; value: bytes of the outer packet, bound: MTU; ends */ \
	X(fragmented)		/* size; value: bytes of the outer packet, bound: MTU; ends */ \
	X(too_big)		/* size; value: bytes of the outer packet, bound: MTU; ends */ \
	X(no_checksum)		/* size; ends */ \
	X(no_headroom)		/* size; ends */ \
	X(ecn_kept)		/* ecn; value: inner mark; ends */ \
	X(ecn_changed)		/* ecn; value: new inner mark, bound: old one; ends */ \
	X(ecn_lost)		/* ecn; ends */
/* clang-format on */

#define XG_ENUM_STEP(name) XG_STEP_##name,

enum xg_step_code {
	XG_STEPS(XG_ENUM_STEP)
	XG_STEP_CODES
};

/* One answer to each of tunnel, sender, cookie, format, purpose, inner, service, kind, table,
 * kernel, hop, headers to the flood group, size: the longest way. */
#define XG_STEPS_MAX 13

enum xg_kernel_answer {
	XG_KERNEL_NOT_ASKED,
	XG_KERNEL_KNOWS,
	XG_KERNEL_UNKNOWN,
};

struct xg_step {
	uint32_t code;		/* enum xg_step_code */
	uint32_t value;
	uint32_t bound;
};

struct xg_explanation {
	struct xg_packet packet;	/* the one inside, of a tunnel packet; if `has_packet` */
	uint32_t sender_be[4];		/* of a tunnel packet: its outer source */
	uint8_t has_packet;		/* `packet` was read: its own ports, or those it quotes */
	uint8_t is_tunnel;
	struct xg_step steps[XG_STEPS_MAX];
	uint32_t step_count;
};

/* Does with the frame what xg_forward_burst does, counting nothing, and notes the steps.
 * `kernel`: whether this host's kernel knows the session; if it does, what would be sent is
 * passed, as in the XDP program. */
void xg_explain(const struct xg_forwarder *forwarder, struct xg_frame *frame,
		enum xg_kernel_answer kernel, struct xg_explanation *explanation);

#endif
