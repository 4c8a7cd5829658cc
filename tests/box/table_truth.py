# SPDX-License-Identifier: BSD-2-Clause
"""What every host's table should say, by the kernels' sockets, and what its memory does say.

Reads the pinned maps word by word: nothing of the project decides what is an entry, and nothing is
written beside the agent. `ss` tells the sockets.
"""

import os
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from struct import Struct

from pyxdp_gossip.bpf_object import BpfMap
from pyxdp_gossip.popbox import Box, leftovers, names
from tests.box.host_maps import SLOTS

LIMIT_S = 30.0  # for what takes less than a second: two cores run eight agents and a crowd
POLL_S = 0.05
KEY_BYTES = {4: 8, 6: 24}
ENTRIES_A_BUCKET = 4
META = Struct("=IHBB")  # check, owner, epoch, flags: the last word of an entry
OWNER = Struct("=BBHI")  # epoch, flags, template, reserved
USED, LINGER = 0x80, 0x01  # XG_META_USED, XG_META_LINGER
ACTIVE, PREVIOUS = 0x01, 0x02  # XG_OWNER_ACTIVE, XG_OWNER_PREVIOUS
NOBODY = 0xFFFF  # XG_HOST_UNOWNED
PORT = Struct("!H")

Owners = dict[bytes, int]
"""Session key to host."""


def _values(host: int, name: str) -> tuple[int, bytes]:
    """The size of a value, and all values of one of a host's pinned maps."""
    pins = leftovers.pin_folder(os.getpid()) / f"host-{host}" / "maps"
    found = BpfMap.pinned(pins / name)
    try:
        with found.memory() as memory:
            return found.value_size, bytes(memory)
    finally:
        os.close(found.fd)


def _counts(owner: int, epoch: int, states: bytes) -> bool:
    """Whether an entry of an owner's epoch is valid."""
    now, flags, _, _ = OWNER.unpack_from(states, owner * OWNER.size)
    previous = bool(flags & PREVIOUS) and epoch == (now - 1) & 0xFF
    return bool(flags & ACTIVE) and (epoch == now or previous)


def table_of(host: int) -> Owners:
    """The open sessions that a host's two tables show."""
    _, states = _values(host, "owners")
    shown: Owners = {}
    for family, key_bytes in KEY_BYTES.items():
        bucket_bytes, memory = _values(host, f"sessions{family}")
        entry_bytes = bucket_bytes // ENTRIES_A_BUCKET
        for at in range(bucket_bytes, len(memory) - entry_bytes + 1, entry_bytes):
            _, owner, epoch, flags = META.unpack_from(memory, at + key_bytes)
            open_entry = flags & USED and not flags & LINGER and owner != NOBODY
            if open_entry and _counts(owner, epoch, states):
                shown[memory[at : at + key_bytes]] = owner
    return shown


def _key(peer: str) -> bytes:
    """The session key of a socket's other end, as `ss` writes it."""
    host, _, port = peer.rpartition(":")
    address = ip_address(host.strip("[]"))
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    family = address.version
    tail = PORT.pack(int(port)) + SLOTS[family].to_bytes(2, "little")
    return (address.packed + tail).ljust(KEY_BYTES[family], b"\0")


def sockets_of(box: Box, hosts: Iterable[int]) -> Owners:
    """The established connections of the service in the kernels of these hosts."""
    found: Owners = {}
    show = ["ss", "-Htn", "state", "established", "sport", "=", f":{names.VIP_PORT}"]
    for host in hosts:
        for line in box.run_in(box.host_namespace(host), show).splitlines():
            found[_key(line.split()[-1])] = host
    return found


def differences(box: Box) -> list[str]:
    """How the tables of the live hosts differ from their kernels' sockets, a line a host."""
    truth = sockets_of(box, box.live_hosts())
    found = []
    for host in box.live_hosts():
        shown = table_of(host)
        missing = len(truth.keys() - shown.keys())
        extra = len(shown.keys() - truth.keys())
        wrong = sum(shown[key] != truth[key] for key in truth.keys() & shown.keys())
        if missing or extra or wrong:
            found.append(
                f"host {host}: {missing} of {len(truth)} missing, {wrong} wrong, {extra} extra"
            )
    return found


def wait_truth(box: Box) -> int:
    """Until every table equals all kernels' sockets; how many there are."""
    deadline = time.monotonic() + LIMIT_S
    while found := differences(box):
        assert time.monotonic() < deadline, "; ".join(found)
        time.sleep(POLL_S)
    return len(sockets_of(box, box.live_hosts()))
