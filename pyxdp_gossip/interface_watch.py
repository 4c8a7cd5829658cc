# SPDX-License-Identifier: BSD-2-Clause
"""Follows this host's interface down, up, away and back, and takes the data path with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pyxdp_gossip import netlink
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.gossip_socket import GossipSocket
from pyxdp_gossip.session import Address


class InterfaceState(Enum):
    """How this host's interface is."""

    UP = "up"
    DOWN = "down"
    """By the operator's will, or without carrier. Everything stays attached."""
    GONE = "gone"
    """Deleted or moved away; what was attached to it went with it."""


@dataclass(frozen=True, slots=True)
class InterfaceChanged:
    """This host's interface is in another state; at `UP` it forwards (again)."""

    name: str
    state: InterfaceState


class InterfaceWatch:
    """Looks after one interface, whenever its owner says that something changed.

    Args:
        name: of the interface, which is there.
        address: this host's in the underlay; a returned interface must have it before it counts.
        tell: gets each change of state.

    Attributes:
        losses: how often the interface was found to be gone.
        downs: how often it was found to be down.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        dataplane: Dataplane,
        gossip: GossipSocket,
        tell: Callable[[InterfaceChanged], None],
    ) -> None:
        self._name = name
        self._address = address
        self._dataplane = dataplane
        self._gossip = gossip
        self._tell = tell
        self._wanted = False
        self.losses = self.downs = 0
        self.state = InterfaceState.UP if netlink.link(name).up else InterfaceState.DOWN

    def attach(self) -> bool:
        """Attaches the XDP program, unless it is; once the interface is back, if it is away.

        Returns:
            Whether it was attached just now.

        Raises:
            HostError: the kernel refuses.
        """
        self._wanted = True
        if self.state is InterfaceState.GONE or self._dataplane.mode:
            return False
        try:
            self._dataplane.attach_packets()
        except HostError:
            if self._dataplane.has_interface:
                raise
            return False  # it vanished in this moment, and `check` will see that
        return True

    def check(self) -> bool:
        """Takes in how the interface is now.

        Returns:
            Whether routes over it can be looked for.

        Raises:
            HostError: it is back, but the kernel refuses what belongs on it; call again.
        """
        if self.state is not InterfaceState.GONE and not self._dataplane.has_interface:
            self._give_up()
        if self.state is InterfaceState.GONE and not self._is_back():
            return False
        if self.state is InterfaceState.GONE:
            self._return()
        up = netlink.link(self._name).up
        self._change(InterfaceState.UP if up else InterfaceState.DOWN)
        return True

    def _change(self, state: InterfaceState) -> None:
        if state is not self.state:
            self.downs += state is InterfaceState.DOWN
            self.state = state
            self._tell(InterfaceChanged(self._name, state))

    def _give_up(self) -> None:
        self.losses += 1
        self._dataplane.lose_interface()
        self._change(InterfaceState.GONE)

    def _is_back(self) -> bool:
        """Its address is set after it was made; without it nobody could answer this host."""
        try:
            return netlink.has_address(netlink.link(self._name).index, self._address)
        except HostError:
            return False

    def _return(self) -> None:
        self._dataplane.find_interface()
        self._gossip.rejoin(self._name)
        if self._wanted:
            self._dataplane.attach_packets()
