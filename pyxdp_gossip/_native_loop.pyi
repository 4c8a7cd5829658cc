# SPDX-License-Identifier: BSD-2-Clause
"""Types of the AF_XDP loop; at run time they are in `_native`, which names them again."""

from typing_extensions import Buffer, disjoint_base

from pyxdp_gossip._native import OwnerStates, SessionTable

QUEUES: int
"""RX queues of one interface that may have a loop."""
QUEUE_BYTES: int
"""Bytes of `struct xg_queue`."""
FLOOD_COPIES: int
"""Hosts beyond the flood group that may get copies."""

def sum_counters(per_cpu: Buffer, queues: Buffer) -> tuple[int, ...]:
    """The data path's counters, the XDP program's and the loops' together.

    Args:
        per_cpu: (cpus * counters * 8,) bytes, as the per-CPU map gives them.
        queues: (n * QUEUE_BYTES,) bytes, rows of `struct xg_queue`.

    Returns:
        One number for each counter, in the order of `counter_list`.

    Raises:
        ValueError: a buffer is no whole number of rows.
    """

def give_up_queues(queues: Buffer) -> None:
    """No queue has a loop from now on: its credit ends, and what a dead process's loop left
    unread is counted as lost.

    Args:
        queues: (n * QUEUE_BYTES,) writable bytes.

    Raises:
        ValueError: the buffer is no whole number of rows.
    """

@disjoint_base
class FloodList:
    """Where floods go: to the group, and a copy to each host that it does not reach."""

    def __init__(self) -> None: ...
    def set(self, group: int | None, copies: list[int]) -> None:
        """Publish template indices, each 0..65535; while loops read: at a change a host may miss
        one copy, or get one twice.

        Args:
            group: of the flood group; None: there is none.
            copies: of the hosts beyond it.

        Raises:
            ValueError: an index is out of range, or there are more than FLOOD_COPIES.
        """
    @property
    def first(self) -> int | None:
        """What the flooded frame itself gets: the group's index, or else that of the first copy."""

@disjoint_base
class XskLoop:
    """The AF_XDP loop of one RX queue: RX burst, forward, TX, completion, fill.

    It has frames with the kernel and publishes its credit as soon as it is made. `run` belongs to
    one thread and drops the GIL; `shut` and `stop` may be called from any other. All raise
    RuntimeError after `close`.
    """

    def __init__(
        self,
        *,
        host: int,
        table4: SessionTable,
        table6: SessionTable,
        owners: OwnerStates,
        templates: Buffer,
        services: Buffer,
        quic: Buffer,
        flood: FloodList,
        address: bytes,
        tunnel_port: int,
        encapsulation: int,
        too_big_rate_pps: int,
        queue: Buffer,
        fill: int,
        completion: int,
        rx: int,
        tx: int,
        umem: int,
        first_frame: int,
        frames: int,
        frame_size: int,
        driver_frames: int,
        fd: int,
        busy_poll: bool = False,
        buffers: int = 1,
        always_kick: bool = False,
        burst: int = 0,
        keep: object = None,
    ) -> None:
        """Make a loop over rings that libxdp made; all memory must outlive it.

        Args:
            templates: (n * 128,) bytes of `struct xg_template`, read at each burst.
            services: (n * 24,) bytes of `struct xg_service`.
            address: (16,) bytes, IPv6 or v4-mapped, this host's in the underlay.
            too_big_rate_pps: ICMP errors a second, about what is too big for its path; 0: no limit.
            queue: (QUEUE_BYTES,) writable bytes, shared with the XDP program.
            fill, completion, rx, tx: addresses of libxdp's ring structs.
            umem: address of the UMEM's memory.
            first_frame, frames: the frames of the UMEM that are this loop's alone.
            frame_size: bytes of a chunk, a power of two.
            driver_frames: of the frames with the kernel, those that are never handed over.
            fd: of the socket.
            busy_poll: it prefers busy polling: the loop never sleeps, and each turn polls.
            buffers: of one frame, at most; 1: the socket is bound without XDP_USE_SG.
            keep: kept alive with the loop.

        Raises:
            ValueError: a buffer has another length.
            OSError: EINVAL, too few frames for the rings, or a bad chunk size; ENOMEM.
        """

    def run(self) -> None:
        """Work until `stop`, then finish what was handed over, at most half a second.

        Raises:
            RuntimeError: it runs already.
            OSError: poll() failed.
        """

    def shut(self) -> None:
        """End the credit: from now on the XDP program sends by itself."""

    def stop(self) -> None:
        """Make `run` finish and return."""

    def frames(self) -> tuple[int, int, int]:
        """Frames free, with the kernel for receiving, and for sending; while it does not run.

        Raises:
            RuntimeError: it runs.
            OSError: EUCLEAN, they do not add up or the rings disagree: a bug.
        """

    def close(self) -> None:
        """Forget the rings, before their memory goes. Repeatable.

        Raises:
            RuntimeError: it runs.
        """
