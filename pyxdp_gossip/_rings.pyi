# SPDX-License-Identifier: BSD-2-Clause
"""The four rings of an AF_XDP socket, in bursts: reserve, write, submit; peek, release.

All raise ValueError after their socket was closed, and if a count is more than was reserved,
written or peeked. One thread at a time. Source: Documentation/networking/af_xdp.rst of the kernel.
"""

class _Producer:
    def __init__(self, address: int, umem_bytes: int, frame_size: int) -> None: ...
    def detach(self) -> None:
        """Forget the ring: its memory goes."""

    @property
    def size(self) -> int:
        """Entries, a power of two."""

    @property
    def free(self) -> int:
        """Entries that can be reserved now."""

    @property
    def needs_wakeup(self) -> bool:
        """Whether the kernel waits for a system call before it looks: `XskSocket.wakeup`."""

    def reserve(self, count: int) -> int:
        """Reserve `count` entries: all of them, or none if there is not room for all.

        Returns:
            `count` or 0.

        Raises:
            ValueError: more than the ring has.
        """

    def submit(self, count: int) -> None:
        """Show the first `count` written entries to the kernel.

        Raises:
            ValueError: more than were written.
        """

class FillRing(_Producer):
    """Frames given to the kernel to receive into."""

    def write(self, addresses: list[int]) -> None:
        """Write the next reserved entries.

        Args:
            addresses: bytes from the start of the UMEM; the kernel uses the whole frame.

        Raises:
            ValueError: more than reserved, or outside the UMEM; nothing is written.
        """

class TxRing(_Producer):
    """Frames given to the kernel to send."""

    def write(self, descriptors: list[tuple[int, int]]) -> None:
        """Write the next reserved entries.

        Args:
            descriptors: (address, length) of each frame: bytes from the start of the UMEM to the
                Ethernet header, and bytes to send. Each must lie within one frame of the UMEM.

        Raises:
            ValueError: more than reserved, or a bad descriptor; nothing is written.
        """

class _Consumer:
    def __init__(self, address: int) -> None: ...
    def detach(self) -> None:
        """Forget the ring: its memory goes."""

    @property
    def size(self) -> int:
        """Entries, a power of two."""

    @property
    def available(self) -> int:
        """Entries that can be peeked at now."""

    def release(self, count: int) -> None:
        """Give the first `count` peeked entries back to the kernel.

        Raises:
            ValueError: more than were peeked.
        """

class RxRing(_Consumer):
    """Frames that the kernel received."""

    def peek(self, count: int) -> list[tuple[int, int]]:
        """At most `count` frames, oldest first; each once.

        Returns:
            (address, length) of each: bytes from the start of the UMEM to the Ethernet header,
            and bytes of the frame.
        """

class CompletionRing(_Consumer):
    """Frames that the kernel has sent."""

    def peek(self, count: int) -> list[int]:
        """At most `count` addresses as they were submitted, each once."""
