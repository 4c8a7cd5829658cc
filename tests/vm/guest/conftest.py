# SPDX-License-Identifier: BSD-2-Clause
"""In the guest: two virtio NICs on one link, each in a namespace of its own, and the kernel's log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.kernel.conftest import Namespace, command
from tests.kernel.dataplane_fixture import own_namespaces
from tests.kernel.xsk_link import FAR, NEAR, Pair

NICS: Final = ("02:00:00:00:0a:01", "02:00:00:00:0a:02")  # machine.py numbers them so
# Priorities of the kernel's log that no test may cause: errors and worse, and a warning's trace.
ERROR: Final = 3
TRACE: Final = re.compile(r"WARNING: |BUG: |Call Trace|page_pool.*stalled")


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> list[str]:
        """All records since the last call; priority, a space, text."""
        found = []
        while True:
            try:
                head, text = os.read(self._fd, 8192).decode(errors="replace").split(";", 1)
            except BlockingIOError:
                return found
            found.append(f"{int(head.split(',')[0]) & 7} {text.splitlines()[0]}")

    def errors(self) -> list[str]:
        """Those that no test may cause."""
        return [one for one in self.lines() if int(one[0]) <= ERROR or TRACE.search(one)]

    def close(self) -> None:
        """No more is read."""
        os.close(self._fd)


@pytest.fixture
def kernel_log() -> Iterator[KernelLog]:
    """The kernel's log of this test."""
    log = KernelLog()
    yield log
    log.close()


@pytest.fixture(autouse=True)
def no_kernel_errors() -> Iterator[None]:
    """Every test fails if the kernel logs an error, or a trace, meanwhile."""
    log = KernelLog()
    yield
    errors = log.errors()
    log.close()
    assert errors == []


def _device_of(mac: str) -> str:
    for name in os.listdir("/sys/class/net"):
        with open(f"/sys/class/net/{name}/address") as file:
            if file.read().strip() == mac:
                return name
    raise AssertionError(f"no NIC has the address {mac}")


def take(namespace: Namespace, number: int, device: str) -> None:
    """Moves a NIC into a namespace under a new name, up, with nothing of its own to say."""
    command("ip", "link", "set", _device_of(NICS[number]), "netns", namespace.name, "name", device)
    namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.accept_dad=0")
    namespace.ip(f"link set {device} up")


def give_back(namespace: Namespace, number: int, device: str) -> None:
    """As it was: down, in the first namespace, with its own address, name and MTU."""
    namespace.ip(f"link set {device} down address {NICS[number]} mtu 1500")
    namespace.ip(f"link set {device} netns 1 name nic{number}")


@contextmanager
def nics(near_device: str, far_device: str) -> Iterator[tuple[Namespace, Namespace]]:
    """Both NICs, in namespaces of their own."""
    with own_namespaces() as make:
        near, far = make("n"), make("f")
        take(near, 0, near_device)
        take(far, 1, far_device)
        try:
            yield near, far
        finally:
            give_back(near, 0, near_device)
            give_back(far, 1, far_device)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both NICs as a link on which only the test's own frames run."""
    with nics(NEAR, FAR) as (near, far):
        for namespace, device in ((near, NEAR), (far, FAR)):
            namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
            namespace.ip(f"link set {device} arp off")
        yield Pair(near, far)
