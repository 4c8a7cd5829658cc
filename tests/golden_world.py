# SPDX-License-Identifier: BSD-2-Clause
"""The one POP that all golden packets arrive in: addresses, services, hosts and sessions."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tests.model import UNOWNED, Entry, Peer, Route, World
from tests.model_quic import Layout, reader

Address = IPv4Address | IPv6Address

OWN_HOST = 3
OWN_ADDRESS = IPv4Address("10.8.0.13")
OWN_MAC = bytes.fromhex("020000000003")
ROUTER_MAC = bytes.fromhex("0200000000fe")
FLOOD_GROUP = IPv4Address("239.192.7.2")
TUNNEL_PORT = 6080

CLIENTS: Final[dict[int, Address]] = {
    4: IPv4Address("203.0.113.9"),
    6: IPv6Address("2001:db8:c::9"),
}
VIPS: Final[dict[int, Address]] = {
    4: IPv4Address("198.51.100.1"),
    6: IPv6Address("2001:db8:100::1"),
}
PORT = 443
TCP_ONLY_PORT = 8443
QUIC_PORT = 4433

# (family, protocol, port) to slot
SERVICES: Final = {
    (4, "tcp", PORT): 0,
    (4, "udp", PORT): 1,
    (6, "tcp", PORT): 2,
    (6, "udp", PORT): 3,
    (4, "tcp", TCP_ONLY_PORT): 4,
    (4, "udp", QUIC_PORT): 5,
    (6, "udp", QUIC_PORT): 6,
}
QUIC_SLOTS: Final = frozenset({5, 6})
# Not encrypted; four rounds over even, odd and long ids; one block; a server id of eight octets.
LAYOUTS: Final = {
    0: Layout(2, 6),
    1: Layout(2, 6, b"a key of even id"),
    2: Layout(2, 14, b"a key of a block"),
    3: Layout(3, 4, b"a key of odd ids"),
    4: Layout(12, 5, b"a key of long id"),
    5: Layout(8, 11),
}
PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}

PEER = 4
VLAN_PEER = 5
PEER_WITHOUT_TEMPLATE = 6
DEAD_PEER = 7
SMALL_MTU_PEER = 8
SCANT_MTU_PEER = 9
TINY_MTU_PEER = 10
ACTIVE = (
    PEER, VLAN_PEER, PEER_WITHOUT_TEMPLATE, SMALL_MTU_PEER, SCANT_MTU_PEER, TINY_MTU_PEER
)  # fmt: skip

MTU = 1600
SMALL_MTU = 1500
SCANT_MTU = 1300  # the least packet that IPv6 promises does not fit
TINY_MTU = 150
VLAN = 7


def underlay(host: int) -> IPv4Address:
    """The underlay address of a host."""
    return IPv4Address("10.8.0.10") + host


def mac(host: int) -> bytes:
    """The Ethernet address of a host, (6,) bytes."""
    return bytes.fromhex("0200000000") + bytes([host])


class State(IntEnum):
    """What the session table says; the value also tells the client ports apart."""

    ABSENT = 0
    OWN = 1
    OWN_LINGERING = 2
    OTHER = 3
    OTHER_LINGERING = 4
    OTHER_VLAN = 5
    NO_TEMPLATE = 6
    UNOWNED_MARK = 7
    DEAD = 8
    SMALL_PATH = 9
    SCANT_PATH = 10
    TINY_PATH = 11

    @property
    def client_port(self) -> int:
        return 50000 + self.value


ENTRIES: Final = {
    State.OWN: Entry(OWN_HOST),
    State.OWN_LINGERING: Entry(OWN_HOST, lingering=True),
    State.OTHER: Entry(PEER),
    State.OTHER_LINGERING: Entry(PEER, lingering=True),
    State.OTHER_VLAN: Entry(VLAN_PEER),
    State.NO_TEMPLATE: Entry(PEER_WITHOUT_TEMPLATE),
    State.UNOWNED_MARK: Entry(UNOWNED),
    State.DEAD: Entry(DEAD_PEER),
    State.SMALL_PATH: Entry(SMALL_MTU_PEER),
    State.SCANT_PATH: Entry(SCANT_MTU_PEER),
    State.TINY_PATH: Entry(TINY_MTU_PEER),
}

ROUTES: Final = {
    PEER: Route(underlay(PEER), mac(PEER), b"to-peer4", MTU),
    VLAN_PEER: Route(underlay(VLAN_PEER), mac(VLAN_PEER), b"to-peer5", MTU, vlan=VLAN),
    SMALL_MTU_PEER: Route(underlay(SMALL_MTU_PEER), mac(SMALL_MTU_PEER), b"to-peer8", SMALL_MTU),
    SCANT_MTU_PEER: Route(underlay(SCANT_MTU_PEER), mac(SCANT_MTU_PEER), b"to-peer9", SCANT_MTU),
    TINY_MTU_PEER: Route(underlay(TINY_MTU_PEER), mac(TINY_MTU_PEER), b"to-pe-10", TINY_MTU),
}
FLOOD: Final = Route(FLOOD_GROUP, bytes.fromhex("01005e400702"), b"to-group", MTU, mark=0x80)

PEERS: Final = {
    underlay(PEER): Peer(PEER, (b"4-to-us.", b"4-to-us,"), (b"4-to-all", b"4to-all,"), b"us-to-4."),
    underlay(DEAD_PEER): Peer(
        DEAD_PEER, (b"7-to-us.", b"7-to-us,"), (b"7-to-all", b"7to-all,"), b"us-to-7."
    ),
}


def mapped(address: Address) -> bytes:
    """(16,) bytes: the IPv6 address, or the IPv4 one v4-mapped."""
    if isinstance(address, IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def session_key(client: Address, port: int, slot: int) -> bytes:
    """The session table's key: (8,) bytes for IPv4, (24,) for IPv6."""
    key = client.packed + struct.pack("!H", port) + struct.pack("<H", slot)
    return key if client.version == 4 else key + bytes(4)


def golden_world(*, agent_alive: bool = True, flood: bool = True) -> World:
    """The POP as host 3 sees it."""
    table = {
        (mapped(CLIENTS[family]), state.client_port, slot): entry
        for (family, _, _), slot in SERVICES.items()
        for state, entry in ENTRIES.items()
    }
    return World(
        host=OWN_HOST,
        address=OWN_ADDRESS,
        mac=OWN_MAC,
        flood_group=FLOOD_GROUP,
        tunnel_port=TUNNEL_PORT,
        services={
            (mapped(VIPS[family]), port, PROTOCOL_NUMBERS[protocol]): slot
            for (family, protocol, port), slot in SERVICES.items()
        },
        table=table,
        active=frozenset({OWN_HOST, *ACTIVE}),
        routes=ROUTES,
        flood=FLOOD if flood else None,
        peers=PEERS,
        agent_alive=agent_alive,
        named=reader(QUIC_SLOTS, LAYOUTS),
    )
