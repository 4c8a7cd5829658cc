# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks' own BPF and C programs: compiled on first use, loaded, attached, run live."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyxdp_gossip.bpf_object import BpfObject, checked, lib

HERE: Final = Path(__file__).resolve().parent
CSRC: Final = HERE.parent / "csrc"
BUILD: Final = HERE / "build"

# As setup.py compiles the package's own C.
C: Final = ("cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-fno-strict-aliasing", f"-I{CSRC}")
TABLE: Final = ("session_table", "session_room", "session_burst")

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
    inputs = [source]
    for folder in (CSRC, CSRC / "bpf", HERE / "csrc"):
        inputs += folder.glob("*.h")
    newest = max(path.stat().st_mtime for path in inputs)
    return target.exists() and target.stat().st_mtime > newest


def _compile(target: Path, source: Path, argv: list[str], *libraries: str | Path) -> None:
    if _is_fresh(target, source):
        return
    BUILD.mkdir(exist_ok=True)
    new = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run([*argv, source, "-o", new, *libraries], check=True)
    new.replace(target)


def load(name: str, max_entries: Mapping[str, int] | None = None) -> BpfObject:
    """Compiles bench/bpf/NAME.bpf.c if need be, and loads it with maps of these sizes."""
    argv = [
        "clang", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-O2", "-g",
        "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
        f"-I{CSRC}", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-c",
    ]  # fmt: skip
    _compile(BUILD / f"{name}.bpf.o", HERE / "bpf" / f"{name}.bpf.c", argv)
    # an absolute path takes the place of the package's folder
    return BpfObject(str(BUILD / name), max_entries=max_entries)


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


def pipeline_alone() -> Path:
    """Compiles the program that only forwards if need be."""
    return _program(BUILD / "pipeline_alone", C, _pipeline(), [])


def _pipeline() -> list[Path]:
    objects = [_object(CSRC / f"{name}.c") for name in (*TABLE, "forward", "flow_hashes")]
    return [*objects, _object(HERE / "csrc" / "lookup_pipeline.c")]


def lookup_peers() -> Path:
    """Compiles the contest of look-ups if need be, with those of the peers that are installed."""
    objects = _pipeline()
    defines, libraries = [], []
    dpdk = subprocess.run(["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True)
    if dpdk.returncode == 0:
        objects.append(_object(HERE / "csrc" / "lookup_rte.c", [*C, *dpdk.stdout.split()]))
        defines.append("-DWITH_DPDK")
        libraries += ["-lrte_hash", "-lrte_eal"]
    if Path("/usr/include/libcuckoo").is_dir():
        theirs = ["c++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-msse4.2", f"-I{CSRC}"]
        objects.append(_object(HERE / "csrc" / "lookup_cuckoo.cc", theirs))
        defines.append("-DWITH_CUCKOO")
        libraries += ["-lstdc++", "-lpthread"]
    target = BUILD / "-".join(["lookup_peers", *(one[7:].lower() for one in defines)])
    return _program(target, [*C, *defines], objects, libraries)


def table_sharing() -> Path:
    """Compiles the program whose readers share a table if need be."""
    objects = [_object(CSRC / f"{name}.c") for name in TABLE]
    return _program(BUILD / "table_sharing", C, objects, ["-lpthread"])


def _object(source: Path, argv: Sequence[str] = ()) -> Path:
    target = BUILD / f"{source.stem}.o"
    _compile(target, source, [*(argv or C), "-c"])
    return target


def _program(
    target: Path, argv: Sequence[str], objects: Sequence[Path], libraries: Sequence[str]
) -> Path:
    """Links a program; its source has the name up to the first hyphen."""
    if target.exists():
        made = target.stat().st_mtime
        if any(one.stat().st_mtime > made for one in objects):
            target.unlink()
    source = HERE / "csrc" / f"{target.name.partition('-')[0]}.c"
    _compile(target, source, [*argv], *objects, *libraries)
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
