# SPDX-License-Identifier: BSD-2-Clause
"""What is installed: a source distribution builds a wheel, and the wheel works by itself.

Built with this environment's own tools, so that no network is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OBJECTS = {f"pyxdp_gossip/bpf/{name}.bpf.o" for name in ("redirect", "sessions", "observer")}

BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"

# The package must be the installed one, and its objects must load.
USE = """
import sys, pyxdp_gossip
from pyxdp_gossip import cli
from pyxdp_gossip.bpf_object import BpfObject
assert pyxdp_gossip.__file__.startswith(sys.argv[1]), pyxdp_gossip.__file__
for name in ("redirect", "sessions", "observer"):
    BpfObject(name).close()
"""


def run(*words: str, cwd: Path, path: str = "") -> str:
    """A program that must succeed; what it printed."""
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def tracked() -> set[str]:
    """The files that git tracks, as far as they are there."""
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of a copy of the tracked files: nothing built lies there."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in tracked():
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    run("-c", BUILD_SDIST, str(target), cwd=source)
    (archive,) = target.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution."""
    target = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(target)]
    run("-m", "pip", "wheel", *options, str(sdist), cwd=target)
    (built,) = target.glob("*.whl")
    return built


def test_a_source_distribution_holds_every_tracked_file(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert tracked() - names == set()
    assert not any(name.endswith((".o", ".so", ".pyc")) for name in names)


def test_a_wheel_holds_the_bpf_objects_and_nothing_outside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= OBJECTS
    assert "pyxdp_gossip/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert all(top.startswith(("pyxdp_gossip-", "pyxdp_gossip")) for top in tops), tops


def test_an_installed_wheel_works_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    options = ["-q", "--no-deps", "--no-index", "--target", str(place)]
    run("-m", "pip", "install", *options, str(wheel), cwd=tmp_path)
    run("-c", USE, str(place), cwd=tmp_path, path=str(place))
    version = run("-m", "pyxdp_gossip", "--version", cwd=tmp_path, path=str(place))
    assert version.startswith("pyxdp-gossip, version ")
    assert (place / "bin" / "pyxdp-gossip").is_file()
