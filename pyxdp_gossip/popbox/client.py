# SPDX-License-Identifier: BSD-2-Clause
"""Holds many HTTP/1.1 connections open, in one process, and says what became of each.

Run as `python -m pyxdp_gossip.popbox.client PLAN`, PLAN being the JSON of a `Plan`. Events go to
standard output, commands come from standard input, one JSON object a line:

* out `{"event": "ready"}`: every connection has had its first answer or is broken
* out `{"event": "progress", "broken", "requests", "bytes"}`: four times a second
* in  `{"do": "died", "host": n}`: host n was killed; nobody need wait for what it owned
* in  `{"do": "finish"}`: end what is running, one more request on each connection, then end
* out `{"event": "result", "connections": [...]}`: the last line, one `Outcome` each

A broken connection is not opened again: how many break is what is measured.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import sys
from collections.abc import AsyncIterator, Set
from dataclasses import asdict, dataclass

STALL_S = 15.0
"""No byte for so long breaks a connection: TCP has then sent again five times and more."""
PARALLEL_OPENS = 64
"""Connections that wait for their first answer at a time: fewer than any listen backlog."""
PROGRESS_S = 0.25
CHUNK_BYTES = 65536
HEADER_LINES_MAX = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """What the process shall do.

    `interval_s` is the mean pause between two small requests, jittered by half of it either way.
    The first `downloads` connections fetch the long file over and over, the others the small one.
    """

    vip: str
    port: int
    connections: int
    downloads: int
    seed: int
    interval_s: float
    small_sha256: str
    long_sha256: str


@dataclass(slots=True)
class Outcome:
    """What became of one connection; `broken` names the reason, None: it lived to the end.

    `owner_died`: its owner had been killed when it broke. One that broke before does not count as
    the owner's fault, whatever happens to the owner later.
    """

    kind: str
    owner: int | None = None
    broken: str | None = None
    owner_died: bool = False
    wrong_bytes: bool = False
    requests: int = 0
    bytes: int = 0


class BrokenConnectionError(Exception):
    """The connection cannot be used any more; the text is the reason in one word."""


@contextlib.asynccontextmanager
async def breakage() -> AsyncIterator[None]:
    """Names what the network did to a connection."""
    try:
        async with asyncio.timeout(STALL_S):
            yield
    except TimeoutError:
        raise BrokenConnectionError("stalled") from None
    except asyncio.IncompleteReadError:
        raise BrokenConnectionError("eof") from None
    except (ConnectionError, OSError) as error:
        raise BrokenConnectionError(type(error).__name__) from None
    except (ValueError, asyncio.LimitOverrunError):
        raise BrokenConnectionError("malformed") from None


class Connection:
    """One client connection, from its first request to its last."""

    def __init__(self, plan: Plan, number: int, dead: Set[int]) -> None:
        self._plan = plan
        self._dead = dead
        self._random = random.Random(f"{plan.seed}/{number}")
        is_download = number < plan.downloads
        self.outcome = Outcome("download" if is_download else "requests")

    async def run(
        self, opens: asyncio.Semaphore, ready: asyncio.Event, stop: asyncio.Event
    ) -> None:
        """Works until `stop`, then once more; whatever happens is in `outcome`."""
        writer = None
        try:
            async with opens:
                async with breakage():
                    plan = self._plan
                    reader, writer = await asyncio.open_connection(plan.vip, plan.port)
                await self._request(reader, writer, "/small")
            ready.set()
            while not stop.is_set():
                await self._work(reader, writer)
            await self._request(reader, writer, "/small")
        except BrokenConnectionError as error:
            self.outcome.broken = str(error)
        except asyncio.CancelledError:
            self.outcome.broken = "owner_died"
        finally:
            ready.set()
            broken, owner = self.outcome.broken, self.outcome.owner
            self.outcome.owner_died = broken is not None and owner in self._dead
            if writer is not None:
                writer.transport.abort()

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.outcome.kind == "download":
            await self._request(reader, writer, "/long")
            return
        await asyncio.sleep(self._plan.interval_s * self._random.uniform(0.5, 1.5))
        await self._request(reader, writer, "/small")

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> None:
        async with breakage():
            writer.write(f"GET {path} HTTP/1.1\r\nHost: vip\r\n\r\n".encode())
            await writer.drain()
            status = await self._read_line(reader)
            length, host = await self._read_headers(reader)
        if status[:2] != [b"HTTP/1.1", b"200"]:
            raise BrokenConnectionError("status")
        if self.outcome.owner is None:
            self.outcome.owner = host
        elif host != self.outcome.owner:
            raise BrokenConnectionError("other_host")
        await self._read_body(reader, length, path)
        self.outcome.requests += 1

    @staticmethod
    async def _read_line(reader: asyncio.StreamReader) -> list[bytes]:
        return (await reader.readuntil(b"\r\n")).split()

    async def _read_headers(self, reader: asyncio.StreamReader) -> tuple[int, int]:
        """Content length and host id; ValueError if one of them is missing."""
        found: dict[bytes, int] = {}
        for _ in range(HEADER_LINES_MAX):
            words = await self._read_line(reader)
            if not words:
                break
            if words[0].lower() in (b"content-length:", b"x-host:"):
                found[words[0].lower()] = int(words[1])
        if len(found) != 2:
            raise ValueError("an answer without length or host")
        return found[b"content-length:"], found[b"x-host:"]

    async def _read_body(self, reader: asyncio.StreamReader, length: int, path: str) -> None:
        digest = hashlib.sha256()
        while length > 0:
            async with breakage():
                chunk = await reader.read(min(CHUNK_BYTES, length))
            if not chunk:
                raise BrokenConnectionError("eof")
            digest.update(chunk)
            length -= len(chunk)
            self.outcome.bytes += len(chunk)
        plan = self._plan
        if digest.hexdigest() != (plan.long_sha256 if path == "/long" else plan.small_sha256):
            self.outcome.wrong_bytes = True


class Crowd:
    """All connections of a plan, the commands about them, and the events."""

    def __init__(self, plan: Plan) -> None:
        self._dead: set[int] = set()
        self._connections = [
            Connection(plan, number, self._dead) for number in range(plan.connections)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        opens = asyncio.Semaphore(PARALLEL_OPENS)
        ready = [asyncio.Event() for _ in self._connections]
        self._tasks = [
            asyncio.create_task(connection.run(opens, event, self._stop))
            for connection, event in zip(self._connections, ready, strict=True)
        ]
        background = [
            asyncio.create_task(self._report()),
            asyncio.create_task(self._announce(ready)),
        ]
        commands = asyncio.create_task(self._obey())
        await asyncio.gather(*self._tasks, commands)
        for task in background:
            task.cancel()
        outcomes = [asdict(connection.outcome) for connection in self._connections]
        emit({"event": "result", "connections": outcomes})

    async def _announce(self, ready: list[asyncio.Event]) -> None:
        for event in ready:
            await event.wait()
        emit({"event": "ready"})

    async def _report(self) -> None:
        while True:
            outcomes = [connection.outcome for connection in self._connections]
            emit(
                {
                    "event": "progress",
                    "broken": sum(outcome.broken is not None for outcome in outcomes),
                    "requests": sum(outcome.requests for outcome in outcomes),
                    "bytes": sum(outcome.bytes for outcome in outcomes),
                }
            )
            await asyncio.sleep(PROGRESS_S)

    async def _obey(self) -> None:
        """Reads commands; the end of the input counts as `finish`."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            if command["do"] == "died":
                self._dead.add(command["host"])
            else:
                break
        self._stop.set()
        for connection, task in zip(self._connections, self._tasks, strict=True):
            if connection.outcome.owner in self._dead:
                task.cancel()


def emit(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    """Reads the plan from the first argument and runs it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pyxdp_gossip.popbox.client PLAN")
    asyncio.run(Crowd(Plan(**json.loads(sys.argv[1]))).run())


if __name__ == "__main__":
    main()
