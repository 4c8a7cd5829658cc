# SPDX-License-Identifier: BSD-2-Clause
"""Compiles and runs the C test programs of tests/c under AddressSanitizer and UBSan."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FLAGS = (
    "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
)  # fmt: skip


# Removed when the test run ends.
_FOLDER = TemporaryDirectory(prefix="xg-c-")


@cache
def build(name: str, compiler: str = "gcc", sources: tuple[str, ...] = ()) -> Path:
    """Compiles tests/c/NAME.c with `sources` of csrc, once a test run; the program's path."""
    target = Path(_FOLDER.name) / f"{name}-{compiler}"
    files = [ROOT / "tests" / "c" / f"{name}.c", *(ROOT / "csrc" / source for source in sources)]
    words = [compiler, *FLAGS, f"-I{ROOT / 'csrc'}", *map(str, files), "-o", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(program: Path, *arguments: str, data: bytes = b"") -> str:
    """Runs a program that must succeed; what it printed."""
    done = subprocess.run([program, *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()
