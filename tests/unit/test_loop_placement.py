# SPDX-License-Identifier: BSD-2-Clause
"""CPUs, NUMA node and busy polling of the AF_XDP loops: what is read, refused and advised."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from pyxdp_gossip import busy_poll, placement
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.umem import Umem


def node_table(folder: Path, nodes: int, device: str | None) -> Path:
    """A sysfs with so many NUMA nodes, and an interface eth7 whose device is on one of them."""
    for node in range(nodes):
        (folder / f"devices/system/node/node{node}").mkdir(parents=True)
    (folder / "devices/system/node/nodes_of_no_number").mkdir()
    (folder / "class/net/eth7/device").mkdir(parents=True)
    if device is not None:
        (folder / "class/net/eth7/device/numa_node").write_text(device)
    return folder


@pytest.mark.parametrize(
    ("nodes", "device", "node"),
    [
        (2, "1\n", 1), (4, "0\n", 0),
        (2, "-1\n", None), (2, "2\n", None), (2, "", None), (2, None, None),
        (1, "0\n", None),  # one node: nothing is to be chosen
    ],
)  # fmt: skip
def test_the_node_is_the_devices_where_there_are_several(
    tmp_path: Path, nodes: int, device: str | None, node: int | None
) -> None:
    assert placement.device_node("eth7", node_table(tmp_path, nodes, device)) == node


def test_an_interface_without_a_device_has_no_node(tmp_path: Path) -> None:
    assert placement.device_node("veth0", node_table(tmp_path, 2, "1\n")) is None


def policy_at(address: int) -> str:
    """The kernel's line about the memory that begins there."""
    lines = Path("/proc/self/numa_maps").read_text().splitlines()
    [line] = [one for one in lines if int(one.split()[0], 16) == address]
    return line.split()[1]


def test_memory_of_a_node_says_so_to_the_kernel() -> None:
    with Umem(64, numa_node=0) as umem:
        umem.frame(0, 1)[0] = 1
        assert policy_at(umem.address).startswith("prefer")


def test_a_node_that_is_not_there_is_one_line() -> None:
    with pytest.raises(HostError, match=r"memory on NUMA node 1023: .* \(there is no such node\)"):
        Umem(64, numa_node=1023)
    for wrong in (-1, 1024):
        with pytest.raises(ValueError, match=f"numa_node is {wrong}"):
            Umem(64, numa_node=wrong)


def test_a_cpu_of_somebody_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1})
    placement.check_cpus([1, 3, 1])
    with pytest.raises(HostError, match=r"cpus: CPU 2 is not one of this process's: 1, 3"):
        placement.check_cpus([1, 2])


def net(folder: Path, **values: int) -> Path:
    (folder / "eth7").mkdir()
    for name, value in values.items():
        (folder / "eth7" / name).write_text(f"{value}\n")
    return folder


def test_the_advice_names_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    where = net(tmp_path, napi_defer_hard_irqs=0, gro_flush_timeout=5, threaded=1)
    line = busy_poll.advice("eth7", where)
    assert re.findall(r"echo (\d+) > \S+/(\w+)`", line) == [
        ("2", "napi_defer_hard_irqs"), ("0", "threaded")
    ]  # fmt: skip
    assert "\n" not in line


def test_an_interface_that_is_set_or_tells_nothing_gets_no_commands(tmp_path: Path) -> None:
    where = net(tmp_path, napi_defer_hard_irqs=1, gro_flush_timeout=100, threaded=0)
    for name in ("eth7", "eth8"):
        assert "echo" not in busy_poll.advice(name, where)


def test_a_kernel_without_busy_polling_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "SO_PREFER_BUSY_POLL", 9999)  # an option that no kernel has
    with (
        socket.socket() as any_socket,
        pytest.raises(HostError, match=r"busy polling on eth7: .*needs Linux 5\.11"),
    ):
        busy_poll.prefer_busy_polling(any_socket.fileno(), "eth7")
