# SPDX-License-Identifier: BSD-2-Clause
"""A guest under QEMU: boots an image with a job, hands out the lines it says, and ends in time.

Emulated (TCG), not virtualised: /dev/kvm may be there and yet not work. The NICs lie on hubs in
QEMU, and nothing of them is seen by this machine; or on a tap device in a namespace of a test's.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from tests.vm.cpio import Archive
from tests.vm.packages import CACHE, CannotRunError, Parts

MEMORY: Final = "1G"
CPUS: Final = "2"
NICS: Final = 4  # in pairs, each pair on a hub of its own
# An oops ends the guest; without the others the start takes longer, and tests wait for RCU.
COMMAND_LINE: Final = (
    "console=ttyS0 rdinit=/init oops=panic panic=-1 loglevel=4 mitigations=off nokaslr audit=0 "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on no_timer_check tsc=reliable"
)
# Both are needed for zero-copy beside queue_reset, which is the default.
NIC: Final = "virtio-net-pci,iommu_platform=on,disable-legacy=on,romfile="
LAST_LINES: Final = 40


def hub_nics() -> list[str]:
    """QEMU's words for NICS on hubs."""
    words = []
    for number in range(NICS):
        words += ["-netdev", f"hubport,id=n{number},hubid={number // 2}"]
        words += ["-device", f"{NIC},netdev=n{number},mac=02:00:00:00:0a:0{number + 1}"]
    return words


def tap_nic(tap: str, mac: str, queues: int) -> list[str]:
    """QEMU's words for a NIC with several queues, on a tap device of the namespace it runs in."""
    backend = f"tap,id=t0,ifname={tap},queues={queues},script=no,downscript=no,vhost=off"
    # a vector for each queue's two rings, one for the control queue, one for changes
    device = f"{NIC},netdev=t0,mac={mac},mq=on,vectors={2 * queues + 2}"
    return ["-netdev", backend, "-device", device]


class GuestError(Exception):
    """The guest ended, or said nothing for too long; the end of its console is with it."""


class Machine:
    """One run of a guest; use as a context manager.

    Args:
        nics: QEMU's words for its network.
        namespace: the network namespace in which QEMU runs, if not in this process's.
        name: of its console's file.

    Attributes:
        console: the file with what the kernel and the tests printed.
    """

    def __init__(
        self,
        parts: Parts,
        images: list[Path],
        job: dict[str, Any],
        nics: Sequence[str] = (),
        namespace: str = "",
        name: str = "console",
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="guest-", dir=CACHE))
        self.console = CACHE / f"{name}.log"
        self._pending = b""
        self._lines: deque[bytes] = deque()
        self._nics = list(nics) or hub_nics()
        self._enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        try:
            initrd = self._initrd(images, job)
            self._process = self._start(parts, initrd)
        except BaseException:
            self.close()
            raise

    def _initrd(self, images: list[Path], job: dict[str, Any]) -> Path:
        initrd = self._folder / "initrd"
        with initrd.open("wb") as file:
            for image in images:
                with image.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            archive = Archive(file)
            archive.write("/job.json", json.dumps(job).encode())
            archive.close()
        return initrd

    def _start(self, parts: Parts, initrd: Path) -> subprocess.Popen[bytes]:
        words = [
            "setpriv", "--pdeathsig", "KILL",  # the guest must not outlive a killed test run
            *self._enter, parts.qemu, *(word for one in parts.firmware for word in ("-L", one)),
            "-M", "q35,accel=tcg", "-cpu", "max", "-m", MEMORY, "-smp", CPUS,
            "-display", "none", "-no-reboot", "-nodefaults",
            "-kernel", str(parts.kernel), "-initrd", str(initrd), "-append", COMMAND_LINE,
            "-serial", f"file:{self.console}", "-serial", "stdio",
            *self._nics,
        ]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": parts.libraries}
        try:
            return subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=environment,
            )  # fmt: skip
        except OSError as error:
            raise CannotRunError(f"{parts.qemu}: {error}") from None

    def messages(self, limit_s: float) -> Iterator[dict[str, Any]]:
        """What the guest says, until it ends.

        Raises:
            GuestError: it ended before it said so, or it took longer than `limit_s`.
        """
        until = time.monotonic() + limit_s
        while True:
            message = self._next(until, limit_s)
            yield message
            if message["kind"] == "ended":
                return

    def _next(self, until: float, limit_s: float) -> dict[str, Any]:
        output: BinaryIO = self._process.stdout  # type: ignore[assignment]
        while not self._lines:
            left = until - time.monotonic()
            if left <= 0:
                raise GuestError(f"the guest took more than {limit_s:.0f} s")
            if not select.select([output], [], [], left)[0]:
                continue
            got = os.read(output.fileno(), 1 << 16)
            if not got:
                raise GuestError(f"the guest died: {self._reason()}")
            *lines, self._pending = (self._pending + got).split(b"\n")
            self._lines.extend(lines)
        found: dict[str, Any] = json.loads(self._lines.popleft())
        return found

    def ask(self, question: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """One line to the guest, and the line that it answers.

        Raises:
            GuestError: it is gone, or did not answer in time.
        """
        stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise GuestError(f"the guest died: {self._reason()}") from None
        return self._next(time.monotonic() + limit_s, limit_s)

    def _reason(self) -> str:
        self._process.wait()
        error: BinaryIO = self._process.stderr  # type: ignore[assignment]
        lines = error.read().decode(errors="replace").splitlines()
        said = [line for line in lines if "warning:" not in line]  # of hubs that lead nowhere
        return said[-1] if said else f"see {self.console}"

    def last_lines(self) -> str:
        """The end of what kernel and tests printed."""
        if not self.console.exists():
            return ""
        lines = self.console.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def close(self) -> None:
        """Ends QEMU, if it runs still."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process:
            process.kill()
            process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
