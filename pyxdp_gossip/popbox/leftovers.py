# SPDX-License-Identifier: BSD-2-Clause
"""Says which boxes are alive, and clears one wholly: at its end, or after its maker crashed.

A box is alive while its maker holds a lock on `/run/pyxdp-gossip/box-PID/lock`. The kernel lets
go of it when the process ends, however it ends, and a process id used again does not hold it.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyxdp_gossip.netlink import cgroup2_mount
from pyxdp_gossip.popbox import cgroups, names
from pyxdp_gossip.popbox.commands import run
from pyxdp_gossip.popbox.failures import BoxError

RUN_ROOT = Path("/run/pyxdp-gossip")
PIN_ROOT = Path("/sys/fs/bpf/pyxdp-gossip")
NETNS_ROOT = Path("/run/netns")


def run_folder(pid: int) -> Path:
    """Configuration, logs and content of a box: in memory, and only root can write there."""
    return RUN_ROOT / f"box-{pid}"


def pin_folder(pid: int) -> Path:
    return PIN_ROOT / f"box-{pid}"


def box_cgroup(pid: int) -> Path:
    return cgroup2_mount() / f"xg{pid}"


@contextmanager
def _only_one() -> Iterator[None]:
    """Claims and clearings exclude each other between processes."""
    RUN_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (RUN_ROOT / "boxes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_alive(pid: int) -> bool:
    path = run_folder(pid) / "lock"
    if not path.exists():
        return pid != os.getpid() and Path(f"/proc/{pid}").exists()
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def claim(pid: int) -> int:
    """Clears leftovers, makes the run folder of a new box and locks it.

    Returns:
        The descriptor that holds the lock; closing it gives the box up.

    Raises:
        BoxError: this process has a box already.
    """
    with _only_one():
        if run_folder(pid).exists() and _is_alive(pid):
            raise BoxError("this process has a box already; leave it before making another")
        for dead in find_dead():
            clear(dead)
        run_folder(pid).mkdir(mode=0o755, parents=True)
        descriptor = os.open(run_folder(pid) / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


def _entries(folder: Path, pattern: re.Pattern[str]) -> set[int]:
    if not folder.is_dir():
        return set()
    matches = (pattern.match(path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def find_all() -> set[int]:
    """Process ids that anything of a box on this machine is named after."""
    return (
        _entries(NETNS_ROOT, names.NETNS_PATTERN)
        | _entries(cgroup2_mount(), names.CGROUP_PATTERN)
        | _entries(PIN_ROOT, names.BOX_PATTERN)
        | _entries(RUN_ROOT, names.BOX_PATTERN)
    )


def find_dead() -> list[int]:
    """Boxes whose maker is gone, by its process id."""
    return sorted(pid for pid in find_all() if not _is_alive(pid))


def clear(pid: int) -> None:
    """Takes all of a box down. Processes first: what they hold must be closed before the
    programs under it go; then namespaces, pins, cgroups and files. Repeating it is harmless."""
    cgroup = box_cgroup(pid)
    cgroups.kill(cgroup)
    spaces = sorted(
        path.name
        for path in (NETNS_ROOT.iterdir() if NETNS_ROOT.is_dir() else ())
        if (match := names.NETNS_PATTERN.match(path.name)) and int(match[1]) == pid
    )
    if spaces:
        lines = "".join(f"netns delete {name}\n" for name in spaces)
        run("deleting the namespaces", ["ip", "-batch", "-"], lines)
    shutil.rmtree(pin_folder(pid), ignore_errors=True)
    cgroups.remove(cgroup)
    shutil.rmtree(run_folder(pid), ignore_errors=True)
