# SPDX-License-Identifier: BSD-2-Clause
"""The configuration of QUIC services: defaults, keys, and one clear line for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Service

KEY = bytes(range(16))
SERVICE = {"vip": "198.51.100.1", "port": 443, "protocol": "udp", "quic": True}


def read(layouts: list[dict[str, Any]], folder: Path | None = None, **service: Any) -> Config:
    data = {
        "host": {"id": 3, "interface": "eth0"},
        "gossip": {"group": "239.192.7.1:7946", "insecure": True},
        "service": [SERVICE | service],
        "quic": layouts,
    }
    return Config.from_dict(data, folder=folder)


def key_file(folder: Path, text: str = KEY.hex() + "\n", mode: int = 0o600) -> Path:
    path = folder / "quic.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_layout_has_defaults_and_the_service_says_that_it_is_quic() -> None:
    config = read([{}])
    assert config.quic == (QuicLb(0, 2, 6, None),)
    assert config.services[0].quic


def test_layouts_are_told_apart_by_their_config_ids(tmp_path: Path) -> None:
    key_file(tmp_path)
    sealed = {"config_id": 6, "server_id_length": 3, "nonce_length": 13, "key_file": "quic.key"}
    config = read([{"config_id": 1}, sealed], tmp_path)
    assert config.quic == (QuicLb(1), QuicLb(6, 3, 13, KEY))
    assert "key" not in repr(config.quic)


def test_a_key_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    key_file(tmp_path, mode=0o644)
    warnings = read([{"key_file": "quic.key"}], tmp_path).warnings
    assert [warning for warning in warnings if "quic.key: other users can read this key" in warning]


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ([], r"a \[\[service\]\] has `quic = true`, but there is no \[\[quic\]\]"),
        ([{"config_id": 7}], r"\[quic\] config_id is 7, expected a whole number of 0\.\.6"),
        ([{}, {"config_id": 0}], r"\[quic\] config_id is 0, expected each layout's own"),
        ([{"server_id_length": 1}], r"server_id_length is 1, expected a whole number of 2\.\.15"),
        ([{"nonce_length": 18}], r"nonce_length is 18, expected a whole number of 4\.\.17"),
        ([{"nonce": 6}], "unknown key `nonce` in \\[quic\\]; the nearest known one is `nonce_len"),
        ([{"key_file": 3}], r"\[quic\] key_file is 3, expected a text"),
        ([{"config_id": number} for number in range(8)], r"8 tables \[\[quic\]\], at most 7"),
    ],
    ids=str,
)
def test_a_wrong_layout_is_one_line(layouts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(layouts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "00" * 15, "00" * 17, "zz" * 16, "sécret", KEY.hex() * 2])
def test_a_key_file_of_another_kind_is_one_line_that_does_not_show_it(
    tmp_path: Path, text: str
) -> None:
    key_file(tmp_path, text)
    with pytest.raises(ConfigError, match="expected a file with 32 hexadecimal digits") as caught:
        read([{"key_file": "quic.key"}], tmp_path)
    assert "\n" not in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_missing_key_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quic\.key.*\(No such file or directory\)"):
        read([{"key_file": "quic.key"}], tmp_path)


def test_a_tcp_service_has_no_connection_ids() -> None:
    with pytest.raises(ConfigError, match=r"\[service\] quic is True, expected no `quic` beside"):
        read([{}], protocol="tcp")
    with pytest.raises(ConfigError, match=r"\[service\] quic is 1, expected true or false"):
        read([{}], quic=1)


def test_a_service_is_the_same_with_quic_and_without() -> None:
    service = Service(ip_address("198.51.100.1"), 443, "udp")
    assert replace(service, quic=True) == service
    assert len({replace(service, quic=True), service}) == 1


def test_other_layouts_and_quic_itself_wait_for_a_restart() -> None:
    old = read([{}])
    assert old.waits_for_restart(read([{}])) == []
    assert old.waits_for_restart(read([{"nonce_length": 8}])) == ["[quic]"]
    assert old.waits_for_restart(read([{}], quic=False)) == ["[quic]"]


def test_a_preset_takes_quic_services_and_layouts() -> None:
    config = Config.lan(
        host_id=3,
        interface="eth0",
        services=[Service(ip_address("198.51.100.1"), 443, "udp", quic=True)],
        tables={"quic": [{"config_id": 2}]},
        group="239.192.7.1:7946",
        insecure=True,
    )
    assert (config.services[0].quic, config.quic) == (True, (QuicLb(2),))
