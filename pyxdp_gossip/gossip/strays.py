# SPDX-License-Identifier: BSD-2-Clause
"""Telling a host that what it sent is not ours, and believing a host that says so."""

from __future__ import annotations

from pyxdp_gossip.gossip.counters import Tally
from pyxdp_gossip.gossip.member import Member
from pyxdp_gossip.gossip.membership import Roster
from pyxdp_gossip.gossip.messages import NotMine, Stray
from pyxdp_gossip.gossip.outbox import Outbox
from pyxdp_gossip.gossip.rates import NS_PER_MS, OncePerInterval
from pyxdp_gossip.gossip.records import (
    EVENT,
    NO_SLOT,
    OwnershipLog,
    check_records,
    session_key,
    unpack_records,
)
from pyxdp_gossip.gossip.translation import slot_of
from pyxdp_gossip.gossip.wire import STRAYS_IN_SECTION, DatagramType
from pyxdp_gossip.timing import Timing

TOLD_PER_INTERVAL = 1024  # sessions; a stale entry that is not told now is told later


class StrayNotices:
    """Both directions of NOT-MINE: a stale entry goes once its supposed owner denies it."""

    def __init__(
        self,
        log: OwnershipLog,
        roster: Roster,
        outbox: Outbox,
        timing: Timing,
        tally: Tally,
    ) -> None:
        self._log = log
        self._roster = roster
        self._outbox = outbox
        self._tally = tally
        interval = timing.claim_interval_ms * NS_PER_MS
        self._told = OncePerInterval(interval, TOLD_PER_INTERVAL)

    def tell(self, records: bytes, now: int) -> None:
        """Tell the senders of struct xg_event records of kind MISDIRECTED."""
        check_records(records)
        told: dict[int, list[Stray]] = {}
        rows = unpack_records(records, TOLD_PER_INTERVAL)
        for row in rows:
            member = self._roster.get(row.host)
            if member is None or member.reach is None:
                continue
            if self._told.passes((row.host, row.key), now):
                stray = Stray(row.family, row.slot, row.client_port, row.address)
                told.setdefault(row.host, []).append(stray)
        for host, strays in told.items():
            self._send(host, strays)
        sent = sum(map(len, told.values()))
        self._tally.add("not_mine_sent", sent)
        self._tally.add("not_mine_dropped", len(records) // EVENT.size - sent)

    def _send(self, host: int, strays: list[Stray]) -> None:
        member = self._roster.get(host)
        if member is None or member.reach is None:
            return
        for start in range(0, len(strays), STRAYS_IN_SECTION):
            part = NotMine(tuple(strays[start : start + STRAYS_IN_SECTION]))
            self._outbox.put(member.reach, DatagramType.QUESTION, part)

    def believe(self, member: Member, told: NotMine) -> None:
        """Remove the entries that name the teller itself; what others own it cannot deny."""
        self._tally.add("not_mine_received", len(told.strays))
        for stray in told.strays:
            slot = slot_of(member.translation, stray.index)
            if slot == NO_SLOT:
                continue
            key = session_key(stray.family, slot, stray.client_port, stray.address)
            keep = member.keeps_closed
            if self._log.deny(member.host, stray.family, key, keep_closed=keep):
                self._tally.add("entries_removed")
