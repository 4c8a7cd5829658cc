# SPDX-License-Identifier: BSD-2-Clause
"""The configuration read again by SIGUSR2: further services come, the rest waits, and is said."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.agent_host import PATIENCE_S, AgentHost, agent_host
from tests.kernel.conftest import Namespace

Maker = Callable[[str], Namespace]

OLD = {"vip": "198.51.100.1", "port": 80, "protocol": "tcp"}
NEW = {"vip": "198.51.100.1", "port": 443, "protocol": "tcp"}


@pytest.fixture
def host(netns: Maker, tmp_path: Path) -> Iterator[AgentHost]:
    with agent_host(netns("host"), tmp_path) as made:
        made.connect(netns("far"))
        yield made


def configure(host: AgentHost, *services: dict[str, Any], **changes: Any) -> None:
    host.tables["service"] = list(services)
    host.tables["table"] |= changes
    host.configure({})


def reload(host: AgentHost, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGUSR2)
    host.counters(process)  # signals are taken in turn


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> list[str]:
    """What the agent said until now."""
    process.send_signal(how)
    stderr = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0
    return str(stderr).splitlines()


def test_a_service_added_live_is_there_for_the_next_start(host: AgentHost) -> None:
    process = host.start_synced()
    program = host.xdp_program()
    configure(host, OLD, NEW)
    reload(host, process)
    assert host.xdp_program() == program
    log = end(process, signal.SIGHUP)
    (said,) = (line for line in log if "services added" in line)
    assert "198.51.100.1:443" in said
    assert not any("next start" in line or "not reloaded" in line for line in log)
    log = end(host.start_synced())
    assert any("maps adopted" in line for line in log)


def test_what_cannot_change_live_is_said_in_one_line_and_stays(host: AgentHost) -> None:
    configure(host, OLD, NEW)
    process = host.start_synced()
    configure(host, NEW, sessions_v4=100_000)
    reload(host, process)
    reload(host, process)
    log = end(process, signal.SIGHUP)
    warnings = [line for line in log if "changed at the next start only" in line]
    assert len(warnings) == 2
    assert "[table]" in warnings[0]
    assert "198.51.100.1:80" in warnings[0]
    assert not any("services added" in line for line in log)
    configure(host, OLD, NEW, sessions_v4=4096)
    assert any("maps adopted" in line for line in end(host.start_synced()))


def test_a_wrong_configuration_changes_nothing(host: AgentHost) -> None:
    process = host.start_synced()
    configure(host, OLD, NEW | {"port": 70_000})
    reload(host, process)
    log = end(process, signal.SIGHUP)
    (said,) = (line for line in log if "not reloaded" in line)
    assert "70000" in said
    assert not any("services added" in line for line in log)
