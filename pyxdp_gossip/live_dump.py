# SPDX-License-Identifier: BSD-2-Clause
"""A running host's state as the file that `replay` and `explain` read (pop_state.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from pyxdp_gossip._native import UNOWNED
from pyxdp_gossip.dataplane_settings import NO_TEMPLATE, PeerCookies
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.explanation import PROTOCOLS
from pyxdp_gossip.forwarder import SERVICE
from pyxdp_gossip.live_snapshot import LiveSnapshot
from pyxdp_gossip.session import Service, unpacked16
from pyxdp_gossip.templates import PACKED, HeaderTemplate

BUCKET_BYTES: Final = {4: 64, 6: 128}  # struct xg_bucket4, xg_bucket6; the first is the header
KEYS: Final = {4: Struct("<4s2sH"), 6: Struct("<16s2sH4x")}  # struct xg_key4, xg_key6
META_BYTES: Final = 8
META_USED: Final = 0x80  # XG_META_USED, in the last byte


def state_of(live: LiveSnapshot, sessions_max: int) -> dict[str, Any]:
    """The tables of a state file; of the sessions, the first so many."""
    services = dict(_services(live.services))
    mac = bytes(6)
    peers = []
    for host, (address, cookies) in sorted(live.peers.items(), key=itemgetter(0)):
        if not live.owners.is_active(host):
            continue
        headers = _headers(live, live.owners.state(host)[2])
        peer = {"id": host, "address": str(address)} | _way(headers)
        if ENCAPSULATIONS[live.config.encapsulation].is_marked:
            peer |= _accepted(cookies)
        peers.append(peer)
        mac = headers.header[6:12] if headers else mac
    config = live.config
    tunnel: dict[str, Any] = {"port": config.tunnel_port, "encapsulation": config.encapsulation}
    flood = _headers(live, NO_TEMPLATE if live.flood is None else live.flood)
    if flood:
        tunnel |= {"vni": flood.vni, "udp_checksum": flood.udp_checksum}
    if flood and config.flood_group is not None:
        tunnel |= {"flood_group": str(config.flood_group), "mtu": flood.mtu}
        tunnel |= _cookie(flood, "flood_cookie")
        mac = flood.header[6:12]
    return {
        "host": {"id": live.host, "address": str(config.address), "mac": mac.hex(":")},
        "tunnel": tunnel,
        "service": [
            {"vip": str(one.vip), "port": one.port, "protocol": one.protocol}
            for one in services.values()
        ],
        "peer": peers,
        "session": list(_sessions(live, services, sessions_max)),
    }


def _services(packed: bytes) -> Iterator[tuple[int, Service]]:
    for vip, port, protocol, slot, is_quic in SERVICE.iter_unpack(packed):
        service = Service(unpacked16(vip), int.from_bytes(port), PROTOCOLS[protocol])
        yield slot, replace(service, quic=bool(is_quic))


def _headers(live: LiveSnapshot, place: int) -> HeaderTemplate | None:
    row = live.templates[place * PACKED.size : (place + 1) * PACKED.size]
    if len(row) < PACKED.size:  # NO_TEMPLATE is behind them all
        return None
    return HeaderTemplate.unpack(row)


def _cookie(headers: HeaderTemplate, key: str = "cookie") -> dict[str, str]:
    """What the headers carry, if their format has room for it."""
    at = headers.offsets.cookie
    return {} if at is None else {key: headers.header[at : at + 8].hex()}


def _accepted(cookies: PeerCookies) -> dict[str, list[str]]:
    """What a [[peer]]'s tunnel packets carry."""
    return {
        "cookies_here": [cookies.unicast.hex(), cookies.unicast_old.hex()],
        "cookies_flood": [cookies.flood.hex(), cookies.flood_old.hex()],
    }


def _way(headers: HeaderTemplate | None) -> dict[str, Any]:
    """The keys of a [[peer]] that say how it is reached."""
    if headers is None:
        return {}
    keys: dict[str, Any] = {"mac": headers.header[:6].hex(":"), "mtu": headers.mtu}
    if headers.l2_len > 14:
        keys["vlan"] = int.from_bytes(headers.header[14:16]) & 0xFFF
    return keys | _cookie(headers)


def _sessions(
    live: LiveSnapshot, services: Mapping[int, Service], most: int
) -> Iterator[dict[str, Any]]:
    found = 0
    for family, (table, memory) in live.tables.items():
        key_bytes = KEYS[family].size
        step = key_bytes + META_BYTES
        for at in range(BUCKET_BYTES[family], table.memory_bytes, step):
            if found >= most:
                return
            if not memory[at + step - 1] & META_USED:
                continue
            key = bytes(memory[at : at + key_bytes])
            entry = table.get(key)
            client, port, slot = KEYS[family].unpack(key)
            if entry is None or slot not in services:
                continue
            found += 1
            yield {
                "client": str(ip_address(client)),
                "client_port": int.from_bytes(port),
                "vip": str(services[slot].vip),
                "port": services[slot].port,
                "protocol": services[slot].protocol,
                "owner": "unowned" if entry.owner == UNOWNED else entry.owner,
            }
