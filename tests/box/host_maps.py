# SPDX-License-Identifier: BSD-2-Clause
"""Opens the maps under a host's attached program, whoever attached it: counters and tables."""

import ctypes
import ctypes.util
import json
import os
from typing import Final, Self

from pyxdp_gossip._native import (
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
        self._tables: dict[int, SessionTable] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._maps.values():
            os.close(opened.fd)

    def counters(self) -> dict[str, int]:
        """The data path's counters by name."""
        per_cpu = self._maps["counters"].lookup(bytes(4), 8 * len(NAMES) * self._cpus)
        queues = memoryview(self._maps["queues"].memory())[: QUEUES * QUEUE_BYTES]
        return dict(zip(NAMES, sum_counters(per_cpu or b"", queues), strict=True))

    def table(self, family: int) -> SessionTable:
        """The host's own session table, as it is now. To write into it is to lie to the host."""
        shared = self._maps[f"sessions{family}"]
        owners = OwnerStates(memory=self._maps["owners"].memory())
        buckets = shared.max_entries - 1
        return SessionTable(family, buckets, owners, memory=shared.memory(), adopt=True)

    def entry(self, session: Session) -> Entry | None:
        """What the host's table says about a session."""
        return self.table(session.family).get(session_key(session))


def session_key(session: Session) -> bytes:
    """The key of a session of one of the box's services."""
    pack = pack_key4 if session.family == 4 else pack_key6
    return pack(session.client.packed, session.client_port, SLOTS[session.family])
