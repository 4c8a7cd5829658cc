# SPDX-License-Identifier: BSD-2-Clause
"""Starts and ends in zero-copy, and changes of the device: the kernel's log stays empty."""

from __future__ import annotations

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.kernel.dataplane_fixture import DEVICE
from tests.kernel.xsk_link import NEAR, Pair, give
from tests.vm.guest.host_link import Ends, first, linked
from tests.vm.kernel_log import KernelLog

STARTS = 100
PLANES = 10


def test_a_hundred_starts_of_a_socket_in_silence(pair: Pair, kernel_log: KernelLog) -> None:
    def once(number: int) -> None:
        index = netlink.link(NEAR).index
        with (
            XskProgram(NEAR) as program,
            Umem(64) as umem,
            XskSocket(umem, NEAR, mode="zero-copy") as socket,
        ):
            program.add(socket)
            give(socket, [number % 64 * 2048])
        assert bpf_object.attached_mode(index) is None

    pair.near.run(lambda: once(0))
    kernel_log.lines()  # virtio-net says once a boot that it has few queues for XDP
    pair.near.run(lambda: [once(number) for number in range(STARTS)])
    assert kernel_log.lines() == []


def test_the_data_path_comes_and_goes_in_silence(host_link: Ends, kernel_log: KernelLog) -> None:
    row = first("stray_forwarded")
    for _ in range(PLANES):
        with linked(host_link, "zero-copy") as link:
            link.check(row)
            link.far.send(*[row.frame] * 8)  # some on their way when it goes
    assert kernel_log.lines() == []


def test_after_the_interface_was_down_the_loop_goes_on(host_link: Ends) -> None:
    row = first("stray_forwarded")
    with linked(host_link, "zero-copy") as link:
        link.check(row)
        inside = host_link[0]
        inside.ip(f"link set {DEVICE} down")
        inside.ip(f"link set {DEVICE} up")
        link.host.plane.check()
        assert link.host.plane.forwarding == "zero-copy"
        for _ in range(100):
            link.check(row)


def test_another_mtu_meanwhile_changes_nothing_for_what_fits(host_link: Ends) -> None:
    row = first("stray_forwarded")
    with linked(host_link, "zero-copy") as link:
        for mtu in (1600, 1500, 1700):
            host_link[0].ip(f"link set {DEVICE} mtu {mtu}")
            for _ in range(20):
                link.check(row)
