# SPDX-License-Identifier: BSD-2-Clause
"""The four rings of an AF_XDP socket, in bursts: reserve, write, submit; peek, release.

Every call raises ValueError after the socket was closed, or if a count is more than was reserved,
written or peeked, and RuntimeError in a process that was forked off. One thread at a time.

A burst is a list, or, without an object for each entry, a buffer of 64-bit words such as
`array("Q")`: one word (the address) an entry on the fill and completion ring, two (address and
length) on the RX and TX ring.

Source: Documentation/networking/af_xdp.rst of the kernel.
"""

from collections.abc import Sequence

from typing_extensions import Buffer, disjoint_base

FORKED: str
"""What every call says in a process that was forked off."""

@disjoint_base
class _Producer:
    def detach(self, forked: bool = False) -> None:
        """Forget the ring: its memory goes, or belongs to the process this one was forked from."""

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

    def __init__(self, address: int, umem_bytes: int, frame_size: int) -> None: ...
    def write(self, addresses: Sequence[int] | Buffer) -> None:
        """Write the next reserved entries.

        Args:
            addresses: a list or tuple, or (n,) 64-bit words: bytes from the start of the UMEM. The
                kernel rounds down to the frame and uses the whole of it, so an address may be
                handed back as the RX ring gave it. One address must not be given twice.

        Raises:
            ValueError: more than reserved, or outside the UMEM; nothing is written.
        """

class TxRing(_Producer):
    """Frames given to the kernel to send."""

    def __init__(self, address: int, umem_bytes: int, frame_size: int) -> None: ...
    def write(self, descriptors: Sequence[tuple[int, int]] | Buffer) -> None:
        """Write the next reserved entries.

        Args:
            descriptors: a list or tuple of (address, length), or (2 n,) 64-bit words: bytes from
                the start of the UMEM to the Ethernet header, and bytes to send. Each must lie
                within one frame of the UMEM.

        Raises:
            ValueError: more than reserved, or a bad descriptor; nothing is written.
        """

@disjoint_base
class _Consumer:
    def detach(self, forked: bool = False) -> None:
        """Forget the ring: its memory goes, or belongs to the process this one was forked from."""

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

    def __init__(self, address: int) -> None: ...
    def peek(self, count: int) -> list[tuple[int, int]]:
        """At most `count` frames, oldest first; each once.

        Returns:
            (address, length) of each: bytes from the start of the UMEM to the Ethernet header,
            and bytes of the frame.

        Raises:
            ValueError: more than the ring has.
        """

    def peek_into(self, words: Buffer) -> int:
        """As `peek`, without an object for each frame.

        Args:
            words: (2 n,) writable 64-bit words; address and length of each frame go there.

        Returns:
            How many frames, at most n.
        """

class CompletionRing(_Consumer):
    """Frames that the kernel has sent."""

    def __init__(self, address: int) -> None: ...
    def peek(self, count: int) -> list[int]:
        """At most `count` addresses as they were submitted, each once."""

    def peek_into(self, words: Buffer) -> int:
        """As `peek`, into (n,) writable 64-bit words; returns how many."""
