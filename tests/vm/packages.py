# SPDX-License-Identifier: BSD-2-Clause
"""The guest's kernel and QEMU, as Debian packages in a folder of our own, checked by apt.

apt works on a copy of the machine's own Debian sources, with the kernels' suites (pinned low), and
keeps lists and packages here: the machine's apt and its packages stay as they are. Nothing is
installed; packages are unpacked, QEMU and each kernel into a folder of its own, and what is there
once is used without apt.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "build" / "vm"
SUITE: Final = "trixie-backports"  # virtio-net binds AF_XDP in zero-copy from Linux 6.13 on
OLDEST: Final = "bookworm"  # Debian 12: Linux 6.1, the oldest that the project promises
SUITES: Final = (SUITE, OLDEST)
KERNEL: Final = "linux-image-cloud-amd64"
QEMU: Final = "qemu-system-x86"
PIN: Final = "Package: *\nPin: release n={}\nPin-Priority: 50\n\n"
FETCH_S: Final = 900


class CannotRunError(Exception):
    """This machine cannot run a guest; one line says why."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What was fetched: QEMU, unpacked under `tree`, and a kernel, under `kernel_tree`."""

    tree: Path
    kernel_tree: Path
    versions: dict[str, str]

    @property
    def kernel(self) -> Path:
        """The bootable kernel."""
        return _only(self.kernel_tree, "usr/lib/modules/*/vmlinuz", "boot/vmlinuz-*")

    @property
    def modules(self) -> Path:
        """The folder of the kernel's modules."""
        return _only(self.kernel_tree, "usr/lib/modules/*/kernel", "lib/modules/*/kernel")

    @property
    def qemu(self) -> str:
        """The emulator, of the packages or, if it is installed, the machine's own."""
        unpacked = self.tree / "usr/bin/qemu-system-x86_64"
        return str(unpacked) if unpacked.exists() else shutil.which(unpacked.name) or unpacked.name

    @property
    def libraries(self) -> str:
        """Folders for LD_LIBRARY_PATH."""
        folders = sorted({str(one.parent) for one in self.tree.glob("**/x86_64-linux-gnu/*.so.*")})
        return os.pathsep.join(folders)

    @property
    def firmware(self) -> list[str]:
        """Folders in which QEMU looks for what the guest's BIOS is made of."""
        places = [self.tree / "usr/share", Path("/usr/share")]
        found = [place / name for place in places for name in ("qemu", "seabios")]
        return [str(one) for one in found if one.is_dir()]

    def __str__(self) -> str:
        [kernel, *_] = [name for name in self.versions if name != QEMU]
        return f"{kernel} {self.versions[kernel]}, {QEMU} {self.versions[QEMU]}"


def _only(tree: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in tree.glob(pattern)]
    if len(found) != 1:
        raise CannotRunError(f"{tree} is not as expected: remove it, and it is fetched again")
    return found[0]


def parts(suite: str = SUITE) -> Parts:
    """QEMU and the kernel of a suite, from the cache; fetched if they are not there.

    Raises:
        CannotRunError: not on this machine, or no packages.
    """
    stamps = CACHE / "qemu.json", CACHE / f"{suite}.json"
    if not all(stamp.exists() for stamp in stamps):
        _prepare()
    if not stamps[0].exists():
        _fetch(stamps[0], "install", "--download-only", "--no-install-recommends", QEMU)
    if not stamps[1].exists():
        _fetch(stamps[1], "download", *_kernel_packages(suite))
    versions = {**json.loads(stamps[1].read_text()), **json.loads(stamps[0].read_text())}
    return Parts(stamps[0].with_suffix(""), stamps[1].with_suffix(""), versions)


def _prepare() -> None:
    """The lists of the machine's own suite and of the kernels'."""
    if platform.machine() != "x86_64":
        raise CannotRunError(f"the guest is x86_64, and this machine is {platform.machine()}")
    if shutil.which("apt-get") is None:
        raise CannotRunError("kernel and QEMU are fetched as Debian packages: there is no apt-get")
    for name in ("archives/partial", "lists/partial", "sources"):
        (CACHE / name).mkdir(parents=True, exist_ok=True)
    _write_sources(CACHE / "sources")
    _apt("update")


def _fetch(stamp: Path, *words: str) -> None:
    """Unpacks what these words to apt-get download, beside the stamp, which holds the versions."""
    tree, archives = stamp.with_suffix(""), CACHE / "archives"
    for folder in (tree, archives):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (tree, archives / "partial"):
        folder.mkdir(parents=True)
    _apt(*words)
    versions = {}
    for package in sorted(archives.glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(tree))
        name, version = _run("dpkg-deb", "-W", str(package)).split()
        versions[name] = version
    if QEMU in words and QEMU not in versions:
        versions[QEMU] = _run("dpkg-query", "-W", "-f", "${Version}", QEMU)
    kept = {name: versions[name] for name in versions if name == QEMU or name.startswith("linux-")}
    stamp.write_text(json.dumps(kept))


def _kernel_packages(suite: str) -> list[str]:
    """Of the suite's newest cloud kernel; some versions are one package, others two or three."""
    release = r"linux-(?:image|binary|modules)-\d[\w.+~-]*"
    found: list[str] = []
    names = [f"{KERNEL}/{suite}"]
    while names:
        depends = re.findall(r"^(?:Pre-)?Depends: (.*)$", _show(names.pop()), re.MULTILINE)
        new = [name for name in re.findall(release, " ".join(depends)) if name not in found]
        found += new
        names += [f"{name}/{suite}" for name in new]
    if not found:
        raise CannotRunError(f"the suite {suite} has no {KERNEL}")
    return [f"{name}/{suite}" for name in found]


def _show(package: str) -> str:
    return _run("apt-cache", *_options(), "show", package)


def _write_sources(folder: Path) -> None:
    """The machine's own Debian sources, as they are, and those of its main suite for SUITES."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    etc = Path("/etc/apt")
    stanzas, lines = [], []
    for path in sorted([etc / "sources.list", *(etc / "sources.list.d").glob("*")]):
        if path.suffix == ".sources":
            stanzas += _stanzas(path.read_text(), codename)
        elif path.suffix == ".list" and path.exists():
            lines += _lines(path.read_text(), codename)
    if not any(SUITE in one for one in (*stanzas, *lines)):
        raise CannotRunError(f"no source in {etc} has the suite {codename or 'of a Debian'}")
    (folder / "guest.sources").write_text("\n\n".join(stanzas) + "\n")
    (folder / "guest.list").write_text("\n".join(lines) + "\n")
    others = [suite for suite in SUITES if suite != codename]
    (CACHE / "preferences").write_text("".join(PIN.format(suite) for suite in others))


def _stanzas(text: str, codename: str) -> list[str]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        suites = re.search(r"^Suites:\s*(.+)$", stanza, re.MULTILINE | re.IGNORECASE)
        names = suites[1].split() if suites else []
        if not codename or not any(name.startswith(codename) for name in names):
            continue
        plain = re.sub(r"^(Trusted|#).*\n?", "", stanza, flags=re.MULTILINE | re.IGNORECASE)
        found.append(plain.strip())
        if codename in names:
            others = " ".join(suite for suite in SUITES if suite != codename)
            found.append(re.sub(r"(?im)^Suites:.*$", f"Suites: {others}", plain).strip())
    return found


def _lines(text: str, codename: str) -> list[str]:
    found = []
    for line in text.splitlines():
        words = re.match(r"deb\s+(\[.*?\]\s+)?(\S+)\s+(\S+)\s+(.+)", line)
        if words is None or not codename or not words[3].startswith(codename):
            continue
        options = re.sub(r"\btrusted=\S+?(?=[\s\]])", "", words[1] or "")
        found.append(f"deb {options}{words[2]} {words[3]} {words[4]}")
        if words[3] == codename:
            others = (suite for suite in SUITES if suite != codename)
            found += [f"deb {options}{words[2]} {suite} main" for suite in others]
    return found


def _options() -> list[str]:
    places = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": CACHE / "sources",
        "Dir::Etc::preferences": CACHE / "preferences",
        "Dir::State::lists": CACHE / "lists",
        "Dir::Cache": CACHE,
        "Dir::Cache::archives": CACHE / "archives",
        "APT::Sandbox::User": "root",
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
    }
    return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]


def _apt(*words: str) -> None:
    _run("apt-get", "-q", "-y", *_options(), *words)


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            words, cwd=CACHE / "archives", capture_output=True, text=True, check=False,
            timeout=FETCH_S, env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(f"{words[0]} {words[-1]}: {error}") from None
    errors = re.findall(r"^(?:E|W): (.*)$", done.stderr, re.MULTILINE)
    failed_update = words[-1] == "update" and errors  # apt goes on with what it could get
    if done.returncode != 0 or failed_update:
        said = errors[0] if errors else done.stderr.strip().splitlines()[-1:] or "failed"
        raise CannotRunError(f"{words[0]} {words[-1]}: {said}")
    return done.stdout
