# SPDX-License-Identifier: BSD-2-Clause
"""Follows the number of RX queues of this host's interface, and has the loops agree with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pyxdp_gossip import netlink
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.errors import HostError

# The kernel tells nobody over rtnetlink, so it is asked. Not at each tick: the answer needs the
# lock that a driver holds for as long as it makes its queues anew.
ASK_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class QueuesChanged:
    """This host's interface has another number of RX queues, e.g. by `ethtool -L`. A new one's
    strays are sent by the XDP program until it has a loop."""

    name: str
    queues: int


class QueueWatch:
    """Looks after the queues of one interface, which is there.

    Args:
        name: of the interface.
        log: structlog's.
        tell: gets each change.

    Attributes:
        changes: how often another number was found.
    """

    def __init__(
        self, name: str, dataplane: Dataplane, log: Any, tell: Callable[[QueuesChanged], None]
    ) -> None:
        self._name = name
        self._dataplane = dataplane
        self._log = log
        self._tell = tell
        self._asked_at = 0
        self._queues = self._with_program = netlink.link(name).rx_queues
        self.changes = 0

    def check(self, now: int) -> None:
        """Asks, once a second, and has the loops agree; `now` in ns.

        Raises:
            HostError: a new queue gets no loop, or a loop ended by itself: the XDP program sends
                those queues' strays. Or the kernel refuses the program, which is tried again.
        """
        due = now >= self._asked_at + ASK_NS
        self._dataplane.check(self._look(now) if due else None)

    def _look(self, now: int) -> netlink.Link | None:
        self._asked_at = now
        try:
            link = netlink.link(self._name)
        except HostError:
            return None  # it vanished, as whoever looks after it will find
        if link.index != self._dataplane.interface_index:
            return None  # made anew, and not taken up yet
        if link.rx_queues != self._queues:
            self._queues = link.rx_queues
            self.changes += 1
            self._log.warning("queues", name=self._name, queues=self._queues)
            self._tell(QueuesChanged(self._name, self._queues))
        if link.rx_queues != self._with_program:
            if link.kind == "veth":  # its new queues run no program until another is put there
                self._dataplane.renew_program()
            self._with_program = link.rx_queues
        return link
