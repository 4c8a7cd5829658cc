# SPDX-License-Identifier: BSD-2-Clause
"""One cgroup v2 for each host of a box: its processes are started in it and end with it."""

import os
import signal
import time
from pathlib import Path

from pyxdp_gossip.popbox.failures import BoxError

EMPTY_TIMEOUT_S = 10.0
"""SIGKILL acts in milliseconds; ten seconds cover a machine that swaps."""
POLL_S = 0.005

ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
"""Shell text: the process joins the cgroup before it becomes what it is started for, so that
no socket is ever opened outside."""


def enter(cgroup: Path, argv: list[str]) -> list[str]:
    """The command that runs `argv` inside a cgroup, as the same process."""
    return ["sh", "-c", ENTER, str(cgroup), *argv]


def processes(cgroup: Path) -> list[int]:
    """Ids of the processes in a cgroup and below it; empty if it does not exist."""
    found: list[int] = []
    for procs in [cgroup / "cgroup.procs", *cgroup.glob("*/cgroup.procs")]:
        try:
            found += [int(line) for line in procs.read_text().split()]
        except OSError:
            continue
    return found


def kill(cgroup: Path) -> None:
    """Ends every process of a cgroup and waits until it is empty.

    Raises:
        BoxError: processes were still there after EMPTY_TIMEOUT_S.
    """
    deadline = time.monotonic() + EMPTY_TIMEOUT_S
    while alive := [pid for pid in processes(cgroup) if not has_ended(pid)]:
        if time.monotonic() > deadline:
            raise BoxError(f"processes {alive} of {cgroup} do not end")
        _kill_once(cgroup, alive)
        time.sleep(POLL_S)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only its parent has not asked yet how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _kill_once(cgroup: Path, pids: list[int]) -> None:
    switch = cgroup / "cgroup.kill"
    if switch.exists():  # Linux 5.14; no fork can slip through
        switch.write_text("1")
        return
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def remove(cgroup: Path) -> None:
    """Removes a cgroup, one level of children included; its processes must be gone."""
    if not cgroup.is_dir():
        return
    deadline = time.monotonic() + EMPTY_TIMEOUT_S
    for folder in [*(path for path in cgroup.iterdir() if path.is_dir()), cgroup]:
        while True:
            try:
                folder.rmdir()
                break
            except OSError as error:  # busy until the last process has been reaped
                if time.monotonic() > deadline:
                    raise BoxError(f"cannot remove {folder}: {error.strerror}") from error
                time.sleep(POLL_S)
