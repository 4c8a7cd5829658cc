# SPDX-License-Identifier: BSD-2-Clause
"""Builds the Cython extension under AddressSanitizer and UBSan; runs pytest files against it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests import examples

ROOT: Final = Path(__file__).parents[1]
CSRC: Final = ROOT / "csrc"
CACHE: Final = ROOT / "build" / "sanitized"
FLAGS: Final = (
    "-std=gnu11", "-g1", "-fPIC", "-w", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DXG_LAYOUT_DIGEST=1ull",
)  # fmt: skip
FEWER: Final = 10  # examples of each property: the runs without sanitizers try them all

# The package finds this extension in the place of its own. Arguments: its file, then pytest's.
# Pytest leaves file descriptor 2 alone, or it would take the sanitizer's report to its grave.
CHILD: Final = """
import importlib.util, sys
name = "pyxdp_gossip._native"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
options = ["-v", "-x", "--capture=sys", "-p", "no:cacheprovider"]
status = pytest.main([*options, *sys.argv[2:]])
assert sys.modules[name].__file__ == sys.argv[1]
sys.exit(status)
"""


def _compile(source: Path, target: Path, headers: Path) -> None:
    includes = (f"-I{headers}", f"-I{sysconfig.get_path('include')}")
    # Cython's file is large: optimizing it takes longer than it saves here.
    level = "-O0" if source.stem == "_native" else "-O1"
    words = ["gcc", level, *FLAGS, *includes, "-c", str(source), "-o", str(target)]
    subprocess.run(words, check=True)


def _link(objects: list[Path], target: Path) -> Path:
    subprocess.run(["gcc", "-shared", *FLAGS, *map(str, objects), "-o", str(target)], check=True)
    return target


def _digest() -> str:
    """Of all that is compiled, and how."""
    files = (
        Path(__file__),
        *sorted(CSRC.rglob("*.[ch]")),
        *sorted((ROOT / "pyxdp_gossip").glob("_native*.p[yx]*")),
    )
    found = hashlib.sha256("\n".join((*FLAGS, sys.version)).encode())
    for path in files:
        found.update(f"{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _build_in(folder: Path) -> None:
    native = folder / "_native.c"
    cython = [sys.executable, "-m", "cython", str(ROOT / "pyxdp_gossip" / "_native.pyx")]
    subprocess.run([*cython, "-o", str(native)], check=True)
    sources = [native, *sorted(CSRC.glob("*.c"))]
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as compilers:
        list(compilers.map(_compile, sources, objects, [CSRC] * len(sources)))
    _link(objects, folder / "_native.so")


def build() -> Path:
    """The extension, its objects beside it; compiled once for each state of the source.

    Two processes may build at once: each in a folder of its own, and the first one to end wins.
    """
    folder = CACHE / _digest()
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
        try:
            _build_in(unfinished)
            unfinished.replace(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder / "_native.so"


def rebuilt_with(source: Path, headers: Path, folder: Path) -> Path:
    """The extension with one source of another folder, compiled against that folder's headers."""
    objects = [path for path in build().parent.glob("*.o") if path.stem != source.stem]
    changed = folder / f"{source.stem}.o"
    _compile(source, changed, headers)
    return _link([*objects, changed], folder / "_native.so")


def run_pytest(extension: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Pytest in a child whose `pyxdp_gossip._native` is this one; any report ends it by status."""
    asked = ["gcc", "-print-file-name=libasan.so"]
    runtime = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        # Short stacks of allocations: Python makes many, and each would be walked.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=2",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        examples.DIVISOR: str(FEWER),
    }
    words = [sys.executable, "-c", CHILD, str(extension), *arguments]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
