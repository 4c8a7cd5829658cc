# SPDX-License-Identifier: BSD-2-Clause
"""Where the AF_XDP loops run and where their memory lies: CPUs, and the NUMA node of the device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyxdp_gossip.errors import HostError

SYS: Final = Path("/sys")


def device_node(interface: str, sys: Path = SYS) -> int | None:
    """The NUMA node of an interface's device; None: it has none (veth), or there is only one.

    Args:
        sys: where sysfs is mounted; a test makes its own.
    """
    nodes = [one for one in sys.glob("devices/system/node/node*") if one.name[4:].isdigit()]
    if len(nodes) < 2:
        return None
    with contextlib.suppress(OSError, ValueError):
        node = int((sys / "class/net" / interface / "device/numa_node").read_text())
        if node in (int(one.name[4:]) for one in nodes):
            return node
    return None


def check_cpus(cpus: Sequence[int]) -> None:
    """Raises HostError if this process may not run on one of these CPUs."""
    allowed = os.sched_getaffinity(0)
    for cpu in cpus:
        if cpu not in allowed:
            raise HostError(
                f"[dataplane] cpus: CPU {cpu} is not one of this process's: "
                f"{', '.join(map(str, sorted(allowed)))}"
            )


def pin_this_thread(cpu: int) -> None:
    """From now on the calling thread runs on this CPU alone; the others stay where they are."""
    os.sched_setaffinity(0, {cpu})
