# SPDX-License-Identifier: BSD-2-Clause
"""What Umem, XskSocket and XskProgram refuse before they ask the kernel, and what they say of a
kernel that refuses: no privileges needed."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from pyxdp_gossip import umem as umem_module
from pyxdp_gossip import xsk
from pyxdp_gossip._rings import CompletionRing, FillRing, RxRing, TxRing
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import RingAddresses, Umem, XskProgram, XskSocket, XskStatistics
from pyxdp_gossip.xsk_plane import frame_size_for


@pytest.mark.parametrize("frame_size", [0, 1024, 2047, 3072, 8192, -2048])
def test_a_frame_is_2048_or_4096_bytes(frame_size: int) -> None:
    with pytest.raises(ValueError, match="expected 2048 or 4096"):
        Umem(frame_size=frame_size)


@pytest.mark.parametrize("frames", [0, -1, (1 << 20) + 1])
def test_the_number_of_frames_has_bounds(frames: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.1048576"):
        Umem(frames)


@pytest.mark.parametrize(("frames", "frame_size"), [(1, 2048), (3, 2048), (4096, 2048), (7, 4096)])
def test_a_umem_has_the_size_it_says_on_a_page(frames: int, frame_size: int) -> None:
    with Umem(frames, frame_size=frame_size) as umem:
        assert (umem.frames, umem.frame_size) == (frames, frame_size)
        assert umem.size == frames * frame_size
        assert umem.address % 4096 == 0


def test_a_frame_is_a_view_of_the_memory_and_not_a_copy() -> None:
    with Umem(4) as umem:
        umem.frame(2048, 100)[:4] = b"abcd"
        again = umem.frame(2050, 2)
        assert bytes(again) == b"cd"
        again[0:1] = b"X"
        assert bytes(umem.frame(2048, 4)) == b"abXd"
        assert not again.readonly


def test_exactly_the_packets_within_one_frame_have_a_view() -> None:
    """Exhausted around every edge of a Umem of two frames."""
    edges = [edge + step for edge in (0, 2048, 4096) for step in (-2, -1, 0, 1, 2)]
    with Umem(2) as umem:
        for first in edges:
            for last in edges:
                inside = 0 <= first < last <= 4096 and first // 2048 == (last - 1) // 2048
                if inside:
                    assert len(umem.frame(first, last - first)) == last - first
                else:
                    with pytest.raises(ValueError, match="does not lie in one frame"):
                        umem.frame(first, last - first)


def test_a_view_outlives_its_umem() -> None:
    umem = Umem(2)
    view = umem.frame(0, 4)
    view[:] = b"kept"
    umem.close()
    umem.close()
    del umem
    gc.collect()
    assert bytes(view) == b"kept"


@pytest.mark.parametrize("use", [lambda umem: umem.frame(0, 1), lambda umem: umem.address])
def test_a_closed_umem_says_so(use: Callable[[Umem], object]) -> None:
    umem = Umem(2)
    umem.close()
    with pytest.raises(ValueError, match="the Umem is closed"):
        use(umem)


@pytest.mark.parametrize("name", ["rx_size", "tx_size", "fill_size", "completion_size"])
@pytest.mark.parametrize("size", [0, -2, 3, 2047, 1 << 17])
def test_a_ring_size_is_a_power_of_two_with_a_bound(name: str, size: int) -> None:
    with Umem(2) as umem, pytest.raises(ValueError, match=f"{name} is {size}, expected a power"):
        XskSocket(umem, "lo", **{name: size})  # type: ignore[arg-type]


@pytest.mark.parametrize("queue", [-1, 1 << 32])
def test_a_queue_is_a_number_from_0(queue: int) -> None:
    with Umem(2) as umem, pytest.raises(ValueError, match=f"queue is {queue}"):
        XskSocket(umem, "lo", queue)


@pytest.mark.parametrize("mode", ["", "native", "drv", "AUTO"])
def test_a_wrong_mode_of_a_socket_lists_the_right_ones(mode: str) -> None:
    with Umem(2) as umem, pytest.raises(ValueError, match="auto, zero-copy, copy, skb"):
        XskSocket(umem, "lo", mode=mode)


@pytest.mark.parametrize("mode", ["", "copy", "zero-copy"])
def test_a_wrong_mode_of_a_program_lists_the_right_ones(mode: str) -> None:
    with pytest.raises(ValueError, match="expected auto, native or skb"):
        XskProgram("lo", mode=mode)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FillRing(0, 4096, 2048), lambda: TxRing(0, 4096, 2048),
        lambda: RxRing(0), lambda: CompletionRing(0),
    ],
)  # fmt: skip
def test_a_ring_at_no_address_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="closed"):
        make()


def test_what_a_socket_tells_is_frozen_and_every_counter_has_a_sentence() -> None:
    statistics = XskStatistics(0, 0, 0, 0, 0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.rx_dropped = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RingAddresses(1, 2, 3, 4).rx = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mtu", "frame_size"), [(1500, 2048), (1770, 2048), (1771, 4096), (3498, 4096)]
)
def test_the_plane_takes_frames_that_its_sockets_accept(mtu: int, frame_size: int) -> None:
    assert frame_size_for(mtu) == frame_size


class Refuses:
    """libxdp on a kernel that refuses: what each call answers, and the flags of the binds."""

    def __init__(self, real: Any, register: int, *binds: int) -> None:
        self._real = real
        self._register = register
        self._binds = list(binds)
        self.flags: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def xg_umem_create(self, *_: object) -> int:
        return -self._register

    def xsk_umem__delete(self, _: object) -> int:
        return 0

    def xg_socket_create(self, *arguments: Any) -> int:
        self.flags.append(arguments[-1] & ~xsk.lib.XDP_USE_NEED_WAKEUP)
        return -self._binds.pop(0)


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Refuses]:
    def make(register: int, *binds: int) -> Refuses:
        library = Refuses(xsk.lib, register, *binds)
        monkeypatch.setattr(xsk, "lib", library)
        monkeypatch.setattr(umem_module, "lib", library)
        monkeypatch.setattr(xsk, "QUEUE_RELEASE_S", 0.0)
        return library

    return make


def opened(mode: str = "auto") -> str:
    """What is said of a socket that cannot be."""
    with Umem(1) as umem, pytest.raises(HostError) as caught:
        XskSocket(umem, "lo", mode=mode, any_mtu=True)
    assert not umem.shared
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EAFNOSUPPORT, "this kernel was built without AF_XDP (CONFIG_XDP_SOCKETS)"),
        (errno.EPERM, "needs CAP_NET_RAW"),
        (errno.ENOBUFS, "fewer frames, or a larger `ulimit -l`"),
        (errno.ENOMEM, "fewer frames, or a larger `ulimit -l`"),
    ],
)
def test_a_memory_that_the_kernel_does_not_take(
    refuses: Callable[..., Refuses], code: int, hint: str
) -> None:
    library = refuses(code)
    line = opened()
    assert line.startswith(f"register a UMEM of 2 KiB: {os.strerror(code)} (")
    assert hint in line
    assert library.flags == []


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EOPNOTSUPP, 'the driver has no zero-copy here: use mode "copy" or "auto"'),
        (errno.EINVAL, "the driver refuses the queue, or the frame size for its MTU"),
        (errno.ENOENT, "the driver cannot reset one queue alone, which zero-copy needs"),
    ],
)
def test_auto_goes_on_with_copy_mode_and_a_forced_mode_does_not(
    refuses: Callable[..., Refuses], code: int, hint: str
) -> None:
    library = refuses(0, code)
    assert f"(zero-copy): {os.strerror(code)} ({hint}" in opened("zero-copy")
    assert library.flags == [library.XDP_ZEROCOPY]
    library = refuses(0, code, errno.ENODEV)
    assert "(copy): No such device (the interface is gone)" in opened()
    assert library.flags == [library.XDP_ZEROCOPY, library.XDP_COPY]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EBUSY, "the queue has an AF_XDP socket already: end the program that holds it"),
        (errno.ENETDOWN, "the interface is down: `ip link set IF up`"),
        (errno.ENODEV, "the interface is gone"),
        (errno.EPERM, "needs CAP_NET_RAW"),
        (errno.EBADF, "the first socket of the Umem lost its interface: close all"),
    ],
)
def test_what_copy_mode_would_not_mend_is_told_at_once(
    refuses: Callable[..., Refuses], code: int, hint: str
) -> None:
    library = refuses(0, *[code] * 3)
    assert f"{os.strerror(code)} ({hint}" in opened()
    assert set(library.flags) == {library.XDP_ZEROCOPY}
