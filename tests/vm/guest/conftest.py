# SPDX-License-Identifier: BSD-2-Clause
"""In the guest: two links of virtio NICs, each NIC in a namespace of its own, and the kernel's log.

Both links live as long as the guest: a process takes long to start here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Namespace, command
from tests.kernel.dataplane_fixture import make_pair, own_namespaces
from tests.kernel.xsk_link import FAR, NEAR, Pair
from tests.vm.kernel_log import KernelLog


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
    errors = log.complaints()
    log.close()
    assert errors == []


def take(namespace: Namespace, number: int, device: str) -> None:
    """Moves a NIC (machine.py numbers them, from 0) into a namespace under a new name, up."""
    wanted = f"02:00:00:00:0a:{number + 1:02x}\n"
    [name] = [
        path.parent.name
        for path in Path("/sys/class/net").glob("*/address")
        if path.read_text() == wanted
    ]
    command("ip", "link", "set", name, "netns", namespace.name, "name", device)
    namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.accept_dad=0")
    namespace.ip(f"link set {device} promisc on up")  # QEMU filters by address, a cable does not


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """A link on which only the test's own frames run."""
    with own_namespaces() as make:
        near, far = make("n"), make("f")
        for number, namespace, device in ((0, near, NEAR), (1, far, FAR)):
            take(namespace, number, device)
            namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
            namespace.ip(f"link set {device} arp off")
        yield Pair(near, far)


def connect_host(left: Namespace, left_device: str, right: Namespace, right_device: str) -> None:
    """The other link, where `make_pair` makes a veth otherwise."""
    take(left, 2, left_device)
    take(right, 3, right_device)


@pytest.fixture(scope="session")
def host_link() -> Iterator[tuple[Namespace, Namespace]]:
    """A host's namespace with the golden world's addresses, and a client's, on the other link."""
    with own_namespaces() as make:
        yield make_pair(make, connect_host)
