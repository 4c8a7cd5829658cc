# SPDX-License-Identifier: BSD-2-Clause
"""One boot of the guest for all its tests, and the reports of each as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from tests.vm import image, packages
from tests.vm.machine import GuestError, Machine
from tests.vm.packages import ROOT, SUITE, CannotRunError

PORT: Final = "/dev/ttyS1"
TEST_S: Final = 120  # one test in the guest, which is ten to thirty times slower than this machine
LIMIT_S: Final = 900.0  # the guest's life
ARGUMENTS: Final = (
    "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-o", f"timeout={TEST_S}",
)  # fmt: skip


class GuestRun:
    """Boots on the first question."""

    def __init__(self, nodeids: list[str], suite: str = SUITE) -> None:
        self._nodeids = nodeids
        self._suite = suite  # of the kernel
        self._machine: Machine | None = None
        self._messages: Iterator[dict[str, Any]] = iter(())
        self._reports: dict[str, list[dict[str, Any]]] = {one: [] for one in nodeids}
        self._finished: set[str] = set()
        self._broken = ""
        self._told = False
        self._booted = ""
        self._versions = ""
        self._began = time.monotonic()

    @property
    def summary(self) -> str:
        """Versions, and how long it took."""
        took = time.monotonic() - self._began
        return f"{self._versions or 'none'}{self._booted}; {took:.0f} s"

    def _start(self) -> None:
        parts = packages.parts(self._suite)
        self._versions = str(parts)
        job = {
            "arguments": [*ARGUMENTS, *self._nodeids],
            "folder": str(ROOT),
            "environment": {"XG_GUEST_PORT": PORT, "HOME": "/root", "PYTEST_PLUGINS": ""},
        }
        self._machine = Machine(parts, image.build(parts), job)
        self._messages = self._machine.messages(LIMIT_S)

    def reports(self, nodeid: str) -> list[dict[str, Any]]:
        """All reports of a test; one that says why, if the guest cannot run it."""
        try:
            if self._machine is None and not self._broken:
                self._start()
            while nodeid not in self._finished and not self._broken:
                self._take(next(self._messages))
        except StopIteration:
            self._broken = "the guest ended before it ran this test"
        except (CannotRunError, GuestError) as error:
            self._broken = str(error)
        found = self._reports[nodeid]
        if self._broken and nodeid not in self._finished:
            found = [*found, self._failure(nodeid)]
        return found

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "booted":
            self._booted = f"; Linux {message['kernel']}, booted in {message['seconds']:.0f} s"
        elif kind == "report":
            self._reports.setdefault(message["report"]["nodeid"], []).append(message["report"])
        elif kind == "finished":
            self._finished.add(message["nodeid"])
        elif kind == "broken":
            raise GuestError(message["why"])

    def _failure(self, nodeid: str) -> dict[str, Any]:
        lines = "" if self._told or not self._machine else self._machine.last_lines()
        self._told = True
        sections = [["the guest's console", lines]] if lines else []
        return {
            "$report_type": "TestReport", "nodeid": nodeid, "location": [nodeid, 0, nodeid],
            "keywords": {}, "outcome": "failed", "longrepr": self._broken, "when": "call",
            "sections": sections, "user_properties": [], "duration": 0.0, "start": 0.0, "stop": 0.0,
        }  # fmt: skip

    def close(self) -> None:
        """Lets the guest end by itself if it is at its end, and ends it in any case."""
        if self._machine is None:
            return
        with suppress(GuestError, StopIteration):
            if not self._broken and self._finished >= set(self._nodeids):
                while True:
                    self._take(next(self._messages))
        self._machine.close()
