# SPDX-License-Identifier: BSD-2-Clause
"""The initramfs format (cpio "newc"): files, folders and links, each once, with their parents."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

# Documentation/driver-api/early-userspace/buffer-format.rst of the kernel
MAGIC = "070701"
END = "TRAILER!!!"


class Archive:
    """An archive in the making, in an open file; `close()` ends it.

    Several archives one after the other are one initramfs.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._names: set[str] = set()
        self._number = 0

    def add(self, path: Path) -> None:
        """A file or a link of this machine under its own path, with what its links lead to."""
        if not self._new(str(path)):
            return
        parent = path.parent
        if parent.is_symlink() or parent.resolve() != parent:
            self._names.discard(str(path))
            self._names.add(str(path))
            self._linked_parents(parent)
            self.add(parent.resolve() / path.name)
            return
        self._parents(path)
        status = path.lstat()
        if path.is_symlink():
            target = os.readlink(path)
            self._entry(str(path), stat.S_IFLNK | 0o777, target.encode())
            self.add(parent.joinpath(target) if not target.startswith("/") else Path(target))
        elif path.is_dir():
            self._entry(str(path), stat.S_IFDIR | 0o755, b"")
        else:
            mode = stat.S_IFREG | stat.S_IMODE(status.st_mode)
            self._entry(str(path), mode, path.read_bytes(), int(status.st_mtime))

    def _linked_parents(self, folder: Path) -> None:
        """The links that lie on the way to a folder."""
        for one in reversed([folder, *folder.parents]):
            if one.is_symlink():
                self.add(one)

    def write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file that this machine does not have."""
        if self._new(name):
            self._parents(Path(name))
            self._entry(name, stat.S_IFREG | mode, content)

    def folder(self, name: str) -> None:
        """An empty folder."""
        self._parents(Path(name) / "x")

    def close(self) -> None:
        """Ends the archive; the file stays open."""
        self._entry(END, 0, b"")

    def _new(self, name: str) -> bool:
        before = len(self._names)
        self._names.add(name)
        return len(self._names) > before

    def _parents(self, path: Path) -> None:
        for folder in reversed(path.parents[:-1]):
            if self._new(str(folder)):
                self._entry(str(folder), stat.S_IFDIR | 0o755, b"")

    def _entry(self, name: str, mode: int, content: bytes, mtime: int = 0) -> None:
        self._number += 1
        encoded = name.lstrip("/").encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        words = (
            self._number, mode, 0, 0, links, mtime, len(content), 0, 0, 0, 0, len(encoded), 0,
        )  # fmt: skip
        head = MAGIC.encode() + b"".join(b"%08X" % word for word in words) + encoded
        for part in (head, content):
            self._file.write(part + bytes(-len(part) % 4))
