# SPDX-License-Identifier: BSD-2-Clause
"""The demo as a user runs it, small: connections break without, and none with pyxdp-gossip."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (["--seed", "1"], "copy"),
        (["--seed", "2", "--ipv6", "--proxy", "haproxy"], "copy"),
        (["--seed", "3", "--hosts", "6"], "copy"),
        (["--seed", "1", "--plane", "xdp"], "xdp"),
    ],
    ids=["nginx-ipv4", "haproxy-ipv6", "six-hosts", "xdp-plane"],
)
def test_the_demo_keeps_every_connection(flags: list[str], mode: str, tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    argv = [sys.executable, "-m", "pyxdp_gossip", "demo", "--json", str(path)]
    done = subprocess.run(
        [*argv, "--connections", "120", "--changes", "4", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads(path.read_text())
    baseline, gossip = result["baseline"], result["gossip"]
    assert baseline["broken"] > result["connections"] / 4
    assert gossip["broken"] == 0
    assert gossip["misdelivered"] == 0
    assert gossip["wrong_bytes"] == 0
    assert gossip["strays_forwarded"] > 0
    assert 0 < gossip["broken_owner_died"] < result["connections"]
    assert gossip["mode"] == mode
