# SPDX-License-Identifier: BSD-2-Clause
"""The gossip's counters, a sentence each."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class GossipCounters:
    """A snapshot of what the core counted since its start."""

    datagrams_in: int = 0
    """Datagrams handed in, whatever became of them."""
    bytes_in: int = 0
    """Their bytes."""
    datagrams_out: int = 0
    """Datagrams handed out; one to the group counts once."""
    bytes_out: int = 0
    """Their bytes."""
    outgoing_dropped: int = 0
    """Datagrams given up because the caller did not take them in time."""
    malformed_datagram: int = 0
    """Refused: shorter than a header, longer than 1400 bytes, or its fields cannot be."""
    malformed_section: int = 0
    """Refused: a section ends behind its datagram, or there are too many."""
    malformed_body: int = 0
    """Refused: a section's body is too short or holds an impossible value."""
    malformed_records: int = 0
    """Refused: a section that is no row of records; nothing of it was applied."""
    unknown_version: int = 0
    """Refused: of a version of the wire format that this host does not read."""
    incompatible_host: int = 0
    """Ignored: of a host that reads no version of the wire format that all members read."""
    unknown_type: int = 0
    """Refused: a datagram type of a later version."""
    unknown_section: int = 0
    """Skipped: a section kind of a later version."""
    wrong_site: int = 0
    """Refused: of another site; two POPs share a group."""
    plain_refused: int = 0
    """Refused: not sealed, while this host seals."""
    sealed_refused: int = 0
    """Refused: sealed, while this host is insecure."""
    unknown_key: int = 0
    """Refused: sealed with a key that is not in this host's ring."""
    bad_seal: int = 0
    """Refused: forged, damaged, or another secret under the same key id."""
    replayed: int = 0
    """Refused: a datagram that was seen before, or too old to know."""
    own_datagrams: int = 0
    """Ignored: this host's own, looped back."""
    old_incarnation: int = 0
    """Ignored: of an earlier start of its sender."""
    held_incarnation: int = 0
    """Ignored: of a new start, while the host's earlier one is still heard."""
    unproven: int = 0
    """Ignored: of a start that did not answer this host's challenge yet."""
    wrong_source: int = 0
    """Refused: from another address than its sender says, or before a new start said so."""
    members_refused: int = 0
    """Ignored: of a host beyond the most that this one follows."""
    hellos_refused: int = 0
    """Not answered: HELLOs of a start that had many answers a moment ago."""
    duplicate_host: int = 0
    """Datagrams of another host with this host's id."""
    batches_sent: int = 0
    """Log batches sent."""
    batches_received: int = 0
    """Log batches taken in, the late ones included."""
    batches_missed: int = 0
    """Batch numbers that were jumped over when they should have come."""
    batches_late: int = 0
    """Batches that came after all, behind a later one; missed minus late is lost."""
    batches_repeated: int = 0
    """Ignored: batches whose number was seen before."""
    batches_before_services: int = 0
    """Ignored: batches heard before their sender's services; the shard asked for has them."""
    batches_asked: int = 0
    """Missing batches asked for by NACK; each time counts."""
    batches_given_up: int = 0
    """Missing batches that nobody can send again; the digest finds what they said."""
    repairs_unicast: int = 0
    """Own batches sent again, to each host that missed them."""
    repairs_multicast: int = 0
    """Own batches sent again to all, because many missed them."""
    repairs_dropped: int = 0
    """Own batches not sent again: too many were asked for at once."""
    digests_differ: int = 0
    """Times that a member's digest differed, and its sums were asked for."""
    buckets_pulled: int = 0
    """Buckets of digests asked for, because they differed."""
    buckets_received: int = 0
    """Pulls of buckets that came whole."""
    entries_pruned: int = 0
    """Entries closed because their owner's buckets came without them."""
    pulls_cut: int = 0
    """Shards and pulls that came in part; the digest finds the rest."""
    pulls_refused: int = 0
    """Ignored: pulls of another number of buckets than this host has."""
    pulls_limited: int = 0
    """Ignored: pulls of a member that had many answers a moment ago; it asks again."""
    records_applied: int = 0
    """Peers' records that changed the table or confirmed it."""
    records_stale: int = 0
    """Peers' records that are older than what the table holds."""
    records_lost: int = 0
    """Peers' claims that lost against another owner's."""
    records_refused: int = 0
    """Peers' records for which the table had no room."""
    records_unknown_service: int = 0
    """Peers' records about services that this host does not have."""
    rival_claims: int = 0
    """Own sessions claimed again because a peer claimed them wrongly."""
    clock_refused: int = 0
    """Batches whose clock is too far ahead to be followed; their OPENs are dated at the limit."""
    events_absorbed: int = 0
    """Socket events taken into the log."""
    events_refused: int = 0
    """Socket events that the log did not take."""
    claims_repeated: int = 0
    """Claims dropped because the session was claimed a moment ago."""
    shards_sent: int = 0
    """Shards sent to the end."""
    shards_received: int = 0
    """Shards received whole."""
    shards_retried: int = 0
    """Shards asked for again."""
    shard_datagrams_ignored: int = 0
    """Shard datagrams that nobody waits for any more."""
    misses_asked: int = 0
    """Missed sessions asked for."""
    misses_dropped: int = 0
    """Missed sessions not asked for: the budget or the queue was full."""
    marks_refused: int = 0
    """Sessions that no host knows, and the table had no room to say so."""
    sessions_unowned: int = 0
    """Sessions that no host knows, by every active host's word."""
    questions_received: int = 0
    """Sessions that peers asked for."""
    questions_dropped: int = 0
    """Questions not put to the kernel: too many wait or came at once, or of unknown services."""
    not_mine_sent: int = 0
    """Sessions told to a host that sent their packets here wrongly."""
    not_mine_received: int = 0
    """Sessions that a host says it does not own."""
    not_mine_dropped: int = 0
    """Sessions not told: told a moment ago, too many, or their sender is unknown."""
    entries_removed: int = 0
    """Entries removed because their owner says that they are wrong."""
    probes_wanted: int = 0
    """Probes asked for."""
    accusations_sent: int = 0
    """Times this host told the others that a member is dead."""
    accusations_received: int = 0
    """Times another host said so of a member."""
    refutations: int = 0
    """Times another host said so of this host, and heard otherwise."""
    stalls: int = 0
    """Times this agent was not run for so long that it suspects nobody for a while."""


class Tally:
    """Counts by the names of `GossipCounters`; a wrong name is a KeyError."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys((field.name for field in fields(GossipCounters)), 0)

    def add(self, name: str, amount: int = 1) -> None:
        """Raise one counter."""
        self._counts[name] += amount

    def snapshot(self) -> GossipCounters:
        """All counters at this moment."""
        return GossipCounters(**self._counts)
