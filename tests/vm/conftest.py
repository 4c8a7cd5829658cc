# SPDX-License-Identifier: BSD-2-Clause
"""Tests of `guest/` are collected here and run in a guest, one boot for all; so is their report.
Those of `guest61/` likewise, in a guest with the oldest kernel.

This file is at work on both sides. On this machine a test of the guest is an item like any other,
and running it means to wait for its reports. In the guest, which gets the names of the chosen tests
as arguments, they run as usual, and each report leaves by the serial port.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import SAID
from tests.vm.packages import OLDEST, SUITE

if TYPE_CHECKING:
    from tests.vm.guest_run import GuestRun

HERE: Final = Path(__file__).resolve().parent
GUEST_SUITES: Final = {HERE / "guest": SUITE, HERE / "guest61": OLDEST}  # each one's kernel
# Tests in this folder run on this machine, and talk to two guests.
PAIR: Final = HERE / "pair"
# "all" tests of the guest, the "core" of them, or "off": none. Makefile and docs name it.
SWITCH: Final = "ZEROCOPY"
CHOICES: Final = ("all", "core", "off")
IN_GUEST: Final = os.environ.get("XG_GUEST_PORT", "")
RUNS: Final = pytest.StashKey[dict[Path, "GuestRun"]]()
LEFT_OUT: Final = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """The mark of the tests that `make test` runs."""
    config.addinivalue_line("markers", "core: of the guest's tests, one that `make test` runs")


def _guest_of(item: pytest.Item) -> Path | None:
    return next((folder for folder in GUEST_SUITES if folder in item.path.parents), None)


def _choice() -> str:
    choice = os.environ.get(SWITCH, "") or "all"
    if choice not in CHOICES:
        raise pytest.UsageError(f"{SWITCH} is {choice!r}, expected one of {', '.join(CHOICES)}")
    return choice


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what SWITCH leaves out; the summary says how many."""
    if IN_GUEST:
        return
    choice = _choice()
    out = [
        item
        for item in items
        if (_guest_of(item) or PAIR in item.path.parents)
        and (choice == "off" or (choice == "core" and not item.get_closest_marker("core")))
    ]
    config.stash[LEFT_OUT] = len(out)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


def _said(config: pytest.Config) -> list[str]:
    """What ran in which guest, and what did not run."""
    lines = [f"guest: {run.summary}" for run in config.stash.get(RUNS, {}).values()]
    count = config.stash.get(LEFT_OUT, 0)
    if count and _choice() == "off":
        what = f"all {count} tests of the guest with true zero-copy were LEFT OUT"
        lines.append(f"{SWITCH}=off: {what}")
    elif count:
        lines.append(f"guest: {count} more tests run with `make test-zerocopy`")
    return lines


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says it."""
    for line in _said(config):
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands it over."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[SAID] = _said(session.config)


def _run_of(folder: Path, item: pytest.Item) -> GuestRun:
    runs = item.config.stash.setdefault(RUNS, {})
    if folder not in runs:
        from tests.vm.guest_run import GuestRun  # not in the guest, where imports take long

        for other in runs.values():
            other.close()  # one guest at a time
        chosen = [one.nodeid for one in item.session.items if _guest_of(one) == folder]
        runs[folder] = GuestRun(chosen, GUEST_SUITES[folder])
        item.config.add_cleanup(runs[folder].close)
    return runs[folder]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Waits for the guest's reports of a test, and hands them on as if it had run here."""
    folder = _guest_of(item)
    if IN_GUEST or folder is None:
        return None
    run = _run_of(folder, item)
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for data in run.reports(item.nodeid):
        report = hook.pytest_report_from_serializable(config=item.config, data=data)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.session._setupstate.teardown_exact(nextitem)  # of what ran here before
    return True


# ---- in the guest ----


def _say(**what: Any) -> None:
    with open(IN_GUEST, "w") as port:
        port.write(json.dumps(what, default=str) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Generator[None, None, None]:
    """In the guest: the report leaves it."""
    yield
    if IN_GUEST:
        _say(kind="report", report=_serializable(report))


def _serializable(report: pytest.TestReport) -> dict[str, Any]:
    from _pytest.reports import pytest_report_to_serializable

    return pytest_report_to_serializable(report) or {}


def pytest_runtest_logfinish(nodeid: str) -> None:
    """In the guest: nothing more comes of this test."""
    if IN_GUEST:
        _say(kind="finished", nodeid=nodeid)
