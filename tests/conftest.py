# SPDX-License-Identifier: BSD-2-Clause
"""Of all runs: what is inherited. Of one in several processes (`pytest -n`): who runs which tests,
and what they have to say."""

from __future__ import annotations

import signal
from typing import Any, Final

import pytest

SAID: Final = "said"  # what a process hands over for the summary: a list of lines
HEARD: Final = pytest.StashKey[list[str]]()
GUESTS: Final = "tests/vm/"  # each test here wants the machine for its guest


def pytest_configure() -> None:
    """A shell without job control has what it starts by `&` ignore SIGINT, and programs under test
    would inherit that: those that are ended by it never would be."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def scope_of(nodeid: str) -> str:
    """Tests of one scope run in one process: a file's, or all that boot guests."""
    return GUESTS if nodeid.startswith(GUESTS) else nodeid.split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole scopes, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling  # not in the guest

    class ByScope(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByScope(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keeps what a process has to say."""
    heard = node.config.stash.setdefault(HEARD, [])
    said = getattr(node, "workeroutput", {}).get(SAID, [])
    heard += [line for line in said if line not in heard]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says it once."""
    for line in config.stash.get(HEARD, []):
        terminalreporter.write_line(line)
