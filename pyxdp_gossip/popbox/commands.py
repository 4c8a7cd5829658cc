# SPDX-License-Identifier: BSD-2-Clause
"""Runs programs for the box, many at once, and turns a failure into one line."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pyxdp_gossip.popbox.failures import BoxError

TIMEOUT_S = 60
"""No set-up step takes a second; a minute means that the machine is stuck."""

PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "ethtool": "ethtool",
    "bpftool": "bpftool",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
}
"""Program to the Debian package that brings it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One program to run: its arguments, what it reads, and what it is for."""

    what: str
    argv: Sequence[str]
    stdin: str = ""


def environment() -> dict[str, str]:
    """The caller's environment with the system directories on the path and plain messages."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}


def require_programs(*programs: str) -> None:
    """Raises BoxError, naming the Debian packages, if a program is not installed."""
    path = environment()["PATH"]
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[program] for program in missing}))
        raise BoxError(f"{', '.join(missing)} not found; run: apt-get install {packages}")


def in_namespace(name: str) -> list[str]:
    """Command prefix that enters a network namespace, and only that one."""
    return ["nsenter", f"--net=/run/netns/{name}"]


def run_steps(steps: Sequence[Step]) -> list[str]:
    """Runs all steps side by side and waits for all of them.

    Returns:
        The standard output of each step, in order.

    Raises:
        BoxError: a step failed; the message says which, and its first line of complaint.
    """
    running = [
        subprocess.Popen(
            step.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for step in steps
    ]
    outputs = []
    failures = []
    for step, process in zip(steps, running, strict=True):
        try:
            out, err = process.communicate(step.stdin, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err = f"no end after {TIMEOUT_S} s"
        outputs.append(out)
        if process.returncode != 0:
            lines = [line for line in err.splitlines() if line.strip()] or ["no message"]
            failures.append(f"{step.what}: {'; '.join(lines[:2])}")
    if failures:
        raise BoxError(failures[0])
    return outputs


def run(what: str, argv: Sequence[str], stdin: str = "") -> str:
    """Runs one program; see `run_steps`."""
    return run_steps([Step(what, argv, stdin)])[0]


def script_in(namespace: str, what: str, script: str) -> Step:
    """A shell script, stopped at its first failure, in a network namespace."""
    return Step(what, [*in_namespace(namespace), "sh", "-e", "-s"], script)
