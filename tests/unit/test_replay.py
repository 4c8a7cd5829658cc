# SPDX-License-Identifier: BSD-2-Clause
"""`pyxdp-gossip replay`: every frame once, with the golden endings and bytes; damage in a line."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader

from pyxdp_gossip.capture import Capture, Captured
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.gossip.sealing import tunnel_cookie
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.pop_state import state_of_config
from pyxdp_gossip.replay import Outcome, Replay, replay
from pyxdp_gossip.session import packed16
from pyxdp_gossip.stats import ENDINGS, SENTENCES
from pyxdp_gossip.templates import HeaderTemplate
from tests.golden import OVERHEAD, Golden, encapsulated, ethernet, ip, tcp
from tests.golden_tunnel import stripped, tunnel_rows, tunnelled
from tests.golden_world import OWN_ADDRESS, PEER, ROUTES, State, underlay
from tests.model import MARK_FLOOD, MARK_HOP
from tests.unit.golden_files import (
    MISS,
    ROWS,
    STRAY,
    Commands,
    commands,
    golden_sessions,
    golden_state,
    session_rows,
    tables,
    write_capture,
    write_state,
)

__all__ = ["commands"]  # a fixture


TUNNELLED = tunnelled(ip(4) / tcp(State.OWN))


class Frames:
    """Frames in the place of a capture."""

    def __init__(self, frames: list[bytes]) -> None:
        self.damage = ""
        self._left = [Captured(frame, len(frame), (0, 0)) for frame in frames]

    def read(self, limit: int) -> list[Captured]:
        found, self._left = self._left[:limit], self._left[limit:]
        return found


def replayed(
    frames: list[bytes], *, group: bool = True, sockets: bool = False
) -> tuple[Replay, list[Outcome]]:
    state = golden_state(group=group)
    seen: list[Outcome] = []
    forwarder = state.forwarder(golden_sessions(), sockets=sockets)
    return replay(Frames(frames), forwarder, state, seen.append), seen


def frames_of(path: Path) -> list[bytes]:
    """What a capture holds, by scapy."""
    with RawPcapReader(str(path)) as reader:
        return [bytes(frame) for frame, _ in reader]


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_the_golden_packets_end_and_leave_as_the_golden_rows_say(
    suffix: str, tmp_path: Path, commands: Commands
) -> None:
    capture = write_capture(tmp_path / f"in.{suffix}", [row.frame for row in ROWS])
    out, sent, sums = (tmp_path / name for name in ("out.pcap", "sent.pcap", "sums.json"))
    said = commands.done(
        "replay", capture, out, "--state", write_state(tmp_path), "--sent", sent,
        "--json", sums, "--no-sockets", "--each",
    )  # fmt: skip
    each = [line.split()[:2] for line in said.splitlines()[: len(ROWS)]]
    assert each == [[str(number), row.ending] for number, row in enumerate(ROWS, 1)]
    kept = [row.output for row in ROWS if ENDINGS[row.ending] != "drop"]
    assert frames_of(out) == kept
    assert frames_of(sent) == [row.output for row in ROWS if ENDINGS[row.ending] == "tx"]
    found = json.loads(sums.read_text())
    counted = {row["name"]: row["frames"] for row in found["endings"]}
    assert counted == Counter(row.ending for row in ROWS)
    assert found["frames"] == sum(counted.values()) == len(ROWS)
    tunnelled_out = [Ether(frame).payload for frame in frames_of(sent)]
    assert sum(found["sent_to"].values()) == sum(IP in packet for packet in tunnelled_out)
    assert found["sent_to"]["host 4"] == sum(
        packet[IP].dst == str(ROUTES[PEER].destination) for packet in tunnelled_out if IP in packet
    )
    for name in counted:
        assert f"{counted[name]}   {ENDINGS[name]}" in said
        assert SENTENCES[name].split()[0] in said


def test_by_default_the_kernel_has_the_sessions_that_the_table_gives_this_host() -> None:
    frame = bytes(ethernet() / ip(6) / tcp(State.OWN))
    for sockets, ending in ((True, "passed_own"), (False, "miss_flooded")):
        total, (outcome,) = replayed([frame], sockets=sockets)
        assert total.endings == {ending: 1}
        assert outcome.ending == ending


def test_without_a_group_each_host_with_a_way_gets_a_copy_of_a_flood() -> None:
    total, seen = replayed([MISS, STRAY], group=False)
    hosts = sorted(host for host, route in ROUTES.items() if len(MISS) - 14 + OVERHEAD <= route.mtu)
    copies = [encapsulated(MISS, ROUTES[host], MARK_FLOOD) for host in hosts]
    assert [one.output for one in seen] == [*copies, encapsulated(STRAY, ROUTES[PEER])]
    assert [one.number for one in seen] == [*[1] * len(hosts), 2]
    assert (total.frames, total.flood_copies) == (2, len(hosts) - 1)
    assert total.sent_to == Counter(ROUTES[host].destination for host in (*hosts, PEER))


def written(row: Golden) -> bytes:
    """What leaves: of a probe's answer, the cookie is the one that this host sends by."""
    cookie = ROUTES[PEER].cookie
    return row.output.replace(b"us-to-4.", cookie) if row.ending == "probe_answered" else row.output


def test_tunnel_packets_are_opened(tmp_path: Path, commands: Commands) -> None:
    rows = [row for row in tunnel_rows() if row.flood and row.agent_alive]
    capture = write_capture(tmp_path / "in.pcap", [row.frame for row in rows])
    out, sums = tmp_path / "out.pcap", tmp_path / "sums.json"
    state = write_state(tmp_path)
    commands.done("replay", capture, out, "--state", state, "--json", sums, "--no-sockets")
    found = json.loads(sums.read_text())
    counted = {row["name"]: row["frames"] for row in found["endings"]}
    assert counted == Counter(row.ending for row in rows)
    assert frames_of(out) == [written(row) for row in rows if ENDINGS[row.ending] != "drop"]
    assert {"delivered_syn", "misdirected_flooded", "probe_answered"} <= set(counted)


def test_without_a_group_what_is_misdirected_is_copied_to_each_host() -> None:
    inner = ip(4) / tcp(State.OWN)
    total, seen = replayed([tunnelled(inner)], group=False)
    frame = bytes(ethernet() / inner)
    hosts = sorted(
        host for host, route in ROUTES.items() if len(frame) - 14 + OVERHEAD <= route.mtu
    )
    assert total.endings == {"misdirected_flooded": 1}
    assert [one.output for one in seen] == [
        encapsulated(frame, ROUTES[host], MARK_FLOOD | MARK_HOP) for host in hosts
    ]
    assert total.flood_copies == len(hosts) - 1


def test_what_another_host_sent_here_rightly_is_stripped_and_passed() -> None:
    inner = ip(6) / tcp(State.OWN)
    total, (outcome,) = replayed([tunnelled(inner)], sockets=True)
    assert total.endings == {"delivered_stray": 1}
    assert outcome.output == stripped(inner)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=120), st.sampled_from([STRAY, MISS, TUNNELLED])), max_size=200
    )
)
def test_any_frames_end_in_counters_whose_sum_is_their_number(frames: list[bytes]) -> None:
    total, seen = replayed(frames)
    assert total.frames == sum(total.endings.values()) == len(seen) == len(frames)
    assert Counter(outcome.ending for outcome in seen) == total.endings


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good capture of each format, and a folder to write others in."""
    folder = tmp_path_factory.mktemp("captures")
    return {
        suffix: write_capture(folder / f"good.{suffix}", [STRAY, MISS] * 3).read_bytes()
        for suffix in ("pcap", "pcapng")
    }


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["pcap", "pcapng", "noise"]),
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=4),
    st.integers(0, 1000),
)
def test_any_file_is_read_up_to_its_damage_or_refused_in_a_line(
    captures: dict[str, bytes],
    tmp_path: Path,
    kind: str,
    noise: bytes,
    patches: list[tuple[int, int]],
    length: int,
) -> None:
    data = bytearray(captures.get(kind, noise))
    for at, value in patches if data else ():
        data[at % len(data)] = value
    path = tmp_path / "any"
    path.write_bytes(data[: length or None])
    state = golden_state()
    try:
        with Capture(path) as capture:
            total = replay(capture, state.forwarder(()), state, lambda _: None)
    except ConfigError as error:
        total = Replay(damage=str(error))
    assert sum(total.endings.values()) == total.frames
    assert "\n" not in total.damage


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_a_capture_cut_in_the_middle_is_read_up_to_there_and_that_is_said(
    suffix: str, captures: dict[str, bytes], tmp_path: Path, commands: Commands
) -> None:
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(captures[suffix][:-50])
    status, out, err = commands.run("replay", path, "--state", write_state(tmp_path))
    assert status == 0
    assert re.search(r"^ *5 +all frames", out, re.M)
    assert "read up to frame 5: truncated" in err
    assert err.count("\n") == 1


def test_frames_that_the_snap_length_cut_are_counted(tmp_path: Path, commands: Commands) -> None:
    path = write_capture(tmp_path / "snap.pcap", [STRAY[:40], STRAY[:20]], wire_len=len(STRAY))
    said = commands.done("replay", path, "--state", write_state(tmp_path))
    assert "2 were cut by the capture's snap length" in said
    assert "passed_unparsed" in said


def refusals(folder: Path) -> dict[str, tuple[list[object], str]]:
    state = write_state(folder)
    good = write_capture(folder / "good.pcap", [STRAY])
    raw = folder / "raw.pcap"
    raw.write_bytes(good.read_bytes()[:20] + (101).to_bytes(4, "little"))
    broken = folder / "broken.toml"
    broken.write_text("[host\n")
    empty = folder / "empty"
    empty.write_bytes(b"")
    by = ["--state", state]
    return {
        "no state": ([good], "Give one of --config and --state."),
        "both": ([good, *by, "--config", broken], "Give one of"),
        "missing capture": ([folder / "none", *by], "No such file or directory"),
        "folder": ([folder, *by], "is a folder"),
        "empty": ([empty, *by], "expected a pcap or pcapng file"),
        "no capture": ([state, *by], "unknown file format"),
        "raw IP": ([raw, *by], "link type RAW, expected Ethernet"),
        "missing state": ([good, "--state", folder / "none"], "none: cannot be read"),
        "no TOML": ([good, "--state", broken], "is no TOML"),
        "out is in": ([good, good, *by], "is given twice"),
        "two outputs": ([good, folder / "o", *by, "--sent", folder / "o"], "is given twice"),
        "no such folder": ([good, folder / "x" / "y", *by], "No such file or directory; name"),
        "json": ([good, *by, "--json", folder], "Is a directory; name another"),
        "sessions": ([good, *by, "--sessions", folder / "no.csv"], "no.csv: cannot be read"),
    }


WRONG = (
    "no state", "both", "missing capture", "folder", "empty", "no capture", "raw IP",
    "missing state", "no TOML", "out is in", "two outputs", "no such folder", "json", "sessions",
)  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(what: str, tmp_path: Path, commands: Commands) -> None:
    words, said = refusals(tmp_path)[what]
    assert said in commands.refused("replay", *words)


def write_config(folder: Path) -> Path:
    """The golden world as an operator's configuration."""
    world = tables()
    peers = "".join(
        f'[[peer]]\nid = {peer["id"]}\naddress = "{peer["address"]}"\nmac = "{peer["mac"]}"\n'
        for peer in world["peer"]
        if "mac" in peer
    )
    services = "".join(
        f'[[service]]\nvip = "{one["vip"]}"\nport = {one["port"]}\nprotocol = "{one["protocol"]}"\n'
        for one in world["service"]
    )
    config = folder / "pop.toml"
    config.write_text(
        f'[host]\nid = 3\ninterface = "eth0"\naddress = "{world["host"]["address"]}"\n'
        f'[gossip]\ngroup = "239.192.7.1:7946"\ninsecure = true\n{services}{peers}'
    )
    return config


def test_by_a_configuration_and_a_list_of_sessions(tmp_path: Path, commands: Commands) -> None:
    config = write_config(tmp_path)
    sessions = tmp_path / "sessions.json"
    sessions.write_text(json.dumps(session_rows()))
    capture = write_capture(tmp_path / "in.pcap", [STRAY, MISS])
    out = tmp_path / "out.pcap"
    commands.done("replay", "--config", config, "--sessions", sessions, capture, out)
    stray, miss = frames_of(out)
    want = encapsulated(STRAY, ROUTES[PEER])
    assert (stray[:6], stray[14:50], stray[58:]) == (want[:6], want[14:50], want[58:])
    assert stray[50:58] != want[50:58], "the cookie is of the configuration's keys"
    assert miss[30:34] == bytes([239, 192, 7, 2])


@pytest.mark.parametrize("key", [1, 2, 3])
def test_the_keys_of_a_configuration_open_its_tunnel(key: int, tmp_path: Path) -> None:
    secrets = {number: bytes([number]) * 32 for number in (1, 2, 3)}
    config = Config.load(write_config(tmp_path))
    keys = tuple(Key(number, secret) for number, secret in secrets.items())
    config = replace(config, gossip=replace(config.gossip, keys=keys))
    state = state_of_config(config, OWN_ADDRESS)
    for to, mark, ending in (
        (OWN_ADDRESS, 0, "misdirected_flooded"),
        (state.flood_group, MARK_FLOOD, "flood_unknown"),
    ):
        assert to is not None
        frame = HeaderTemplate.build(
            source=underlay(PEER), destination=to, source_mac=bytes(6), destination_mac=bytes(6),
            tunnel_port=state.tunnel_port, mtu=1600, mark=mark,
            cookie=tunnel_cookie(secrets[key], packed16(underlay(PEER)), packed16(to)),
        ).apply(MISS)  # fmt: skip
        found, _ = state.forwarder(()).forward([frame])[0]
        assert found == (ending if key < 3 else "tunnel_bad_cookie"), "two keys count"
