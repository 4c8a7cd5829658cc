# SPDX-License-Identifier: BSD-2-Clause
"""Builds the Cython extension under AddressSanitizer and UBSan; runs pytest files against it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CSRC: Final = ROOT / "csrc"
CACHE: Final = ROOT / "build" / "sanitized"
FLAGS: Final = (
    "-std=gnu11", "-O1", "-g1", "-fPIC", "-w", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DXG_LAYOUT_DIGEST=1ull",
)  # fmt: skip

# The package finds this extension in the place of its own. Arguments: its file, then pytest's.
CHILD: Final = """
import importlib.util, sys
name = "pyxdp_gossip._native"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]])
assert sys.modules[name].__file__ == sys.argv[1]
sys.exit(status)
"""


def _compile(source: Path, target: Path, headers: Path) -> None:
    includes = (f"-I{headers}", f"-I{sysconfig.get_path('include')}")
    words = ["gcc", *FLAGS, *includes, "-c", str(source), "-o", str(target)]
    subprocess.run(words, check=True)


def _link(objects: list[Path], target: Path) -> Path:
    new = target.with_suffix(".new")
    subprocess.run(["gcc", "-shared", *FLAGS, *map(str, objects), "-o", str(new)], check=True)
    return new.replace(target)


def _digest() -> str:
    """Of all that is compiled."""
    files = (
        *sorted(CSRC.rglob("*.[ch]")),
        *sorted((ROOT / "pyxdp_gossip").glob("_native*.p[yx]*")),
    )
    found = hashlib.sha256("\n".join((*FLAGS, sys.version)).encode())
    for path in files:
        found.update(f"{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def build() -> Path:
    """The extension, its objects beside it; compiled once for each state of the source."""
    folder = CACHE / _digest()
    target = folder / "_native.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    native = folder / "_native.c"
    cython = [sys.executable, "-m", "cython", str(ROOT / "pyxdp_gossip" / "_native.pyx")]
    subprocess.run([*cython, "-o", str(native)], check=True)
    sources = [native, *sorted(CSRC.glob("*.c"))]
    for source in sources:
        _compile(source, folder / f"{source.stem}.o", CSRC)
    return _link([folder / f"{source.stem}.o" for source in sources], target)


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
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    words = [sys.executable, "-c", CHILD, str(extension), *arguments]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
