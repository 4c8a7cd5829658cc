# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks' peers of the kernel's own and their sweeps: frames and states arrive; how fast
is no test's business."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from rich.progress import Progress

from bench import conntrack_states, conntrackd, forward, gossip_figures, kernel_vxlan, sweep
from bench.forward import Bench
from bench.link import HOST, SENDER, VIP
from bench.world import NETNS_ROOT, World, names_in
from pyxdp_gossip import dataplane, xsk_plane
from pyxdp_gossip._native import XskLoop
from pyxdp_gossip.xsk import XskSocket

STATES = gossip_figures.QUICK.tracked


def test_the_kernels_vxlan_gives_back_what_was_sent() -> None:
    assert kernel_vxlan.no_vxlan() is None, "this machine's kernel has VXLAN"
    with World(SENDER, HOST) as world, Progress(transient=True, disable=True) as progress:
        world.ip(HOST, f"addr add {VIP}/32 dev lo")
        bench = Bench(world, 3, forward.QUICK)
        results = forward.measure(bench, progress, kernel_vxlan.FORWARDERS)
        assert f"inet {VIP}/32" in world.exec(HOST, "ip addr show lo"), "as it was before"
    for result in results.values():
        assert result.missing is None
        assert result.median > 0, "frames came back, and lay behind their headers"
        assert result.paced["paced_returned"] > 0


def test_a_kernel_without_vxlan_is_a_note_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_vxlan, "DEVICE", "a-name-that-is-too-long")
    assert "this kernel makes no VXLAN device" in str(kernel_vxlan.no_vxlan())
    missing = forward.Measured(missing="there is none")
    results = {"ours-xdp-vxlan": forward.Measured(returned=[1.0]), "kernel-vxlan": missing}
    row = forward.row("ours-xdp-vxlan", "kernel-vxlan", results, forward.QUICK)
    assert (row["ours"], row["theirs"], row["ratio"]) == (1.0, None, None)
    assert row["note"] == "kernel-vxlan: there is none"


def test_each_setting_of_the_loop_is_compared_with_the_defaults() -> None:
    rows = sweep.run(3, forward.QUICK)
    assert [row["variant"] for row in rows] == [
        "defaults again", "burst 8", "burst 16", "burst 32", "busy_poll on", "need_wakeup off",
    ]  # fmt: skip
    for row in rows:
        assert (row["peer"], row["unit"], row["rounds"]) == ("defaults", "frames/s", 1)
        if not row.get("note"):
            assert row["value"] > 0, "the loop itself ended frames"
            assert row["theirs"] > 0
    assert not any(row.get("note") for row in rows if row["variant"] != "busy_poll on")
    assert (dataplane.XskLoop, xsk_plane.XskSocket) == (XskLoop, XskSocket), "as they were"


def test_a_setting_is_faster_only_beyond_noise() -> None:
    slow, fast = [1.0, 1.01, 1.02, 1.0, 1.01, 1.02, 1.0], [1.5] * 7
    for mine, faster in ((slow, False), (fast, True), ([0.5] * 7, False)):
        results = {
            "burst 8": forward.Measured(looped=mine), sweep.DEFAULTS: forward.Measured(looped=slow)
        }  # fmt: skip
        variant = next(one for one in sweep.VARIANTS if one.name == "burst 8")
        assert sweep.row(variant, results, forward.QUICK)["faster_than_defaults"] is faster


def test_states_come_to_the_kernel_and_a_second_time_are_refused() -> None:
    assert conntrack_states.missing() is None, "this machine's kernel has nf_conntrack_netlink"
    portions = conntrack_states.prepared(300)
    with World("ct1") as world, closing(world.call("ct1", conntrack_states.open_socket)) as opened:
        conntrack_states.enter(opened, portions)
        assert world.exec("ct1", "sysctl -n net.netfilter.nf_conntrack_count").strip() == "300"
        with pytest.raises(OSError, match="refused state 0"):
            conntrack_states.enter(opened, portions)


@pytest.mark.parametrize("mode", conntrackd.MODES)
def test_conntrackd_carries_states_to_its_peer_and_again_after_a_restart(mode: str) -> None:
    why = conntrackd.missing()
    if why:
        assert why == "conntrackd is not installed: make bench-setup"
        return
    result = conntrackd.Measured()
    conntrackd.theirs(mode, STATES, conntrack_states.prepared(STATES), result)
    assert result.per_s[0] > 0
    assert result.bytes_a_state[0] > 40, "two addresses and two ports, twice, in a message each"
    assert result.resync_ms[0] > 0
    assert not [name for name in names_in(NETNS_ROOT) if str(os.getpid()) in name]


def test_without_conntrackd_the_rows_hold_ours_and_say_why() -> None:
    ours = conntrackd.Measured([1.0], [2.0], [3.0], [4.0], [5.0])
    rows = conntrackd.rows_of({conntrackd.OURS: ours}, STATES, "it is not here")
    assert [row["value"] for row in rows] == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0]
    assert {(row["note"], row["ratio"], row["theirs"]) for row in rows} == {
        ("it is not here", None, None)
    }


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert conntrackd.missing() == "conntrackd is not installed: make bench-setup"

    def refuse(*_: Any) -> Callable[..., None]:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refuse)
    line = "this kernel has no nf_conntrack_netlink (Protocol not supported)"
    assert conntrack_states.missing() == line


def test_the_kernels_limit_is_raised_only_while_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    limit = tmp_path / "nf_conntrack_max"
    monkeypatch.setattr(conntrackd, "MAX_STATES", limit)
    limit.write_text("1000\n")
    with conntrackd.room_for(400):
        assert limit.read_text() == "1000\n"
    with conntrackd.room_for(600):
        assert limit.read_text() == "1200"
    assert limit.read_text() == "1000"
