# SPDX-License-Identifier: BSD-2-Clause
"""The golden world as the files that `explain` and `replay` read, and captures of frames."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, PcapWriter

from pyxdp_gossip import cli
from pyxdp_gossip.pop_state import PopState, state_of_dict
from pyxdp_gossip.session import Session, format_endpoint
from tests.golden import ethernet, ip, plain_rows, tcp
from tests.golden_world import (
    ACTIVE,
    CLIENTS,
    ENTRIES,
    FLOOD,
    FLOOD_GROUP,
    MTU,
    OWN_ADDRESS,
    OWN_HOST,
    OWN_MAC,
    PEERS,
    ROUTES,
    SERVICES,
    TUNNEL_PORT,
    VIPS,
    State,
    underlay,
)
from tests.model import UNOWNED

STRAY = bytes(ethernet() / ip(4) / tcp(State.OTHER))
MISS = bytes(ethernet() / ip(4) / tcp(State.ABSENT))
MISS6 = bytes(ethernet() / ip(6) / tcp(State.ABSENT))
ROWS = [row for row in plain_rows() if row.flood and row.agent_alive]


def tables(*, group: bool = True) -> dict[str, Any]:
    """The golden world's state file, without its sessions."""
    peers = []
    for host in ACTIVE:
        peer: dict[str, Any] = {"id": host, "address": str(underlay(host))}
        if host in ROUTES:
            route = ROUTES[host]
            peer |= {"mac": route.destination_mac.hex(":"), "cookie": route.cookie.hex()}
            peer |= {"mtu": route.mtu} | ({"vlan": route.vlan} if route.vlan else {})
        if underlay(host) in PEERS:
            accepted = PEERS[underlay(host)]
            peer["cookies_here"] = [cookie.hex() for cookie in accepted.unicast]
            peer["cookies_flood"] = [cookie.hex() for cookie in accepted.flood]
        peers.append(peer)
    tunnel: dict[str, Any] = {"port": TUNNEL_PORT, "mtu": MTU}
    if group:
        tunnel |= {"flood_group": str(FLOOD_GROUP), "flood_cookie": FLOOD.cookie.hex()}
    return {
        "host": {"id": OWN_HOST, "address": str(OWN_ADDRESS), "mac": OWN_MAC.hex(":")},
        "tunnel": tunnel,
        "service": [
            {"vip": str(VIPS[family]), "port": port, "protocol": protocol}
            for family, protocol, port in SERVICES
        ],
        "peer": peers,
    }


def session_rows() -> list[dict[str, Any]]:
    """The golden world's sessions, as a list for JSON."""
    return [
        {
            "client": str(CLIENTS[family]),
            "client_port": state.client_port,
            "vip": str(VIPS[family]),
            "port": port,
            "protocol": protocol,
            "owner": "unowned" if entry.owner == UNOWNED else entry.owner,
        }
        for family, protocol, port in SERVICES
        for state, entry in ENTRIES.items()
    ]


def golden_state(*, group: bool = True) -> PopState:
    return state_of_dict(tables(group=group), "golden")


def golden_sessions() -> list[tuple[Session, int]]:
    """The same as objects."""
    found = []
    for family, protocol, port in SERVICES:
        make = Session.tcp if protocol == "tcp" else Session.udp
        for state, entry in ENTRIES.items():
            client = format_endpoint(CLIENTS[family], state.client_port)
            found.append((make(client, format_endpoint(VIPS[family], port)), entry.owner))
    return found


def write_state(folder: Path, *, group: bool = True) -> Path:
    path = folder / "state.json"
    path.write_text(json.dumps(tables(group=group) | {"session": session_rows()}))
    return path


def write_capture(path: Path, frames: Iterable[bytes], *, wire_len: int | None = None) -> Path:
    """A capture in the format of the name's suffix, by scapy."""
    is_ng = path.suffix == ".pcapng"
    made = PcapNgWriter(str(path)) if is_ng else PcapWriter(str(path), linktype=1)
    with contextlib.closing(made) as writer:
        writer.write_header(Ether())
        for number, frame in enumerate(frames):
            writer.write_packet(frame, sec=number, usec=7, wirelen=wire_len)
    return path


class Commands:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def run(self, *words: object) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self._monkeypatch.setattr(sys, "argv", ["pyxdp-gossip", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *self._capsys.readouterr()

    def done(self, *words: object) -> str:
        status, out, err = self.run(*words)
        assert (status, err) == (0, ""), err
        return out

    def refused(self, *words: object) -> str:
        """The one line, with status 2."""
        status, out, err = self.run(*words)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("pyxdp-gossip: ")
        assert "a bug" not in err
        return err


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line; a test file takes it in by its name."""
    return Commands(monkeypatch, capsys)
