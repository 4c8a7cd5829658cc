# SPDX-License-Identifier: BSD-2-Clause
"""The tc ingress filter beside other people's qdiscs and filters, with `tc` as the oracle."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError

BPF_PROG_TYPE_SCHED_CLS = 3
TC_ACT_UNSPEC = -1
# r0 = TC_ACT_UNSPEC; exit
PROGRAM = struct.pack("=BBhi", 0xB7, 0, 0, TC_ACT_UNSPEC) + struct.pack("=BBhi", 0x95, 0, 0, 0)

# Somebody else's filter, which matches every packet.
OTHERS = "u32 match u32 0 0 classid 1:1"


@pytest.fixture
def program() -> Iterator[int]:
    libbpf = ctypes.CDLL("libbpf.so.1")
    descriptor = libbpf.bpf_prog_load(
        BPF_PROG_TYPE_SCHED_CLS, b"xg_test", b"BSD", PROGRAM, ctypes.c_size_t(2), None
    )
    assert descriptor >= 0, os.strerror(-descriptor)
    yield descriptor
    os.close(descriptor)


class Device:
    """A veth d0 in a namespace of its own, and what `tc` shows of it."""

    def __init__(self, namespace: Any) -> None:
        self.namespace = namespace
        namespace.ip("link add d0 type veth peer name d1")
        self.index = namespace.run(netlink.link, "d0").index

    def tc(self, words: str) -> str:
        output: str = self.namespace.exec(f"tc {words}")
        return output

    def filters(self, direction: str = "ingress") -> str:
        return self.tc(f"filter show dev d0 {direction}")

    def qdiscs(self) -> str:
        return self.tc("qdisc show dev d0")

    def attach(self, program: int, name: str = "xg_ingress") -> None:
        self.namespace.run(netlink.attach_ingress_filter, self.index, program, name)

    def detach(self, name: str = "xg_ingress") -> None:
        self.namespace.run(netlink.detach_ingress_filter, self.index, name)


@pytest.fixture
def device(netns: Callable[[str], Any]) -> Device:
    return Device(netns("t"))


def test_attached_once_or_twice_there_is_one_direct_action_filter(
    device: Device, program: int
) -> None:
    for _again in range(2):
        device.attach(program)
    shown = device.filters()
    assert "protocol all pref 7 bpf" in shown
    assert shown.count("handle 0x5847 xg_ingress direct-action") == 1
    assert "clsact" in device.qdiscs()


def test_detached_once_or_twice_nothing_is_left(device: Device, program: int) -> None:
    device.detach()
    device.attach(program)
    for _again in range(2):
        device.detach()
    assert device.filters() == ""
    assert "clsact" not in device.qdiscs()


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_clsact_with_filters_of_others_is_used_and_left(
    device: Device, program: int, direction: str
) -> None:
    device.tc("qdisc add dev d0 clsact")
    device.tc(f"filter add dev d0 {direction} prio 3 {OTHERS}")
    before = device.filters(direction)
    device.attach(program)
    assert "xg_ingress" in device.filters()
    device.detach()
    assert device.filters(direction) == before
    assert "xg_ingress" not in device.filters()
    assert "clsact" in device.qdiscs()


def test_an_older_ingress_qdisc_serves_and_is_left(device: Device, program: int) -> None:
    device.tc("qdisc add dev d0 ingress")
    device.attach(program)
    assert "xg_ingress direct-action" in device.filters()
    device.detach()
    assert "xg_ingress" not in device.filters()
    assert "qdisc ingress" in device.qdiscs()


def test_another_programs_filter_at_the_same_place_is_neither_replaced_nor_removed(
    device: Device, program: int
) -> None:
    device.attach(program, "other")
    with pytest.raises(HostError, match="the filter 'other' has its place; remove it with"):
        device.attach(program)
    device.detach()
    assert "other direct-action" in device.filters()


def test_another_kind_of_filter_at_our_priority_is_one_clear_error(
    device: Device, program: int
) -> None:
    device.tc("qdisc add dev d0 clsact")
    device.tc(f"filter add dev d0 ingress prio 7 protocol all {OTHERS}")
    before = device.filters()
    with pytest.raises(HostError, match=r"^cannot attach the ingress filter 'xg_ingress'"):
        device.attach(program)
    device.detach()
    assert device.filters() == before


def test_a_missing_interface_is_one_clear_error_and_detaching_is_silent(
    device: Device, program: int
) -> None:
    device.attach(program)
    device.namespace.ip("link del d0")
    device.detach()
    with pytest.raises(HostError, match=r"^cannot attach the ingress filter 'xg_ingress'"):
        device.attach(program)


def test_what_is_no_program_is_one_clear_error(device: Device) -> None:
    with open(os.devnull) as nothing, pytest.raises(HostError, match="cannot attach"):
        device.attach(nothing.fileno())
