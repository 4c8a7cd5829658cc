# SPDX-License-Identifier: BSD-2-Clause
"""The guest's first process: mounts, loads the modules, runs the tests, and turns the guest off.

It runs before anything is set up, so it uses only the standard library. The tests' reports leave by
the second serial port, a line of JSON each; the kernel's own words by the first.
"""

import ctypes
import glob
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

MOUNTS = (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
)  # fmt: skip
JOB = "/job.json"
PORT = "/dev/ttyS1"
FINIT_MODULE = 313  # x86_64; libc has no name for it
RB_POWER_OFF = 0x4321FEDC
RB_AUTOBOOT = 0x01234567

libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: str) -> None:
    os.makedirs(place, exist_ok=True)
    if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)


def load(path: str) -> None:
    with open(path, "rb") as file:
        if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def start() -> None:
    for kind, place in MOUNTS:
        mount(kind, place)
    for path in sorted(glob.glob("/modules/*.ko")):
        load(path)


def say(**what: object) -> None:
    with open(PORT, "w") as port:
        port.write(json.dumps(what) + "\n")


def main() -> None:
    start()
    job = json.loads(Path(JOB).read_text())
    say(kind="booted", seconds=time.clock_gettime(time.CLOCK_BOOTTIME), kernel=os.uname().release)
    with open("/dev/ttyS0", "wb", buffering=0) as console:
        done = subprocess.run(
            [sys.executable, *job["arguments"]], cwd=job["folder"], stdin=subprocess.DEVNULL,
            stdout=console, stderr=console, check=False,
            env={**job["environment"], "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"},
        )  # fmt: skip
    say(kind="ended", code=done.returncode)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        if os.path.exists(PORT):
            say(kind="broken", why=traceback.format_exc().strip().splitlines()[-1])
    os.sync()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    libc.reboot(RB_AUTOBOOT)  # with QEMU's -no-reboot this is the quick way off
