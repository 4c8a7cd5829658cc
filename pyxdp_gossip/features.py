# SPDX-License-Identifier: BSD-2-Clause
"""What a device and its kernel can do, each as yes, no and what it needs, or could not tell."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pyxdp_gossip import netlink
from pyxdp_gossip.dataplane_settings import xsk_mode
from pyxdp_gossip.device_answers import (
    RX_HASH,
    RX_TIMESTAMP,
    RX_VLAN,
    XDP_BASIC,
    XDP_HW_OFFLOAD,
    XDP_NDO_XMIT,
    XDP_REDIRECT,
    XDP_RX_SG,
    XDP_ZERO_COPY,
    Attached,
    DeviceAnswer,
    ask_device,
    ask_napi,
    ask_state,
)
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.kernel_probes import PROBES, Answer, running_kernel
from pyxdp_gossip.xdp_drivers import needed_for
from pyxdp_gossip.xsk import Umem, XskSocket

State = Literal["yes", "no", "unknown"]
BIND_RING: Final = 64  # entries of the rings of a socket that is only bound


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a device or kernel can do, or not.

    Attributes:
        name: as in `Features`, such as "native-xdp".
        state: "yes", "no" or "unknown".
        detail: what there is of it, or why it could not be told; may be "".
        needs: for "no": the kernel or driver that has it; else "".
    """

    name: str
    state: State
    detail: str = ""
    needs: str = ""

    def __str__(self) -> str:
        word = "could not tell" if self.state == "unknown" else self.state
        rest = self.detail or (f"needs {self.needs}" if self.needs else "")
        if self.detail and self.needs:
            rest = f"{self.detail}; needs {self.needs}"
        return f"{word}: {rest}" if rest else word


@dataclass(frozen=True, slots=True)
class Features:
    """All features; `found["native-xdp"]` is one of them.

    Attributes:
        interface: its name; "" if only the kernel was asked.
        driver: of the interface, or the kind of a virtual one ("veth"), or None.
        kernel: its release, as `uname -r`.
        all: in the order in which they are shown.
        auto: what `mode = "auto"` takes: "zero-copy", "copy", "skb", or "" if that could not be
            told.
        auto_because: why, a sentence.
    """

    interface: str
    driver: str | None
    kernel: str
    all: tuple[Feature, ...]
    auto: str = ""
    auto_because: str = ""

    def __getitem__(self, name: str) -> Feature:
        """The feature of this `name`; KeyError if there is none."""
        for one in self.all:
            if one.name == name:
                return one
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the attributes, and each feature by its name."""
        by_name = {one.name: asdict(one) for one in self.all}
        return {
            "interface": self.interface, "driver": self.driver, "kernel": self.kernel,
            "auto": self.auto, "auto_because": self.auto_because, "features": by_name,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """All that is known of a device before it is put into words.

    Attributes:
        answer: of the netdev family, or why there is none.
        napi: of each NAPI, whether it has a thread; or why the kernel does not tell.
        bound: what a forced zero-copy bind gave, or None: not tried.
    """

    interface: str
    driver: str | None
    kernel: str
    rx_queues: int
    multicast: bool
    attached: Attached | None
    answer: DeviceAnswer | str
    napi: list[bool | None] | str
    bound: Answer | None = None


def features(interface: str | None = None, *, bind: bool = False) -> Features:
    """What a device and the kernel can do, by the kernel's own answers.

    Nothing stays behind. Without privileges, what needs them is "unknown".

    Args:
        interface: its name, in the calling thread's network namespace; None: the kernel alone.
        bind: also try a forced zero-copy bind on queue 0, which the driver may reset for it:
            what arrives there in these milliseconds may be lost. Not where an XDP program is
            attached.

    Raises:
        HostError: there is no such interface; the message lists those that exist.

    Source: the netdev family, Documentation/netlink/specs/netdev.yaml; bpf(2).
    """
    kernel = running_kernel()
    answers = {name: probe() for name, probe in PROBES.items()}
    if interface is None:
        return Features("", None, kernel, kernel_features(answers))
    link = netlink.link(interface)
    state = ask_state(link.index)
    answer = ask_device(link.index)
    may_bind = bind and state.attached is None and _bit(answer, XDP_ZERO_COPY) is not False
    facts = DeviceFacts(
        interface=link.name,
        driver=link.kind,
        kernel=kernel,
        rx_queues=link.rx_queues,
        multicast=state.multicast,
        attached=state.attached,
        answer=answer,
        napi=ask_napi(link.index),
        bound=try_zero_copy(link.name) if may_bind else None,
    )
    return features_of(facts, answers)


def try_zero_copy(interface: str) -> Answer:
    """Binds queue 0 by force in zero-copy mode, and lets it go."""
    try:
        with (
            Umem(2 * BIND_RING) as umem,
            XskSocket(
                umem, interface, 0, mode="zero-copy", any_mtu=True, rx_size=BIND_RING,
                tx_size=BIND_RING, fill_size=BIND_RING, completion_size=BIND_RING,
            ),
        ):  # fmt: skip
            return True
    except HostError as error:
        said = str(error)
        cannot = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)
        return False if any(os.strerror(code) in said for code in cannot) else said


def features_of(facts: DeviceFacts, answers: Mapping[str, Answer]) -> Features:
    """The facts in words (pure).

    Args:
        facts: of the device.
        answers: of the kernel's probes, by their names.
    """
    device = tuple(make(facts) for make in DEVICE_FEATURES)
    generic = _told("generic-xdp", answers["xdp"], "Linux 4.12")
    copy = _told("af-xdp-copy", answers["af-xdp"], "Linux 4.18 with CONFIG_XDP_SOCKETS")
    found = (device[0], generic, copy, *device[1:], *kernel_features(answers))
    auto, because = _auto(facts, found)
    return Features(facts.interface, facts.driver, facts.kernel, found, auto, because)


def kernel_features(answers: Mapping[str, Answer]) -> tuple[Feature, ...]:
    """Those of the kernel alone (pure)."""
    return tuple(_told(name, answers[name], needs) for name, needs in KERNEL_NEEDS.items())


KERNEL_NEEDS: Final = {
    "xdp": "Linux 4.8 with CONFIG_BPF_SYSCALL",
    "af-xdp": "Linux 4.18 with CONFIG_XDP_SOCKETS",
    "copy-multi-buffer": "Linux 6.6",
    "tcp-lookup": "Linux 5.2",
    "sockops": "Linux 4.13 with CONFIG_CGROUP_BPF",
    "ring-buffer": "Linux 5.8",
    "mmapable-arrays": "Linux 5.5",
    "btf": "Linux 5.4 with CONFIG_DEBUG_INFO_BTF",
    "socket-ends": "Linux 4.2 with CONFIG_INET_DIAG",
    "managed-neighbours": "Linux 5.16",
    "busy-polling": "Linux 5.11 with CONFIG_NET_RX_BUSY_POLL",
    "cgroup-v2": "mount -t cgroup2 none /sys/fs/cgroup",
}


def _told(name: str, answer: Answer, needs: str) -> Feature:
    if isinstance(answer, str):
        return Feature(name, "unknown", answer)
    return Feature(name, "yes") if answer else Feature(name, "no", "", needs)


def _bit(answer: DeviceAnswer | str, bit: int) -> bool | None:
    bits = None if isinstance(answer, str) else answer.xdp
    return None if bits is None else bool(bits & bit)


def _by_bit(facts: DeviceFacts, name: str, bit: int, needs: str, detail: str = "") -> Feature:
    """A feature that the netdev family answers."""
    found = _bit(facts.answer, bit)
    if found is None:
        why = facts.answer if isinstance(facts.answer, str) else "the kernel does not tell"
        return Feature(name, "unknown", why)
    return Feature(name, "yes", detail) if found else Feature(name, "no", "", needs)


def native_xdp(facts: DeviceFacts) -> Feature:
    """The driver runs XDP programs itself."""
    if facts.attached and facts.attached.mode == "native":
        return Feature("native-xdp", "yes", "a program is attached so")
    needs = needed_for("native", facts.driver, facts.kernel)
    return _by_bit(facts, "native-xdp", XDP_BASIC, needs)


def zero_copy(facts: DeviceFacts) -> Feature:
    """AF_XDP sockets whose memory the device reads and writes; what a bind gave counts more."""
    name, needs = "af-xdp-zero-copy", needed_for("zero_copy", facts.driver, facts.kernel)
    if facts.bound is True:
        return Feature(name, "yes", "a forced bind was taken")
    if facts.bound is False:
        return Feature(name, "no", "a forced bind was refused", needs)
    return _by_bit(facts, name, XDP_ZERO_COPY, needs, "by the driver's word; no bind was tried")


def zero_copy_buffers(facts: DeviceFacts) -> Feature:
    """Frames in several buffers, in zero-copy mode."""
    name = "zero-copy-multi-buffer"
    if _bit(facts.answer, XDP_ZERO_COPY) is False:
        return Feature(name, "no", "no zero-copy", "zero-copy first")
    if isinstance(facts.answer, str):
        return Feature(name, "unknown", facts.answer)
    count = facts.answer.zero_copy_buffers
    if count is None:
        return Feature(name, "unknown", "Linux before 6.6 does not tell")
    if count <= 1:
        return Feature(name, "no", "one buffer a frame", "another driver")
    return Feature(name, "yes", f"up to {count} buffers a frame")


def multi_buffer(facts: DeviceFacts) -> Feature:
    """Frames larger than one buffer (rx-sg)."""
    needs = needed_for("multi_buffer", facts.driver, facts.kernel)
    return _by_bit(facts, "multi-buffer", XDP_RX_SG, needs)


def redirect(facts: DeviceFacts) -> Feature:
    """XDP_REDIRECT from the device."""
    return _by_bit(
        facts, "redirect", XDP_REDIRECT, needed_for("native", facts.driver, facts.kernel)
    )


def ndo_xdp_xmit(facts: DeviceFacts) -> Feature:
    """The device sends what is redirected to it."""
    veth = "an XDP program or GRO at its peer"
    needs = veth if facts.driver == "veth" else "another driver"
    return _by_bit(facts, "ndo-xdp-xmit", XDP_NDO_XMIT, needs)


def hardware_offload(facts: DeviceFacts) -> Feature:
    """The device itself runs XDP programs."""
    return _by_bit(facts, "hardware-offload", XDP_HW_OFFLOAD, "a device that has it (nfp)")


def _metadata(name: str, bit: int) -> Callable[[DeviceFacts], Feature]:
    def make(facts: DeviceFacts) -> Feature:
        if isinstance(facts.answer, str):
            return Feature(name, "unknown", facts.answer)
        bits = facts.answer.rx_metadata
        if bits is None:
            return Feature(name, "unknown", "Linux before 6.7 does not tell")
        return Feature(name, "yes") if bits & bit else Feature(name, "no", "", "another driver")

    return make


def queues(facts: DeviceFacts) -> Feature:
    """Receive queues in use."""
    return Feature("queues", "yes", f"{facts.rx_queues} receive")


def threaded_napi(facts: DeviceFacts) -> Feature:
    """Kernel threads that poll the device."""
    name = "threaded-napi"
    if isinstance(facts.napi, str):
        return Feature(name, "unknown", facts.napi)
    if not facts.napi:
        return Feature(
            name, "no", "no NAPI runs now", "the interface up, with a driver that has it"
        )
    if None in facts.napi:
        return Feature(name, "unknown", "Linux before 6.17 does not tell, unless it is on")
    count = sum(bool(one) for one in facts.napi)
    return Feature(name, "yes", f"on for {count} of {len(facts.napi)}")


def multicast(facts: DeviceFacts) -> Feature:
    """The device takes multicast."""
    if facts.multicast:
        return Feature("multicast", "yes")
    return Feature("multicast", "no", "", f"ip link set dev {facts.interface} multicast on")


DEVICE_FEATURES: Final[tuple[Callable[[DeviceFacts], Feature], ...]] = (
    native_xdp,
    zero_copy,
    multi_buffer,
    zero_copy_buffers,
    redirect,
    ndo_xdp_xmit,
    hardware_offload,
    _metadata("rx-timestamp", RX_TIMESTAMP),
    _metadata("rx-hash", RX_HASH),
    _metadata("rx-vlan", RX_VLAN),
    queues,
    threaded_napi,
    multicast,
)


def _auto(facts: DeviceFacts, found: tuple[Feature, ...]) -> tuple[str, str]:
    """What `mode = "auto"` takes, by `xsk_mode`, and why."""
    state = {one.name: one.state for one in found}
    native, zero = state["native-xdp"], state["af-xdp-zero-copy"]
    if native == "unknown":
        return "", "whether the driver has native XDP could not be told"
    asked = xsk_mode("auto", "native" if native == "yes" else "skb", facts.driver)
    if asked == "skb":
        return "skb", "the driver has no native XDP"
    if asked == "copy":
        return "copy", f"in zero-copy mode {facts.driver} drops what the XDP program itself sends"
    if zero == "unknown":
        return "", "zero-copy if the driver has it, which could not be told; else copy"
    if zero == "yes":
        return "zero-copy", "the driver has zero-copy"
    return "copy", "the driver has no zero-copy"
