# SPDX-License-Identifier: BSD-2-Clause
"""What a POP of any size costs each host, computed from unit costs (pure).

Units are in the names: `_a_s` is per second, `_us`, `_ms`, `_s` are times, the rest are counts and
bytes. Datagrams are UDP payloads; `FRAME_BYTES` more each lie on the link. Opens and ends of
sessions come at random moments, independent of each other (a Poisson process).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from pyxdp_gossip.dataplane_settings import ENTRIES_A_BUCKET, buckets_for
from pyxdp_gossip.gossip.membership import MEMBERS_MAX
from pyxdp_gossip.gossip.messages import Batch, Heartbeat, HostState, Nack, Services
from pyxdp_gossip.gossip.own_log import KEPT_BYTES, TAIL_BEATS
from pyxdp_gossip.gossip.records import RECORD_BYTES
from pyxdp_gossip.gossip.repair import MULTICAST_FROM
from pyxdp_gossip.gossip.wire import HEADER, ROOM_MAX, SECTION, TAG_BYTES, encode_message
from pyxdp_gossip.session import Service
from pyxdp_gossip.timing import Timing

ENVELOPE_BYTES: Final = HEADER.size + TAG_BYTES
FRAME_BYTES: Final = 14 + 20 + 8  # Ethernet, IPv4, UDP
_ANY: Final = IPv4Address("192.0.2.1")
BATCH_BYTES: Final = ENVELOPE_BYTES + len(encode_message(Batch(1, 1)))
BEAT_BYTES: Final = ENVELOPE_BYTES + len(
    encode_message(Heartbeat(HostState.ACTIVE, 6080, 1, _ANY, 0, 0))
)
NACK_BYTES: Final = ENVELOPE_BYTES + len(encode_message(Nack(((1, 1),))))
RECORD: Final = RECORD_BYTES[4]
FULL: Final = (ROOM_MAX.batch - SECTION.size) // RECORD  # records of a full datagram
PENDING: Final = 256  # XG_BATCH_MAX: so many records wait at most
KIND_SHARES: Final = (0.5, 0.5)  # of the records: OPENs, and CLOSEs or LINGERs
ENTRY_BYTES: Final = 16  # struct of one IPv4 entry: key and meta word
COLD_BYTES: Final = 16  # struct xg_session_cold
HOSTS_MOST: Final = MEMBERS_MAX + 1  # those that one host follows, and itself
MS_A_S: Final = 1000.0
US_A_S: Final = 1e6


def services_bytes(services: int) -> int:
    """A datagram that tells of so many services."""
    rows = tuple((slot, Service(_ANY, 443, "tcp")) for slot in range(services))
    return ENVELOPE_BYTES + len(encode_message(Services(1, rows)))


@dataclass(frozen=True, slots=True)
class Pop:
    """A POP with full replication.

    Attributes:
        opens_a_s: of the whole POP; as many sessions end.
        unicast: no multicast: each datagram for all is sent to each host.
        loss: share of the datagrams that a receiver does not get.
    """

    hosts: int
    sessions: int
    opens_a_s: float
    unicast: bool = False
    loss: float = 0.0
    services: int = 1

    @property
    def others(self) -> int:
        """Hosts beside one."""
        return self.hosts - 1

    @property
    def records_a_s(self) -> float:
        """That one host says: an open and an end of each of its sessions."""
        return 2 * self.opens_a_s / self.hosts


@dataclass(frozen=True, slots=True)
class Flow:
    """Datagrams a second, and their bytes a second."""

    datagrams_a_s: float = 0.0
    bytes_a_s: float = 0.0

    def __add__(self, other: Flow) -> Flow:
        return Flow(self.datagrams_a_s + other.datagrams_a_s, self.bytes_a_s + other.bytes_a_s)

    def times(self, factor: float) -> Flow:
        """So many of it."""
        return Flow(self.datagrams_a_s * factor, self.bytes_a_s * factor)

    @property
    def link_bits_a_s(self) -> float:
        """On the link, from Ethernet up."""
        return 8 * (self.bytes_a_s + FRAME_BYTES * self.datagrams_a_s)


def timing_of(flush_ms: int, heartbeat_ms: int = 100) -> Timing:
    """The default with another flush interval. A heartbeat behind a batch flushes what is open, so
    `tail_ms` grows along; else it would be the flush interval."""
    usual = Timing()
    longer = max(1, flush_ms // usual.flush_interval_ms)
    return Timing(
        heartbeat_ms=heartbeat_ms, flush_interval_ms=flush_ms, tail_ms=usual.tail_ms * longer
    )


# ---- what one host says, once ----


def batches_a_s(records_a_s: float, flush_ms: float) -> float:
    """Batches of one host.

    After a batch the next record comes X later. If X is longer than a flush interval I, it goes at
    once; else it waits I. So a flush comes every 1/rate + I * P(X < I), or when `PENDING` records
    wait. A flush of more than `FULL` is two batches.
    """
    if records_a_s <= 0:
        return 0.0
    rate = records_a_s / MS_A_S
    cycle_ms = 1 / rate + flush_ms * -math.expm1(-rate * flush_ms)
    if rate * cycle_ms <= FULL:
        return MS_A_S / cycle_ms
    return 2 * max(MS_A_S / cycle_ms, records_a_s / PENDING)


def sections_a_batch(records_a_s: float, flush_ms: float) -> float:
    """Sections of records in a batch: one for each kind that occurs in it."""
    rate = records_a_s / MS_A_S
    waits = -math.expm1(-rate * flush_ms)
    return sum(
        1 - (1 - share) * (waits * math.exp(-rate * share * flush_ms) + 1 - waits)
        for share in KIND_SHARES
    )


def log_flow(records_a_s: float, flush_ms: float) -> Flow:
    """A host's own log, each batch once."""
    batches = batches_a_s(records_a_s, flush_ms)
    heads = BATCH_BYTES + SECTION.size * sections_a_batch(records_a_s, flush_ms)
    return Flow(batches, batches * heads + records_a_s * RECORD)


def tails_a_s(records_a_s: float, timing: Timing) -> float:
    """Heartbeats that show a batch's number: one for each of the times after a batch that pass
    without another. The gap between two batches exceeds two flush intervals or more as often as no
    record comes for so long."""
    rate = records_a_s / MS_A_S
    shown = sum(math.exp(-rate * factor * timing.tail_ms) for factor in TAIL_BEATS)
    return batches_a_s(records_a_s, timing.flush_interval_ms) * shown


def beats_flow(records_a_s: float, timing: Timing) -> Flow:
    """A host's heartbeats, each once."""
    beats = MS_A_S / timing.heartbeat_ms + tails_a_s(records_a_s, timing)
    return Flow(beats, beats * BEAT_BYTES)


def services_flow(services: int, timing: Timing) -> Flow:
    """A host's dictionary, told again and again."""
    told = MS_A_S / timing.services_ms
    parts = max(1, math.ceil(services / ROOM_MAX.services))
    return Flow(told * parts, told * parts * services_bytes(math.ceil(services / parts)))


def said_flow(pop: Pop, timing: Timing) -> Flow:
    """All that one host says to all, each datagram once."""
    return (
        log_flow(pop.records_a_s, timing.flush_interval_ms)
        + beats_flow(pop.records_a_s, timing)
        + services_flow(pop.services, timing)
    )


# ---- repair ----


@dataclass(frozen=True, slots=True)
class Repair:
    """What loss adds at one host, a second: NACKs that it sends (and gets as many), batches that it
    sends again to one host and to all."""

    nacks: float
    unicast: float
    multicast: float


def _missed_by(hosts: int, loss: float, count: int) -> float:
    """Chance that exactly so many of `hosts` miss a datagram."""
    return math.comb(hosts, count) * loss**count * (1 - loss) ** (hosts - count)


def repair(pop: Pop, timing: Timing) -> Repair:
    """Each missed batch is asked for by each that misses it, and sent again to each, or to all if
    `MULTICAST_FROM` or more miss it; what is sent again is lost as often. Without multicast "to
    all" is a copy for each host."""
    batches = batches_a_s(pop.records_a_s, timing.flush_interval_ms)
    few = [_missed_by(pop.others, pop.loss, count) for count in range(MULTICAST_FROM)]
    again = 1 / (1 - pop.loss)
    return Repair(
        nacks=batches * pop.others * pop.loss * again,
        unicast=batches * sum(count * chance for count, chance in enumerate(few)) * again,
        multicast=batches * (1 - sum(few)) * again,
    )


def repair_flows(pop: Pop, timing: Timing) -> tuple[Flow, Flow, Flow]:
    """NACKs, batches again to one host, batches again to all: each once, of one host."""
    counts = repair(pop, timing)
    log = log_flow(pop.records_a_s, timing.flush_interval_ms)
    size = log.bytes_a_s / log.datagrams_a_s if log.datagrams_a_s else 0.0
    return (
        Flow(counts.nacks, counts.nacks * NACK_BYTES),
        Flow(counts.unicast, counts.unicast * size),
        Flow(counts.multicast, counts.multicast * size),
    )


# ---- what leaves and reaches one host ----


def sent_flow(pop: Pop, timing: Timing) -> Flow:
    """What one host's socket sends."""
    nacks, alone, all_again = repair_flows(pop, timing)
    copies = pop.others if pop.unicast else 1
    return (said_flow(pop, timing) + all_again).times(copies) + nacks + alone


def received_flow(pop: Pop, timing: Timing) -> Flow:
    """What one host's socket gets. Each of the others says the same; what all of them send to
    single hosts is, in the mean, what one of them sends."""
    nacks, alone, all_again = repair_flows(pop, timing)
    everybody = (said_flow(pop, timing) + all_again).times(pop.others)
    return (everybody + nacks + alone).times(1 - pop.loss)


# ---- CPU ----


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of one core. What is linear in the bytes or records has two figures.

    Attributes:
        receive: to get a datagram out of the socket, a full burst a system call.
        open, open_byte: to check and open a seal.
        seal, seal_byte: to write one.
        batch: to read a batch, without its seal and records.
        record: to enter a peer's record into the table.
        beat: to take a heartbeat in, without its seal.
        say, tell: to make a batch of own records, without its seal, and each record of it.
        send: to give a datagram to the socket.
        turn: a turn of the agent's loop that finds nothing.
        truesize: bytes of a small datagram in the socket's buffer.
        member_bytes: memory that another host takes.
    """

    receive: float
    open: float
    open_byte: float
    seal: float
    seal_byte: float
    batch: float
    record: float
    beat: float
    say: float
    tell: float
    send: float
    turn: float
    truesize: float
    member_bytes: float


def cpu_shares(pop: Pop, timing: Timing, costs: Costs) -> dict[str, float]:
    """Of one core, by part, of one host. The agent is one thread: more than 1 cannot be."""
    sent, received = sent_flow(pop, timing), received_flow(pop, timing)
    nacks, alone, all_again = repair_flows(pop, timing)
    said = said_flow(pop, timing) + nacks + alone + all_again  # sealed once, whoever gets it
    beats = beats_flow(pop.records_a_s, timing).datagrams_a_s * pop.others * (1 - pop.loss)
    records = pop.records_a_s * pop.others
    batches = batches_a_s(pop.records_a_s, timing.flush_interval_ms)
    parts = {
        "sockets in": received.datagrams_a_s * costs.receive,
        "seals opened": received.datagrams_a_s * costs.open + received.bytes_a_s * costs.open_byte,
        "heartbeats": beats * costs.beat,
        "batches": (received.datagrams_a_s - beats) * costs.batch,
        "records": records * costs.record,
        "own records": batches * costs.say + pop.records_a_s * costs.tell,
        "seals written": said.datagrams_a_s * costs.seal + said.bytes_a_s * costs.seal_byte,
        "sockets out": sent.datagrams_a_s * costs.send,
        "turns": turns_a_s(pop, timing) * costs.turn,
    }
    return {name: us / US_A_S for name, us in parts.items()}


def turns_a_s(pop: Pop, timing: Timing) -> float:
    """Of the agent's loop: one each flush interval, or one for each datagram if those are fewer."""
    arrivals = received_flow(pop, timing).datagrams_a_s + said_flow(pop, timing).datagrams_a_s
    return min(MS_A_S / max(timing.flush_interval_ms, 1), arrivals)


def cpu_share(pop: Pop, timing: Timing, costs: Costs) -> float:
    """Of one core, all parts."""
    return sum(cpu_shares(pop, timing, costs).values())


# ---- window, stalls, joins, memory ----


def window_ms(
    pop: Pop, timing: Timing, costs: Costs, network_ms: float
) -> tuple[float, float] | None:
    """From an open until all other hosts know it: mean and most, without losses; None: the hosts
    cannot keep up, and it grows without end.

    A record waits for its batch up to one flush interval (not at all after an idle one); the turn
    that sends it, and the receiver's next turn, come up to one turn later. A turn lasts a flush
    interval, or as long as its work.
    """
    share = cpu_share(pop, timing, costs)
    if share >= 1:
        return None
    flush = timing.flush_interval_ms
    turn_ms = max(flush, costs.turn / 1000)
    rate = pop.records_a_s / MS_A_S
    waits = -math.expm1(-rate * flush)  # the first record of a batch waits, or is alone
    mean_wait = flush * waits * (2 + rate * flush) / (2 + 2 * rate * flush * waits)
    copies_ms = pop.others * costs.send / 1000 if pop.unicast else 0.0
    work_ms = turn_ms * share
    mean = mean_wait + copies_ms / 2 + network_ms + turn_ms / 2 + work_ms / 2
    # The slowest of all receivers has just missed a turn, and reads this datagram last.
    return mean, flush + turn_ms * share + copies_ms + network_ms + turn_ms + work_ms


def repaired_ms(timing: Timing, round_trip_ms: float) -> float:
    """What a lost batch comes later, once the next one or a heartbeat shows that it was lost."""
    return timing.nack_delay_ms + round_trip_ms + timing.repair_tick_ms


def stall_ms(pop: Pop, timing: Timing, costs: Costs, buffer_bytes: int) -> float:
    """How long an agent may not run before its socket drops datagrams."""
    arrivals = received_flow(pop, timing).datagrams_a_s
    return MS_A_S * buffer_bytes / costs.truesize / arrivals if arrivals else math.inf


def table_bytes(sessions: int) -> int:
    """Of the table that all sessions fit into: entries in the BPF map, and the writer's part."""
    return buckets_for(sessions) * ENTRIES_A_BUCKET * (ENTRY_BYTES + COLD_BYTES)


def memory_bytes(pop: Pop, costs: Costs) -> dict[str, float]:
    """Of one host, by part."""
    return {
        "table": table_bytes(pop.sessions),
        "members": pop.others * costs.member_bytes,
        "kept batches": KEPT_BYTES,
    }


def shard_datagrams(sessions: float) -> int:
    """Of a shard of so many sessions, its end included."""
    return math.ceil(sessions / ((ROOM_MAX.shard - SECTION.size) // RECORD)) + 1


def joins_s(pop: Pop, timing: Timing, costs: Costs, link_bits_a_s: float) -> dict[str, float]:
    """What bounds the time in which a joining host gets all sessions; the largest holds. Its core
    has what the running gossip leaves; without any it never ends."""
    datagrams = shard_datagrams(pop.sessions / max(1, pop.others)) * pop.others
    total = pop.sessions * RECORD + datagrams * (BATCH_BYTES + SECTION.size)
    a_datagram = costs.receive + costs.open + costs.batch
    work_us = datagrams * a_datagram + total * costs.open_byte + pop.sessions * costs.record
    left = 1 - cpu_share(pop, timing, costs)
    pace = timing.shard_burst * MS_A_S / timing.shard_tick_ms
    return {
        "senders' pace": shard_datagrams(pop.sessions / max(1, pop.others)) / pace,
        "link": 8 * (total + datagrams * FRAME_BYTES) / link_bits_a_s,
        "receiver's core": work_us / US_A_S / left if left > 0 else math.inf,
    }


def list_datagrams(hosts: int) -> int:
    """Of the lists of members that a joining host gets: from each other host, of all but two."""
    return (hosts - 1) * max(1, math.ceil((hosts - 2) / ROOM_MAX.members))


# ---- limits ----


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number of low..high for which `fits(number)` holds; low - 1 if none. What fits
    for a number must fit for all smaller ones."""
    if not fits(low):
        return low - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


# ---- a home-node directory, which is not built ----


@dataclass(frozen=True, slots=True)
class Directory:
    """Each session has `copies` home nodes by its hash, and only they are told.

    Attributes:
        strays_a_s: packets that reach a host which does not own them, at one host.
        hop_us: what one more hop costs the host in the middle.
    """

    copies: int = 2
    strays_a_s: float = 100_000.0
    hop_us: float = 0.5


def directory_flow(pop: Pop, timing: Timing, directory: Directory) -> Flow:
    """What one host sends of its log, and gets: a log for each other host, of its records whose
    home that is. Each goes by unicast."""
    to_each = pop.records_a_s * directory.copies / pop.others
    log = log_flow(to_each, timing.flush_interval_ms)
    tails = tails_a_s(to_each, timing)
    return (log + Flow(tails, tails * BEAT_BYTES)).times(pop.others)


def directory_share(pop: Pop, timing: Timing, costs: Costs, directory: Directory) -> float:
    """Of one core: the directory's log both ways, heartbeats of all as today, and the hops."""
    log = directory_flow(pop, timing, directory)
    rest = Pop(pop.hosts, pop.sessions, 0.0, pop.unicast, pop.loss, pop.services)
    both_ways = costs.receive + costs.open + costs.batch + costs.seal + costs.send
    records = pop.records_a_s * directory.copies
    us = log.datagrams_a_s * (both_ways + costs.say)
    us += log.bytes_a_s * (costs.open_byte + costs.seal_byte)
    us += records * (costs.record + costs.tell)
    us += directory.strays_a_s * directory.hop_us
    return us / US_A_S + cpu_share(rest, timing, costs)
