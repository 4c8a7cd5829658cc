# SPDX-License-Identifier: BSD-2-Clause
"""The cgroup v2 tree and the BPF file system of a real mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError

ENSURE = """
import sys
from pathlib import Path
from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError
try:
    for path in sys.argv[1:]:
        print(netlink.ensure_bpffs(Path(path)))
except HostError as error:
    print("HostError:", error)
"""


def in_mount_namespace(script: str) -> str:
    """What a shell script prints in a mount namespace of its own; mounts go with it."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHON": sys.executable, "ENSURE": ENSURE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cgroup_tree_found_is_cgroup_v2() -> None:
    assert (netlink.cgroup2_mount() / "cgroup.controllers").is_file()


def test_a_bpf_file_system_is_mounted_once_where_none_is() -> None:
    output = in_mount_namespace("""
        while umount /sys/fs/bpf 2>/dev/null; do :; done
        "$PYTHON" -c "$ENSURE" /sys/fs/bpf/xg/a /sys/fs/bpf/xg/a /sys/fs/bpf/xg/b
        grep -c " /sys/fs/bpf bpf " /proc/mounts
        stat --format=%a /sys/fs/bpf /sys/fs/bpf/xg/a
    """)
    *paths, mounts, top, folder = output.splitlines()
    assert paths == ["/sys/fs/bpf/xg/a", "/sys/fs/bpf/xg/a", "/sys/fs/bpf/xg/b"]
    assert (mounts, folder) == ("1", "700")
    assert top.endswith("700")


def test_agents_that_start_together_mount_it_once() -> None:
    output = in_mount_namespace("""
        while umount /sys/fs/bpf 2>/dev/null; do :; done
        for host in 1 2 3; do "$PYTHON" -c "$ENSURE" /sys/fs/bpf/xg/$host & done
        wait
        ls /sys/fs/bpf/xg
        grep -c " /sys/fs/bpf bpf " /proc/mounts
    """)
    assert output.split()[-4:] == ["1", "2", "3", "1"]


def test_a_folder_elsewhere_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is not on a BPF file system: use a folder below"):
        netlink.ensure_bpffs(tmp_path / "pins")
    assert not (tmp_path / "pins").exists()


def test_without_privilege_the_capability_is_named() -> None:
    output = in_mount_namespace("""
        while umount /sys/fs/bpf 2>/dev/null; do :; done
        setpriv --bounding-set=-all --inh-caps=-all "$PYTHON" -c "$ENSURE" /sys/fs/bpf/xg
    """)
    assert output.startswith("HostError: cannot use /sys/fs/bpf/xg for BPF pins")
    assert output.rstrip().endswith("run as root")
