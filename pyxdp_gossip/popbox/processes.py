# SPDX-License-Identifier: BSD-2-Clause
"""A long-running process of the box: started in a namespace and a cgroup, its log kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyxdp_gossip.popbox import cgroups
from pyxdp_gossip.popbox.commands import environment, in_namespace
from pyxdp_gossip.popbox.failures import BoxError

POLL_S = 0.01
LOG_LINES_SHOWN = 8
"""The end of a log is where the reason is."""
PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent


def python_command(*arguments: str) -> list[str]:
    """This interpreter running a module; the module is found wherever this package was."""
    return [sys.executable, "-m", *arguments]


class Process:
    """One process; its standard error goes to `log`, and so does its output unless it is piped."""

    def __init__(
        self, name: str, argv: list[str], namespace: str, cgroup: Path, log: Path, *, piped: bool
    ) -> None:
        self.name = name
        self.log = log
        paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                cgroups.enter(cgroup, [*in_namespace(namespace), *argv]),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                env={**environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,  # an interrupt at the terminal is ours to handle
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log_tail(self) -> str:
        """The last lines of the log as one line."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return " | ".join(lines[-LOG_LINES_SHOWN:]) or "empty log"

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Polls `ready`; raises BoxError with the log's end if it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            status = self.popen.poll()
            if status is not None:
                raise BoxError(f"{self.name} ended with status {status}: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise BoxError(f"{self.name}: {what} not after {timeout_s:g} s: {self.log_tail()}")
            time.sleep(POLL_S)

    def send(self, number: signal.Signals) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def stop(self, number: signal.Signals, timeout_s: float) -> int:
        """Sends a signal and waits; returns the exit status, negative for a signal."""
        self.send(number)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BoxError(
                f"{self.name}: still there {timeout_s:g} s after {number.name}: {self.log_tail()}"
            ) from None

    def reap(self) -> None:
        """Kills what is left of it and takes its status."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # unsent input of a process that was killed
                    continue


def is_listening(pid: int, port: int) -> bool:
    """Whether a TCP listener with this port is in the network namespace of a process."""
    for family in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False
