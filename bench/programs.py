# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks' own BPF and C programs: compiled on first use, loaded, attached, run live."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyxdp_gossip.bpf_object import BpfObject, checked, lib

HERE: Final = Path(__file__).resolve().parent
CSRC: Final = HERE.parent / "csrc"
BUILD: Final = HERE / "build"

BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
BPF_PROG_TEST_RUN: Final = 10
LIVE_FRAMES: Final = 2  # BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18
LIVE_BATCH: Final = 256  # the most that the kernel allows; small batches cripple the sender
FRAME_BYTES: Final = 60
# bpf_attr of BPF_PROG_TEST_RUN: prog_fd, retval, data_size_in, data_size_out, data_in, data_out,
# repeat, duration, ctx_size_in, ctx_size_out, ctx_in, ctx_out, flags, cpu, batch_size
TEST_RUN: Final = struct.Struct("=IIIIQQIIIIQQIIII")

_libc = ctypes.CDLL(None, use_errno=True)


def _is_fresh(target: Path, source: Path) -> bool:
    inputs = [source, *CSRC.glob("*.h"), *(CSRC / "bpf").glob("*.h")]
    newest = max(path.stat().st_mtime for path in inputs)
    return target.exists() and target.stat().st_mtime > newest


def _compile(target: Path, source: Path, argv: list[str], *libraries: str) -> None:
    if _is_fresh(target, source):
        return
    BUILD.mkdir(exist_ok=True)
    new = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run([*argv, str(source), "-o", str(new), *libraries], check=True)
    new.replace(target)


def load(name: str) -> BpfObject:
    """Compiles bench/bpf/NAME.bpf.c if need be, and loads it."""
    argv = [
        "clang", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-O2", "-g",
        "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
        f"-I{CSRC}", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-c",
    ]  # fmt: skip
    _compile(BUILD / f"{name}.bpf.o", HERE / "bpf" / f"{name}.bpf.c", argv)
    return BpfObject(str(BUILD / name))  # an absolute path takes the place of the package's folder


def forwarder() -> Path:
    """Compiles the plain AF_XDP forwarder if need be."""
    target = BUILD / "plain_forwarder"
    source = HERE / "csrc" / "plain_forwarder.c"
    _compile(target, source, ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra"], "-lxdp", "-lbpf")
    return target


def opener() -> Path:
    """Compiles the program that opens connections if need be."""
    target = BUILD / "opener"
    argv = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    _compile(target, HERE / "csrc" / "opener.c", argv)
    return target


@contextmanager
def attached(program_fd: int, ifindex: int) -> Iterator[None]:
    """A program on an interface of the calling thread's namespace, in native mode; it goes with
    this process at the latest."""
    link = lib.xg_link_create(program_fd, ifindex, lib.BPF_XDP, lib.XDP_FLAGS_DRV_MODE)
    checked("attach XDP (native)", link)
    try:
        yield
    finally:
        os.close(link)


def run_live(program_fd: int, frames: int) -> None:
    """Runs an XDP program on so many live frames in the calling thread's namespace and CPU.

    Raises:
        OSError: the kernel refused; EINTR, a signal came.

    Source: Documentation/bpf/bpf_prog_run.rst of the kernel, "Running XDP programs in live
    frame mode".
    """
    frame = ctypes.create_string_buffer(FRAME_BYTES)
    packed = TEST_RUN.pack(
        program_fd, 0, FRAME_BYTES, 0, ctypes.addressof(frame), 0,
        frames, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, LIVE_BATCH, 0,
    )  # fmt: skip
    attributes = ctypes.create_string_buffer(packed)
    rc = _libc.syscall(
        BPF_SYSCALL[platform.machine()], BPF_PROG_TEST_RUN, attributes, TEST_RUN.size
    )
    if rc < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"BPF_PROG_TEST_RUN with live frames: {os.strerror(code)}")
