# SPDX-License-Identifier: BSD-2-Clause
"""Two guests and their agents, for all tests; neither kernel may log an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.pair.world import Pair, pair, wait_for

LIMIT_S = 900  # the first test boots the guests, which are emulated


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A limit for slow guests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(scope="session")
def guests() -> Iterator[Pair]:
    """Two guests without agents."""
    with pair() as made:
        yield made


@pytest.fixture(scope="session")
def pop(guests: Pair) -> Iterator[Pair]:
    """Both agents run and know each other; their loops are in zero-copy."""
    for host in guests.hosts:  # at once: to start takes each of them long
        host.start([one for one in guests.hosts if one is not host])
    for host in guests.hosts:
        host.ask("ready")
    wait_for(lambda: both_alive(guests), "both agents to know each other")
    for host in guests.hosts:
        assert host.counters()["mode"] == "zero-copy"
    yield guests
    for host in guests.hosts:
        assert host.ask("stop_agent") == []


def both_alive(made: Pair) -> bool:
    """Each takes the other for alive."""
    a, b = (host.counters()["members"] for host in made.hosts)
    return (a.get("2"), b.get("1")) == ("alive", "alive")


@pytest.fixture(autouse=True)
def no_kernel_errors(guests: Pair) -> Iterator[None]:
    """Every test fails if a kernel logs an error, or a trace, meanwhile."""
    for host in guests.hosts:
        host.ask("kernel_complaints")
    yield
    for host in guests.hosts:
        assert host.ask("kernel_complaints") == []
