# SPDX-License-Identifier: BSD-2-Clause
"""What outlives an agent: its maps, pinned, and the stamp that tells the next one what they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, Self

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._native import LAYOUT_DIGEST, OwnerStates
from pyxdp_gossip.bpf_object import AdoptionError, BpfMap, MapShape
from pyxdp_gossip.dataplane_settings import NO_TEMPLATE, PEER, DataplaneSettings
from pyxdp_gossip.digests import sha256
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.forwarder import HOST_MAX, pack_services
from pyxdp_gossip.session import Address, unpacked16
from pyxdp_gossip.template_slots import TEMPLATES, TemplateSlots

MAPS: Final = (
    "sessions4", "sessions6", "owners", "templates", "peers", "services", "config", "counters",
    "quic_lb", "budgets", "recent_misses", "recent_claims", "queues", "xsks", "stamp",
)  # fmt: skip
"""All but the two rings of events, which were for an agent that is gone, and what is trusted for a
tick."""

STAMP: Final = Struct("<QQQIIH6x")  # struct xg_stamp
STAMP_MAGIC: Final = 0x585453504D415453
STAMP_SHAPE: Final = MapShape(2, 4, STAMP.size, 1, 0)  # BPF_MAP_TYPE_ARRAY


class Stamp(NamedTuple):
    """What decides whether an agent may go on with another one's maps."""

    layout: int
    services: int
    buckets4: int
    buckets6: int
    host: int

    @classmethod
    def of(cls, settings: DataplaneSettings, buckets4: int, buckets6: int) -> Self:
        """What this build makes with these settings."""
        plain = {slot: replace(one, quic=False) for slot, one in settings.by_slot.items()}
        packed = pack_services(plain)  # what an id says goes for sessions that are there, too
        digest = int.from_bytes(sha256(packed)[:8], "little")
        return cls(LAYOUT_DIGEST, digest, buckets4, buckets6, settings.host)

    def pack(self) -> bytes:
        """`struct xg_stamp`."""
        return STAMP.pack(STAMP_MAGIC, *self)

    def compare(self, value: bytes) -> None:
        """Raises AdoptionError with what differs between this and a pinned `struct xg_stamp`."""
        magic, *fields = STAMP.unpack(value)
        other = Stamp(*fields)
        if magic == 0:
            raise AdoptionError("the pinned maps were never at work")
        if magic != STAMP_MAGIC:
            raise AdoptionError("the stamp of the pinned maps is none")
        if other.layout != self.layout:
            raise AdoptionError("the pinned maps have the layout of another version")
        if other.host != self.host:
            raise AdoptionError(f"the pinned maps are those of host {other.host}")
        if other.services != self.services:
            raise AdoptionError("the services or their order changed")
        if (other.buckets4, other.buckets6) != (self.buckets4, self.buckets6):
            raise AdoptionError("the size of the session table changed")


class MapPins:
    """The pinned maps of one host, in the folder `maps` of its pin folder.

    Attributes:
        in_use: they carry a stamp: the next agent may go on with them.
    """

    def __init__(self, folder: Path, stamp: Stamp) -> None:
        self._pins = folder
        self._folder = folder / "maps"
        self._stamp = stamp
        self.in_use = False

    @contextlib.contextmanager
    def found(self) -> Iterator[dict[str, BpfMap]]:
        """The maps of an earlier agent, by name; none if there was no agent.

        Raises:
            AdoptionError: they are of another kind, or not all there.
        """
        with contextlib.ExitStack() as stack:
            maps: dict[str, BpfMap] = {}
            for name in MAPS if self._was_anyone() else ():
                maps[name] = BpfMap.pinned(self._folder / name)
                stack.callback(os.close, maps[name].fd)
            if maps:
                self._check(maps["stamp"])
                self.in_use = True
            yield maps

    def _was_anyone(self) -> bool:
        return self._folder.exists() or (self._pins / "xdp").exists()

    def _check(self, stamp: BpfMap) -> None:
        if bpf_object.map_shape(stamp.fd) != STAMP_SHAPE:
            raise AdoptionError("the stamp of the pinned maps is none")
        self._stamp.compare(stamp.lookup(bytes(4)) or bytes(STAMP.size))

    def keep(self, maps: Mapping[str, BpfMap]) -> None:
        """Pins new maps in the place of others; they count once they carry the stamp."""
        self.in_use = False
        self.remove()
        self._folder.mkdir(mode=0o700)
        for name in MAPS:
            maps[name].pin(self._folder / name)

    def put_to_use(self, maps: Mapping[str, BpfMap]) -> None:
        """From now on the next agent may go on with these maps."""
        if not self.in_use:
            maps["stamp"].update(bytes(4), self._stamp.pack())
            self.in_use = True

    def change_stamp(self, maps: Mapping[str, BpfMap], stamp: Stamp) -> None:
        """The maps are for other settings from now on."""
        self._stamp = stamp
        if self.in_use:
            maps["stamp"].update(bytes(4), stamp.pack())

    def remove(self) -> None:
        """The maps go with the last program that uses them."""
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class AdoptedHost:
    """Another host that was active when the agent before this one ended.

    Attributes:
        template: index of the headers that lead to it, or None.
    """

    host: int
    address: Address
    tunnel_port: int
    template: int | None


def active_hosts(
    owners: OwnerStates, peers: BpfMap, slots: TemplateSlots, settings: DataplaneSettings
) -> list[AdoptedHost]:
    """The other hosts that the maps know whole: active, and with the address of their tunnel.

    Raises:
        AdoptionError: the maps contradict themselves.
    """
    addresses = {}
    for key in peers.each_key():
        address = unpacked16(key)
        if address.version != settings.address.version:
            raise AdoptionError("the pinned map peers is of another underlay")
        addresses[PEER.unpack(peers.lookup(key) or bytes(PEER.size))[0]] = address
    found = []
    for host in range(HOST_MAX + 1):
        if host == settings.host or not owners.is_active(host) or host not in addresses:
            continue
        index = owners.state(host)[2]
        if index != NO_TEMPLATE and index >= TEMPLATES:
            raise AdoptionError("the pinned map owners is damaged")
        template = None if index == NO_TEMPLATE else index
        port = 0 if template is None else slots.tunnel_port(template)
        port = port or settings.tunnel_port
        found.append(AdoptedHost(host, addresses[host], port, template))
    return found


def forget_others(owners: OwnerStates, peers: BpfMap, kept: list[AdoptedHost], own: int) -> None:
    """Leaves no trace of hosts that are not kept, and no claim of the own host: its sockets are
    asked again, and its kernel for each packet until then."""
    known = {one.host for one in kept}
    addresses = {one.address for one in kept}
    for host in range(HOST_MAX + 1):
        _, flags, index = owners.state(host)
        if flags:
            owners.drop_previous(host)
        if host in known or (not flags and index == NO_TEMPLATE):
            continue
        owners.void(host)
        owners.set_template(host, None)
        if host != own:
            owners.deactivate(host)
    for key in list(peers.each_key()):
        if unpacked16(key) not in addresses:
            peers.delete(key)


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """Held by the one agent of a pin folder; the kernel lets go of a dead one's.

    Raises:
        HostError: another agent holds it, or there can be no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.fd = -1
        while not self._lock():
            """The one before removed the folder in this very moment: there is a new one."""
        _held.add(self)

    def _lock(self) -> bool:
        folder = netlink.ensure_bpffs(self._folder)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), folder.stat()):
                self.fd, fd = fd, -1
        except BlockingIOError:
            raise HostError(
                f"another agent runs with the pins {folder}: stop it first, or give each "
                "its own [dataplane] pins"
            ) from None
        except FileNotFoundError:
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        return self.fd >= 0

    def close(self) -> None:
        """Lets go of it, and removes the folder if nothing is pinned there. Repeatable."""
        if self.fd >= 0:
            remove_folder(self._folder)
            self.forget()

    def forget(self) -> None:
        """Closes this process's descriptor: the lock goes with the last one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def remove_folder(folder: Path) -> None:
    """Removes a host's pin folder, and the common one above it, if they are empty."""
    for candidate in (folder, folder.parent):
        try:
            candidate.rmdir()
        except OSError:
            return


def _forget_all() -> None:
    """A forked child has no agent: it must not hold a lock that outlives its parent."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
