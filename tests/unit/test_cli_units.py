# SPDX-License-Identifier: BSD-2-Clause
"""What the command line and the build say when something is wrong: one line that helps."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from pyxdp_gossip import cli
from pyxdp_gossip.bpf_object import HINTS, checked, system_error
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.node import Node

ROOT = Path(__file__).resolve().parent.parent.parent


class Log:
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, event: str, **values: object) -> None:
        self.warnings.append(f"{event} {values}")


class StandIn:
    """A node whose report is given, or fails."""

    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self.report = answer


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """The one line that these arguments give, with status 2."""
    monkeypatch.setattr(sys, "argv", ["pyxdp-gossip", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pyxdp-gossip: ")
    return err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing command. See `pyxdp-gossip --help`"),
        (("bogus",), "No such command 'bogus'"),
        (("--bogus",), "No such option"),
        (("run",), "Missing option '--config'. See `pyxdp-gossip run --help`"),
        (("run", "--bogus"), "No such option"),
        (("run", "--config"), "--config"),
        (("keygen", "--id", "0"), "1<=x<=65535"),
        (("keygen", "--id", "many"), "'many'"),
        (("keygen", "more"), "more"),
        (("demo", "--proxy", "squid"), "'squid'"),
    ],
)
def test_arguments_that_are_refused_give_one_line_that_says_where_to_look(
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refusal(monkeypatch, capsys, *words)
    assert said in line
    assert "--help`" in line


def test_an_exception_that_nobody_expected_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: Path) -> Config:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(cli.Config, "load", broken)
    monkeypatch.setattr(cli.signal, "pthread_sigmask", lambda *_: None)
    line = refusal(monkeypatch, capsys, "run", "--config", "pop.toml")
    assert "please report it: ZeroDivisionError: two lines at test_cli_units.py:" in line


REMEDIES = [
    (errno.EPERM, "run as root"),
    (errno.ENOSYS, "CONFIG_BPF_SYSCALL"),
    (errno.EOPNOTSUPP, 'mode = "skb"'),
    (errno.EBUSY, "ip link set dev IF xdp off"),
    (errno.EEXIST, "ip link set dev IF xdp off"),
    (errno.ENOMEM, "[table] sessions_v4"),
    (errno.E2BIG, "[table] sessions_v4"),
    (errno.ERANGE, "MTU"),
    (errno.EBADF, "[dataplane] cgroup"),
    (errno.EACCES, "verifier"),
]


@pytest.mark.parametrize(("code", "remedy"), REMEDIES)
def test_what_the_kernel_refuses_is_one_line_with_its_remedy(code: int, remedy: str) -> None:
    text = str(system_error("attach", code))
    assert text.startswith(f"attach: {os.strerror(code)} (")
    assert remedy in text
    assert "\n" not in text


def test_every_hint_is_tested_and_other_codes_keep_the_kernels_word() -> None:
    assert {code for code, _ in REMEDIES} == set(HINTS)
    assert "Invalid argument" in str(system_error("load", errno.EINVAL))
    with pytest.raises(HostError, match="load: No such device"):
        checked("load", -errno.ENODEV)
    assert checked("load", 3) == 3


def test_counters_are_whole_or_the_old_ones_and_a_failure_is_only_logged(tmp_path: Path) -> None:
    log = Log()
    node = cast(Node, StandIn(lambda: {"host": 1}))
    cli.write_report(node, tmp_path / "ready", log)
    assert json.loads((tmp_path / "ready.stats.json").read_text()) == {"host": 1}
    cli.write_report(node, tmp_path / "none" / "ready", log)
    cli.write_report(node, None, log)
    assert len(log.warnings) == 1
    assert "No such file or directory" in log.warnings[0]
    assert [path.name for path in tmp_path.iterdir()] == ["ready.stats.json"]


def test_an_agent_too_busy_to_answer_is_only_logged(tmp_path: Path) -> None:
    def busy() -> dict[str, Any]:
        raise TimeoutError

    log = Log()
    cli.write_report(cast(Node, StandIn(busy)), tmp_path / "ready", log)
    assert "no answer" in log.warnings[0]


def test_a_ready_file_that_cannot_be_written_or_removed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"--ready-file .*: No such file or directory; name"):
        cli.announce(tmp_path / "none" / "ready")
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match=r"--ready-file .*; name another"):
        cli.withdraw(tmp_path / "folder")
    cli.withdraw(tmp_path / "absent")
    cli.withdraw(None)


def test_without_a_service_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    log = Log()
    cli.tell_systemd(b"READY=1", log)
    assert log.warnings == []


def test_an_at_sign_inside_a_notify_path_is_no_abstract_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify@host")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        cli.tell_systemd(b"READY=1", Log())
        assert manager.recv(64) == b"READY=1"


@pytest.fixture
def build_script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of setup.py, run without building anything."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    return runpy.run_path(str(ROOT / "setup.py"))


def test_missing_headers_are_named_by_their_packages(
    build_script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing_packages = build_script["missing_packages"]
    assert missing_packages() == []
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux" / "bpf.h").touch()
    monkeypatch.setitem(missing_packages.__globals__, "INCLUDES", (tmp_path,))
    assert missing_packages() == ["libbpf-dev", "libxdp-dev"]
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert missing_packages() == ["libbpf-dev", "libxdp-dev", "python3-dev"]


def test_a_build_without_clang_ends_with_the_line_that_installs_it(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    assert compiler is not None
    (tmp_path / "cc").symlink_to(compiler)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = "pyxdp-gossip: missing system packages; run: apt-get install clang\n"
    assert (done.stdout, done.stderr) == ("", said)
