# SPDX-License-Identifier: BSD-2-Clause
"""Keeps the header templates and the accepted peers in step with the members and the routes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from pyxdp_gossip import netlink
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import PeerCookies
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.gossip.sealing import tunnel_cookie
from pyxdp_gossip.session import Address, packed16
from pyxdp_gossip.templates import MARK_FLOOD, HeaderTemplate, multicast_mac

NOWHERE: Final = IPv4Address(0)  # in the place of a flood group: no packet goes there


@dataclass(slots=True)
class _Peer:
    address: Address
    tunnel_port: int
    template: HeaderTemplate | None = None
    is_far: bool = False  # in another broadcast domain: the flood group does not reach it
    neighbour: netlink.Neighbour | None = None


class Routing:
    """Headers to every active host, by the kernel's routes and neighbours.

    Attributes:
        complaint: why there is no way to some host, where an operator can do something.
        mtu: of the interface, bytes.

    Args:
        secrets: the gossip keys, the sending one first; the cookies come from the first two.
    """

    def __init__(
        self, dataplane: Dataplane, interface: str, address: Address, secrets: list[bytes]
    ) -> None:
        self._dataplane = dataplane
        self._interface = interface
        self._address = address
        self._secrets = secrets
        self._peers: dict[int, _Peer] = {}
        self._flood: HeaderTemplate | None = None
        self._mac = b""
        self.complaint: str | None = None
        self.mtu = 0

    def _cookie(self, source: Address, destination: Address, key: int = 0) -> bytes:
        secret = self._secrets[min(key, len(self._secrets) - 1)]
        return tunnel_cookie(secret, packed16(source), packed16(destination))

    def reply_cookies(self, peer: Address) -> tuple[bytes, bytes]:
        """What a probe's reply from this peer carries: the peer may send with either key."""
        return self._cookie(peer, self._address), self._cookie(peer, self._address, 1)

    def probe_cookie(self, peer: Address) -> bytes:
        """What a probe to this peer must carry."""
        return self._cookie(self._address, peer)

    def change_secrets(self, secrets: list[bytes]) -> None:
        """Other gossip keys: other cookies, for what is sent and what is accepted."""
        self._secrets = secrets
        for host, peer in self._peers.items():
            self._accept(host, peer.address)
        self.refresh()

    def add(self, host: int, address: Address, tunnel_port: int) -> None:
        """Accepts a host's tunnel packets and looks for the way to it. Repeatable."""
        peer = self._peers.get(host)
        if peer and (peer.address, peer.tunnel_port) == (address, tunnel_port):
            return
        if peer:
            self.remove(host)
        self._accept(host, address)
        self._peers[host] = _Peer(address, tunnel_port)
        self._find_way(host)

    def _accept(self, host: int, address: Address) -> None:
        group = self._dataplane.settings.flood_group or NOWHERE
        cookies = PeerCookies(
            unicast=self._cookie(address, self._address),
            unicast_old=self._cookie(address, self._address, 1),
            flood=self._cookie(address, group),
            flood_old=self._cookie(address, group, 1),
            reply=self._cookie(self._address, address),
        )
        self._dataplane.set_peer(host, address, cookies)

    def remove(self, host: int) -> None:
        """Refuses a host's tunnel packets and forgets the way to it."""
        peer = self._peers.pop(host, None)
        if peer is None:
            return
        self._dataplane.drop_peer(host)
        self._dataplane.set_template(host, None)
        self._release(peer.neighbour)

    def close(self) -> None:
        """Leaves the neighbours to age as any others; headers and peers stay as they are."""
        for peer in self._peers.values():
            before, peer.neighbour = peer.neighbour, None
            self._release(before)

    def _release(self, neighbour: netlink.Neighbour | None) -> None:
        """Ends the care for a next hop, unless it is one of another host's."""
        kept = [peer.neighbour for peer in self._peers.values() if peer.neighbour]
        ends = {(other.interface_index, other.address) for other in kept}
        if neighbour and (neighbour.interface_index, neighbour.address) not in ends:
            netlink.release_neighbour(neighbour)

    def refresh(self) -> None:
        """Asks the kernel again for every way: after a change, and while one is missing."""
        self.complaint = None
        self._refresh_flood()
        for host in self._peers:
            self._find_way(host)

    @property
    def complete(self) -> bool:
        """Whether there is a way to every host."""
        return all(peer.template for peer in self._peers.values())

    def _refresh_flood(self) -> None:
        settings = self._dataplane.settings
        group = settings.flood_group
        link = netlink.link(self._interface)
        self.mtu = link.mtu
        if group is None:
            if link.mac != self._mac:
                self._dataplane.set_own_mac(link.mac)
                self._mac = link.mac
            return
        template = self._template(
            group, link.mac, multicast_mac(group), settings.tunnel_port, link.mtu, MARK_FLOOD
        )
        if template != self._flood:
            self._dataplane.set_flood_template(template)
            self._flood = template

    def _template(
        self,
        destination: Address,
        source_mac: bytes,
        destination_mac: bytes,
        tunnel_port: int,
        mtu: int,
        mark: int = 0,
    ) -> HeaderTemplate:
        settings = self._dataplane.settings
        return HeaderTemplate.build(
            source=self._address,
            destination=destination,
            source_mac=source_mac,
            destination_mac=destination_mac,
            tunnel_port=tunnel_port,
            cookie=self._cookie(self._address, destination),
            mtu=mtu,
            mark=mark,
            encapsulation=settings.encapsulation,
            vni=settings.vni,
            udp_checksum=settings.udp_checksum,
        )

    def _find_way(self, host: int) -> None:
        """One host's refusal is no reason to forget the others: it is looked for again."""
        try:
            self._refresh_peer(host)
        except HostError as error:
            self.complaint = str(error)

    def _refresh_peer(self, host: int) -> None:
        peer = self._peers[host]
        before, peer.neighbour = peer.neighbour, netlink.keep_neighbour(peer.address)
        hop = netlink.resolve(peer.address)
        template = None
        if hop is not None and hop.interface_index != self._dataplane.interface_index:
            self.complaint = (
                f"host {host} at {peer.address} is not reached by {self._interface}: its packets "
                "are flooded; give [host] interface the one that leads to the other hosts"
            )
        elif hop is not None:
            template = self._template(
                peer.address, hop.source_mac, hop.destination_mac, peer.tunnel_port, hop.mtu
            )
        needs_copy = self._dataplane.settings.flood_group is None
        peer.is_far = hop is not None and (needs_copy or hop.gateway is not None)
        if template != peer.template:
            self._dataplane.set_template(host, template)
            peer.template = template
        self._dataplane.set_flood_copies(
            number for number, other in self._peers.items() if other.is_far
        )
        self._release(before)
