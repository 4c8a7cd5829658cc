# SPDX-License-Identifier: BSD-2-Clause
"""The operator's configuration: frozen dataclasses, read from TOML, each wrong value one line."""

from __future__ import annotations

import base64
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyxdp_gossip import config_dataplane, config_quic
from pyxdp_gossip.config_dataplane import DataplaneConfig
from pyxdp_gossip.config_table import TableReader
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.key_file import Key, parse_keys
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Address, Service, format_endpoint
from pyxdp_gossip.timing import PRESETS, Timing

HOST_ID_MAX = 65000  # XG_HOST_MAX: the ids above are marks of the session table
SERVICES_MAX = 4096  # slots of one host; the dictionary is told to every peer each second
PEERS_MAX = 1024  # [[peer]] is for replays and tests
SITE_MAX = 65535  # 16 bits in the datagram's header
SESSIONS_MAX = 214_748_364  # the largest table at its rated fill: 4 GiB of 16-byte entries
IDLE_TIMEOUT_S = 300  # RFC 4787 REQ-5: a NAT's default for UDP is five minutes
IDLE_TIMEOUT_MAX_S = 86_400
NOT_ITSELF = "other hosts' addresses, not this host's own"

KNOWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        *("host", "gossip", "service", "dataplane", "table", "metrics", "control", "peer"),
        "quic",
    ),
    "host": ("id", "interface", "address"),
    "gossip": (
        *("group", "members", "port", "key_file", "insecure", "cipher", "site"),
        *("preset", "flood_group", "flush_interval_ms", "idle_timeout_s"),
    ),
    "service": ("vip", "port", "protocol", "quic"),
    "quic": config_quic.KEYS,
    "dataplane": (
        *("plane", "mode", "tunnel_port", "cgroup", "pins"),
        *("flood_rate_pps", "flood_new_rate_pps", "too_big_rate_pps", "mss"),
        *("encapsulation", "vni", "udp6_zero_checksum", "cpus", "busy_poll"),
    ),
    "table": ("sessions_v4", "sessions_v6"),
    "metrics": ("listen",),
    "control": ("socket",),
    "peer": ("id", "address", "mac", "gateway_mac"),
}
"""Every key of every table; "" is the file itself."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """[host]: who this host is. `address` None: the first one of the interface."""

    id: int
    interface: str
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """[gossip]: with whom, how sealed and how fast.

    Either `group` is set (multicast) or `members` is not empty (unicast: other hosts, by whom this
    one finds all of them); `port` serves both. `flood_group` is None in unicast mode. `keys` is
    empty if and only if `insecure`. `idle_timeout_s`: what the application claimed and did not
    claim again is released after so long; 0: never.
    """

    group: Address | None
    members: tuple[Address, ...]
    port: int
    flood_group: Address | None
    keys: tuple[Key, ...]
    insecure: bool
    cipher: str
    site: int
    preset: str
    timing: Timing
    idle_timeout_s: int = IDLE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class TableConfig:
    """[table]: room for so many sessions, all hosts' together."""

    sessions_v4: int
    sessions_v6: int


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """[[peer]]: a host whose templates are built without the kernel. `mac` is (6,) bytes."""

    id: int
    address: Address
    mac: bytes


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; `warnings` are lines to log at start, `quic` how connection ids of
    QUIC services name their host."""

    host: HostConfig
    gossip: GossipConfig
    services: tuple[Service, ...]
    dataplane: DataplaneConfig
    table: TableConfig
    metrics_listen: tuple[Address, int] | None
    control_socket: Path
    peers: tuple[PeerConfig, ...]
    warnings: tuple[str, ...] = ()
    quic: tuple[QuicLb, ...] = ()

    def waits_for_restart(self, new: Config) -> list[str]:
        """What a running agent does not take of another configuration.

        Args:
            new: of the same host.

        Returns:
            The tables that differ otherwise than by keys and services.
        """
        gossip = replace(new.gossip, keys=self.gossip.keys)
        pairs = {
            "host": (self.host, new.host),
            "gossip": (self.gossip, gossip),
            "dataplane": (self.dataplane, new.dataplane),
            "table": (self.table, new.table),
            "metrics": (self.metrics_listen, new.metrics_listen),
            "control": (self.control_socket, new.control_socket),
            "peer": (self.peers, new.peers),
            "quic": (
                (self.quic, _quic_services(self, new)),
                (new.quic, _quic_services(new, self)),
            ),
        }
        return [f"[{name}]" for name, (mine, other) in pairs.items() if mine != other]

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a TOML file; a relative `key_file` is relative to it.

        Args:
            path: of the file.

        Raises:
            ConfigError: the file cannot be read, or a value is wrong.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is no TOML: {error}") from None
        return cls.from_dict(data, label=str(path), folder=path.parent)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, label: str = "configuration", folder: Path | None = None
    ) -> Config:
        """Build from what `tomllib` gives.

        Args:
            data: the tables of design section 9.
            label: how errors name the source.
            folder: what a relative `key_file` is relative to; default the working directory.

        Raises:
            ConfigError: a key is unknown, missing or wrong.
        """
        return cls._read(data, label, folder or Path(), ())

    @classmethod
    def lan(
        cls,
        *,
        host_id: int,
        interface: str,
        services: Iterable[Service],
        address: str | None = None,
        keys: Iterable[Key] = (),
        tables: Mapping[str, Any] | None = None,
        **gossip: Any,
    ) -> Config:
        """A rack of servers: the timing of the file's `preset = "lan"`.

        `death_ms` = 100 * 3 + 50 * 4 = 500: a crash is known so long after the last heartbeat.
        `nack_give_up_ms` = 10 * (1 + 2 + 4) + 8 * 10 * 7 = 630: then the digest repairs.
        `join_bits_per_s` = 1400 * 8 * 16 * 1000 / 2 = 89.6 Mbit/s: the most a join costs a link.
        `heartbeats_per_s` = hosts * 1000 / 100: ten datagrams a second of each host.

        Args:
            host_id: `id` of [host].
            interface: of [host], as `address`.
            services: what the POP answers for, at least one.
            keys: instead of a `key_file`; the first sends.
            tables: the file's other tables, such as `{"dataplane": {"plane": "xdp"}}`.
            gossip: keys of [gossip]: `group`, or `members` and `port`; `key_file`, `insecure` ...
        """
        host = {"id": host_id, "interface": interface, "address": address}
        return cls._preset("lan", host, services, keys, tables, gossip)

    @classmethod
    def loopback(
        cls,
        *,
        host_id: int,
        interface: str,
        services: Iterable[Service],
        address: str | None = None,
        keys: Iterable[Key] = (),
        tables: Mapping[str, Any] | None = None,
        **gossip: Any,
    ) -> Config:
        """Many hosts on the cores of one machine: the timing of `preset = "loopback"`.

        As `lan`, but who is run late is not suspected so soon, and the first host of a POP waits
        only `alone_ms` = 500 for others: `death_ms` = 100 * 5 + 50 * 4 = 700.

        Args:
            host_id: as in `lan`, and so are all others: `interface`, `services`, `address`, `keys`,
                `tables`, `gossip`.
        """
        host = {"id": host_id, "interface": interface, "address": address}
        return cls._preset("loopback", host, services, keys, tables, gossip)

    @classmethod
    def _preset(
        cls,
        preset: str,
        host: Mapping[str, Any],
        services: Iterable[Service],
        keys: Iterable[Key],
        tables: Mapping[str, Any] | None,
        gossip: Mapping[str, Any],
    ) -> Config:
        label = f"Config.{preset}()"
        if "preset" in gossip:
            raise ConfigError(f"{label}: `preset` is chosen by the name; leave it out")
        data = {
            **(tables or {}),
            "host": host,
            "gossip": {**gossip, "preset": preset},
            "service": [
                {"vip": str(one.vip), "port": one.port, "protocol": one.protocol}
                | ({"quic": True} if one.quic else {})
                for one in services
            ],
        }
        # By way of a key file's lines, whose checks hold for these keys too.
        lines = (f"{key.id} {base64.b64encode(key.secret).decode('ascii')}" for key in keys)
        text = "\n".join(lines)
        return cls._read(data, label, Path(), parse_keys(text, label) if text else ())

    @classmethod
    def _read(
        cls, data: Mapping[str, Any], label: str, folder: Path, keys: tuple[Key, ...]
    ) -> Config:
        top = TableReader(label, "", data, KNOWN_KEYS)
        host = _read_host(top.table("host"))
        gossip_table = top.table("gossip")
        gossip, warnings = _read_gossip(gossip_table, folder, keys)
        if host.address in gossip.members:
            raise gossip_table.error("members", str(host.address), NOT_ITSELF)
        services = _read_services(top.tables("service", SERVICES_MAX), label)
        layout_tables = top.tables("quic", config_quic.LAYOUTS_MAX)
        quic, more = config_quic.read_layouts(layout_tables, services, folder, label)
        plane = top.table("dataplane", optional=True)
        dataplane = config_dataplane.read(plane, host.id)
        if dataplane.tunnel_port == gossip.port:
            what = "another port than the gossip's, whose packets it would take"
            raise plane.error("tunnel_port", dataplane.tunnel_port, what)
        if gossip.members and dataplane.plane == "xdp":
            what = '"xsk" where [gossip] lists members: an XDP program cannot copy a packet'
            raise plane.error("plane", dataplane.plane, what)
        if gossip.members and not ENCAPSULATIONS[dataplane.encapsulation].is_marked:
            what = '"gue" or "geneve" where [gossip] lists members: a flood must say that it is one'
            raise plane.error("encapsulation", dataplane.encapsulation, what)
        return cls(
            host=host,
            gossip=gossip,
            services=services,
            dataplane=dataplane,
            table=_read_table(top.table("table", optional=True)),
            metrics_listen=_read_metrics(top.table("metrics", optional=True)),
            control_socket=_read_control(top.table("control", optional=True), host.id),
            peers=_read_peers(top.tables("peer", PEERS_MAX), host),
            warnings=warnings + more,
            quic=quic,
        )


def _quic_services(config: Config, other: Config) -> set[Service]:
    """Those of both whose ids are read in the first."""
    return {one for one in config.services if one.quic and one in other.services}


def _read_host(table: TableReader) -> HostConfig:
    host = HostConfig(
        id=table.integer("id", 0, HOST_ID_MAX),
        interface=table.interface("interface"),
        address=table.address("address", optional=True),
    )
    if host.address is not None and (host.address.is_multicast or host.address.is_unspecified):
        raise table.error("address", str(host.address), "this host's own unicast address")
    return host


def _read_gossip(
    table: TableReader, folder: Path, keys: tuple[Key, ...]
) -> tuple[GossipConfig, tuple[str, ...]]:
    group, members, port = _read_reach(table)
    flood_group = table.address("flood_group", optional=True)
    if flood_group is not None and (group is None or not flood_group.is_multicast):
        raise table.error("flood_group", str(flood_group), "a multicast address, beside `group`")
    if group is not None and flood_group is None:
        flood_group = group + 1
    if group and flood_group and (flood_group == group or group.version != flood_group.version):
        raise table.error("flood_group", str(flood_group), f"another address than {group}, same IP")
    if flood_group is not None and not flood_group.is_multicast:
        raise table.error("group", str(group), "a group with a further multicast address after it")
    insecure = table.boolean("insecure", False)
    warnings: tuple[str, ...] = ()
    if keys and (insecure or table.has("key_file")):
        raise ConfigError("keys are given, expected neither `key_file` nor `insecure` beside them")
    if not keys:
        keys, warnings = _read_keys(table, folder, insecure)
    preset = table.choice("preset", tuple(PRESETS), "lan")
    flush_ms = table.integer("flush_interval_ms", 0, 1000, PRESETS[preset].flush_interval_ms)
    gossip = GossipConfig(
        group=group,
        members=members,
        port=port,
        flood_group=flood_group,
        keys=keys,
        insecure=insecure,
        cipher=table.choice("cipher", ("aes-256-gcm", "chacha20-poly1305"), "aes-256-gcm"),
        site=table.integer("site", 0, SITE_MAX, 0),
        preset=preset,
        timing=replace(PRESETS[preset], flush_interval_ms=flush_ms),
        idle_timeout_s=table.integer("idle_timeout_s", 0, IDLE_TIMEOUT_MAX_S, IDLE_TIMEOUT_S),
    )
    return gossip, warnings


def _read_reach(table: TableReader) -> tuple[Address | None, tuple[Address, ...], int]:
    """Multicast group and port, or unicast members and port."""
    endpoint = table.endpoint("group", optional=True)
    members = table.addresses("members")
    for member in members:
        if member.is_multicast or member.is_unspecified:
            raise table.error("members", str(member), "other hosts' own unicast addresses")
    if endpoint is None and not members:
        raise table.error("group", None, 'a multicast group, "239.192.7.1:7946", or `members`')
    if endpoint is None:
        return None, members, table.integer("port", 1, 65535)
    if members or table.has("port"):
        raise table.error("group", format_endpoint(*endpoint), "either `group`, or `members`")
    if not endpoint[0].is_multicast:
        raise table.error("group", format_endpoint(*endpoint), "a multicast address with a port")
    return endpoint[0], (), endpoint[1]


def _read_keys(
    table: TableReader, folder: Path, insecure: bool
) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    name = table.text("key_file", optional=True)
    if insecure:
        if name is not None:
            raise table.error("insecure", True, "`insecure = true` or a `key_file`, not both")
        return (), ("gossip is not sealed (insecure = true): whoever reaches the group owns it",)
    if name is None:
        raise table.error(
            "key_file", None, "a file with a line of `pyxdp-gossip keygen`, or `insecure = true`"
        )
    path = folder / name
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except OSError as error:
        what = f"a readable file ({error.strerror}); make it with `pyxdp-gossip keygen`"
        raise table.error("key_file", str(path), what) from None
    except UnicodeDecodeError:
        raise table.error("key_file", str(path), "a text file of key lines") from None
    warnings: tuple[str, ...] = ()
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings = (f"{path}: other users can read this key; chmod 600 it",)
    return parse_keys(text, str(path)), warnings


def _read_services(tables: list[TableReader], label: str) -> tuple[Service, ...]:
    services: list[Service] = []
    if not tables:
        raise ConfigError(f"{label}: no [[service]] is there; add one with vip, port and protocol")
    for table in tables:
        vip = table.address("vip")
        assert vip is not None  # not optional
        if vip.is_multicast or vip.is_unspecified:
            raise table.error("vip", str(vip), "a unicast address")
        protocol = table.choice("protocol", ("tcp", "udp"))
        port, quic = table.integer("port", 1, 65535), table.boolean("quic", False)
        if quic and protocol != "udp":
            raise table.error("quic", True, 'no `quic` beside `protocol = "tcp"`')
        service = Service(vip, port, "tcp" if protocol == "tcp" else "udp", quic)
        if service in services:
            raise table.error("vip", str(service), "each service once; remove one of the two")
        services.append(service)
    return tuple(services)


def _read_table(table: TableReader) -> TableConfig:
    return TableConfig(
        sessions_v4=table.integer("sessions_v4", 1, SESSIONS_MAX, 1_048_576),
        sessions_v6=table.integer("sessions_v6", 1, SESSIONS_MAX, 262_144),
    )


def _read_metrics(table: TableReader) -> tuple[Address, int] | None:
    return table.endpoint("listen", optional=True)


def _read_control(table: TableReader, host_id: int) -> Path:
    socket = table.text("socket", optional=True)
    return Path(socket if socket is not None else f"/run/pyxdp-gossip/host-{host_id}.sock")


def _read_peers(tables: list[TableReader], host: HostConfig) -> tuple[PeerConfig, ...]:
    peers: list[PeerConfig] = []
    for table in tables:
        address = table.address("address")
        assert address is not None  # not optional
        own, gateway = table.mac("mac"), table.mac("gateway_mac")
        mac = own or gateway
        if mac is None or (own and gateway):
            raise table.error("mac", None, "either `mac` or `gateway_mac`, like 02:00:00:00:00:01")
        peer = PeerConfig(table.integer("id", 0, HOST_ID_MAX), address, mac)
        if peer.id == host.id:
            raise table.error("id", peer.id, "another host's id, not this host's own")
        if any(peer.id == other.id for other in peers):
            raise table.error("id", peer.id, "each peer once; remove one of the two")
        if any(peer.address == other.address for other in peers):
            raise table.error("address", str(peer.address), "each peer's own; change one of two")
        peers.append(peer)
    return tuple(peers)
