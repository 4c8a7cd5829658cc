# SPDX-License-Identifier: BSD-2-Clause
"""The guest's files: this machine's Python, tools and packages, the project, the kernel's modules.

Everything keeps its path, so that the guest's Python finds it as this machine's does. The image is
an initramfs of parts, not compressed, for emulation would make unpacking slow: `kernel` (one's
modules), `system`, which hardly changes, `golden` and `project`. Each is cached under a digest of
what went into it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from tests.vm import cpio, rows
from tests.vm.cpio import Archive
from tests.vm.packages import CACHE, ROOT, CannotRunError, Parts
from tests.vm.rows import PLACE

MODULES: Final = (
    "virtio_pci", "virtio_net", "sch_netem", "geneve", "vxlan", "fou", "fou6", "ipip", "sit",
    "ip6_tunnel", "veth", "bridge", "8021q", "tun", "sch_ingress", "cls_bpf",
    "cls_matchall", "act_tunnel_key", "tcp_diag", "udp_diag", "xsk_diag", "ifb", "act_mirred",
)  # fmt: skip
TOOLS: Final = ("ip", "tc", "ethtool", "sysctl")
DISTRIBUTIONS: Final = ("pyxdp-gossip", "pytest", "pytest-timeout")
# Parts of the standard library and of packages that no test in the guest imports; all are large.
LEFT_OUT: Final = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|pydoc_data"
    r"|site-packages|dist-packages|config-3[^/]*)/"
    r"|/_(test|tkinter)[^/]*\.so$|\.(a|h|whl)$|\.opt-\d\.pyc$"
)
PROJECT: Final = ("pyxdp_gossip", "tests", "bench")
PROJECT_SUFFIXES: Final = {".py", ".pyc", ".so", ".o"}
KEPT_IMAGES: Final = 4


def build(parts: Parts) -> list[Path]:
    """The archives of the guest, in their order; made only if they are not there yet."""
    folder = CACHE / "image"
    folder.mkdir(parents=True, exist_ok=True)
    modules = _modules(parts.modules)
    tools = [Path(_tool(name)).resolve() for name in TOOLS]
    # libxdp's own BPF programs; elsewhere the guest would have no dispatcher
    system = [*_python_files(), *tools, *Path("/usr/lib").glob("*/bpf/*.o")]
    project = list(_project_files())
    golden = [*sorted((ROOT / "tests").glob("*.py")), Path(rows.__file__)]
    return [
        _cached(folder, "kernel", modules, lambda archive: _fill_kernel(archive, modules)),
        _cached(folder, "system", system, lambda archive: _fill_system(archive, system)),
        _cached(folder, "golden", golden, lambda archive: archive.write(PLACE, rows.written())),
        _cached(folder, "project", project, lambda archive: _fill_project(archive, project)),
    ]


def _cached(
    folder: Path, name: str, files: Iterable[Path], fill: Callable[[Archive], None]
) -> Path:
    makers = (Path(__file__), Path(cpio.__file__))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in makers))
    for path in files:
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    image = folder / f"{name}-{digest.hexdigest()[:20]}.cpio"
    if not image.exists():
        for old in sorted(folder.glob(f"{name}-*"), key=os.path.getmtime)[: -KEPT_IMAGES + 1]:
            old.unlink()
        unfinished = image.with_suffix(f".{os.getpid()}")
        with unfinished.open("wb") as file:
            archive = Archive(file)
            fill(archive)
            archive.close()
        unfinished.rename(image)
    return image


def _fill_kernel(archive: Archive, modules: list[Path]) -> None:
    for number, path in enumerate(modules):
        archive.write(f"/modules/{number:02}-{path.name.split('.')[0]}.ko", _module(path))


def _fill_system(archive: Archive, files: list[Path]) -> None:
    _add(archive, files)
    for folder in ("/proc", "/sys", "/dev", "/tmp", "/run/netns", "/root"):
        archive.folder(folder)
    archive.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.write("/etc/hosts", b"127.0.0.1 localhost\n")


def _fill_project(archive: Archive, files: list[Path]) -> None:
    _add(archive, files)
    start = Path(__file__).with_name("init.py").read_bytes()
    archive.write("/init", f"#!{sys.executable} -IS\n".encode() + start, 0o755)


def _add(archive: Archive, files: list[Path]) -> None:
    for path in (*files, *_libraries(files)):
        archive.add(path)


# ---- the kernel's modules ----


def _modules(folder: Path) -> list[Path]:
    """Those of MODULES and what they need, in an order in which they can be loaded."""
    # to find out takes seconds: all must be unpacked
    known = CACHE / "image" / f"modules-{folder.parent.name}.json"
    key = [str(folder), folder.stat().st_mtime_ns, *MODULES]
    if known.exists():
        found = json.loads(known.read_text())
        if found["key"] == key:
            return [Path(one) for one in found["paths"]]
    paths = _in_order(folder)
    known.write_text(json.dumps({"key": key, "paths": [str(one) for one in paths]}))
    return paths


def _in_order(folder: Path) -> list[Path]:
    by_name = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    ordered: dict[str, Path] = {}

    def visit(name: str) -> None:
        path = by_name.get(name)
        if path is None or name in ordered:
            return  # built in, or there
        for needed in re.findall(rb"\0depends=([^\0]*)\0", b"\0" + _module(path)):
            for one in filter(None, needed.decode().split(",")):
                visit(one.replace("-", "_"))
        ordered[name] = path

    for name in MODULES:
        visit(name)
    return list(ordered.values())


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


# ---- Python and the tools ----


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise CannotRunError(f"the guest needs {name}, and this machine has none")
    return found


def _python_files() -> Iterator[Path]:
    executable = Path(sys.executable)
    yield executable
    configuration = executable.parent.parent / "pyvenv.cfg"
    if configuration.exists():
        yield configuration
    base = dict.fromkeys(("base", "platbase", "installed_base"), sys.base_prefix)
    for name in ("stdlib", "platstdlib"):
        yield from _tree(Path(sysconfig.get_path(name, vars=base)))
    seen: set[str] = set()
    for name in DISTRIBUTIONS:
        yield from _distribution(name, seen)


def _distribution(name: str, seen: set[str]) -> Iterator[Path]:
    """The files of a distribution and of what it requires."""
    if name in seen:
        return
    seen.add(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # for other systems or versions
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if path.is_file() and not LEFT_OUT.search(str(path).split("site-packages")[-1]):
            yield path
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            required = re.match(r"[\w.-]+", requirement)
            assert required
            yield from _distribution(required[0], seen)


def _tree(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not LEFT_OUT.search(str(path)[len(str(folder)) :]):
            yield path


def _project_files() -> Iterator[Path]:
    yield ROOT / "pyproject.toml"
    for name in PROJECT:
        for path in sorted((ROOT / name).rglob("*")):
            if path.suffix in PROJECT_SUFFIXES and path.is_file():
                yield path


def _libraries(files: Iterable[Path]) -> list[Path]:
    """The shared libraries that programs and extensions load, by ldd."""
    binaries = [str(path) for path in files if _is_elf(path)]
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = {Path(name) for name in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)}
    return sorted(found)


def _is_elf(path: Path) -> bool:
    if path.suffix in {".py", ".pyc", ".xz", ".ko", ".o"}:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
