# SPDX-License-Identifier: BSD-2-Clause
"""What of the guest's harness can be judged without a guest: sources, switch, and its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import packages
from tests.vm.guest_run import GuestRun
from tests.vm.packages import ROOT, SUITE, CannotRunError

DEB822 = """\
# a mirror of ours
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Trusted: yes
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://elsewhere.example/apt
Suites: stable
Components: main
"""
ONE_LINE = """\
deb [signed-by=/k.gpg trusted=yes] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian-security bookworm-security main
deb https://elsewhere.example/apt stable main
# deb http://mirror.example/debian bookworm-backports main
deb-src http://mirror.example/debian bookworm main
"""


def test_the_suite_comes_from_the_machines_own_mirror() -> None:
    main, added, security = packages._stanzas(DEB822, "bookworm")
    assert "Suites: bookworm bookworm-updates" in main
    assert f"Suites: {SUITE}\n" in added
    assert "URIs: http://mirror.example/debian\n" in added
    assert "Signed-By: /usr/share/keyrings" in added
    assert "bookworm-security" in security
    assert "Trusted" not in main + added + security


def test_the_one_line_format_is_read_too() -> None:
    assert packages._lines(ONE_LINE, "bookworm") == [
        "deb [signed-by=/k.gpg ] http://mirror.example/debian bookworm main contrib",
        f"deb [signed-by=/k.gpg ] http://mirror.example/debian {SUITE} main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_another_system_has_no_sources() -> None:
    assert packages._stanzas(DEB822, "") == []
    assert packages._lines(ONE_LINE, "noble") == []


def test_a_machine_that_cannot_is_told_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise CannotRunError("the guest is x86_64, and this machine is not")

    monkeypatch.setattr(packages, "parts", refuse)
    run = GuestRun(["a", "b"])
    for nodeid in ("a", "b"):
        [report] = run.reports(nodeid)
        assert report["outcome"] == "failed"
        assert report["longrepr"] == "the guest is x86_64, and this machine is not"
    run.close()


def test_without_apt_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRunError, match=r"there is no apt-get|the guest is x86_64"):
        packages.parts()


@pytest.mark.parametrize("choice", ["off", "core"])
def test_what_is_left_out_is_said(choice: str) -> None:
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/vm/guest"]
    environment = {**os.environ, "ZEROCOPY": choice}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if choice == "off":
        assert "tests of the guest with true zero-copy were LEFT OUT" in done.stdout
        assert "test_zero_copy.py::" not in done.stdout
    else:
        assert "more tests run with `make test-zerocopy`" in done.stdout
        assert "test_zero_copy.py::" in done.stdout
        assert "test_netem.py::" not in done.stdout
