# SPDX-License-Identifier: BSD-2-Clause
"""Configuration: defaults, and one clear line for everything that is wrong."""

import base64
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip.config import PRESETS, Config, PeerConfig, Timing
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.key_file import Key, generate_key_line, parse_keys
from pyxdp_gossip.session import Service

SECRET = bytes(range(32))
KEY_LINE = generate_key_line(lambda size: SECRET[:size])

LEAST = """
[host]
id = 3
interface = "eth0"
[gossip]
group = "239.192.7.1:7946"
key_file = "gossip.key"
[[service]]
vip = "198.51.100.1"
port = 443
protocol = "tcp"
"""


def least() -> dict[str, Any]:
    return {
        "host": {"id": 3, "interface": "eth0"},
        "gossip": {"group": "239.192.7.1:7946", "insecure": True},
        "service": [{"vip": "198.51.100.1", "port": 443, "protocol": "tcp"}],
    }


def load(folder: Path, text: str = LEAST, key: str = KEY_LINE) -> Config:
    path = folder / "gossip.key"
    path.write_text(key + "\n")
    path.chmod(0o600)
    (folder / "pop.toml").write_text(text)
    return Config.load(folder / "pop.toml")


def test_the_least_file_gets_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.host.id, config.host.interface, config.host.address) == (3, "eth0", None)
    assert config.gossip.group == ip_address("239.192.7.1")
    assert config.gossip.flood_group == ip_address("239.192.7.2")
    assert config.gossip.port == 7946
    assert config.gossip.keys == (Key(1, SECRET),)
    assert config.gossip.timing == Timing()
    assert config.services == (Service(ip_address("198.51.100.1"), 443, "tcp"),)
    assert (config.dataplane.plane, config.dataplane.tunnel_port) == ("xsk", 6080)
    assert config.dataplane.pins == Path("/sys/fs/bpf/pyxdp-gossip/host-3")
    assert config.control_socket == Path("/run/pyxdp-gossip/host-3.sock")
    assert (config.table.sessions_v4, config.table.sessions_v6) == (1_048_576, 262_144)
    assert (config.peers, config.warnings, config.metrics_listen) == ((), (), None)


def test_a_key_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    load(tmp_path)
    (tmp_path / "gossip.key").chmod(0o644)
    (warning,) = Config.load(tmp_path / "pop.toml").warnings
    assert "chmod 600" in warning


def test_a_secret_is_never_shown() -> None:
    assert "0x" not in repr(Key(1, SECRET))
    assert str(SECRET) not in repr(Key(1, SECRET))


def test_unicast_members_take_the_place_of_the_group() -> None:
    data = least()
    data["gossip"] = UNICAST
    gossip = Config.from_dict(data).gossip
    assert gossip.group is None
    assert gossip.flood_group is None
    assert gossip.members == (ip_address("10.8.0.11"), ip_address("10.8.0.12"))


UNICAST = {"members": ["10.8.0.11", "10.8.0.12"], "port": 7946, "insecure": True}


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        ("host", {"address": "10.8.0.12"}, "members is '10.8.0.12'.*not this host's own"),
        ("dataplane", {"plane": "xdp"}, "plane is 'xdp', expected \"xsk\" where .* lists members"),
    ],
)
def test_what_does_not_go_with_members_is_refused(
    table: str, keys: dict[str, Any], message: str
) -> None:
    data = least()
    data["gossip"] = UNICAST
    data[table] = data.get(table, {}) | keys
    with pytest.raises(ConfigError, match=message) as caught:
        Config.from_dict(data)
    assert "\n" not in str(caught.value)


def test_insecure_is_a_warning() -> None:
    config = Config.from_dict(least())
    assert config.gossip.keys == ()
    assert "not sealed" in config.warnings[0]


def test_peers_are_read() -> None:
    data = least()
    data["peer"] = [{"id": 4, "address": "10.8.0.14", "gateway_mac": "02:00:00:00:00:0a"}]
    assert Config.from_dict(data).peers == (
        PeerConfig(4, ip_address("10.8.0.14"), bytes.fromhex("02000000000a")),
    )


def test_a_death_is_known_after_half_a_second() -> None:
    timing = Timing()
    silence_ms = timing.heartbeat_ms * timing.suspect_after
    assert silence_ms + timing.probe_interval_ms * timing.probe_attempts == 500


def test_a_preset_and_the_flush_interval_choose_the_timing() -> None:
    data = least()
    data["gossip"] |= {"preset": "loopback", "flush_interval_ms": 5}
    timing = Config.from_dict(data).gossip.timing
    assert timing.flush_interval_ms == 5
    assert timing.suspect_after == PRESETS["loopback"].suspect_after


SERVICE = {"vip": "198.51.100.1", "port": 443, "protocol": "tcp"}
PEER = {"id": 4, "address": "10.8.0.14", "mac": "02:00:00:00:00:0a"}

WRONG = [
    ("host", {"interface": "eth0"}, r"\[host\] id is missing, expected a whole number of 0..65000"),
    ("host", {"id": 65001, "interface": "eth0"}, "id is 65001"),
    ("host", {"id": -1, "interface": "eth0"}, "id is -1"),
    ("host", {"id": True, "interface": "eth0"}, "id is True"),
    ("host", {"id": 1}, "interface is missing"),
    ("host", {"id": 1, "interface": "far too long a name"}, "expected a network device"),
    ("host", {"id": 1, "interface": ".."}, "expected a network device"),
    ("host", {"id": 1, "interface": "eth0", "address": "10.8.0.13/24"}, "an IPv4 or IPv6 address"),
    ("host", {"id": 1, "interface": "eth0", "address": "239.1.1.1"}, "own unicast address"),
    ("host", {"id": 1, "interface": "eth0", "adress": "x"}, "`adress` in .host.; .* `address`"),
    ("gossip", {"insecure": True}, "group is missing"),
    ("gossip", {"groop": "239.1.1.1:1", "insecure": True}, "unknown key `groop`.*`group`"),
    ("gossip", {"group": "10.0.0.1:1", "insecure": True}, "expected a multicast address"),
    ("gossip", {"group": "239.1.1.1", "insecure": True}, "expected ADDRESS:PORT"),
    ("gossip", {"group": "239.1.1.1:0", "insecure": True}, "expected ADDRESS:PORT"),
    ("gossip", {"group": "239.255.255.255:1", "insecure": True}, "a further multicast address"),
    ("gossip", {"group": "239.1.1.1:1", "port": 5, "insecure": True}, "either `group`"),
    ("gossip", {"members": ["10.0.0.1"], "insecure": True}, "port is missing"),
    ("gossip", {"members": "10.0.0.1", "port": 1, "insecure": True}, "a list of"),
    ("gossip", {"members": ["x"], "port": 1, "insecure": True}, "members is 'x'"),
    ("gossip", {"members": [], "port": 1, "insecure": True}, "group is missing.*or `members`"),
    ("gossip", {"members": ["10.0.0.1"] * 2, "port": 1, "insecure": True}, "each address once"),
    ("gossip", {"members": ["239.1.1.1"], "port": 1, "insecure": True}, "unicast addresses"),
    ("gossip", {"members": ["0.0.0.0"], "port": 1, "insecure": True}, "unicast addresses"),
    (
        "gossip",
        {"members": ["10.0.0.1"], "port": 1, "insecure": True, "flood_group": "239.1.1.2"},
        "a multicast address, beside `group`",
    ),
    ("gossip", {"group": "239.1.1.1:1"}, "key_file is missing.*keygen.*insecure = true"),
    ("gossip", {"group": "239.1.1.1:1", "key_file": "none"}, "key_file.*No such file"),
    ("gossip", {"group": "239.1.1.1:1", "key_file": "k", "insecure": True}, "not both"),
    ("gossip", {"group": "239.1.1.1:1", "insecure": 1}, "true or false"),
    ("gossip", {"group": "239.1.1.1:1", "insecure": True, "site": 65536}, "0..65535"),
    ("gossip", {"group": "239.1.1.1:1", "insecure": True, "preset": "wan"}, '"lan" or "loopback"'),
    ("gossip", {"group": "239.1.1.1:1", "insecure": True, "flood_group": "10.0.0.1"}, "multicast"),
    ("gossip", {"group": "239.1.1.1:1", "insecure": True, "flood_group": "239.1.1.1"}, "another"),
    ("gossip", {"group": "239.1.1.1:1", "insecure": True, "cipher": "rot13"}, "aes-256-gcm"),
    ("service", [SERVICE, SERVICE], "each service once"),
    ("service", [SERVICE | {"vip": "www.example.org"}], "vip is 'www.example.org'"),
    ("service", [SERVICE | {"vip": 3}], "vip is 3"),
    ("service", [SERVICE | {"vip": "239.1.1.1"}], "a unicast address"),
    ("service", [SERVICE | {"port": 0}], "1..65535"),
    ("service", [SERVICE | {"port": "443"}], "1..65535"),
    ("service", [SERVICE | {"protocol": "sctp"}], '"tcp" or "udp"'),
    ("service", [SERVICE | {"prot": "tcp"}], "unknown key `prot`.*`protocol`|`port`"),
    ("service", [], r"no \[\[service\]\] is there"),
    ("service", SERVICE, r"tables \[\[service\]\]"),
    ("dataplane", {"plane": "dpdk"}, '"xsk" or "xdp"'),
    ("dataplane", {"mode": "fast"}, '"auto" or "zero-copy" or "copy" or "native"'),
    ("dataplane", {"flood_rate_pps": 0}, "flood_rate_pps is 0"),
    ("dataplane", {"too_big_rate_pps": 0}, "too_big_rate_pps is 0"),
    ("dataplane", {"mss": 535}, 'mss is 535, expected a whole number of 536..32767, or "auto"'),
    ("dataplane", {"mss": 32768}, "mss is 32768"),
    ("dataplane", {"mss": True}, "mss is True"),
    ("dataplane", {"mss": "all"}, "mss is 'all'"),
    ("dataplane", {"cpus": []}, r"cpus is \[\], expected a list of 1 to 128 whole numbers of 0"),
    ("dataplane", {"cpus": [2, -1]}, r"cpus is \[2, -1\]"),
    ("dataplane", {"cpus": [8192]}, "cpus is "),
    ("dataplane", {"cpus": [True]}, "cpus is "),
    ("dataplane", {"cpus": 2}, "cpus is 2"),
    ("dataplane", {"cpus": [0] * 129}, "expected a list of 1 to 128"),
    ("dataplane", {"busy_poll": 1}, "busy_poll is 1, expected true or false"),
    ("dataplane", {"plane": "xdp", "cpus": [0]}, '"xsk" where `cpus` is set'),
    ("dataplane", {"plane": "xdp", "busy_poll": True}, '"xsk" where `busy_poll` is set'),
    ("dataplane", {"tunnel_port": 7946}, "another port than the gossip's"),
    ("dataplane", {"cgroup": ""}, "expected a text"),
    ("dataplane", 3, r"expected a table \[dataplane\]"),
    ("table", {"sessions_v4": 0}, "sessions_v4 is 0"),
    ("metrics", {"listen": "9469"}, "ADDRESS:PORT"),
    ("peer", [PEER, PEER], "each peer once"),
    ("peer", [PEER, PEER | {"id": 5}], "each peer's own"),
    ("peer", [PEER | {"id": 3}], "not this host's own"),
    ("peer", [PEER | {"mac": "2:0:0:0:0:1"}], "expected a MAC address"),
    ("peer", [PEER | {"gateway_mac": "02:00:00:00:00:0b"}], "either `mac` or `gateway_mac`"),
    ("hosts", {}, "unknown key `hosts` in the file; .* `host`"),
]


@pytest.mark.parametrize(("table", "value", "message"), WRONG)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(
    table: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config.from_dict(least() | {table: value}, label="pop.toml")
    assert str(caught.value).startswith("pop.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mss", [None, "auto", 536, 32767])
def test_a_limit_of_segments_is_a_number_or_auto_or_absent(mss: object) -> None:
    table = {} if mss is None else {"mss": mss}
    assert Config.from_dict(least() | {"dataplane": table}).dataplane.mss == mss


def test_a_missing_table_is_named() -> None:
    data = least()
    del data["host"]
    with pytest.raises(ConfigError, match=r"the table \[host\] is missing"):
        Config.from_dict(data)


def test_a_file_that_is_not_there_or_no_toml_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no TOML"):
        load(tmp_path, "[host")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 keys"),
        ("# only a comment\n\n", "has 0 keys"),
        ("1", ":1: expected `id base64"),
        (f"0 {KEY_LINE.split()[1]}", ":1: expected"),
        (f"65536 {KEY_LINE.split()[1]}", ":1: expected"),
        (f"{KEY_LINE}\n2 {base64.b64encode(b'short').decode()}", ":2: expected"),
        (f"{KEY_LINE}\n2 %%%", ":2: expected"),
        (f"{KEY_LINE}\n{KEY_LINE}", ":2: key id 1 is there twice"),
        ("\n".join(f"{i} {KEY_LINE.split()[1]}" for i in range(1, 18)), "has 17 keys"),
    ],
)
def test_a_wrong_key_file_names_the_line_and_no_secret(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_keys(text, "gossip.key")
    assert KEY_LINE.split()[1] not in str(caught.value)


def test_the_first_key_line_is_the_first_key() -> None:
    keys = parse_keys(f"# rotated in May\n7 {KEY_LINE.split()[1]}\n{KEY_LINE}\n", "gossip.key")
    assert [key.id for key in keys] == [7, 1]


def test_what_waits_for_a_restart_is_all_but_keys_and_services(tmp_path: Path) -> None:
    before = load(tmp_path)
    after = load(
        tmp_path,
        LEAST.replace('"eth0"', '"eth1"') + '[[service]]\nvip = "198.51.100.1"\nport = 80\n'
        'protocol = "tcp"\n[table]\nsessions_v4 = 9\n[control]\nsocket = "/run/other.sock"\n',
        generate_key_line(lambda size: bytes(size)),
    )
    assert before.waits_for_restart(before) == []
    assert before.waits_for_restart(after) == ["[host]", "[table]", "[control]"]
    assert before.waits_for_restart(
        load(tmp_path, LEAST + "[dataplane]\nflood_rate_pps = 9\n")
    ) == ["[dataplane]"]
    other = LEAST.replace("7946", "7947")
    assert before.waits_for_restart(load(tmp_path, other)) == ["[gossip]"]
