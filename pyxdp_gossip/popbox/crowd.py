# SPDX-License-Identifier: BSD-2-Clause
"""Drives the client processes of a box from outside and counts what became of the connections."""

import json
import queue
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyxdp_gossip.popbox.box import Box
from pyxdp_gossip.popbox.client import STALL_S, Outcome, Plan
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.processes import Process, python_command

READY_TIMEOUT_S = 2 * STALL_S
"""A connection that gets no first answer counts as broken after STALL_S, and as ready."""
FINISH_TIMEOUT_S = 4 * STALL_S
"""The rest of a download and one request, each of which may stall once."""
REPORT_TIMEOUT_S = 5.0
"""Twenty reports are due in this time."""
REQUEST_INTERVAL_S = 0.2
DOWNLOAD_PER_CONNECTIONS = 10
"""One connection in ten is a long download: most of real traffic is small requests."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Connections by what became of them. `broken` leaves out those whose owner was dead."""

    connections: int
    broken: int
    broken_owner_died: int
    wrong_bytes: int
    requests: int
    bytes: int
    reasons: dict[str, int]


def tally(outcomes: Collection[Outcome]) -> Tally:
    """Counts outcomes; a connection that never had an owner counts as broken."""
    broken = [outcome for outcome in outcomes if outcome.broken is not None]
    innocent = [outcome for outcome in broken if not outcome.owner_died]
    reasons: dict[str, int] = {}
    for outcome in innocent:
        reasons[str(outcome.broken)] = reasons.get(str(outcome.broken), 0) + 1
    return Tally(
        connections=len(outcomes),
        broken=len(innocent),
        broken_owner_died=len(broken) - len(innocent),
        wrong_bytes=sum(outcome.wrong_bytes for outcome in outcomes),
        requests=sum(outcome.requests for outcome in outcomes),
        bytes=sum(outcome.bytes for outcome in outcomes),
        reasons=reasons,
    )


class Client:
    """One client process and its events."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.broken = 0

    def _read(self) -> None:
        """Until the process closes its output: a full pipe must never stop it."""
        assert self._process.popen.stdout is not None  # started with pipes
        for line in self._process.popen.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def wait_for(self, name: str, timeout_s: float) -> dict[str, Any]:
        """The next event of a name; progress on the way is taken in."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise BoxError(f"{self._process.name}: no {name} after {timeout_s:g} s") from None
            if event is None:
                raise BoxError(f"{self._process.name} ended: {self._process.log_tail()}")
            if event["event"] == "progress":
                self.broken = event["broken"]
            if event["event"] == name:
                return event

    def poll(self) -> int:
        """Connections broken by the latest report, those of dead owners included."""
        while not self._events.empty():
            event = self._events.get()
            if event is None:
                raise BoxError(f"{self._process.name} ended: {self._process.log_tail()}")
            self.broken = event.get("broken", self.broken)
        return self.broken

    def tell(self, **command: object) -> None:
        pipe = self._process.popen.stdin
        assert pipe is not None  # started with pipes
        try:
            pipe.write(json.dumps(command).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise BoxError(f"{self._process.name} ended: {self._process.log_tail()}") from None

    def stop(self) -> None:
        self._process.reap()
        self._thread.join()


class Crowd:
    """The clients of a box, their connections shared evenly among the client namespaces."""

    def __init__(self, box: Box, connections: int, seed: int) -> None:
        self._clients: list[Client] = []
        count = len(box.client_ids)
        for index, client in enumerate(box.client_ids):
            share = connections // count + (index < connections % count)
            plan = Plan(
                vip=box.vip,
                port=box.port,
                connections=share,
                downloads=share // DOWNLOAD_PER_CONNECTIONS,
                seed=seed * 1000 + client,
                interval_s=REQUEST_INTERVAL_S,
                small_sha256=box.content.small_sha256,
                long_sha256=box.content.long_sha256,
            )
            argv = python_command("pyxdp_gossip.popbox.client", json.dumps(asdict(plan)))
            self._clients.append(Client(box.start_on_client(client, "crowd", argv)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.stop()

    def wait_ready(self) -> None:
        """Until each connection has had its first answer, or is broken."""
        for client in self._clients:
            client.wait_for("ready", READY_TIMEOUT_S)

    def wait_report(self) -> None:
        """Until each client has reported once more."""
        for client in self._clients:
            client.wait_for("progress", REPORT_TIMEOUT_S)

    def broken_so_far(self) -> int:
        return sum(client.poll() for client in self._clients)

    def host_died(self, host: int) -> None:
        """Says that what this host owned will never answer; call it after `Box.kill_host`."""
        for client in self._clients:
            client.tell(do="died", host=host)

    def finish(self) -> Tally:
        """One more request on every connection; then the count."""
        for client in self._clients:
            client.tell(do="finish")
        outcomes: list[Outcome] = []
        for client in self._clients:
            result = client.wait_for("result", FINISH_TIMEOUT_S)
            outcomes += [Outcome(**outcome) for outcome in result["connections"]]
        return tally(outcomes)
