# SPDX-License-Identifier: BSD-2-Clause
"""`pyxdp-gossip explain` by files: a packet's way in words and JSON; wrong input is one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip._native import UNOWNED
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.packet_commands import FRAME_MAX, parse_hex
from pyxdp_gossip.pop_state import load_state, read_sessions
from tests.golden import ethernet, ip, tcp
from tests.golden_tunnel import stripped, tunnelled
from tests.golden_world import PEER, State
from tests.unit.golden_files import (
    MISS6,
    STRAY,
    Commands,
    commands,
    golden_sessions,
    session_rows,
    tables,
    write_capture,
    write_state,
)

__all__ = ["commands"]  # a fixture

OWN = bytes(ethernet() / ip(4) / tcp(State.OWN))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return write_state(tmp_path)


def test_a_packet_of_digits_is_told_in_words(commands: Commands, state: Path) -> None:
    said = commands.done("explain", STRAY.hex(), "--state", state).splitlines()
    assert said[0] == f"By {state}, without a kernel."
    assert said[1] == "tcp 203.0.113.9:50003 -> 198.51.100.1:443"
    assert said[-1] == "tx: stray_forwarded. A stray, encapsulated to the owner."


@pytest.mark.parametrize(
    ("flags", "ending", "step"),
    [((), "passed_own", "kernel_assumed"), (("--no-sockets",), "miss_flooded", "flood_headers")],
)
def test_json_has_each_step(
    flags: tuple[str, ...], ending: str, step: str, commands: Commands, state: Path
) -> None:
    found = json.loads(commands.done("explain", OWN.hex(" "), "--state", state, "--json", *flags))
    assert (found["ending"], found["owner"], found["tcp_flags"]) == (ending, 3, "A")
    assert step in [one["name"] for one in found["steps"]]
    assert bytes.fromhex(found["output"]).endswith(OWN[14:])


def test_a_frame_of_a_capture(commands: Commands, state: Path, tmp_path: Path) -> None:
    frames = [STRAY] * 100 + [MISS6, STRAY[:40]]
    capture = write_capture(tmp_path / "in.pcapng", frames, wire_len=len(MISS6))
    by = ["--state", state, "--pcap", capture, "--number"]
    assert "tx: miss_flooded" in commands.done("explain", *by, 101)
    cut = commands.done("explain", *by, 102)
    assert f"The capture has 40 of its {len(MISS6)} bytes." in cut
    assert "pass: passed_unparsed" in cut
    said = commands.refused("explain", *by, 103)
    assert "has 102 frames; --number is 103" in said


def test_a_damaged_capture_is_explained_up_to_there(
    commands: Commands, state: Path, tmp_path: Path
) -> None:
    capture = write_capture(tmp_path / "in.pcap", [STRAY, MISS6])
    capture.write_bytes(capture.read_bytes()[:-5])
    by = ["--state", state, "--pcap", capture, "--number"]
    assert "stray_forwarded" in commands.done("explain", *by, 1)
    assert "has 1 frames, where it is damaged (truncated" in commands.refused("explain", *by, 2)


def tcpdump(frame: bytes) -> str:
    """As `tcpdump -xx` prints it."""
    lines = ["12:00:00.000000 IP 203.0.113.9.50003 > 198.51.100.1.443: Flags [.]"][1:]
    for at in range(0, len(frame), 16):
        lines.append(f"\t0x{at:04x}:  {frame[at : at + 16].hex(' ', 2)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("write", [bytes.hex, tcpdump, lambda frame: frame.hex(":").upper()])
def test_standard_input(
    write: object, commands: Commands, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(write(STRAY)))  # type: ignore[operator]
    assert "stray_forwarded" in commands.done("explain", "-", "--state", state)


def test_standard_input_that_is_no_text_is_one_line(
    commands: Commands, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = io.TextIOWrapper(io.BytesIO(b"\xd4\xc3\xb2\xa1"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", noise)
    assert "is no text" in commands.refused("explain", "-", "--state", state)


WRONG = [
    (("xyz",), "'x' is no digit"),
    (("abc",), "3 digits are half a byte"),
    (("",), "has 0 bytes"),
    (("00" * (FRAME_MAX + 1),), "expected 1.."),
    ((), "Give HEX, `-`, or --pcap with --number."),
    (("00", "--pcap", "x", "--number", "1"), "Give HEX"),
    (("--pcap", "x"), "Give HEX"),
    (("--number", "1"), "Give HEX"),
    (("--pcap", "/none", "--number", "1"), "/none: No such file or directory"),
    (("--pcap", "/none", "--number", "0"), "0 is not in the range"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], said: str, commands: Commands, state: Path
) -> None:
    assert said in commands.refused("explain", *words, "--state", state)


def test_a_tunnel_packet_is_opened(commands: Commands, state: Path) -> None:
    inner = ip(4) / tcp(State.OWN)
    words = ["explain", tunnelled(inner).hex(), "--state", state]
    said = commands.done(*words).splitlines()
    assert said[1] == "tcp 203.0.113.9:50001 -> 198.51.100.1:443"
    assert "gue from 10.8.0.14" in said[2]
    assert said[-1].startswith("pass: delivered_stray.")
    found = json.loads(commands.done(*words, "--json"))
    assert (found["sender"], bytes.fromhex(found["output"])) == ("10.8.0.14", stripped(inner))
    assert "tx: misdirected_flooded" in commands.done(*words, "--no-sockets")


@given(st.text(max_size=80))
def test_any_text_is_a_frame_or_refused(text: str) -> None:
    try:
        assert 0 < len(parse_hex(text)) <= len(text)
    except ConfigError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


@given(st.binary(min_size=1, max_size=200))
def test_every_frame_can_be_written_in_digits(frame: bytes) -> None:
    assert parse_hex(frame.hex()) == parse_hex(tcpdump(frame)) == frame


def test_without_an_agent_there_is_nothing_to_dump(commands: Commands, tmp_path: Path) -> None:
    config = tmp_path / "pop.toml"
    config.write_text(
        '[host]\nid = 3\ninterface = "eth0"\n[gossip]\ngroup = "239.192.7.1:7946"\n'
        'insecure = true\n[[service]]\nvip = "198.51.100.1"\nport = 443\nprotocol = "tcp"\n'
        f'[dataplane]\npins = "{tmp_path}"\n'
    )
    assert "no agent's maps are there" in commands.refused("dump", "--config", config)


# ---- state files ----


def test_a_state_in_toml_and_its_sessions_elsewhere_say_the_same(tmp_path: Path) -> None:
    world = tables()
    lines = ["[host]", *toml(world["host"]), "[tunnel]", *toml(world["tunnel"])]
    for name, rows in (
        ("service", world["service"]), ("peer", world["peer"]), ("session", session_rows()),
    ):  # fmt: skip
        for row in rows:
            lines += [f"[[{name}]]", *toml(row)]
    path = tmp_path / "state.toml"
    path.write_text("\n".join(lines))
    rows = ["client,client_port,vip,port,protocol,owner"]
    rows += [",".join(map(str, row.values())) for row in session_rows()]
    table = tmp_path / "sessions.csv"
    table.write_text("\n".join(rows))
    pop, sessions = load_state(path)
    assert (pop, sessions) == load_state(write_state(tmp_path))
    assert sessions == list(read_sessions(table)) == golden_sessions()
    assert UNOWNED in [owner for _, owner in sessions]


def test_the_state_file_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "explain.md").read_text()
    path = tmp_path / "state.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    table = tmp_path / "sessions.csv"
    table.write_text(text.partition("```csv\n")[2].partition("```")[0])
    pop, sessions = load_state(path)
    assert (pop.host, [peer.id for peer in pop.peers]) == (3, [4])
    assert sessions == list(read_sessions(table))


def toml(row: dict[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in row.items()]


def changed(path: str, value: object) -> dict[str, object]:
    """The golden state with one value changed; None: taken out."""
    world = json.loads(json.dumps(tables() | {"session": session_rows()}))
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
    at = world
    for key in way:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return world  # type: ignore[no-any-return]


BAD_STATES = [
    ("hosts", {}, "unknown key `hosts` in the file; the nearest known one is `host`"),
    ("host", None, "the table [host] is missing"),
    ("host.id", 65001, "[host] id is 65001"),
    ("host.address", "2001:db8::1", "expected an IPv6 address"),
    ("host.address", None, "[host] address is missing"),
    ("host.mac", "02", "a MAC address"),
    ("tunnel.port", 0, "[tunnel] port is 0"),
    ("tunnel.flood_group", "10.0.0.1", "a multicast address"),
    ("tunnel.flood_cookie", "00", "16 hexadecimal digits"),
    ("tunnel.mtu", 43, "[tunnel] mtu is 43"),
    ("service", [], "expected tables [[service]]"),
    ("service.1.protocol", "tcp", "each service once"),
    ("service.0.vip", "::g", "[service] vip"),
    ("peer.0.id", 3, "none is this host's own"),
    ("peer.0.address", "10.8.0.15", "each host's id and address once"),
    ("peer.0.gateway_mac", "02:00:00:00:00:01", "either `mac` or `gateway_mac`"),
    ("peer.1.vlan", 4095, "[peer] vlan"),
    ("peer.0.cookie", "zz", "[peer] cookie"),
    ("peer.0.cookies_here", "zz", "[peer] cookies_here"),
    ("peer.0.cookies_here", ["zz"], "one or two cookies"),
    ("peer.0.cookies_flood", ["00" * 8] * 3, "one or two cookies"),
    ("peer.0.cookies_flood", [1], "one or two cookies"),
    ("session", {}, "`session` is no list"),
    ("session.0", 7, "[[session]] 1: expected client, client_port, vip, port, protocol, owner"),
    ("session.2.owner", None, "[[session]] 3: expected client"),
    ("session.2.owner", "nobody", '0..65000, or "unowned"'),
    ("session.2.owner", 65001, "owner is 65001"),
    ("session.2.client_port", True, "client_port is True"),
    ("session.2.client", "2001:db8::1", "different families"),
    ("session.2.client", "x", "'x' does not appear to be"),
    ("session.2.protocol", "sctp", "expected 'tcp' or 'udp'"),
    ("session.2.port", 444, "is of no [[service]]"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "said"), BAD_STATES)
def test_a_wrong_value_in_a_state_file_is_one_line(
    where: str, value: object, said: str, commands: Commands, tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(changed(where, value)))
    assert said in commands.refused("explain", STRAY.hex(), "--state", path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.json", "{", "is no JSON"),
        ("s.json", "[" * 100_000, "cannot be read"),
        ("s.json", "[]", "expected an object of tables"),
        ("s.toml", "a = " + "[" * 100_000, "cannot be read"),
        ("s.toml", "\udcff", "is no text"),
        ("s.toml", "x = 1", "unknown key `x`"),
    ],
)
def test_a_broken_state_file_is_one_line(
    name: str, text: str, said: str, commands: Commands, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert said in commands.refused("explain", STRAY.hex(), "--state", path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.csv", "client,owner\n203.0.113.9,4\n", "row 1: expected client, client_port"),
        ("s.csv", f"{','.join(session_rows()[0])}\n1,2,3,4\n", "row 1"),
        ("s.csv", f'{",".join(session_rows()[0])}\n"\0', "row"),
        ("s.json", "{}", "expected a list of sessions"),
        ("s.json", "[1]", "session 1: expected client"),
    ],
)
def test_a_broken_list_of_sessions_is_one_line(
    name: str, text: str, said: str, commands: Commands, state: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    words = ["explain", STRAY.hex(), "--state", state, "--sessions", path]
    assert said in commands.refused(*words)


def test_sessions_from_a_list_come_over_those_of_the_state(
    commands: Commands, state: Path, tmp_path: Path
) -> None:
    row = next(row for row in session_rows() if row["owner"] == PEER) | {"owner": 5}
    path = tmp_path / "s.json"
    path.write_text(json.dumps([row]))
    words = ["explain", STRAY.hex(), "--state", state, "--sessions", path, "--json"]
    assert json.loads(commands.done(*words))["owner"] == 5
