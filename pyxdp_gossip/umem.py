# SPDX-License-Identifier: BSD-2-Clause
"""The memory of AF_XDP sockets: its frames, and the kernel's registration of it."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

from pyxdp_gossip import bpf_object
from pyxdp_gossip._libxdp import ffi, lib
from pyxdp_gossip._rings import FORKED
from pyxdp_gossip.errors import HostError

FRAME_SIZES: Final = (2048, 4096)  # what the kernel takes: at most a page, a power of two
FRAMES_MAX: Final = 1 << 20
NODES: Final = 1024  # the kernel's own limit, CONFIG_NODES_SHIFT
RING_MAX: Final = 1 << 16
RX_HEADROOM: Final = 256  # XDP_PACKET_HEADROOM: the kernel leaves it free in front of a frame
NO_MEMORY: Final = "out of memory for the UMEM: fewer frames, or a larger `ulimit -l`"

NODE_HINTS: Final[Mapping[int, str]] = {
    errno.EINVAL: "there is no such node",
    errno.ENOSYS: "this kernel was built without CONFIG_NUMA",
}

# What an errno of the AF_XDP calls means to whoever reads it.
HINTS: Final[Mapping[int, str]] = {
    **bpf_object.HINTS,
    errno.EPERM: "needs CAP_NET_RAW, or CAP_IPC_LOCK beyond `ulimit -l`: run as root",
    errno.EACCES: "needs CAP_NET_RAW: run as root",
    errno.EAFNOSUPPORT: "this kernel was built without AF_XDP (CONFIG_XDP_SOCKETS)",
    errno.EBADF: "the first socket of the Umem lost its interface: close all, and make them anew",
    errno.EBUSY: "the queue has an AF_XDP socket already: end the program that holds it",
    errno.ENOBUFS: NO_MEMORY,
    errno.ENOMEM: NO_MEMORY,
    errno.ENETDOWN: "the interface is down: `ip link set IF up`",
    errno.ENODEV: "the interface is gone",
    errno.ENXIO: "the interface is gone",
    errno.EOPNOTSUPP: 'the driver has no zero-copy here: use mode "copy" or "auto"',
    errno.EINVAL: "the driver refuses the queue, or the frame size for its MTU",
    errno.ENOENT: "the driver cannot reset one queue alone, which zero-copy needs: use copy mode",
}

PROGRAM_HINTS: Final[Mapping[int, str]] = {
    **bpf_object.HINTS,
    errno.EOPNOTSUPP: 'the driver has no native XDP: use mode "skb" or "auto"',
    errno.ERANGE: "the MTU is too large for native XDP: lower it, at a veth the peer's, "
    'or use mode "skb"',
    errno.EINVAL: 'the driver refuses: a smaller MTU, or mode "skb"',
    errno.ENOMEM: "out of memory",
}

Place = tuple[int, int]
"""Interface index and queue."""


def power_of_two(name: str, value: int, most: int) -> int:
    """`value`, or ValueError if it is no power of two from 1 to `most`."""
    if not 1 <= value <= most or value & (value - 1):
        raise ValueError(f"{name} is {value}, expected a power of two up to {most}")
    return value


class Closes(Protocol):
    """A socket, as its Umem sees it."""

    def close(self) -> None:
        """Gives back the socket, and its share of the registration."""


@dataclass(slots=True)
class Registration:
    """The kernel's UMEM and who uses it, from the first socket to the last.

    libxdp gives the first socket the descriptor of the UMEM itself, so that socket stays bound
    until the registration ends, and it chooses the mode and the size of the rings for all.

    Attributes:
        handle: libxdp's.
        ring_sizes: entries of each fill and each completion ring.
        first_rings: those that libxdp made with the UMEM; the first socket must take them.
        first: where the first socket is bound; None: there was none yet.
        zero_copy, several_buffers: how the first socket is bound, and so all are.
        sockets: where they are bound, and which is there.
    """

    handle: Any
    ring_sizes: tuple[int, int]
    first_rings: tuple[Any, Any]
    first: Place | None = None
    zero_copy: bool = False
    several_buffers: bool = False
    sockets: dict[Place, weakref.ref[Closes]] = field(default_factory=dict)

    def rings(self) -> tuple[Any, Any]:
        """The structs of a fill and a completion ring for the next socket."""
        if self.first is None:
            return self.first_rings
        return ffi.new("struct xsk_ring_prod *"), ffi.new("struct xsk_ring_cons *")


class Umem:
    """The frames that AF_XDP sockets receive into and send from.

    Many sockets may share one, on other queues or interfaces. The kernel pins the memory with the
    first socket, which is when a privilege can be missing, and lets it go after the last.

    Args:
        frames: how many.
        frame_size: bytes of each, 2048 or 4096. The kernel leaves 256 bytes free in front of what
            it receives (XDP_PACKET_HEADROOM), so a frame holds packets of 256 bytes less.
        numa_node: where the memory should lie, best the device's
            (/sys/class/net/IF/device/numa_node); if that node is full, elsewhere. None: wherever
            the thread runs that touches it first.

    Attributes:
        frames, frame_size: as given.
        size: bytes of all frames.

    Raises:
        ValueError: an argument is out of range.
        HostError: there is no such NUMA node.

    Source: Documentation/networking/af_xdp.rst of the kernel.
    """

    def __init__(
        self, frames: int = 4096, *, frame_size: int = 2048, numa_node: int | None = None
    ) -> None:
        if frame_size not in FRAME_SIZES:
            raise ValueError(f"frame_size is {frame_size}, expected 2048 or 4096 (a page)")
        if not 1 <= frames <= FRAMES_MAX:
            raise ValueError(f"frames is {frames}, expected 1..{FRAMES_MAX}")
        if numa_node is not None and not 0 <= numa_node < NODES:
            raise ValueError(f"numa_node is {numa_node}, expected 0..{NODES - 1}")
        self.frames = frames
        self.frame_size = frame_size
        self.size = frames * frame_size
        length = -(-self.size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages does as well
            memory.madvise(mmap.MADV_HUGEPAGE)
        # Not closed but dropped, for views of frames may outlive the Umem, and hold the memory.
        self._view: memoryview | None = memoryview(memory)
        self._pointer: Any = ffi.from_buffer(memory)
        self._address = int(ffi.cast("uintptr_t", self._pointer))
        if numa_node is not None:
            rc = lib.xg_prefer_node(self._pointer, length, numa_node)
            bpf_object.checked(f"memory on NUMA node {numa_node}", rc, NODE_HINTS)
        self._registration: Registration | None = None
        self._pid = os.getpid()

    @property
    def address(self) -> int:
        """Of the memory, in this process."""
        self._memory()
        return self._address

    def _memory(self) -> memoryview:
        if self._view is None:
            raise ValueError("the Umem is closed")
        return self._view

    def frame(self, address: int, length: int) -> memoryview:
        """The bytes of a packet, writable, not copied.

        Args:
            address: bytes from the start of the Umem, as the rings give it.
            length: bytes, 1 or more.

        Raises:
            ValueError: it does not lie in one frame of the Umem, or the Umem is closed.
        """
        memory = self._memory()
        inside = 0 <= address < self.size and length > 0
        if not inside or address % self.frame_size + length > self.frame_size:
            raise ValueError(
                f"{address}+{length} does not lie in one frame of {self.frame_size} bytes of the "
                f"Umem of {self.size}"
            )
        return memory[address : address + length]

    @property
    def shared(self) -> bool:
        """Whether a socket uses it now."""
        return self._registration is not None and bool(self._registration.sockets)

    def register(self, fill_size: int, completion_size: int) -> Registration:
        """For `XskSocket`: the registration that its sockets share, made if there is none.

        Args:
            fill_size, completion_size: entries of these rings, powers of two.

        Raises:
            ValueError: the other sockets' rings have other sizes, or the Umem is closed.
            HostError: the kernel refused; says what to do.
            RuntimeError: in a process that was forked off.
        """
        self._memory()
        if os.getpid() != self._pid:
            raise RuntimeError(FORKED)
        if self._registration is None:
            self._registration = self._registered(fill_size, completion_size)
        shared = self._registration.ring_sizes
        if shared != (fill_size, completion_size):
            raise ValueError(
                f"fill_size, completion_size are {fill_size}, {completion_size}, and the other "
                f"sockets of the Umem have {shared[0]}, {shared[1]}: all of one Umem are alike"
            )
        return self._registration

    def _registered(self, fill_size: int, completion_size: int) -> Registration:
        rings = ffi.new("struct xsk_ring_prod *"), ffi.new("struct xsk_ring_cons *")
        handle = ffi.new("struct xsk_umem **")
        lib.xg_clear_message()
        rc = lib.xg_umem_create(
            handle, self._pointer, self.size, *rings, fill_size, completion_size, self.frame_size
        )
        if rc < 0:
            what = f"register a UMEM of {self.size // 1024} KiB"
            raise bpf_object.system_error(what, -rc, HINTS)
        return Registration(handle[0], (fill_size, completion_size), rings)

    def release(self, place: Place | None) -> None:
        """For `XskSocket`: it is gone; with the last one the registration goes.

        Args:
            place: where it was bound; None: nowhere.
        """
        registration = self._registration
        if registration is None:
            return
        if place is not None:
            registration.sockets.pop(place, None)
        if not registration.sockets:
            self._registration = None
            lib.xsk_umem__delete(registration.handle)

    def close(self) -> None:
        """Closes the sockets that still use it, then gives the memory back. Repeatable.

        Views that `frame` gave stay valid; the memory goes with the last of them.
        """
        if self._registration is not None and os.getpid() == self._pid:
            for reference in list(self._registration.sockets.values()):
                socket = reference()
                if socket is not None:
                    socket.close()
        self._view = None
        self._pointer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def too_large_for(umem: Umem, interface: str, mtu: int, link_header: int) -> HostError | None:
    """Why frames of this MTU would be dropped, or None.

    Args:
        link_header: bytes in front of the IP packet.
    """
    room = umem.frame_size - RX_HEADROOM
    if mtu + link_header <= room:
        return None
    larger = "make the Umem with frame_size=4096, or " if umem.frame_size < max(FRAME_SIZES) else ""
    return HostError(
        f"{interface}: MTU {mtu} is too large for frames of {umem.frame_size} bytes: "
        f"{larger}`ip link set {interface} mtu {room - link_header}`"
    )
