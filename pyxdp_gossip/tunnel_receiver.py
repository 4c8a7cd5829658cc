# SPDX-License-Identifier: BSD-2-Clause
"""What a host must know to open the tunnel packets of the others (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pyxdp_gossip.dataplane_settings import PEER, PeerCookies
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.session import Address, packed16, unpacked16


@dataclass(frozen=True, slots=True)
class TunnelReceiver:
    """This host's end of the tunnel, for a `Forwarder` that opens tunnel packets.

    Attributes:
        address: (16,) bytes, this host's in the underlay, IPv4 as IPv4-mapped.
        flood_group: (16,) bytes, likewise; zeros: there is none.
        port: UDP port of the tunnel.
        encapsulation: of `enum xg_encapsulation`.
        mac: (6,) bytes; what is stripped gets it as destination.
        senders: (n * 64,) bytes, for each other host its address and `struct xg_peer`.
    """

    address: bytes
    flood_group: bytes
    port: int
    encapsulation: int
    mac: bytes
    senders: bytes

    @classmethod
    def build(
        cls,
        *,
        address: Address,
        flood_group: Address | None,
        port: int,
        mac: bytes,
        senders: Mapping[int, tuple[Address, PeerCookies]],
        encapsulation: str = "gue",
    ) -> Self:
        """Of Python objects.

        Args:
            address: this host's in the underlay.
            flood_group: None: there is none.
            port: UDP port of the tunnel, 1..65535.
            mac: (6,) bytes, this host's.
            senders: host id → its underlay address, and the cookies of what it sends. Only those
                that are active in the forwarder's owners may send.
            encapsulation: "gue", "geneve", "vxlan" or "ipip".

        Raises:
            ValueError: the port or the MAC address is none.
        """
        if not 1 <= port <= 65535:
            raise ValueError(f"tunnel port {port} is not in 1..65535")
        if len(mac) != 6:
            raise ValueError(f"the MAC address is {len(mac)} bytes, expected 6")
        return cls(
            packed16(address),
            packed16(flood_group) if flood_group else bytes(16),
            port,
            ENCAPSULATIONS[encapsulation].number,
            mac,
            b"".join(packed16(one) + pack_peer(host, own) for host, (one, own) in senders.items()),
        )

    def peers(self) -> dict[int, tuple[Address, PeerCookies]]:
        """The senders, as `build()` takes them."""
        found = {}
        for at in range(0, len(self.senders), 16 + PEER.size):
            address = unpacked16(self.senders[at : at + 16])
            host, unicast, unicast_old, flood, flood_old, reply = PEER.unpack_from(
                self.senders, at + 16
            )
            found[host] = (address, PeerCookies(unicast, flood, reply, unicast_old, flood_old))
        return found


def pack_peer(host: int, cookies: PeerCookies) -> bytes:
    """(48,) bytes, `struct xg_peer`."""
    return PEER.pack(
        host, cookies.unicast, cookies.unicast_old, cookies.flood, cookies.flood_old, cookies.reply
    )
