# SPDX-License-Identifier: BSD-2-Clause
"""The AF_XDP plane of one interface: for each RX queue a UMEM, a socket and a loop's thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pyxdp_gossip import placement
from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.busy_poll import prefer_busy_polling
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import Umem, XskSocket

FRAMES: Final = 4096  # a queue: as many as can wait to be received and to be sent, together
RING: Final = 2048  # libxdp's own default; 3 ms of 64-byte frames at 700,000 a second
FRAME_SIZE: Final = 2048
LARGE_FRAME_SIZE: Final = 4096  # a page, the most that the kernel takes
RX_HEADROOM: Final = 256  # XDP_PACKET_HEADROOM: the outer headers go there
L2_MAX: Final = 22  # Ethernet and two VLAN tags
# In zero-copy mode the driver receives the host's own packets into the UMEM as well. So many
# frames are never handed over: a frozen agent must not stop the queue. A common RX ring's size.
DRIVER_FRAMES: Final = 1024
JOIN_S: Final = 5.0  # a loop finishes within half a second (XG_LOOP_DRAIN_MS)


class Loop(Protocol):
    """What the plane asks of `_native.XskLoop`."""

    def run(self) -> None:
        """Until stopped."""

    def shut(self) -> None:
        """Nothing more is handed over."""

    def stop(self) -> None:
        """Makes `run` finish and return."""

    def frames(self) -> tuple[int, int, int]:
        """Free, with the kernel for receiving, and for sending."""

    def close(self) -> None:
        """Forgets the rings, before their memory goes."""


MakeLoop = Callable[[int, XskSocket, Umem, int], Loop]
"""Queue, socket, UMEM and the frames that stay the driver's."""


class _Queue:
    """One queue's parts, and the thread that runs its loop."""

    def __init__(
        self, name: str, umem: Umem, socket: XskSocket, loop: Loop, cpu: int | None
    ) -> None:
        self._cpu = cpu
        self.umem = umem
        self.socket = socket
        self.number = socket.queue
        self.loop = loop
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def take_down(self) -> None:
        """Once the thread has ended; else its memory is in use, until the process ends."""
        if self.thread.is_alive():
            return
        with self.umem, self.socket, contextlib.closing(self.loop):
            self.loop.frames()  # a loop whose frames do not add up has a bug: say so

    def _run(self) -> None:
        try:
            if self._cpu is not None:
                placement.pin_this_thread(self._cpu)
            self.loop.run()
        except Exception as error:  # told to whoever looks after the plane
            self.failure = error
            self.loop.shut()


def frame_size_for(mtu: int) -> int:
    """Bytes of a UMEM chunk that holds a frame of this MTU with the kernel's room in front."""
    return FRAME_SIZE if mtu + L2_MAX + RX_HEADROOM <= FRAME_SIZE else LARGE_FRAME_SIZE


class XskPlane:
    """Sockets and loops of an interface, from `open()` to `close()`.

    Args:
        interface: its name; an XDP program that redirects to `xsks` is attached already.
        queues: 0..n-1, those that receive and send. A loop on one that does not send would lose
            what it is handed; its frames are the XDP program's.
        mtu: of the interface, bytes.
        mode: "auto", "zero-copy", "copy", or "skb" if the program is attached so.
        xsks: the XSKMAP.
        make_loop: makes the loop of a queue; it may be handed frames from then on.
        cpus: the loop of queue n runs on the n-th of them, round and round; none: anywhere.
        busy_poll: the sockets prefer busy polling; the loops must be made for it.
    """

    def __init__(
        self, interface: str, queues: int, mtu: int, mode: str, xsks: BpfMap, make_loop: MakeLoop,
        *, cpus: Sequence[int] = (), busy_poll: bool = False,
    ) -> None:  # fmt: skip
        self._cpus = tuple(cpus)
        self._busy_poll = busy_poll
        self._interface = interface
        self._told = queues
        self._numbers = range(min(queues, xsks.max_entries))
        self._frame_size = frame_size_for(mtu)
        self._mode = mode
        self._xsks = xsks
        self._make_loop = make_loop
        self._queues: list[_Queue] = []
        self._pid = os.getpid()
        self.mode = ""

    def open(self) -> str:
        """Binds the sockets and starts the loops.

        Returns:
            "zero-copy", "copy" or "skb": what was picked. With "auto" all queues get the same.

        Raises:
            HostError: no socket could be made so, or a CPU is not ours; nothing is left.
        """
        placement.check_cpus(self._cpus)
        self._node = placement.device_node(self._interface)
        try:
            for number in self._numbers:
                self._open_queue(number)
        except BaseException:
            self.close()
            raise
        return self.mode

    def _open_queue(self, number: int) -> None:
        with contextlib.ExitStack() as stack:
            size = self._frame_size
            umem = stack.enter_context(Umem(FRAMES, frame_size=size, numa_node=self._node))
            mode = self.mode or self._mode  # all queues alike
            socket = stack.enter_context(
                XskSocket(
                    umem, self._interface, number, mode=mode,
                    rx_size=RING, tx_size=RING, fill_size=RING, completion_size=RING,
                    any_mtu=True,  # the XDP program hands no frame over that is too large
                    several_buffers=True,
                )
            )  # fmt: skip
            if self._busy_poll:
                prefer_busy_polling(socket.fd, self._interface)
            zero_copy = socket.mode == "zero-copy"
            loop = self._make_loop(number, socket, umem, DRIVER_FRAMES if zero_copy else 0)
            stack.callback(loop.close)
            cpu = self._cpus[number % len(self._cpus)] if self._cpus else None
            queue = _Queue(f"xg-{self._interface}-{number}", umem, socket, loop, cpu)
            queue.thread.start()
            stack.pop_all()
        self._queues.append(queue)
        self.mode = socket.mode
        socket.register(self._xsks)

    def _agree(self, wanted: range) -> None:
        """A loop for each queue that has none, and none for one that is gone. The kernel keeps
        queues that have sockets from `ethtool -L`, but not from a driver's own reset. The first
        that gets none is the last that is tried: a bind may wait a second, and nobody beats."""
        gone = [queue for queue in self._queues if queue.number not in wanted]
        self._queues = [queue for queue in self._queues if queue.number in wanted]
        self._take_down(gone)
        have = {queue.number for queue in self._queues}
        for number in wanted:
            if number not in have:
                self._open_queue(number)

    def close(self) -> None:
        """Takes sockets and loops down; from the first moment on the XDP program sends by
        itself, and what the loops were handed before is still sent. Repeatable.

        Raises:
            OSError: a loop's frames do not add up; everything is down all the same.
        """
        queues, self._queues, self.mode = self._queues, [], ""
        if os.getpid() != self._pid:
            return  # a forked child has neither the threads nor the rings
        self._take_down(queues)

    @staticmethod
    def _take_down(queues: Sequence[_Queue]) -> None:
        with contextlib.ExitStack() as each:  # whatever fails, all steps of all queues are done
            for queue in queues:
                each.callback(queue.take_down)
            for queue in queues:
                each.callback(queue.thread.join, JOIN_S)
            for queue in queues:
                each.callback(queue.loop.stop)
                each.callback(queue.socket.unregister)
            for queue in queues:
                each.callback(queue.loop.shut)

    def check(self, queues: int | None = None) -> None:
        """Has the loops agree with so many queues, if told, once for each new number.

        Raises:
            HostError: a new queue got no loop, or a loop ended by itself; the other loops go on,
                and such a queue's frames are the XDP program's.
        """
        if queues is not None and queues != self._told:
            self._told = queues
            self._agree(range(min(queues, self._xsks.max_entries)))
        for queue in self._queues:
            if queue.failure:
                raise HostError(f"the loop of {queue.thread.name} ended: {queue.failure}")
