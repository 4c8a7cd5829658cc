# SPDX-License-Identifier: BSD-2-Clause
"""`pyxdp-gossip explain --config` beside a running agent: by its tables and kernel, unchanged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from pyxdp_gossip.errors import HostError
from pyxdp_gossip.explanation import Explanation
from pyxdp_gossip.live_dump import state_of
from pyxdp_gossip.live_explanation import explain_on_host
from pyxdp_gossip.live_snapshot import live_snapshot
from pyxdp_gossip.pop_state import load_state
from pyxdp_gossip.stats import ENDINGS
from tests.golden import plain_rows
from tests.golden_tunnel import flooded, tunnel_rows, tunnelled
from tests.golden_world import DEAD_PEER, PEER
from tests.kernel.agent_host import AgentHost
from tests.kernel.conftest import command
from tests.kernel.conftest import connect as connect_link
from tests.kernel.dataplane_fixture import (
    HostUnderTest,
    host_under_test,
    make_pair,
    own_namespaces,
)
from tests.kernel.live_connection import Connection
from tests.kernel.test_cli import far, host
from tests.unit.golden_files import (
    ROWS,
    golden_sessions,
    golden_state,
    write_capture,
    write_state,
)

__all__ = ["far", "host"]  # fixtures
FRAME = (
    "020000000001 0200000000fe 0800 45000028000040004006b0d8cb007109c6336401"
    "c7380050 00000001 00000001 50100400 00000000"
)


@pytest.fixture(scope="module")
def attached() -> Iterator[HostUnderTest]:
    """The golden world in pinned maps, at work on a link."""
    with own_namespaces() as make:
        pair = make_pair(make, connect_link)
        with host_under_test(pair[0]) as made:
            made.set_flood()
            made.namespace.run(made.plane.attach_packets)
            made.pair = pair  # type: ignore[attr-defined]
            yield made


def test_another_process_explains_what_the_program_does(attached: HostUnderTest) -> None:
    rows = [row for row in plain_rows() + tunnel_rows() if row.flood and row.agent_alive]
    rows = [row for row in rows if len(row.frame) >= 14]
    before = attached.plane.statistics()

    def explained() -> list[tuple[str, bytes]]:
        with live_snapshot(attached.plane.settings.pins) as live:
            found = [live.explain(row.frame) for row in rows]
        return [(one.ending, one.output) for one in found]

    wrong = [
        f"{row.description}: {row.ending}, explained: {ending}"
        for row, (ending, output) in zip(rows, attached.namespace.run(explained), strict=True)
        if ending != row.ending or (ENDINGS[ending] != "drop" and output != row.output)
    ]
    assert wrong == []
    risen = attached.plane.statistics().since(before)
    sent = risen.stray_forwarded + risen.miss_flooded + risen.misdirected_flooded
    assert sent + risen.probe_answered == 0, "to explain must send nothing"
    assert attached.run(rows[0].frame).ending == rows[0].ending, "the tables are as before"


def test_the_kernel_is_asked(attached: HostUnderTest) -> None:
    connection = Connection(attached.pair, 4, 47001)  # type: ignore[attr-defined]
    try:
        frame = connection.segment("A")

        def explained() -> list[str]:
            with live_snapshot(attached.plane.settings.pins) as live:
                return [step.name for step in live.explain(frame).steps]

        assert attached.namespace.run(explained)[-1] == "kernel_knows"
    finally:
        connection.close()


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_is_asked_about_what_is_in_the_tunnel(
    attached: HostUnderTest, family: int
) -> None:
    connection = Connection(attached.pair, family, 47002)  # type: ignore[attr-defined]
    try:
        packet = connection.segment("A")[14:]
        inner = (IP if family == 4 else IPv6)(packet)
        for frame, ending in (
            (tunnelled(inner), "delivered_stray"), (flooded(inner), "delivered_flood"),
        ):  # fmt: skip
            verdict = attached.run(frame)
            assert verdict.ending == ending

            def explained(frame: bytes = frame) -> list[Explanation]:
                with live_snapshot(attached.plane.settings.pins) as live:
                    return [live.explain(frame), explain_on_host(attached.plane, frame)]

            for said in attached.namespace.run(explained):
                assert (said.ending, said.output) == (ending, verdict.frame)
                assert "kernel_knows" in [step.name for step in said.steps]
    finally:
        connection.close()


def test_a_dumped_state_says_what_the_golden_world_is(
    attached: HostUnderTest, tmp_path: Path
) -> None:
    def dumped(most: int) -> dict[str, Any]:
        with live_snapshot(attached.plane.settings.pins) as live:
            return state_of(live, most)

    path = tmp_path / "state.json"
    path.write_text(json.dumps(attached.namespace.run(dumped, 1000)))
    pop, sessions = load_state(path)
    want = golden_state()
    # the fixture accepts tunnel packets of one active host, and knows the ways to three
    assert [peer.id for peer in pop.peers] == [PEER]
    assert pop.peers[0] == want.peers[0]
    assert (pop.host, pop.address, pop.tunnel_port, pop.services, pop.flood) == (
        want.host, want.address, want.tunnel_port, want.services, want.flood
    )  # fmt: skip
    active = [(one, owner) for one, owner in golden_sessions() if owner != DEAD_PEER]
    assert sorted(sessions, key=str) == sorted(active, key=str)
    assert len(attached.namespace.run(dumped, 3)["session"]) == 3


def test_pins_of_another_version_are_refused_in_a_line(
    attached: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyxdp_gossip.live_snapshot.LAYOUT_DIGEST", 1)

    def explained() -> None:
        with live_snapshot(attached.plane.settings.pins):
            raise AssertionError("it was read")

    with pytest.raises(HostError, match="the layout of another version"):
        attached.namespace.run(explained)


def explain(host: AgentHost, *words: str) -> str:
    """As its operator: `ip netns exec` would hide the BPF file system."""
    prefix = ["nsenter", f"--net=/run/netns/{host.namespace.name}", sys.executable, "-m"]
    return command(*prefix, "pyxdp_gossip", "explain", "--config", str(host.config), *words)


def test_the_command_asks_a_running_agent_and_files_without_one(host: AgentHost) -> None:
    agent = host.start_synced()
    frame = FRAME.replace(" ", "")
    said = json.loads(explain(host, frame, "--json"))
    assert said["by"] == "the live tables of host 1"
    assert said["ending"] == "miss_flooded"
    assert "kernel_unknown" in [step["name"] for step in said["steps"]]
    assert "kernel_not_asked" not in explain(host, frame)
    host.stop(agent)
    host.configure({"host": {"address": host.address}})
    assert explain(host, frame).startswith(f"By {host.config}, without a kernel.")


def test_replay_and_explain_by_files_need_no_capability(tmp_path: Path) -> None:
    rows = [row for row in ROWS if len(row.frame) < 1000]
    capture = write_capture(tmp_path / "in.pcap", [row.frame for row in rows])
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    run = [*drop, sys.executable, "-m", "pyxdp_gossip"]
    by = ["--state", str(write_state(tmp_path)), "--no-sockets"]
    assert command(*drop, "grep", "CapEff", "/proc/self/status").split()[1].strip("0") == ""
    said = command(*run, "replay", str(capture), *by, "--each").splitlines()
    assert [line.split()[1] for line in said[: len(rows)]] == [row.ending for row in rows]
    assert rows[0].ending in command(*run, "explain", rows[0].frame.hex(), *by)
