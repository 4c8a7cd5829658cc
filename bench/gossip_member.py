# SPDX-License-Identifier: BSD-2-Clause
"""One host's agent that enters sessions by command: `python -m bench.gossip_member CONFIG`.

Writes a line of JSON once synced: when it began to join, when it had joined, whether partly. Then
it answers each line of its standard input, a JSON list of a command's name and its numbers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from bench.gossip_memory import own_parts
from pyxdp_gossip.agent import Agent
from pyxdp_gossip.agent_thread import AgentThread
from pyxdp_gossip.cli import set_up_log
from pyxdp_gossip.config import Config
from pyxdp_gossip.gossip.events import SocketEvents
from pyxdp_gossip.gossip.records import EventKind, EventRecord

PORTS: Final = 50_000
FIRST_PORT: Final = 1024
FIRST_CLIENT: Final = IPv4Address("10.128.0.0")
PORTION: Final = 1000
PORTION_S: Final = 0.01  # 100,000 sessions a second: the other agents share two cores
POLL_S: Final = 0.0005
SLOT: Final = 2  # UDP: no list of the kernel's sockets takes its sessions away


def opens(first: int, count: int) -> bytes:
    """Sessions `first` and on, each at its own client."""
    record = EventRecord(EventKind.OPEN, 4, SLOT, 0, 0, 0, 0, bytes(16), time.monotonic_ns())
    made = []
    for number in range(first, first + count):
        address = (FIRST_CLIENT + number // PORTS).packed.ljust(16, b"\0")
        port = FIRST_PORT + number % PORTS
        made.append(replace(record, client_port=port, address=address).pack())
    return b"".join(made)


def absorb(records: bytes) -> Callable[[Agent], None]:
    """Enters sessions as the kernel's events are entered."""

    def enter(agent: Agent) -> None:
        agent.core.handle_event(SocketEvents(records), time.monotonic_ns())

    return enter


def claim(runner: AgentThread, first: int, count: int) -> int:
    """Enters so many sessions, at a pace that the other hosts can follow."""
    due = time.monotonic()
    for start in range(first, first + count, PORTION):
        records = opens(start, min(PORTION, first + count - start))
        runner.call(absorb(records))
        due += PORTION_S
        time.sleep(max(0.0, due - time.monotonic()))
    return count


_prepared: list[bytes] = []


def prepare(_runner: AgentThread, count: int) -> int:
    """Makes so many sessions for `enter`, whose time this is not."""
    _prepared[:] = [opens(at, min(PORTION, count - at)) for at in range(0, count, PORTION)]
    return count


def enter(runner: AgentThread) -> int:
    """Enters what was prepared, as fast as the agent takes it."""
    for records in _prepared:
        runner.call(absorb(records))
    return len(_prepared)


def size(runner: AgentThread) -> int:
    """Sessions in the table."""
    return runner.call(lambda agent: len(agent.dataplane.table4))


def parts(_runner: AgentThread) -> list[int]:
    """Bytes of this process in memory, by `gossip_memory.PARTS`."""
    return own_parts()


COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "claim": claim, "enter": enter, "parts": parts, "prepare": prepare, "size": size,
}  # fmt: skip


def join(runner: AgentThread) -> dict[str, Any]:
    """Begins, and waits for the end of the join."""
    runner.start()
    begun = time.monotonic_ns()
    while runner.agent.synced is None:
        if runner.failure:
            raise runner.failure
        time.sleep(POLL_S)
    synced = runner.agent.synced
    return {"begun": begun, "synced": time.monotonic_ns(), "partial": synced.partial}


def say(answer: object) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Joins, then obeys until its standard input ends."""
    runner = AgentThread(Config.load(Path(sys.argv[1])), set_up_log())
    try:
        say(join(runner))
        for line in sys.stdin:
            name, *numbers = json.loads(line)
            say(COMMANDS[name](runner, *numbers))
    finally:
        runner.stop()


if __name__ == "__main__":
    main()
