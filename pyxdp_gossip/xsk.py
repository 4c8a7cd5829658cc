# SPDX-License-Identifier: BSD-2-Clause
"""AF_XDP sockets over libxdp, usable alone: memory, sockets with their rings, and a program.

A `Umem` holds the frames; an `XskSocket` is bound to one queue of an interface and has a fill, a
completion, an RX and a TX ring, used in bursts; an `XskProgram` redirects the queue's frames to it.
Only the bursts on the rings run per packet. One thread at a time, sockets of one Umem together.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time
import warnings
import weakref
from typing import Any, Final, Self

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._libxdp import ffi, lib
from pyxdp_gossip._rings import FORKED, CompletionRing, FillRing, RxRing, TxRing
from pyxdp_gossip.bpf_object import BpfMap, BpfObject, PinnedLink
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.several_buffers import BUFFERS_MAX, zero_copy_buffers
from pyxdp_gossip.umem import (
    HINTS,
    PROGRAM_HINTS,
    RING_MAX,
    Place,
    Registration,
    Umem,
    power_of_two,
    too_large_for,
)
from pyxdp_gossip.xsk_types import RingAddresses, XskStatistics

__all__ = ["RingAddresses", "Umem", "XskProgram", "XskSocket", "XskStatistics"]

MODES: Final = ("auto", "zero-copy", "copy", "skb")
L2_MAX: Final = 22  # bytes: Ethernet and two VLAN tags
QUEUE_MAX: Final = (1 << 32) - 1

# The kernel gives a closed socket's queue free in a worker of its own, later than close() returns.
QUEUE_RELEASE_S: Final = 1.0
QUEUE_POLL_S: Final = 0.005

# A wakeup that fails so is tried again: the kernel is busy, or the link is down for the moment.
LATER: Final = frozenset((errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.ENETDOWN))
# A forced zero-copy bind that fails so says that the driver cannot: "auto" goes on with copy mode.
NO_ZERO_COPY: Final = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT))


class XskSocket:
    """An AF_XDP socket on one queue, with its four rings.

    Args:
        umem: its frames; sockets on several queues may share one, each with rings of its own.
        interface: its name, in the calling thread's network namespace.
        queue: 0..n-1.
        mode: "zero-copy" or "copy": just this one; "auto": zero-copy if the driver has it, else
            copy; "skb": copy mode under a program that is attached in generic mode. The first
            socket of a Umem chooses for all, "auto" takes what they have.
        rx_size, tx_size: entries, powers of two.
        fill_size, completion_size: entries, powers of two; all sockets of one Umem are alike.
        several_buffers: bind with XDP_USE_SG, if kernel and device have that, for frames in several
            buffers; the first socket of a Umem chooses for all. For a loop in C: the rings here do
            not say which entries are one frame.
        any_mtu: take an interface whose frames may be too large for the Umem's; those are dropped,
            and counted in `rx_dropped`. False: refuse it.

    Attributes:
        mode: what was picked: "zero-copy", "copy" or "skb". Read from XDP_OPTIONS, since a bind
            that forces nothing takes copy mode in silence.
        buffers: of one frame, at most; 1: bound without XDP_USE_SG.
        fd: its descriptor; -1: closed.
        fill, completion, rx, tx: the rings.
        addresses: of libxdp's ring structs, for a loop in C; who uses it leaves the rings alone.

    Raises:
        ValueError: an argument is out of range, or does not go with the Umem's other sockets.
        HostError: the kernel or driver refused; says what to do.
        RuntimeError: in a process that was forked off, by every call.

    Source: Documentation/networking/af_xdp.rst of the kernel; libxdp's <xdp/xsk.h>.
    """

    fd = -1
    buffers = 1
    _handle: Any = None
    _forked = False
    _asks_for_calls: int = lib.XDP_USE_NEED_WAKEUP  # 0 in the benchmark alone

    def __init__(
        self,
        umem: Umem,
        interface: str,
        queue: int = 0,
        *,
        mode: str = "auto",
        rx_size: int = 2048,
        tx_size: int = 2048,
        fill_size: int = 2048,
        completion_size: int = 2048,
        any_mtu: bool = False,
        several_buffers: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        if not 0 <= queue <= QUEUE_MAX:
            raise ValueError(f"queue is {queue}, expected 0 or more")
        self._sizes = (
            power_of_two("rx_size", rx_size, RING_MAX),
            power_of_two("tx_size", tx_size, RING_MAX),
        )
        self._shared_sizes = (
            power_of_two("fill_size", fill_size, RING_MAX),
            power_of_two("completion_size", completion_size, RING_MAX),
        )
        self.interface = interface
        self.queue = queue
        self._umem = umem
        self._map: BpfMap | None = None
        self._given: BpfMap | None = None
        self._link = netlink.link(interface)
        self._place: Place = (self._link.index, queue)
        problem = too_large_for(umem, interface, self._link.mtu, L2_MAX)
        if problem and not any_mtu:
            raise problem
        self._ways = (lib.XDP_USE_SG, 0) if several_buffers else (0,)
        self._bind_first_possible(mode)
        try:
            self.mode = self._verified(mode)
            if self.buffers > 1 and self.mode == "zero-copy":
                self.buffers = zero_copy_buffers(self.index)
            self._make_rings()
        except BaseException:
            self._give_back()
            raise
        _sockets.add(self)

    @property
    def index(self) -> int:
        """Of the interface."""
        return self._place[0]

    def _bind_first_possible(self, mode: str) -> None:
        until = time.monotonic() + QUEUE_RELEASE_S
        for attempt in ("zero-copy", "copy") if mode == "auto" else (mode,):
            for way in self._ways:
                code = self._attempt(mode, attempt, way)
                while code == errno.EBUSY and time.monotonic() < until:
                    time.sleep(QUEUE_POLL_S)
                    code = self._attempt(mode, attempt, way)
                if code == 0:
                    return
            shared = self._umem.shared
            if attempt != "zero-copy" or shared or code not in NO_ZERO_COPY:
                break
        raise self._bind_error(attempt, code)

    def _attempt(self, mode: str, attempt: str, way: int) -> int:
        """0, or the errno. Each attempt has a registration of its own, unless other sockets share
        it: what a failed bind leaves behind in libxdp's UMEM differs from version to version."""
        registration = self._umem.register(*self._shared_sizes)
        code = -1
        try:
            self._refuse_taken(registration, mode)
            code = self._bind(registration, attempt, way)
        finally:
            if code != 0:
                self._umem.release(None)
        return code

    def _refuse_taken(self, registration: Registration, mode: str) -> None:
        """What libxdp would take in silence, and hand out rings that are none."""
        if self._place in registration.sockets:
            raise HostError(
                f"{self.interface}, queue {self.queue} is busy: it has a socket of this Umem"
            )
        if self._place == registration.first:
            raise HostError(
                f"{self.interface}, queue {self.queue} is busy: it had the first socket of this "
                "Umem, which the kernel keeps until the Umem's other sockets are closed"
            )
        has = "zero-copy" if registration.zero_copy else "copy"
        wanted = "copy" if mode == "skb" else mode
        if registration.first is not None and wanted not in ("auto", has):
            raise ValueError(f'mode is {mode!r}, and the Umem\'s other sockets have "{has}"')

    def _bind(self, registration: Registration, attempt: str, way: int) -> int:
        """0, or the errno."""
        flags = way | (lib.XDP_ZEROCOPY if attempt == "zero-copy" else lib.XDP_COPY)
        rings = ffi.new("struct xsk_ring_cons *"), ffi.new("struct xsk_ring_prod *")
        self._structs = (*registration.rings(), *rings)
        handle = ffi.new("struct xsk_socket **")
        rc: int = lib.xg_socket_create(
            handle, os.fsencode(self.interface), self.queue, registration.handle, *rings,
            *self._structs[:2], *self._sizes, flags | self._asks_for_calls,
        )  # fmt: skip
        if rc < 0:
            return -rc
        self._handle = handle[0]
        self.fd = int(lib.xsk_socket__fd(self._handle))
        os.set_inheritable(self.fd, False)  # a child would keep the queue
        registration.sockets[self._place] = weakref.ref(self)
        if registration.first is None:
            registration.first = self._place
            registration.zero_copy = lib.xg_socket_is_zero_copy(self.fd) == 1
            registration.several_buffers = bool(way)
        self.buffers = BUFFERS_MAX if registration.several_buffers else 1
        return 0

    def _bind_error(self, attempt: str, code: int) -> HostError:
        what = f"AF_XDP socket on {self.interface}, queue {self.queue} ({attempt})"
        if code == errno.EINVAL and self.queue >= self._link.rx_queues:
            count = self._link.rx_queues
            return HostError(f"{what}: no such queue: there are {count}, 0..{count - 1}")
        return bpf_object.system_error(what, code, HINTS)

    def _verified(self, wanted: str) -> str:
        zero_copy = lib.xg_socket_is_zero_copy(self.fd)
        if zero_copy < 0:
            what = f"options of the AF_XDP socket on {self.interface}"
            raise bpf_object.system_error(what, -zero_copy, HINTS)
        picked = "zero-copy" if zero_copy else "copy"
        if wanted == "skb" and picked == "copy":
            return "skb"
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

    def _open(self) -> int:
        if self._forked:
            raise RuntimeError(FORKED)
        if self.fd < 0:
            raise ValueError("the socket is closed")
        return self.fd

    def fileno(self) -> int:
        """The descriptor, for select and the like: readable when frames wait."""
        return self._open()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for frames on the RX ring; False if none came within `timeout_s`.

        In copy mode it sends what is on the TX ring as well.
        """
        poll = select.poll()
        poll.register(self._open(), select.POLLIN)
        found = poll.poll(None if timeout_s is None else timeout_s * 1000)
        return any(event & select.POLLIN for _, event in found)

    def wakeup(self) -> bool:
        """Makes the kernel look at the TX and fill rings, where it asked for that.

        Returns:
            False: it could not take everything now (busy, more than it takes at once, or the
            interface is down): call again.

        Raises:
            HostError: the socket is of no use any more.
        """
        fd = self._open()
        done = True
        for ring, send in ((self.tx, 1), (self.fill, 0)):
            rc = lib.xg_socket_kick(fd, send) if ring.needs_wakeup else 0
            if rc < 0 and -rc not in LATER:
                what = f"wake {self.interface}, queue {self.queue}"
                raise bpf_object.system_error(what, -rc, HINTS)
            done = done and rc == 0
        return done

    def statistics(self) -> XskStatistics:
        """What the kernel counted.

        Raises:
            HostError: the kernel refused.
        """
        found = ffi.new("struct xdp_statistics *")
        rc = lib.xg_socket_statistics(self._open(), found)
        if rc < 0:
            what = f"statistics of {self.interface}, queue {self.queue}"
            raise bpf_object.system_error(what, -rc, HINTS)
        return XskStatistics(
            rx_dropped=found.rx_dropped,
            rx_invalid_descs=found.rx_invalid_descs,
            tx_invalid_descs=found.tx_invalid_descs,
            rx_ring_full=found.rx_ring_full,
            rx_fill_ring_empty=found.rx_fill_ring_empty_descs,
            tx_ring_empty=found.tx_ring_empty_descs,
        )

    def register(self, xskmap: BpfMap) -> None:
        """Puts the socket into an XSKMAP, at the number of its queue: frames may come now.

        Args:
            xskmap: of a loaded BpfObject, of type BPF_MAP_TYPE_XSKMAP; it may be closed before the
                socket.

        Raises:
            ValueError: it is in another map already.
            HostError: the map has no such place.
        """
        self._open()
        if self._map is not None and self._given is not xskmap:
            raise ValueError(f"the socket is in map {self._map.name}: unregister it first")
        if self.queue >= xskmap.max_entries:
            raise HostError(
                f"map {xskmap.name} has {xskmap.max_entries} places, none for queue {self.queue}"
            )
        rc = lib.xsk_socket__update_xskmap(self._handle, xskmap.fd)
        bpf_object.checked(f"map {xskmap.name}, queue {self.queue}", rc)
        if self._map is None:  # by a descriptor of its own: the given one may be closed first
            own = os.dup(xskmap.fd)
            self._map = BpfMap(xskmap.name, own, xskmap.max_entries, xskmap.value_size)
            self._given = xskmap

    def unregister(self) -> None:
        """Takes the socket out of the map again; frames on the rings stay. Repeatable."""
        xskmap, self._map = self._map, None
        self._given = None
        if xskmap is None:
            return
        try:
            if not self._forked:
                xskmap.delete(self.queue.to_bytes(4, sys.byteorder))
        finally:
            os.close(xskmap.fd)

    def close(self) -> None:
        """Out of the map first, or frames that are still sent there vanish. Repeatable.

        The first socket of a Umem stays bound until the Umem's other sockets are closed too.
        """
        if self.fd < 0:
            return
        try:
            self.unregister()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for ring in ("fill", "completion", "rx", "tx"):
            if hasattr(self, ring):
                getattr(self, ring).detach(self._forked)
        handle, self._handle, self.fd = self._handle, None, -1
        lib.xsk_socket__delete(handle)
        self._umem.release(self._place)

    def _disown(self) -> None:
        """In a child: its copies of descriptors and ring memory would keep the queue busy. The map
        is the parent's."""
        self._forked = True
        self.unregister()
        if self.fd >= 0:
            self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.fd >= 0:
            warnings.warn(f"unclosed AF_XDP socket on {self.interface}", ResourceWarning, 2)
            self.close()


class XskProgram:
    """An XDP program that gives each frame of a queue to that queue's socket, and passes others.

    It is attached by a link that goes with this process; it needs no BPF file system.

    Args:
        interface: its name, in the calling thread's network namespace.
        mode: "native", "skb" (generic XDP), or "auto": native, and skb where the driver has none.

    Attributes:
        mode: what was picked, "native" or "skb".

    Raises:
        ValueError: an argument is out of range.
        HostError: the kernel refused, or another program is attached; says what to do.
    """

    _link: PinnedLink | None = None

    def __init__(self, interface: str, mode: str = "auto") -> None:
        if mode not in ("auto", "native", "skb"):
            raise ValueError(f"mode is {mode!r}, expected auto, native or skb")
        self.interface = interface
        self._sockets: list[XskSocket] = []
        self._index = netlink.link(interface).index
        self._object = BpfObject("xsk_all")
        try:
            fd = self._object.program_fd("xg_to_socket")
            self._link, self.mode = bpf_object.attach_xdp(
                None, fd, self._index, mode, PROGRAM_HINTS
            )
        except BaseException:
            self.close()
            raise
        _programs.add(self)

    def add(self, socket: XskSocket) -> None:
        """From now on the socket gets the frames of its queue, and is closed with the program.

        Args:
            socket: on this interface, of a mode that goes with the program's.

        Raises:
            ValueError: the socket is closed, is on another interface, or has a mode that does not
                go with the program's.
        """
        if self._link is None:
            raise ValueError("the program is closed")
        if socket.index != self._index:
            raise ValueError(f"the socket is on {socket.interface}, not on {self.interface}")
        if socket.mode == "skb" and self.mode != "skb":
            raise ValueError('the socket has mode "skb": attach the program with mode="skb"')
        if socket.mode == "zero-copy" and self.mode == "skb":
            raise ValueError('a zero-copy socket needs a program with mode "native"')
        socket.register(self._object.maps["xsks"])
        if socket not in self._sockets:
            self._sockets.append(socket)

    def remove(self, socket: XskSocket) -> None:
        """From now on the frames of its queue are passed to the stack.

        Args:
            socket: one that was added.

        Raises:
            ValueError: the socket was not added.
        """
        if socket not in self._sockets:
            raise ValueError(f"queue {socket.queue} of {socket.interface} was not added")
        socket.unregister()
        self._sockets.remove(socket)

    def close(self) -> None:
        """Closes the sockets that were added, then takes the program off. Repeatable.

        In this order: to take it off above open rings has crashed kernels.
        """
        sockets, self._sockets = self._sockets, []
        for socket in sockets:
            socket.close()
        link, self._link = self._link, None
        if link:
            link.remove()
        self._object.close()

    def _disown(self) -> None:
        """In a child: its copy of the link would keep the program attached."""
        self._sockets = []
        link, self._link = self._link, None
        if link:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._link is not None:
            warnings.warn(f"unclosed XDP program on {self.interface}", ResourceWarning, 2)
            self.close()


_sockets: weakref.WeakSet[XskSocket] = weakref.WeakSet()
_programs: weakref.WeakSet[XskProgram] = weakref.WeakSet()


def _disown_all() -> None:
    for socket in list(_sockets):
        socket._disown()
    for program in list(_programs):
        program._disown()


os.register_at_fork(after_in_child=_disown_all)
