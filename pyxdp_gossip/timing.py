# SPDX-License-Identifier: BSD-2-Clause
"""How fast the gossip notices things, and what that costs: one field a choice, with its formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DATAGRAM_BYTES = 1400  # of the longest gossip datagram: what bursts are counted in


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast the gossip notices things, and what that costs. Milliseconds, unless named else."""

    heartbeat_ms: int = 100
    """Between two heartbeats. Less finds a dead host sooner and costs `hosts / heartbeat_ms`
    datagrams a millisecond at each host."""
    suspect_after: int = 3
    """Missed heartbeats that make a host suspect: `heartbeat_ms * suspect_after` of silence.
    More tolerates more loss and finds a death later."""
    probe_interval_ms: int = 50
    """Between two probes of a suspect host. A death is known after
    `heartbeat_ms * suspect_after + probe_interval_ms * probe_attempts` (500 ms)."""
    probe_attempts: int = 4
    """Unanswered probes that make a host dead. More is surer and slower by one interval each."""
    silent_probe_interval_ms: int = 500
    """Between two probes of a host that answers them while its agent is silent."""
    hello_interval_ms: int = 100
    """Between two HELLOs of a joining host, until somebody welcomes it."""
    alone_ms: int = 1000
    """Nobody heard for so long after the start: the host is alone, thus synced. More is surer
    when switches learn a multicast group slowly, and delays the first host of a POP."""
    settle_ms: int = 300
    """From the first WELCOME on, how long other members may turn up before the host calls itself
    synced: three heartbeats, so that each member was heard."""
    join_timeout_ms: int = 10_000
    """A join that is not complete by then says *partial*; the missing shards are asked for on."""
    pull_retry_ms: int = 300
    """No datagram of an asked-for shard for so long: ask again. Each further try waits one
    `pull_retry_ms` more, at most ten of them."""
    shard_tick_ms: int = 2
    """Between two bursts of shard datagrams."""
    shard_burst: int = 16
    """Shard datagrams a tick, over all askers. `1400 bytes * shard_burst / shard_tick_ms` is the
    most that joins cost this host's link: 90 Mbit/s; more joins faster and drowns slow readers."""
    nack_delay_ms: int = 2
    """How long a missing batch may only have been overtaken. More tolerates more reordering; a lost
    batch is there again after `nack_delay_ms`, one round trip and one `repair_tick_ms`."""
    nack_retry_ms: int = 10
    """Between two NACKs for the same batches, doubled up to three times (80 ms)."""
    nack_tries: int = 10
    """NACKs without any answer, after which batches are given up and the digest is compared:
    `nack_retry_ms * (1 + 2 + 4) + 8 * nack_retry_ms * (nack_tries - 3)` (630 ms)."""
    repair_tick_ms: int = 1
    """Between two bursts of repairs; who misses a batch within one shares the answer."""
    repair_burst: int = 16
    """Batches a tick that are sent again: `1400 bytes * repair_burst / repair_tick_ms`
    (180 Mbit/s) is the most that repair costs this host's link."""
    tail_ms: int = 4
    """After the last batch, heartbeats show its number `tail_ms` and `4 * tail_ms` later, so that
    its loss is repaired long before the next ordinary heartbeat. Less finds it sooner."""
    digest_retry_ms: int = 100
    """Between two questions for a differing member's sums, doubled up to six times (6.4 s)."""
    sums_interval_ms: int = 50
    """Between two multicasts of this host's sums (8 KiB), whoever asks."""
    dead_alone_ms: int = 10_000
    """A host that hears none of several others is more likely cut off itself: it declares them
    dead only when it did not hear them for so long."""
    services_ms: int = 1000
    """Between two multicasts of this host's service dictionary, in case one was lost."""
    flush_interval_ms: int = 1
    """The longest an OPEN waits for others to share its datagram. Zero sends each at once."""
    claim_interval_ms: int = 100
    """A session is claimed again at most once in such an interval, whatever the packets say."""
    who_has_per_s: int = 200
    """WHO-HAS datagrams a second (32 questions each). More heals faster after a storm and costs
    every host's kernel one look-up a question."""
    who_has_burst: int = 20
    """WHO-HAS datagrams that may be sent at once after a quiet time."""
    who_has_timeout_ms: int = 300
    """Questions that some host has not answered by then are dropped: nothing is marked."""
    clock_drift_ms: int = 1000
    """A peer's clock further ahead than this is not adopted, and counted."""
    linger_s: int = 60
    """How long an entry closed from FIN_WAIT or CLOSING stays (seconds): TIME_WAIT of Linux."""
    unowned_ms: int = 1000
    """How long the mark "no host has this session" lives: one retransmission of the client."""

    @property
    def death_ms(self) -> int:
        """From a host's last heartbeat to its death: `heartbeat_ms * suspect_after +
        probe_interval_ms * probe_attempts`. Up to `heartbeat_ms` of it is over when it dies."""
        return self.heartbeat_ms * self.suspect_after + self.probe_interval_ms * self.probe_attempts

    @property
    def nack_give_up_ms(self) -> int:
        """How long a batch that nobody sends again is asked for: see `nack_tries`."""
        return self.nack_retry_ms * (1 + 2 + 4) + 8 * self.nack_retry_ms * (self.nack_tries - 3)

    @property
    def join_bits_per_s(self) -> int:
        """The most that joins cost this host's link: see `shard_burst`."""
        return DATAGRAM_BYTES * 8 * self.shard_burst * 1000 // self.shard_tick_ms

    @property
    def repair_bits_per_s(self) -> int:
        """The most that repair costs this host's link: see `repair_burst`."""
        return DATAGRAM_BYTES * 8 * self.repair_burst * 1000 // self.repair_tick_ms

    @property
    def hellos_per_s(self) -> int:
        """HELLOs of one start that are answered a second, and at once: `4 * 1000 /
        hello_interval_ms` (40). It greets the group, challenges this host and asks for its shard
        at most once each in an interval; the fourth is room for its second tries."""
        return 4 * 1000 // self.hello_interval_ms

    @property
    def bucket_pulls_per_s(self) -> int:
        """PULL_BUCKETS of one member that are answered a second, and twice as many at once:
        `1000 / (2 * digest_retry_ms)` (5). Its questions for sums, which come before, are
        `digest_retry_ms` apart, then twice that; each pull looks through the whole table."""
        return max(1, 1000 // (2 * self.digest_retry_ms))

    @property
    def questions_burst(self) -> int:
        """WHO-HAS of one member that are taken at once; `who_has_per_s` go on. `who_has_burst +
        who_has_per_s * who_has_timeout_ms / 1000` (80): what waited longer is answered too late."""
        return self.who_has_burst + self.who_has_per_s * self.who_has_timeout_ms // 1000

    def heartbeats_per_s(self, hosts: int) -> int:
        """Datagrams that a POP at rest brings to each host: `hosts * 1000 / heartbeat_ms`."""
        return hosts * 1000 // self.heartbeat_ms


PRESETS: Mapping[str, Timing] = {
    "lan": Timing(),
    # Many hosts share the cores of one machine: start sooner, suspect later.
    "loopback": Timing(suspect_after=5, alone_ms=500),
}
