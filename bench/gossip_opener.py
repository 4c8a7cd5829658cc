# SPDX-License-Identifier: BSD-2-Clause
"""A process that opens real connections at one host, and what it wrote down of each."""

from __future__ import annotations

import mmap
from contextlib import suppress
from ipaddress import IPv4Address
from itertools import count as counting
from typing import Final

from bench import programs
from pyxdp_gossip._native import pack_key4
from pyxdp_gossip.popbox import Box, names

CLIENTS: Final = IPv4Address("10.77.0.0")  # the first of all; each host has its own, over loopback
CLIENTS_A_HOST: Final = 32 << 8
CLIENTS_A_RUN: Final = 32
PORTS: Final = 50_000  # of one client address, from FIRST_PORT: as in opener.c
FIRST_PORT: Final = 1024
WORD_BYTES: Final = 8
HEAD: Final = 1  # words of the file before its connections
WORDS: Final = 3  # of a connection
END_S: Final = 30.0
NS_PER_MS: Final = 1e6
NS_PER_S: Final = 1e9

_numbers = counting(1)


def first_client(host: int) -> IPv4Address:
    """Of the connections at one host."""
    return CLIENTS + host * CLIENTS_A_HOST


class Opener:
    """Started and ready; opens nothing before `start`.

    Args:
        box: a POP; `host` has an address range for `first_client` on its loopback.
        count, rate: connections in all, and a second.
        keep: so many are open at most, the oldest go by a reset.
    """

    def __init__(self, box: Box, host: int, count: int, rate: int, keep: int) -> None:
        self.host, self.count, self.keep = host, count, keep
        number = next(_numbers)
        name = f"opener-{number}"
        # Clients of its own: what an earlier one left in a table must not be taken for a hit.
        self._client = first_client(host) + number * CLIENTS_A_RUN % CLIENTS_A_HOST
        if count > CLIENTS_A_RUN * PORTS:
            raise ValueError(f"{count} connections: at most {CLIENTS_A_RUN * PORTS}")
        path = box.host_folder(host) / f"{name}.times"
        path.write_bytes(bytes(WORD_BYTES * (HEAD + WORDS * count)))
        words = [path, count, rate, keep, names.VIP4, names.VIP_PORT, self._client]
        argv = [str(programs.opener()), *map(str, words)]
        self._process = box.start_on_host(host, name, argv, piped=True)
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def start(self) -> None:
        """Begins to open, at its rate."""
        pipe = self._process.popen.stdin
        assert pipe is not None  # started with pipes
        pipe.write(b"\n")
        pipe.flush()

    def stop(self) -> None:
        """Closes what is open; resets tell both ends."""
        pipe = self._process.popen.stdin
        assert pipe is not None  # started with pipes
        with suppress(BrokenPipeError):
            pipe.close()
        self._process.popen.wait(END_S)

    def check(self) -> None:
        """Raises if it ended before its time."""
        status = self._process.popen.poll()
        if status is not None:
            tail = self._process.log_tail()
            raise RuntimeError(f"{self._process.name} ended with status {status}: {tail}")

    @property
    def opened(self) -> int:
        """How many connections are accepted by now."""
        return int(self._words[0])

    @property
    def rate(self) -> float:
        """Connections a second from the first to the last: a busy machine falls behind."""
        return (self.count - 1) * NS_PER_S / (self.at(self.count - 1) - self.at(0))

    def has_closed(self, number: int) -> bool:
        """Whether a later connection took its place."""
        return self.opened > number + self.keep

    def at(self, number: int) -> int:
        """When connection `number` was about to be accepted, ns of the monotonic clock."""
        return int(self._words[HEAD + WORDS * number])

    def late(self, number: int) -> int:
        """How long after its time connection `number` was begun, ns. No process comes before the
        opener, so it is the machine that was not there."""
        return int(self._words[HEAD + WORDS * number + 1])

    def arithmetic(self, number: int) -> int:
        """What a fixed piece of arithmetic took just before connection `number`, ns."""
        return int(self._words[HEAD + WORDS * number + 2])

    def key(self, number: int) -> bytes:
        """Its key in the session tables."""
        client = self._client + number // PORTS
        return pack_key4(client.packed, FIRST_PORT + number % PORTS, 0)
