# SPDX-License-Identifier: BSD-2-Clause
"""Namespaces, a cgroup and a folder of one benchmark, all named after its process id.

Everything is taken down at the end, also on Ctrl-C; what a killed run left is recognised by its
process id and cleared at the next start.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pyxdp_gossip import kernel_mounts
from pyxdp_gossip.popbox import cgroups
from pyxdp_gossip.popbox.commands import in_namespace, run
from pyxdp_gossip.popbox.processes import Process

Result = TypeVar("Result")

CLONE_NEWNET: Final = 0x40000000
NAME: Final = re.compile(r"^xgbench(\d+)(?:-\w+)?$")
NETNS_ROOT: Final = Path("/run/netns")
RUN_ROOT: Final = Path("/run/pyxdp-gossip")
PIN_ROOT: Final = kernel_mounts.BPFFS / "pyxdp-gossip"
STOP_TIMEOUT_S: Final = 15.0

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Moves the calling thread into a network namespace (os.setns came with Python 3.12)."""
    descriptor = os.open(NETNS_ROOT / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread in a network namespace, and back: what is interrupted must end in the
    thread that gets the signal."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        yield
    finally:
        _set_namespace(home)
        os.close(home)


def call_inside(namespace: str, function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function in a thread of its own inside a namespace, which belongs to a thread."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            enter(namespace)
            results.append(function(*arguments))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def names_in(folder: Path) -> list[str]:
    """The names in a folder that are a benchmark's."""
    entries = os.listdir(folder) if folder.is_dir() else []
    return [name for name in entries if NAME.match(name)]


def clear(pid: int) -> None:
    """Takes down all that is named after a process id. Processes first, then what they used."""
    cgroup = kernel_mounts.cgroup2_mount() / f"xgbench{pid}"
    cgroups.kill(cgroup)
    for name in names_in(NETNS_ROOT):
        if int(NAME.match(name)[1]) == pid:  # type: ignore[index]
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    cgroups.remove(cgroup)
    for root in (PIN_ROOT, RUN_ROOT):
        shutil.rmtree(root / f"xgbench{pid}", ignore_errors=True)


def clear_dead() -> None:
    """Clears what killed runs left."""
    mount = kernel_mounts.cgroup2_mount()
    found = {
        int(NAME.match(name)[1])  # type: ignore[index]
        for folder in (NETNS_ROOT, mount, PIN_ROOT, RUN_ROOT)
        for name in names_in(folder)
    }
    for pid in found:
        if not Path(f"/proc/{pid}").exists():
            clear(pid)


class World:
    """The places of one benchmark; a context manager.

    Args:
        namespaces: short names of the network namespaces to make.
    """

    def __init__(self, *namespaces: str) -> None:
        self.name = f"xgbench{os.getpid()}"
        self.folder = RUN_ROOT / self.name
        self.pins = PIN_ROOT / self.name
        self.cgroup = kernel_mounts.cgroup2_mount() / self.name
        self._short_names = namespaces
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        clear_dead()
        clear(os.getpid())
        try:
            self.folder.mkdir(parents=True)
            self.cgroup.mkdir()
            for short in self._short_names:
                run("making a namespace", ["ip", "netns", "add", self.namespace(short)])
                self.exec(short, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
                self.ip(short, "link set lo up")
        except BaseException:
            clear(os.getpid())
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.reap()
        clear(os.getpid())

    def namespace(self, short: str) -> str:
        """The full name of a namespace."""
        return f"{self.name}-{short}"

    def ip(self, short: str, words: str) -> None:
        """One `ip` command in a namespace."""
        run(f"ip {words}", ["ip", "-n", self.namespace(short), *words.split()])

    def exec(self, short: str, words: str) -> str:
        """Any command in a namespace; its output."""
        return run(words, [*in_namespace(self.namespace(short)), *words.split()])

    def call(self, short: str, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function in a thread of its own inside a namespace.

        Sockets and programs that it makes stay in the namespace and may be used anywhere.
        """
        return call_inside(self.namespace(short), function, *arguments)

    def start(self, short: str, name: str, argv: list[str], cpu: int, cgroup: Path) -> Process:
        """Starts a process in a namespace and a cgroup, bound to one CPU; its log is a file."""
        log = self.folder / f"{name}.log"
        bound = ["taskset", "-c", str(cpu), *argv]
        process = Process(name, bound, self.namespace(short), cgroup, log, piped=False)
        self._processes.append(process)
        return process
