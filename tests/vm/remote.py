# SPDX-License-Identifier: BSD-2-Clause
"""In a guest that is a host of a pair: does what the machine's tests ask for, a line of JSON each.

Its agent is a process of its own, as an operator starts it; what accepts connections is a thread.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import traceback
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

from tests.vm.kernel_log import KernelLog

PORT: Final = os.environ.get("XG_GUEST_PORT", "")
FOLDER: Final = Path("/run")
CONFIG, READY, LOG = FOLDER / "pop.toml", FOLDER / "ready", FOLDER / "agent.log"
STATS: Final = FOLDER / "ready.stats.json"
DEVICE: Final = "xg0"
WAIT_S: Final = 240.0  # for what the guest does by itself
POLL_S: Final = 0.02
CHUNK: Final = 1 << 16
LENGTH: Final = struct.Struct("!I")

# linux/xdp_diag.h, linux/sock_diag.h
AF_XDP, SOCK_DIAG_BY_FAMILY, NETLINK_SOCK_DIAG = 44, 20, 4
XDP_SHOW = 1 << 0 | 1 << 2 | 1 << 4  # XDP_SHOW_INFO, XDP_SHOW_UMEM, XDP_SHOW_STATS
XDP_DIAG_INFO, XDP_DIAG_UMEM, XDP_DIAG_STATS = 1, 5, 9
XDP_DU_F_ZEROCOPY = 1
REQUEST: Final = struct.Struct("=BBHIIII")
MESSAGE_BYTES: Final = 16
STATS_NAMES: Final = (
    "rx_dropped", "rx_invalid", "rx_full", "fill_empty", "tx_invalid", "tx_empty",
)  # fmt: skip
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE = 1, 0x300, 3

CALLS: dict[str, Callable[..., Any]] = {}
_agents: list[subprocess.Popen[bytes]] = []


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """May be asked for by its name."""
    CALLS[function.__name__] = function
    return function


@call
def run(words: list[str]) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@call
def read(path: str) -> str:
    """A file."""
    return Path(path).read_text()


@call
def take_nic(mac: str) -> None:
    """Gives the NIC its name."""
    for path in Path("/sys/class/net").glob("*/address"):
        if path.read_text().strip() == mac:
            run(["ip", "link", "set", path.parent.name, "name", DEVICE])


# ---- the agent ----


@call
def start_agent(config: str, key: str) -> None:
    """Starts it; `ready` waits for it."""
    CONFIG.write_text(config)
    key_file = FOLDER / "gossip.key"
    key_file.touch(0o600)
    key_file.write_text(f"1 {base64.b64encode(bytes.fromhex(key)).decode()}\n")
    READY.unlink(missing_ok=True)
    words = ["-m", "pyxdp_gossip", "run", "--config", str(CONFIG), "--ready-file", str(READY)]
    with LOG.open("wb") as log:
        _agents.append(subprocess.Popen([sys.executable, *words], stdout=log, stderr=log))


def _until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + WAIT_S
    while not condition():
        if _agents and _agents[-1].poll() is not None:
            raise RuntimeError(f"the agent ended: {LOG.read_text()[-2000:]}")
        if time.monotonic() > limit:
            raise RuntimeError(f"waited {WAIT_S} s for {what}: {LOG.read_text()[-2000:]}")
        time.sleep(POLL_S)


@call
def ready() -> None:
    """Waits until the agent is synced."""
    _until(READY.exists, "the ready file")


@call
def counters() -> Any:
    """What SIGUSR1 makes the agent write."""
    STATS.unlink(missing_ok=True)
    _agents[-1].send_signal(signal.SIGUSR1)
    _until(STATS.exists, "the counters")
    return json.loads(STATS.read_text())


@call
def stop_agent() -> list[str]:
    """SIGTERM; its log's lines of warnings and errors, and the status if it is not 0."""
    agent = _agents.pop()
    agent.send_signal(signal.SIGTERM)
    status = agent.wait(WAIT_S)
    lines = LOG.read_text().splitlines()
    said = [line for line in lines if "level=error" in line or not line.startswith("timestamp=")]
    return said + ([f"status {status}"] if status else [])


@call
def agent_log() -> str:
    """All that it said."""
    return LOG.read_text()


# ---- a server ----


@call
def serve(address: str, port: int) -> None:
    """Accepts connections from now on, and answers each message with its SHA-256."""
    listener = socket.create_server((address, port), backlog=128)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while head := connection.recv(LENGTH.size, socket.MSG_WAITALL):
            [left] = LENGTH.unpack(head)
            digest = hashlib.sha256()
            while left and (got := connection.recv(min(left, CHUNK))):
                digest.update(got)
                left -= len(got)
            connection.sendall(digest.digest())


# ---- what the kernel says ----


@call
def xdp_sockets() -> list[dict[str, Any]]:
    """Each AF_XDP socket: its queue, whether it is in zero-copy, and its statistics."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        question = REQUEST.pack(AF_XDP, 0, 0, 0, XDP_SHOW, 0, 0)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        head = struct.pack("=IHHII", 16 + len(question), SOCK_DIAG_BY_FAMILY, flags, 1, 0)
        netlink.send(head + question)
        found: list[dict[str, Any]] = []
        while True:
            data = netlink.recv(CHUNK)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NLMSG_DONE:
                    return sorted(found, key=lambda one: int(one["queue"]))
                if kind != SOCK_DIAG_BY_FAMILY:
                    raise RuntimeError(f"sock_diag says {data[:64].hex()}")
                found.append(_xdp_socket(data[16 + MESSAGE_BYTES : length]))
                data = data[length:]


def _xdp_socket(attributes: bytes) -> dict[str, Any]:
    one: dict[str, Any] = {}
    while attributes:
        length, kind = struct.unpack_from("=HH", attributes)
        value = attributes[4:length]
        if kind == XDP_DIAG_INFO:
            one["queue"] = struct.unpack("=II", value)[1]
        elif kind == XDP_DIAG_UMEM:
            one["zero_copy"] = bool(struct.unpack_from("=Q8I", value)[7] & XDP_DU_F_ZEROCOPY)
        elif kind == XDP_DIAG_STATS:
            counted = struct.unpack_from("=6Q", value)
            one |= dict(zip(STATS_NAMES, counted, strict=True))
        attributes = attributes[(length + 3) & ~3 :]
    return one


@call
def ethtool_statistics() -> dict[str, int]:
    """The driver's own counters."""
    lines = run(["ethtool", "-S", DEVICE]).splitlines()
    pairs = [line.split(":") for line in lines if line[-1:].isdigit()]
    return {name.strip(): int(value) for name, value in pairs}


def main() -> None:
    """Until the machine says no more."""
    log = KernelLog()
    CALLS["kernel_complaints"] = log.complaints
    with open(PORT, "r+b", buffering=0) as raw:
        tty.setraw(raw, termios.TCSANOW)
    with open(PORT) as questions, open(PORT, "w") as answers:
        _say(answers, kind="ready")
        for line in questions:
            asked = json.loads(line)
            try:
                value = CALLS[asked["call"]](**asked["arguments"])
                _say(answers, kind="answer", value=value)
            except Exception:
                _say(answers, kind="refused", why=traceback.format_exc())


def _say(port: TextIO, **what: Any) -> None:
    port.write(json.dumps(what) + "\n")
    port.flush()


if __name__ == "__main__":
    main()
