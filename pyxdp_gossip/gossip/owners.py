# SPDX-License-Identifier: BSD-2-Clause
"""What a change of a member means for its entries: one step for the tables and the codec."""

from __future__ import annotations

from pyxdp_gossip.gossip.records import OwnershipLog, OwnerStates


class Ownership:
    """Which hosts' entries count, and which incarnation's.

    Args:
        states: of the tables.
        log: the codec, which has each owner's digest and what the tables do not show.
    """

    def __init__(self, states: OwnerStates, log: OwnershipLog) -> None:
        self._states = states
        self._log = log

    def activate(self, host: int) -> None:
        """The host may own sessions, though its log is not followed yet."""
        self._states.activate(host)

    def begin(self, host: int, salt: int) -> None:
        """Its log is followed from now on."""
        self._states.activate(host)
        self._log.begin_owner(host, salt)

    def restart(self, host: int, salt: int) -> None:
        """Another incarnation: the entries of the one before count until `complete`."""
        self._states.new_epoch(host)
        self._log.begin_owner(host, salt)

    def complete(self, host: int) -> None:
        """What only the incarnation before said is void."""
        self._states.drop_previous(host)
        self._log.settle()

    def gone(self, host: int) -> None:
        """Dead or left: all of its entries are void, in O(1)."""
        self._states.void(host)
        self._states.deactivate(host)
        self._log.forget_owner(host)
        self._log.settle()
