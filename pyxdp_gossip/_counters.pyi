# SPDX-License-Identifier: BSD-2-Clause
"""The attributes of Statistics, which stats.py makes at run time of the list in csrc/stats.h.

Written by `make stubs`; do not edit.
"""

class CounterAttributes:
    """One attribute for each counter."""

    __slots__ = ()
    @property
    def passed_not_ip(self) -> int:
        """Not IPv4 or IPv6 (ARP, LLDP, …). The frame is passed to the stack."""

    @property
    def passed_unparsed(self) -> int:
        """Truncated, or a header that the parser does not know.

        The frame is passed to the stack.
        """

    @property
    def passed_fragment(self) -> int:
        """A later fragment, to no VIP or of a packet that was passed.

        The frame is passed to the stack.
        """

    @property
    def fragment_unknown(self) -> int:
        """A later fragment to a VIP whose first one did not come here.

        The frame is passed to the stack.
        """

    @property
    def passed_echo(self) -> int:
        """An ICMP echo request to a VIP: each host answers by itself.

        The frame is passed to the stack.
        """

    @property
    def passed_icmp(self) -> int:
        """ICMP to a VIP, neither echo nor an error that quotes a service.

        The frame is passed to the stack.
        """

    @property
    def passed_icmp_own(self) -> int:
        """An ICMP error about a session of this host, or of no host.

        The frame is passed to the stack.
        """

    @property
    def passed_no_service(self) -> int:
        """The destination is not a configured service. The frame is passed to the stack."""

    @property
    def passed_own(self) -> int:
        """Owned by this host: by the table, and its kernel agrees.

        The frame is passed to the stack.
        """

    @property
    def passed_unowned(self) -> int:
        """No host has the session: the local kernel may answer.

        The frame is passed to the stack.
        """

    @property
    def passed_syn(self) -> int:
        """A SYN of a session that the table does not know: a new one.

        The frame is passed to the stack.
        """

    @property
    def passed_known(self) -> int:
        """Not in the table, but this kernel knows the session. The frame is passed to the stack."""

    @property
    def passed_stale_entry(self) -> int:
        """The table names another host, but this kernel knows it.

        The frame is passed to the stack.
        """

    @property
    def passed_udp_new(self) -> int:
        """UDP to a service, not in the table: a new session. The frame is passed to the stack."""

    @property
    def dropped_no_flags(self) -> int:
        """TCP with none of SYN, ACK and RST. The frame is dropped."""

    @property
    def stray_forwarded(self) -> int:
        """A stray, encapsulated to the owner. The frame is sent."""

    @property
    def syn_forwarded(self) -> int:
        """A SYN of a session that another host owns, encapsulated to it. The frame is sent."""

    @property
    def quic_forwarded(self) -> int:
        """QUIC of another host by its connection id, encapsulated to it. The frame is sent."""

    @property
    def miss_flooded(self) -> int:
        """A miss, encapsulated to the flood group. The frame is sent."""

    @property
    def miss_over_budget_new(self) -> int:
        """A miss seen for the first time, above the floods' budget. The frame is dropped."""

    @property
    def miss_over_budget_seen(self) -> int:
        """A miss seen before, above the floods' budget. The frame is dropped."""

    @property
    def miss_no_flood(self) -> int:
        """A miss, and there is no way to flood it. The frame is dropped."""

    @property
    def miss_relayed(self) -> int:
        """To be flooded, without group and loop: sent to a host that will. The frame is sent."""

    @property
    def fragment_forwarded(self) -> int:
        """A later fragment, sent where its first one was sent. The frame is sent."""

    @property
    def fragment_over_budget(self) -> int:
        """A later fragment of a flooded packet, above the budget. The frame is dropped."""

    @property
    def dropped_tiny_fragment(self) -> int:
        """A first fragment to a VIP that ends before its ports do. The frame is dropped."""

    @property
    def icmp_forwarded(self) -> int:
        """An ICMP error, encapsulated to the owner of what it quotes. The frame is sent."""

    @property
    def icmp_flooded(self) -> int:
        """An ICMP error about a session of no table, flooded. The frame is sent."""

    @property
    def icmp_dropped(self) -> int:
        """The same above the floods' budget, or without a flood group. The frame is dropped."""

    @property
    def fragmented(self) -> int:
        """Too big for the path and without DF: sent in fragments by the loop. The frame is sent."""

    @property
    def fragment_no_frames(self) -> int:
        """The same, but the loop had no frames free for that. The frame is dropped."""

    @property
    def too_big_answered(self) -> int:
        """Too big for the path: its sender was told so by an ICMP error. The frame is sent."""

    @property
    def too_big(self) -> int:
        """Too big for the path, not to be answered or above the budget for it.

        The frame is dropped.
        """

    @property
    def no_checksum(self) -> int:
        """No checksum inside to derive the outer UDP one over IPv6 from. The frame is dropped."""

    @property
    def no_headroom(self) -> int:
        """The driver left no room for the outer headers. The frame is dropped."""

    @property
    def overtaken(self) -> int:
        """Handed to the loop, but the table changed: the sender repeats it.

        The frame is dropped.
        """

    @property
    def loop_stale(self) -> int:
        """Lay in the loop's ring for seconds while the agent was frozen. The frame is dropped."""

    @property
    def loop_lost(self) -> int:
        """Handed to the loop, but lost with a killed agent or by the kernel.

        The frame is dropped.
        """

    @property
    def chain_refused(self) -> int:
        """In several buffers: too many, not the loop's own, or cut off. The frame is dropped."""

    @property
    def delivered_stray(self) -> int:
        """A stray sent here by another host, known here: stripped.

        The frame is passed to the stack.
        """

    @property
    def delivered_syn(self) -> int:
        """A SYN sent here by another host: stripped. The frame is passed to the stack."""

    @property
    def delivered_udp(self) -> int:
        """UDP of a service sent here by another host: stripped.

        The frame is passed to the stack.
        """

    @property
    def delivered_flood(self) -> int:
        """A flood of a session that this kernel knows: stripped.

        The frame is passed to the stack.
        """

    @property
    def delivered_fragment(self) -> int:
        """A later fragment sent here like its first one: stripped.

        The frame is passed to the stack.
        """

    @property
    def delivered_icmp(self) -> int:
        """An ICMP error sent here about a session known here: stripped.

        The frame is passed to the stack.
        """

    @property
    def fragment_refused(self) -> int:
        """A later fragment sent here, no first one was delivered. The frame is dropped."""

    @property
    def icmp_unknown(self) -> int:
        """An ICMP error sent here about a session not known here. The frame is dropped."""

    @property
    def flood_unknown(self) -> int:
        """A flood of a session that this kernel does not know. The frame is dropped."""

    @property
    def flood_syn(self) -> int:
        """A flooded SYN: a flood never opens a session. The frame is dropped."""

    @property
    def misdirected_flooded(self) -> int:
        """Sent here, or to be flooded; not known here: flooded, once. The frame is sent."""

    @property
    def misdirected_dropped(self) -> int:
        """Sent here as a stray, not known, not to be flooded again. The frame is dropped."""

    @property
    def tunnel_bad_source(self) -> int:
        """A tunnel packet whose outer source is no active host. The frame is dropped."""

    @property
    def tunnel_bad_cookie(self) -> int:
        """A tunnel packet with a wrong cookie. The frame is dropped."""

    @property
    def tunnel_malformed(self) -> int:
        """Not written as this POP does, or the inner packet is cut. The frame is dropped."""

    @property
    def tunnel_no_service(self) -> int:
        """A tunnel packet whose inner destination is no service. The frame is dropped."""

    @property
    def tunnel_ecn_dropped(self) -> int:
        """Congestion marked outside, no ECN inside (RFC 6040). The frame is dropped."""

    @property
    def probe_answered(self) -> int:
        """A liveness probe, answered. The frame is sent."""

    @property
    def socket_events_lost(self) -> int:
        """Socket events lost to a full ring; a resync answers it. Ends no frame."""

    @property
    def packet_events_lost(self) -> int:
        """Packet events lost to a full ring; they are advice only. Ends no frame."""

    @property
    def socket_events(self) -> int:
        """Sockets of services that opened or closed here. Ends no frame."""

    @property
    def handed_over(self) -> int:
        """Frames that the XDP program handed to the AF_XDP loop, which ends them. Ends no frame."""

    @property
    def loop_behind(self) -> int:
        """Frames that it sent by itself: a loop was stopped, frozen or behind. Ends no frame."""

    @property
    def flood_copies(self) -> int:
        """Copies of floods, to hosts that the flood group does not reach. Ends no frame."""

    @property
    def fragments_sent(self) -> int:
        """Fragments that the loop cut from what was too big for its path. Ends no frame."""

    @property
    def fragments_lost(self) -> int:
        """Of those, for which there was no frame, room or way. Ends no frame."""

    @property
    def flood_copies_lost(self) -> int:
        """Copies of floods for which there was no frame, room or way. Ends no frame."""

    @property
    def tx_refused(self) -> int:
        """Frames that the loop or the kernel refused to send: a bad descriptor. Ends no frame."""
