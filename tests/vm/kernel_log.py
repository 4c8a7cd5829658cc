# SPDX-License-Identifier: BSD-2-Clause
"""A guest's kernel log, read from a moment on; and what in it no test may cause."""

from __future__ import annotations

import os
import re
from typing import Final

# Priorities of the kernel's log that no test may cause: errors and worse, and a warning's trace.
ERROR: Final = 3
TRACE: Final = re.compile(r"WARNING: |BUG: |Call Trace|page_pool.*stalled")


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> list[str]:
        """All records since the last call: priority, a space, text."""
        found = []
        while True:
            try:
                head, text = os.read(self._fd, 8192).decode(errors="replace").split(";", 1)
            except BlockingIOError:
                return found
            found.append(f"{int(head.split(',')[0]) & 7} {text.splitlines()[0]}")

    def complaints(self) -> list[str]:
        """Those of them that no test may cause."""
        return [one for one in self.lines() if int(one[0]) <= ERROR or TRACE.search(one)]

    def close(self) -> None:
        """No more is read."""
        os.close(self._fd)
