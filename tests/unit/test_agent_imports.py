# SPDX-License-Identifier: BSD-2-Clause
"""A running agent imports what it uses: each of these would stay in its memory for ever."""

import subprocess
import sys

import pytest

NOT_FOR_AGENTS = (
    "pyxdp_gossip.capture", "pyxdp_gossip.doctor_command", "pyxdp_gossip.popbox",
    "pyxdp_gossip.sim", "scapy",
)  # fmt: skip


@pytest.mark.parametrize("module", ["pyxdp_gossip", "pyxdp_gossip.cli"])
def test_what_other_commands_need_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(NOT_FOR_AGENTS) & set(done.stdout.split())
