# SPDX-License-Identifier: BSD-2-Clause
"""Network namespaces that a test makes and that are gone after it, also when it fails."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.world import Result, call_inside

_numbers = itertools.count(1)


def command(*words: str) -> str:
    """Runs a command that must succeed, and returns what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


class Namespace:
    """One network namespace; `name` carries the process id of the test run."""

    def __init__(self, name: str) -> None:
        self.name = name
        command("ip", "netns", "add", name)
        self.ip("link set lo up")

    def ip(self, words: str) -> str:
        """`ip` in the namespace; its output."""
        return command("ip", "-n", self.name, *words.split())

    def exec(self, words: str) -> str:
        """Any command in the namespace; its output."""
        return command("ip", "netns", "exec", self.name, *words.split())

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls `function` in a thread of its own inside the namespace.

        A thread, since a namespace belongs to a thread: the test's own never leaves its place.
        Sockets and followers made there stay in the namespace and may be used by the test.
        """
        return call_inside(self.name, function, *arguments)

    def remove(self) -> None:
        """Removes the namespace; may be called again."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


def _remove_leftovers() -> None:
    """Removes the namespaces of test runs that were killed: their process is no more."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        found = re.fullmatch(r"xgt(\d+)-.*", name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def netns() -> Iterator[Callable[[str], Namespace]]:
    """Makes a namespace `xgt<pid>-<number><suffix>`; all are removed after the test."""
    _remove_leftovers()
    made: list[Namespace] = []

    def make(suffix: str = "") -> Namespace:
        made.append(Namespace(f"xgt{os.getpid()}-{next(_numbers)}{suffix}"))
        return made[-1]

    yield make
    for namespace in made:
        namespace.remove()


def connect(left: Namespace, left_device: str, right: Namespace, right_device: str) -> None:
    """A veth pair between two namespaces, up at both ends, without IPv6 duplicate detection."""
    left.ip(f"link add {left_device} type veth peer name {right_device} netns {right.name}")
    for namespace, device in ((left, left_device), (right, right_device)):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.accept_dad=0")
        namespace.ip(f"link set {device} up")


@pytest.fixture
def veth() -> Callable[[Namespace, str, Namespace, str], None]:
    """`connect`, for tests that take it as a fixture."""
    return connect
