# SPDX-License-Identifier: BSD-2-Clause
"""AF_XDP sockets over libxdp, usable alone: memory, sockets with their rings, and a program.

One `Umem` holds the frames; an `XskSocket` is bound to one RX queue of an interface and has a fill,
a completion, an RX and a TX ring, used in bursts; an `XskProgram` redirects the queue's frames to
it. Nothing here runs per packet but the ring's own bursts.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._libxdp import ffi, lib
from pyxdp_gossip._rings import CompletionRing, FillRing, RxRing, TxRing
from pyxdp_gossip.bpf_object import BpfMap, BpfObject, PinnedLink
from pyxdp_gossip.errors import HostError

FRAME_SIZES: Final = (2048, 4096)  # what the kernel takes: at most a page, a power of two
FRAMES_MAX: Final = 1 << 20
RING_MAX: Final = 1 << 16
MODES: Final = ("auto", "zero-copy", "copy", "skb")
SHARED_MEMORY: Final = "out of memory for the UMEM: fewer frames, or a larger `ulimit -l`"

# What an errno of the AF_XDP calls means to whoever reads it.
HINTS: Final[Mapping[int, str]] = {
    errno.EPERM: "needs CAP_NET_RAW, or CAP_IPC_LOCK beyond `ulimit -l`: run as root",
    errno.EACCES: "needs CAP_NET_RAW: run as root",
    errno.EAFNOSUPPORT: "this kernel was built without AF_XDP (CONFIG_XDP_SOCKETS)",
    errno.EBUSY: "the queue has an AF_XDP socket already: end the program that holds it",
    errno.ENOBUFS: SHARED_MEMORY,
    errno.ENOMEM: SHARED_MEMORY,
    errno.ENETDOWN: "the interface is down: `ip link set IF up`",
    errno.ENODEV: "the interface is gone",
    errno.EOPNOTSUPP: 'the driver has no zero-copy here: use mode "copy" or "auto"',
    errno.EINVAL: "the driver refuses the queue, or the frame size for its MTU",
    errno.ENOENT: "the driver cannot reset one queue alone, which zero-copy needs: use copy mode",
}


def _error(what: str, code: int) -> HostError:
    hint = HINTS.get(code)
    return HostError(f"{what}: {os.strerror(code)}" + (f" ({hint})" if hint else ""))


def _power_of_two(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most or value & (value - 1):
        raise ValueError(f"{name} is {value}, expected a power of two up to {most}")
    return value


class Umem:
    """The frames that AF_XDP sockets receive into and send from.

    Args:
        frames: how many.
        frame_size: bytes of each, 2048 or 4096. The kernel leaves 256 bytes free in front of what
            it receives (XDP_PACKET_HEADROOM), so a frame holds packets of 256 bytes less.
        fill_size, completion_size: entries of these rings of every socket, powers of two.

    Raises:
        ValueError: an argument is out of range.
        HostError: the kernel refused; says what to do.

    Source: Documentation/networking/af_xdp.rst of the kernel.
    """

    def __init__(
        self,
        frames: int = 4096,
        *,
        frame_size: int = 2048,
        fill_size: int = 2048,
        completion_size: int = 2048,
    ) -> None:
        if frame_size not in FRAME_SIZES:
            raise ValueError(f"frame_size is {frame_size}, expected 2048 or 4096")
        if not 1 <= frames <= FRAMES_MAX:
            raise ValueError(f"frames is {frames}, expected 1..{FRAMES_MAX}")
        _power_of_two("fill_size", fill_size, RING_MAX)
        _power_of_two("completion_size", completion_size, RING_MAX)
        self.frames = frames
        self.frame_size = frame_size
        self.size = frames * frame_size
        self.sockets = 0
        self._umem = ffi.NULL
        length = -(-self.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages does as well
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._pointer = ffi.from_buffer(self._memory)
        self._first_rings = ffi.new("struct xsk_ring_prod *"), ffi.new("struct xsk_ring_cons *")
        handle = ffi.new("struct xsk_umem **")
        rc = lib.xg_umem_create(
            handle, self._pointer, self.size, *self._first_rings,
            fill_size, completion_size, frame_size,
        )  # fmt: skip
        if rc < 0:
            raise _error(f"register a UMEM of {self.size // 1024} KiB", -rc)
        self._umem = handle[0]
        self._rings_taken = False

    @property
    def address(self) -> int:
        """Of the memory, in this process."""
        return int(ffi.cast("uintptr_t", self._pointer))

    @property
    def handle(self) -> Any:
        """libxdp's; for `XskSocket`."""
        if self._umem == ffi.NULL:
            raise ValueError("the UMEM is closed")
        return self._umem

    def take_rings(self) -> tuple[Any, Any]:
        """Fill and completion ring for a socket: the first one gets those of the UMEM itself."""
        if not self._rings_taken:
            self._rings_taken = True
            return self._first_rings
        return ffi.new("struct xsk_ring_prod *"), ffi.new("struct xsk_ring_cons *")

    def frame(self, address: int, length: int) -> memoryview:
        """The bytes of a frame, writable, not copied.

        Args:
            address: bytes from the start of the UMEM.
            length: bytes.

        Raises:
            ValueError: it does not lie in the UMEM.
        """
        if not 0 <= address <= address + length <= self.size:
            raise ValueError(f"{address}+{length} is outside the UMEM of {self.size} bytes")
        return memoryview(self._memory)[address : address + length]

    def close(self) -> None:
        """Gives the memory back. Repeatable.

        Raises:
            ValueError: a socket still uses it: close that first.
        """
        if self._umem == ffi.NULL:
            return
        if self.sockets:
            raise ValueError(f"{self.sockets} sockets still use the UMEM: close them first")
        lib.xsk_umem__delete(self._umem)
        self._umem = self._pointer = ffi.NULL
        with contextlib.suppress(BufferError):  # a view of a frame lives on, and its memory
            self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class XskStatistics:
    """What the kernel counted for one socket since it was made.

    Source: struct xdp_statistics of linux/if_xdp.h.
    """

    rx_dropped: int
    """Frames that were dropped: too large for a frame of the UMEM, or no frame to receive into."""
    rx_invalid_descs: int
    """Addresses on the fill ring that lie outside the UMEM."""
    tx_invalid_descs: int
    """Descriptors on the TX ring that the kernel refused."""
    rx_ring_full: int
    """Frames that were dropped because the RX ring was full."""
    rx_fill_ring_empty: int
    """How often the kernel found no frame on the fill ring."""
    tx_ring_empty: int
    """How often the kernel looked for a frame to send and found none."""


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where libxdp's four ring structs of a socket lie in this process."""

    fill: int
    completion: int
    rx: int
    tx: int


class XskSocket:
    """An AF_XDP socket on one RX queue, with its four rings.

    Args:
        umem: its frames; many sockets may share one, each with rings of its own.
        interface: its name, in the calling thread's network namespace.
        queue: RX queue, 0..n-1.
        mode: "zero-copy" or "copy": just this one; "auto": zero-copy if the driver has it, else
            copy; "skb": copy mode under a program that is attached in generic mode.
        rx_size, tx_size: entries, powers of two.

    Attributes:
        mode: what was picked: "zero-copy", "copy" or "skb". Read from XDP_OPTIONS, since a bind
            that forces nothing takes copy mode in silence.
        fill, completion, rx, tx: the rings.

    Raises:
        ValueError: an argument is out of range.
        HostError: the kernel or driver refused; says what to do.
    """

    def __init__(
        self,
        umem: Umem,
        interface: str,
        queue: int = 0,
        *,
        mode: str = "auto",
        rx_size: int = 2048,
        tx_size: int = 2048,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        sizes = (
            _power_of_two("rx_size", rx_size, RING_MAX),
            _power_of_two("tx_size", tx_size, RING_MAX),
        )
        self.fd = -1
        self._umem = umem
        self.interface = interface
        self.queue = queue
        self._map: BpfMap | None = None
        self._socket = ffi.NULL
        link = netlink.link(interface)
        if not 0 <= queue < link.rx_queues:
            raise HostError(f"{interface} has no RX queue {queue}: it has {link.rx_queues}")
        self._bind(mode, sizes)
        self.fd = int(lib.xsk_socket__fd(self._socket))
        umem.sockets += 1
        try:
            self.mode = self._verified(mode)
            self._make_rings()
        except BaseException:
            self.close()
            raise

    def _bind(self, mode: str, sizes: tuple[int, int]) -> None:
        flags = {"zero-copy": lib.XDP_ZEROCOPY, "copy": lib.XDP_COPY}
        attempts = ("zero-copy", "copy") if mode == "auto" else (mode,)
        fill, completion = self._umem.take_rings()
        rings = ffi.new("struct xsk_ring_cons *"), ffi.new("struct xsk_ring_prod *")
        self._structs = (fill, completion, *rings)
        handle = ffi.new("struct xsk_socket **")
        for attempt in attempts:
            bind_flags = flags.get(attempt, lib.XDP_COPY) | lib.XDP_USE_NEED_WAKEUP
            rc = lib.xg_socket_create(
                handle, os.fsencode(self.interface), self.queue, self._umem.handle, *rings,
                fill, completion, *sizes, bind_flags,
            )  # fmt: skip
            if rc == 0:
                self._socket = handle[0]
                return
            if -rc in (errno.EPERM, errno.EBUSY, errno.ENODEV, errno.ENETDOWN):
                break
        raise _error(f"AF_XDP socket on {self.interface}, queue {self.queue} ({attempt})", -rc)

    def _verified(self, wanted: str) -> str:
        zero_copy = lib.xg_socket_is_zero_copy(self.fd)
        if zero_copy < 0:
            raise _error(f"options of the AF_XDP socket on {self.interface}", -zero_copy)
        if wanted == "skb":
            return "skb"
        picked = "zero-copy" if zero_copy else "copy"
        if wanted not in ("auto", picked):
            raise HostError(f"{self.interface}: asked for {wanted}, and the kernel took {picked}")
        return picked

    def _make_rings(self) -> None:
        at = RingAddresses(*(int(ffi.cast("uintptr_t", one)) for one in self._structs))
        self.addresses = at
        size, frame_size = self._umem.size, self._umem.frame_size
        self.fill = FillRing(at.fill, size, frame_size)
        self.completion = CompletionRing(at.completion)
        self.rx = RxRing(at.rx)
        self.tx = TxRing(at.tx, size, frame_size)

    def fileno(self) -> int:
        """The descriptor, for select and the like: readable when frames wait."""
        return self.fd

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for frames; False if none came within `timeout_s`."""
        poll = select.poll()
        poll.register(self._open(), select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def wakeup(self) -> bool:
        """Makes the kernel look at the TX and fill rings, where it asked for that.

        Returns:
            False: it could not take everything now (busy, or the interface is down); call again.

        Raises:
            HostError: the socket is of no use any more.
        """
        done = True
        for ring, send in ((self.tx, 1), (self.fill, 0)):
            if not ring.needs_wakeup:
                continue
            rc = lib.xg_socket_kick(self._open(), send)
            if -rc in (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.ENETDOWN):
                done = done and not send
            elif rc < 0:
                raise _error(f"wake {self.interface}, queue {self.queue}", -rc)
        return done

    def statistics(self) -> XskStatistics:
        """What the kernel counted.

        Raises:
            HostError: the kernel refused.
        """
        found = ffi.new("struct xdp_statistics *")
        rc = lib.xg_socket_statistics(self._open(), found)
        if rc < 0:
            raise _error(f"statistics of {self.interface}, queue {self.queue}", -rc)
        return XskStatistics(
            rx_dropped=found.rx_dropped,
            rx_invalid_descs=found.rx_invalid_descs,
            tx_invalid_descs=found.tx_invalid_descs,
            rx_ring_full=found.rx_ring_full,
            rx_fill_ring_empty=found.rx_fill_ring_empty_descs,
            tx_ring_empty=found.tx_ring_empty_descs,
        )

    def _open(self) -> int:
        if self.fd < 0:
            raise ValueError("the socket is closed")
        return self.fd

    def register(self, xskmap: BpfMap) -> None:
        """Puts the socket into an XSKMAP, at the number of its queue: frames may come now.

        Raises:
            HostError: the map has no such place, or its interface is another.
        """
        self._open()
        bpf_object.checked(
            f"map {xskmap.name}, queue {self.queue}",
            lib.xsk_socket__update_xskmap(self._socket, xskmap.fd),
        )
        self._map = xskmap

    def unregister(self) -> None:
        """Takes the socket out of the map again; frames that are there stay. Repeatable."""
        xskmap, self._map = self._map, None
        if xskmap:
            xskmap.delete(self.queue.to_bytes(4, "little"))

    def close(self) -> None:
        """Out of the map first, or frames that are still sent there vanish. Repeatable."""
        if self.fd < 0:
            return
        self.unregister()
        for ring in ("fill", "completion", "rx", "tx"):
            if hasattr(self, ring):
                getattr(self, ring).detach()
        lib.xsk_socket__delete(self._socket)
        self.fd = -1
        self._umem.sockets -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class XskProgram:
    """An XDP program that gives each frame of a queue to that queue's socket, and passes others.

    It goes with this process. Close the sockets before it: the other order has crashed kernels.

    Args:
        interface: its name, in the calling thread's network namespace.
        mode: "native", "skb" (generic XDP), or "auto": native, and skb where the driver has none.

    Attributes:
        mode: what was picked, "native" or "skb".

    Raises:
        HostError: the kernel refused, or another program is attached; says what to do.
    """

    def __init__(self, interface: str, mode: str = "auto") -> None:
        self._sockets: list[XskSocket] = []
        self._link: PinnedLink | None = None
        index = netlink.link(interface).index
        self._object = BpfObject("xsk_all")
        try:
            fd = self._object.program_fd("xg_to_socket")
            self._link, self.mode = bpf_object.attach_xdp(None, fd, index, mode)
        except BaseException:
            self.close()
            raise

    def add(self, socket: XskSocket) -> None:
        """From now on the socket gets the frames of its queue."""
        socket.register(self._object.maps["xsks"])
        self._sockets.append(socket)

    def remove(self, socket: XskSocket) -> None:
        """From now on the frames of its queue are passed to the stack."""
        socket.unregister()
        self._sockets.remove(socket)

    def close(self) -> None:
        """Takes the program off, after its sockets out of its map. Repeatable."""
        for socket in self._sockets:
            socket.unregister()
        self._sockets.clear()
        if self._link:
            self._link.remove()
            self._link = None
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
