# SPDX-License-Identifier: BSD-2-Clause
"""A POP as one of its hosts sees it, read from files: what `replay` and `explain` judge by.

Nothing of the machine is looked at: the same files give the same endings everywhere.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, cast

from pyxdp_gossip._native import UNOWNED, OwnerStates, SessionTable, pack_key4, pack_key6
from pyxdp_gossip.config import (
    HOST_ID_MAX,
    PEERS_MAX,
    SERVICES_MAX,
    Config,
)
from pyxdp_gossip.config_table import TableReader
from pyxdp_gossip.dataplane_settings import PeerCookies, buckets_for
from pyxdp_gossip.encapsulation import ENCAPSULATIONS, VNI_MAX
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.forwarder import Forwarder
from pyxdp_gossip.gossip.sealing import INSECURE_SECRET, tunnel_cookie
from pyxdp_gossip.session import Address, Protocol, Service, Session, packed16
from pyxdp_gossip.templates import (
    CLIENT_MTU,
    IP_LEN_MAX,
    MARK_FLOOD,
    HeaderTemplate,
    multicast_mac,
    overhead,
)
from pyxdp_gossip.tunnel_receiver import TunnelReceiver

SESSIONS_MAX: Final = 1 << 21  # half a GiB while they are read
FILE_MAX: Final = 1 << 29  # bytes
NO_MAC: Final = bytes(6)
UNOWNED_WORD: Final = "unowned"
SESSION_KEYS: Final = ("client", "client_port", "vip", "port", "protocol", "owner")
RECEIVED: Final = ("cookies_here", "cookies_flood")
"""What a peer's tunnel packets carry, by unicast and to the group: of the present key and, if there
is one, of the previous one."""
KNOWN_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("host", "tunnel", "service", "peer", "session"),
    "host": ("id", "address", "mac"),
    "tunnel": (
        *("port", "flood_group", "flood_cookie", "mtu"),
        *("encapsulation", "vni", "udp_checksum"),
    ),
    "service": ("vip", "port", "protocol"),
    "peer": ("id", "address", "mac", "gateway_mac", "vlan", "mtu", "cookie", *RECEIVED),
}
"""Every key of a state file; [[service]] and [[peer]] are as in the configuration."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another active host. `headers` None: there is no way to it. `cookies`: of what it sends."""

    id: int
    address: Address
    headers: HeaderTemplate | None
    cookies: PeerCookies


@dataclass(frozen=True, slots=True)
class PopState:
    """What a forwarder is made of, but for the sessions.

    Attributes:
        host: this host's id.
        address: this host's underlay address.
        mac: (6,) bytes, this host's.
        flood_group: where floods go; None: there is no group.
        flood: the headers to the flood group; None: there is no group, and a miss goes to each
            peer by a copy of its own.
    """

    host: int
    address: Address
    mac: bytes
    tunnel_port: int
    encapsulation: str
    services: tuple[Service, ...]
    peers: tuple[Peer, ...]
    flood_group: Address | None
    flood: HeaderTemplate | None

    @property
    def receiver(self) -> TunnelReceiver:
        """What opens the tunnel packets of the peers."""
        return TunnelReceiver.build(
            address=self.address, flood_group=self.flood_group, port=self.tunnel_port,
            mac=self.mac, encapsulation=self.encapsulation,
            senders={peer.id: (peer.address, peer.cookies) for peer in self.peers},
        )  # fmt: skip

    @property
    def flood_copies(self) -> tuple[HeaderTemplate, ...]:
        """Without a group, the headers for all copies of a flood in their order; else none."""
        if self.flood is not None:
            return ()
        in_order = sorted(self.peers, key=lambda peer: peer.id)
        return tuple(peer.headers for peer in in_order if peer.headers)

    def forwarder(
        self, sessions: Iterable[tuple[Session, int]], *, sockets: bool = True
    ) -> Forwarder:
        """The C forwarder over a table of these sessions.

        Args:
            sessions: with their owners' ids, or UNOWNED.
            sockets: this host's kernel is taken to have those that it owns, else none.

        Raises:
            ConfigError: they are too many, or one is of no service.
        """
        slots = {service: slot for slot, service in enumerate(self.services)}
        pack = {4: pack_key4, 6: pack_key6}
        keys: dict[int, list[tuple[bytes, int]]] = {4: [], 6: []}
        for session, owner in sessions:
            if len(keys[4]) + len(keys[6]) >= SESSIONS_MAX:
                raise ConfigError(f"more than {SESSIONS_MAX} sessions: leave some out")
            slot = slots.get(session.service)
            if slot is None:
                raise ConfigError(
                    f"the session {session} is of no [[service]]: add the service, or leave it out"
                )
            key = pack[session.family](session.client.packed, session.client_port, slot)
            keys[session.family].append((key, owner))
        owners = OwnerStates()
        for host in (self.host, *(peer.id for peer in self.peers)):
            owners.activate(host)  # first: claims of others make room for any
        tables = {}
        for family, rows in keys.items():
            # twice the room: a table that is half full refuses nothing
            tables[family] = SessionTable(family, buckets_for(2 * len(rows)), owners)
            for key, owner in rows:
                tables[family].put(key, owner)
        ways = {peer.id: peer.headers for peer in self.peers if peer.headers}
        flood = self.flood or next(iter(self.flood_copies), None)
        services = dict(enumerate(self.services))
        return Forwarder.build(
            self.host, services, tables[4], tables[6], owners, ways,
            flood=flood, own_is_known=sockets, receiver=self.receiver,
        )  # fmt: skip


def load_state(path: Path) -> tuple[PopState, list[tuple[Session, int]]]:
    """Reads a state file: TOML, or JSON with the same keys.

    Returns:
        The POP, and the sessions of its tables [[session]].

    Raises:
        ConfigError: the file cannot be read, or a value is wrong.
    """
    data = _read_data(path)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: is {type(data).__name__}, expected an object of tables")
    rows = data.get("session", [])
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: `session` is no list, expected tables [[session]]")
    return state_of_dict(data, str(path)), list(_sessions(rows, f"{path}: [[session]]"))


def state_of_dict(data: Mapping[str, Any], label: str) -> PopState:
    """The POP of a state file's tables; [[session]] is not looked at."""
    top = TableReader(label, "", data, KNOWN_KEYS)
    host = top.table("host")
    tunnel = top.table("tunnel", optional=True)
    encapsulation = tunnel.choice("encapsulation", tuple(ENCAPSULATIONS), "gue")
    source = _Source(
        _address(host, "address"),
        host.mac("mac") or NO_MAC,
        tunnel.integer("port", 1, 65535, ENCAPSULATIONS[encapsulation].port),
        encapsulation,
        tunnel.integer("vni", 0, VNI_MAX, 0),
        tunnel.boolean("udp_checksum", True),
    )
    own = host.integer("id", 0, HOST_ID_MAX)
    mtu = tunnel.integer("mtu", source.added, IP_LEN_MAX, source.mtu)
    services = tuple(_service(table) for table in top.tables("service", SERVICES_MAX))
    if not services or len(set(services)) < len(services):
        raise ConfigError(f"{label}: expected tables [[service]], each service once")
    peers = tuple(_peer(table, source, mtu) for table in top.tables("peer", PEERS_MAX))
    ids, addresses = [own], [source.address]
    for peer in peers:
        if peer.id in ids or peer.address in addresses:
            raise ConfigError(
                f"{label}: [[peer]] {peer.id} at {peer.address}: each host's id and address once, "
                "and none is this host's own"
            )
        ids.append(peer.id)
        addresses.append(peer.address)
    group = flood = None
    if tunnel.has("flood_group"):
        group = source.underlay(tunnel, "flood_group")
        if not group.is_multicast:
            raise tunnel.error("flood_group", str(group), "a multicast address")
        flood = source.flood_headers(group, mtu, _cookie(tunnel, "flood_cookie"))
    return PopState(
        own, source.address, source.mac, source.port, encapsulation, services, peers, group, flood
    )


def state_of_config(config: Config, address: Address) -> PopState:
    """The POP of an operator's configuration: its [[peer]] tables, and the cookies of its keys.

    Args:
        address: this host's in the underlay.

    Raises:
        ConfigError: the underlay is of two families.
    """
    secrets = [key.secret for key in config.gossip.keys] or [INSECURE_SECRET]
    plane = config.dataplane
    source = _Source(
        address, NO_MAC, plane.tunnel_port, plane.encapsulation, plane.vni, plane.udp_checksum
    )

    def cookie(start: Address, end: Address | None, secret: bytes = secrets[0]) -> bytes:
        return tunnel_cookie(secret, packed16(start), packed16(end) if end else bytes(16))

    def accepted(peer: Address) -> PeerCookies:
        group, old = config.gossip.flood_group, secrets[min(1, len(secrets) - 1)]
        return PeerCookies(
            cookie(peer, address), cookie(peer, group), cookie(address, peer),
            cookie(peer, address, old), cookie(peer, group, old),
        )  # fmt: skip

    peers = []
    for one in config.peers:
        to = source.same_family("[peer] address", one.address)
        headers = source.headers(to, one.mac, source.mtu, cookie(address, to))
        peers.append(Peer(one.id, to, headers, accepted(to)))
    group = flood = None
    if config.gossip.flood_group is not None:
        group = source.same_family("[gossip] flood_group", config.gossip.flood_group)
        flood = source.flood_headers(group, source.mtu, cookie(address, group))
    return PopState(
        config.host.id, source.address, source.mac, source.port, plane.encapsulation,
        config.services, tuple(peers), group, flood,
    )  # fmt: skip


def read_sessions(path: Path) -> Iterator[tuple[Session, int]]:
    """Sessions with their owners: a JSON list, or CSV whose first line names the columns.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong; from the iterator too.
    """
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(_read_text(path).splitlines())
        yield from _sessions(reader, f"{path}: row")
        return
    rows = _read_data(path)
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a list of sessions, each with {_listed()}")
    yield from _sessions(rows, f"{path}: session")


@dataclass(frozen=True, slots=True)
class _Source:
    """This host's end of each tunnel."""

    address: Address
    mac: bytes
    port: int
    encapsulation: str
    vni: int
    udp_checksum: bool

    @property
    def added(self) -> int:
        """Bytes of outer headers."""
        return overhead(self.encapsulation, self.address.version)

    @property
    def mtu(self) -> int:
        """Of a path that nothing is said of."""
        return CLIENT_MTU + self.added

    def same_family(self, what: str, address: Address) -> Address:
        """The address, if it is of this host's family."""
        if address.version != self.address.version:
            raise ConfigError(f"{what} is {address}, expected one of {self.address}'s family")
        return address

    def underlay(self, table: TableReader, key: str) -> Address:
        """An address of this host's family."""
        address = _address(table, key)
        if address.version != self.address.version:
            raise table.error(key, str(address), f"an IPv{self.address.version} address")
        return address

    def headers(
        self,
        destination: Address,
        mac: bytes,
        mtu: int,
        cookie: bytes,
        *,
        mark: int = 0,
        vlan: int | None = None,
    ) -> HeaderTemplate:
        return HeaderTemplate.build(
            source=self.address, destination=destination, source_mac=self.mac,
            destination_mac=mac, tunnel_port=self.port, cookie=cookie, mtu=mtu, mark=mark,
            vlan=vlan, encapsulation=self.encapsulation, vni=self.vni,
            udp_checksum=self.udp_checksum,
        )  # fmt: skip

    def flood_headers(self, group: Address, mtu: int, cookie: bytes) -> HeaderTemplate:
        return self.headers(group, multicast_mac(group), mtu, cookie, mark=MARK_FLOOD)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise ConfigError(f"{path}: is larger than {FILE_MAX} bytes")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text") from None


def _read_data(path: Path) -> Any:
    """What a file of JSON (by its name) or TOML holds."""
    text = _read_text(path)
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if isinstance(error, json.JSONDecodeError) else "TOML"
        raise ConfigError(f"{path}: is no {kind}: {error}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _address(table: TableReader, key: str) -> Address:
    address = table.address(key)
    assert address is not None  # not optional
    return address


def _service(table: TableReader) -> Service:
    vip = table.address("vip")
    assert vip is not None  # not optional
    protocol = cast(Protocol, table.choice("protocol", ("tcp", "udp")))
    return Service(vip, table.integer("port", 1, 65535), protocol)


def _cookie(table: TableReader, key: str) -> bytes:
    text = table.text(key, optional=True)
    try:
        cookie = bytes(8) if text is None else bytes.fromhex(text)
    except ValueError:
        cookie = b""
    if len(cookie) != 8:
        raise table.error(key, text, "8 bytes, as 16 hexadecimal digits")
    return cookie


def _cookies(table: TableReader, key: str) -> list[bytes]:
    allowed = "a list of one or two cookies, each of 16 hexadecimal digits"
    texts = table.texts(key, allowed)
    try:
        cookies = [bytes.fromhex(text) for text in texts]
    except ValueError:
        cookies = [b""]
    if len(cookies) > 2 or any(len(cookie) != 8 for cookie in cookies):
        raise table.error(key, texts, allowed)
    return cookies or [bytes(8)]


def _peer(table: TableReader, source: _Source, mtu: int) -> Peer:
    number = table.integer("id", 0, HOST_ID_MAX)
    address = source.underlay(table, "address")
    own, gateway = table.mac("mac"), table.mac("gateway_mac")
    if own and gateway:
        raise table.error("mac", own.hex(":"), "either `mac` or `gateway_mac`")
    mac = own or gateway
    vlan = table.integer("vlan", 1, 4094) if table.has("vlan") else None
    mtu = table.integer("mtu", source.added, IP_LEN_MAX, mtu)
    cookie = _cookie(table, "cookie")
    headers = source.headers(address, mac, mtu, cookie, vlan=vlan) if mac else None
    here, flood = (_cookies(table, key) for key in RECEIVED)
    return Peer(
        number, address, headers, PeerCookies(here[0], flood[0], cookie, here[-1], flood[-1])
    )


def _listed() -> str:
    return ", ".join(SESSION_KEYS)


def _sessions(rows: Iterable[Any], what: str) -> Iterator[tuple[Session, int]]:
    try:
        for number, row in enumerate(rows, 1):
            try:
                yield _session(row)
            except (ValueError, TypeError, AttributeError) as error:
                raise ConfigError(f"{what} {number}: {error}") from None
    except csv.Error as error:
        raise ConfigError(f"{what}: is no CSV: {error}") from None


def _session(row: Any) -> tuple[Session, int]:
    """One row, of texts or of JSON's values."""
    if not isinstance(row, Mapping) or set(row) != set(SESSION_KEYS):
        raise ValueError(f"expected {_listed()}")
    ports = [_number(row, key, 1, 65535) for key in ("client_port", "port")]
    client, vip = (ip_address(str(row[key])) for key in ("client", "vip"))
    session = Session(client, ports[0], vip, ports[1], row["protocol"])
    unowned = row["owner"] == UNOWNED_WORD
    return session, UNOWNED if unowned else _number(row, "owner", 0, HOST_ID_MAX)


def _number(row: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = row[key]
    text = str(value)
    valid = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) <= 5
    if not valid or not low <= int(text) <= high:
        also = f', or "{UNOWNED_WORD}"' if key == "owner" else ""
        raise ValueError(f"{key} is {value!r}, expected a whole number of {low}..{high}{also}")
    return int(text)
