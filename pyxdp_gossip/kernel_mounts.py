# SPDX-License-Identifier: BSD-2-Clause
"""Finds the cgroup v2 tree and makes sure of a BPF file system, by the kernel's mount table."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyxdp_gossip.errors import HostError

# Not /proc/self: a thread may have a mount namespace of its own.
MOUNTS = Path("/proc/thread-self/mounts")
BPFFS = Path("/sys/fs/bpf")

# Pins are maps that decide where packets go: nobody but root may open or replace them.
BPFFS_MODE = 0o700


def mount_points(text: str) -> list[tuple[Path, str]]:
    """(mount point, file system type) of each line of /proc/mounts, in mount order.

    Source: proc(5): space, tab, newline and backslash are octal escapes.
    """
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 3:
            plain = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
            found.append((Path(plain), fields[2]))
    return found


def type_at(path: Path, mounts: list[tuple[Path, str]]) -> str:
    """The type of the file system that `path` (absolute, without links) lies on, or "".

    Of two file systems mounted on one folder the later one counts: it hides the other.
    """
    depth, kind = -1, ""
    for point, point_kind in mounts:
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), point_kind
    return kind


def cgroup2_mount() -> Path:
    """Where cgroup v2 is mounted; /sys/fs/cgroup on most systems, not on hybrid ones.

    Raises:
        HostError: it is not mounted.
    """
    mounts = mount_points(MOUNTS.read_text())
    for point, kind in mounts:
        if kind == "cgroup2" and type_at(point, mounts) == "cgroup2":
            return point
    raise HostError(
        "cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified, or set "
        "dataplane.cgroup"
    )


def ensure_bpffs(path: Path) -> Path:
    """Makes the folder `path` on a BPF file system, which is mounted at /sys/fs/bpf if need be.

    Returns:
        `path`, absolute and without links.

    Raises:
        HostError: `path` lies elsewhere, or the mount or the folder was refused.
    """
    path = path.resolve()
    try:
        if type_at(path, mount_points(MOUNTS.read_text())) != "bpf":
            if not path.is_relative_to(BPFFS):
                raise HostError(
                    f"{path} is not on a BPF file system: use a folder below {BPFFS}, "
                    f"or mount one there: mount -t bpf bpf {path}"
                )
            _mount_bpffs()
        path.mkdir(mode=BPFFS_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error
    return path


def _refused(path: Path, error: OSError) -> HostError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return HostError(f"cannot use {path} for BPF pins: CAP_SYS_ADMIN is missing; run as root")
    return HostError(f"cannot use {path} for BPF pins: {error.strerror}")


def _mount_bpffs() -> None:
    """Mounts it unless an agent that started in the same moment did."""
    libc = ctypes.CDLL(None, use_errno=True)
    with _locked(BPFFS):
        if type_at(BPFFS, mount_points(MOUNTS.read_text())) == "bpf":
            return
        options = f"mode={BPFFS_MODE:o}".encode()
        if libc.mount(b"bpf", str(BPFFS).encode(), b"bpf", ctypes.c_ulong(0), options) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder: a second mount would hide the first and its pins."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
