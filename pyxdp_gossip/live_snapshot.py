# SPDX-License-Identifier: BSD-2-Clause
"""A running agent's tables as they are this moment, for another process that asks and never writes.

Everything is copied out of the pinned maps first. An entry that is moved in that very moment may be
missed; asking again finds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyxdp_gossip import bpf_object
from pyxdp_gossip._native import (
    LAYOUT_DIGEST,
    QUIC_LAYOUT_BYTES,
    QUIC_LAYOUTS,
    OwnerStates,
    SessionTable,
)
from pyxdp_gossip.bpf_object import AdoptionError, BpfMap, BpfObject, PinnedLink
from pyxdp_gossip.dataplane_settings import (
    NO_TEMPLATE,
    VIEWS,
    PackedConfig,
    PeerCookies,
    unpack_config,
)
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.explanation import Explanation, explain
from pyxdp_gossip.forwarder import SERVICE, Forwarder
from pyxdp_gossip.pins import STAMP, STAMP_SHAPE, MapPins, Stamp
from pyxdp_gossip.receiver_maps import receiver_of
from pyxdp_gossip.service_array import ARRAY_BYTES
from pyxdp_gossip.session import Address, KernelView

PROTOCOL_AT: Final = 18  # of struct xg_service
USED_AT: Final = 19
SLOT_AT: Final = 20


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """The tables of a host, and its kernel, which is asked live.

    Attributes:
        host: its id.
        config: how the POP's tunnel is.
        services: (n * 24,) bytes of `struct xg_service`, by slot.
        templates: (n * 128,) bytes of `struct xg_template`; `flood` is one's place.
        tables: family to its session table, and the memory in which that lies.
        peers: the other hosts whose tunnel packets are taken, and the cookies of those.
    """

    host: int
    config: PackedConfig
    forwarder: Forwarder
    services: bytes
    owners: OwnerStates
    templates: bytes
    flood: int | None
    tables: Mapping[int, tuple[SessionTable, bytearray]]
    peers: Mapping[int, tuple[Address, PeerCookies]]
    _question_fd: int
    _ifindex: int

    def explain(self, frame: bytes) -> Explanation:
        """What the host's XDP program does with a frame, the floods' budgets apart.

        Raises:
            HostError: the kernel refused the question.
        """
        found = explain(frame, self.forwarder)
        if not found.asks_kernel:
            return found
        run = bpf_object.run_program(self._question_fd, found.question, ifindex=self._ifindex)
        view = VIEWS.get(run.action, KernelView.IN_DOUBT)
        return explain(frame, self.forwarder, kernel_knows=view >= KernelView.HALF)


def is_live(pins: Path) -> bool:
    """Whether an agent's maps and program lie there, for this user to read."""
    try:
        return (pins / "maps" / "stamp").exists() and (pins / "xdp").exists()
    except OSError:  # the BPF file system is closed to others than root
        return False


@contextmanager
def live_snapshot(pins: Path) -> Iterator[LiveSnapshot]:
    """Reads the maps of the agent that has these pins; run it in the host's network namespace.

    Raises:
        HostError: they cannot be read, or are of another version.
    """
    with ExitStack() as stack:
        try:
            yield _read(pins, stack)
        except AdoptionError as reason:
            raise HostError(f"{pins}: {reason}") from None


def _read(pins: Path, stack: ExitStack) -> LiveSnapshot:
    stamp = _stamp(pins)
    maps = stack.enter_context(MapPins(pins, stamp).found())
    link = PinnedLink.find(pins / "xdp")
    if link is None:
        raise HostError(f"{pins}: no program is attached any more")
    stack.callback(link.close)
    sizes = {"sessions4": stamp.buckets4 + 1, "sessions6": stamp.buckets6 + 1}
    program = BpfObject("redirect", max_entries=sizes, adopted=maps)
    stack.callback(program.close)
    packed = _copy(maps["config"])
    config, receiver = unpack_config(packed), receiver_of(packed, maps["peers"])
    flood: int | None = config.flood_template
    if flood == NO_TEMPLATE:
        flood = next(iter(config.relays), None)
    owners = OwnerStates(memory=_copy(maps["owners"]))
    memory = {family: _copy(maps[f"sessions{family}"]) for family in (4, 6)}
    buckets = {4: stamp.buckets4, 6: stamp.buckets6}
    tables = {
        family: SessionTable(family, buckets[family], owners, memory=memory[family], adopt=True)
        for family in (4, 6)
    }
    templates, services = bytes(_copy(maps["templates"])), _services(maps)
    return LiveSnapshot(
        host=stamp.host,
        config=config,
        forwarder=Forwarder(
            stamp.host,
            tables[4],
            tables[6],
            owners,
            templates,
            services,
            flood,
            quic=bytes(_copy(maps["quic_lb"])[: QUIC_LAYOUTS * QUIC_LAYOUT_BYTES]),
            can_fragment=config.has_loops,
            receiver=receiver,
        ),
        services=services,
        owners=owners,
        templates=templates,
        flood=flood,
        tables={family: (tables[family], memory[family]) for family in (4, 6)},
        peers=receiver.peers(),
        _question_fd=program.program_fd("xg_question"),
        _ifindex=link.ifindex,
    )


def _stamp(pins: Path) -> Stamp:
    """What the maps say of themselves: of this version, and at work."""
    pinned = BpfMap.pinned(pins / "maps" / "stamp")
    try:
        if bpf_object.map_shape(pinned.fd) != STAMP_SHAPE:
            raise AdoptionError("the stamp of the pinned maps is none")
        value = pinned.lookup(bytes(4)) or bytes(STAMP.size)
    finally:
        os.close(pinned.fd)
    found = Stamp(*STAMP.unpack(value)[1:])
    found._replace(layout=LAYOUT_DIGEST).compare(value)
    return found


def _copy(one: BpfMap) -> bytearray:
    with one.memory() as memory:
        return bytearray(memory)


def _services(maps: Mapping[str, BpfMap]) -> bytes:
    """Those that are in use, in the order of their slots: (n * 24,) bytes."""
    array = bytes(_copy(maps["services"])[:ARRAY_BYTES])
    rows = (array[at : at + SERVICE.size] for at in range(0, ARRAY_BYTES, SERVICE.size))
    used = [row for row in rows if row[USED_AT] and row[PROTOCOL_AT]]  # a VIP's own row has none
    used.sort(key=lambda row: row[SLOT_AT : SLOT_AT + 2][::-1])
    return b"".join(used)
