# SPDX-License-Identifier: BSD-2-Clause
"""Opens the maps under a host's attached program, whoever attached it: counters and tables.

Reads through mappings that cannot write, and looks at copies: a table that is made over an agent's
memory would tidy it, and so hide what the agent left there.
"""

import ctypes
import ctypes.util
import json
import mmap
import os
from collections.abc import Callable
from typing import Final, Self

from pyxdp_gossip._native import (
    OWNER_STATES_BYTES,
    QUEUE_BYTES,
    QUEUES,
    Entry,
    OwnerStates,
    SessionTable,
    pack_key4,
    pack_key6,
    sum_counters,
)
from pyxdp_gossip.bpf_object import BpfMap, possible_cpus
from pyxdp_gossip.popbox import Box, leftovers
from pyxdp_gossip.popbox.commands import run
from pyxdp_gossip.session import Session
from pyxdp_gossip.stats import NAMES

SLOTS: Final = {4: 0, 6: 1}  # the box configures its two services in this order
WANTED: Final = frozenset({"counters", "owners", "queues", "sessions4", "sessions6"})

_libbpf = ctypes.CDLL(ctypes.util.find_library("bpf"))


def program_id(box: Box, host: int, pin: str = "xdp") -> int:
    """The id of the program behind a host's pinned link."""
    path = leftovers.pin_folder(os.getpid()) / f"host-{host}" / pin
    text = run("reading a link", ["bpftool", "-j", "link", "show", "pinned", str(path)])
    return int(json.loads(text)["prog_id"])


class HostMaps:
    """The maps of the program that is attached on a host now; a new agent may have others."""

    def __init__(self, box: Box, host: int) -> None:
        argv = ["bpftool", "-j", "prog", "show", "id", str(program_id(box, host))]
        identifiers = json.loads(run("reading a program", argv))["map_ids"]
        shown = json.loads(run("reading the maps", ["bpftool", "-j", "map", "show"]))
        self._maps = {
            row["name"]: BpfMap(
                row["name"],
                _libbpf.bpf_map_get_fd_by_id(row["id"]),
                row["max_entries"],
                row["bytes_value"],
            )
            for row in shown
            if row["id"] in identifiers and row.get("name") in WANTED
        }
        self._cpus = possible_cpus()
        self._readable: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for mapping in self._readable.values():
            mapping.close()
        for opened in self._maps.values():
            os.close(opened.fd)

    def counters(self) -> dict[str, int]:
        """The data path's counters by name."""
        per_cpu = self._maps["counters"].lookup(bytes(4), 8 * len(NAMES) * self._cpus)
        queues = self._bytes("queues", QUEUES * QUEUE_BYTES)
        return dict(zip(NAMES, sum_counters(per_cpu or b"", queues), strict=True))

    def _bytes(self, name: str, length: int) -> bytes:
        """The first bytes of a map's memory, as it is now."""
        if name not in self._readable:
            descriptor = self._maps[name].fd
            size = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
            self._readable[name] = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        return self._readable[name][:length]

    def _copy(self, family: int) -> tuple[SessionTable, bytearray]:
        """The host's session table as it is now, and the memory in which this copy of it lies."""
        owners = OwnerStates(memory=bytearray(self._bytes("owners", OWNER_STATES_BYTES)))
        buckets = self._maps[f"sessions{family}"].max_entries - 1
        length = SessionTable.required_bytes(family, buckets)
        memory = bytearray(self._bytes(f"sessions{family}", length))
        return SessionTable(family, buckets, owners, memory=memory, adopt=True), memory

    def lie(self, family: int, change: Callable[[SessionTable], object]) -> None:
        """Changes the host's table behind its agent's back, and nothing but that in it."""
        table, memory = self._copy(family)
        before = memoryview(bytes(memory)).cast("Q")
        change(table)
        after = memoryview(memory).cast("Q")
        with self._maps[f"sessions{family}"].memory() as live:
            words = memoryview(live).cast("Q")
            for place, (old, new) in enumerate(zip(before, after, strict=True)):
                if old != new:
                    words[place] = new
            words.release()

    def lead_nowhere(self, host: int) -> None:
        """From now on a host that nobody knows may own sessions; no way leads to it."""
        with self._maps["owners"].memory() as live, memoryview(live) as memory:
            states = memory[:OWNER_STATES_BYTES]
            OwnerStates(memory=states).activate(host)
            states.release()

    def entry(self, session: Session, slot: int | None = None) -> Entry | None:
        """What the host's table says about a session; `slot`: of another service than the box's."""
        return self._copy(session.family)[0].get(session_key(session, slot))


def session_key(session: Session, slot: int | None = None) -> bytes:
    """The key of a session of one of the box's services, or of the one with a slot."""
    pack = pack_key4 if session.family == 4 else pack_key6
    place = SLOTS[session.family] if slot is None else slot
    return pack(session.client.packed, session.client_port, place)
