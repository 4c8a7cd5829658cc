# SPDX-License-Identifier: BSD-2-Clause
"""Builds the three compiled parts: the Cython extension, the cffi module and the BPF objects."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BPF_OBJECTS = ("redirect", "sessions", "observer", "xsk_all")
INCLUDES = (Path("/usr/include"), Path("/usr/local/include"))

# What must be there, and the Debian package that brings it.
NEEDED_HEADERS = {
    "bpf/bpf_helpers.h": "libbpf-dev",
    "xdp/xsk.h": "libxdp-dev",
    "linux/bpf.h": "linux-libc-dev",
}
NEEDED_PROGRAMS = {"clang": "clang", "cc": "gcc"}


def missing_packages() -> list[str]:
    """Names the Debian packages that the build lacks, sorted."""
    headers = {
        package
        for header, package in NEEDED_HEADERS.items()
        if not any((include / header).exists() for include in INCLUDES)
    }
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        headers.add("python3-dev")
    programs = {
        package for program, package in NEEDED_PROGRAMS.items() if shutil.which(program) is None
    }
    return sorted(headers | programs)


def require_packages() -> None:
    missing = missing_packages()
    if missing:
        sys.exit(f"pyxdp-gossip: missing system packages; run: apt-get install {' '.join(missing)}")


def build_bpf(target_dir: Path) -> None:
    """Compiles csrc/bpf/*.bpf.c into target_dir; clang's own messages say what is wrong."""
    target_dir.mkdir(parents=True, exist_ok=True)
    for name in BPF_OBJECTS:
        source = ROOT / "csrc" / "bpf" / f"{name}.bpf.c"
        subprocess.run(
            [
                "clang", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-O2", "-g",
                "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
                f"-ffile-prefix-map={ROOT}=.",
                f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'bpf'}",
                "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu",
                "-c", str(source), "-o", str(target_dir / f"{name}.bpf.o.new"),
            ],
            check=True,
        )  # fmt: skip
        (target_dir / f"{name}.bpf.o.new").replace(target_dir / f"{name}.bpf.o")


class BuildAll(build_ext):
    """build_ext that also compiles the BPF objects, into the package itself."""

    def run(self) -> None:
        require_packages()
        build_bpf(ROOT / "pyxdp_gossip" / "bpf")
        if not self.inplace and not self.editable_mode:
            built = Path(self.build_lib) / "pyxdp_gossip" / "bpf"
            built.mkdir(parents=True, exist_ok=True)
            for name in BPF_OBJECTS:
                shutil.copy(ROOT / "pyxdp_gossip" / "bpf" / f"{name}.bpf.o", built)
        super().run()

    def copy_extensions_to_source(self) -> None:
        """Replaces the old modules rather than write into them: a running agent maps them."""
        for module in (ROOT / "pyxdp_gossip").glob("*.so"):
            module.unlink()
        super().copy_extensions_to_source()


def layout_digest() -> int:
    """64 bits that name what lies in the maps, and how: another build with the same may go on
    with them. Rather too many files than too few: a needless rebuild of the maps costs little.
    """
    shared = (
        "xg_types.h", "stats.h", "services.h", "session_lookup.h", "siphash.h", "header_template.h",
        "encapsulation.h", "quic_lb.h",
    )  # fmt: skip
    digest = hashlib.sha256()
    for path in (
        *(ROOT / "csrc" / name for name in shared),
        *sorted((ROOT / "csrc" / "bpf").glob("*.h")),
    ):
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return int.from_bytes(digest.digest()[:8], "big")


NATIVE = Extension(
    "pyxdp_gossip._native",
    sources=[
        "pyxdp_gossip/_native.pyx",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.c")),
    ],
    depends=[
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h")),
        "pyxdp_gossip/_native.pxd",
        *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("pyxdp_gossip/_native*.pxi")),
    ],
    include_dirs=["csrc"],
    define_macros=[("XG_LAYOUT_DIGEST", f"0x{layout_digest():016x}ull")],
    extra_compile_args=[
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-fno-strict-aliasing",
        "-fvisibility=hidden",  # or calls between files are not inlined
        "-flto",  # codec, merge and table are one loop: a third faster as one piece
        *os.environ.get("XG_CFLAGS", "").split(),
    ],
    extra_link_args=["-flto"],
)

RINGS = Extension(
    "pyxdp_gossip._rings",
    sources=["pyxdp_gossip/_rings.pyx"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fno-strict-aliasing"],
)

setup(
    ext_modules=[NATIVE, RINGS],
    cffi_modules=["pyxdp_gossip/_libxdp_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildAll},
)
