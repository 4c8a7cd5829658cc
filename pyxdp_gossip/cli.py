# SPDX-License-Identifier: BSD-2-Clause
"""The command line: run, keygen, demo."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog

from pyxdp_gossip.config import Config, generate_key_line
from pyxdp_gossip.errors import GossipError
from pyxdp_gossip.node import Node
from pyxdp_gossip.popbox.demo import demo_command

DONE, BAD_RESULT, NOT_STARTED = 0, 1, 2
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SYNC_POLL_S = 0.2  # how long a signal may wait while the host joins


def fail(message: str, status: int = NOT_STARTED) -> NoReturn:
    """One line on standard error, and the exit status."""
    click.echo(f"pyxdp-gossip: {' '.join(message.split())}", err=True)
    sys.exit(status)


def set_up_log() -> Any:
    """Lines of key=value on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return structlog.get_logger()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyxdp-gossip")
def cli() -> None:
    """Hosts behind an ECMP router keep each other's connections alive."""


@cli.command()
@click.option("--config", "path", required=True, type=click.Path(path_type=Path))
@click.option("--ready-file", type=click.Path(path_type=Path), help="Written once synced.")
def run(path: Path, ready_file: Path | None) -> None:
    """The agent, in the foreground; SIGTERM leaves cleanly, SIGUSR1 writes the counters."""
    log = set_up_log()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # before any thread: all inherit it
    try:
        config = Config.load(path)
        for warning in config.warnings:
            log.warning(warning)
        with Node(config, log=log.bind(host=config.host.id)) as node:
            status = serve(node, ready_file)
    except GossipError as error:
        fail(str(error))
    sys.exit(status)


def serve(node: Node, ready_file: Path | None) -> int:
    """Runs until a signal or the node's own end; returns the exit status."""
    ready = False
    while True:
        received = signal.sigtimedwait(SIGNALS, SYNC_POLL_S)
        if received and received.si_signo != signal.SIGUSR1:
            write_report(node, ready_file)
            return DONE
        if received:
            write_report(node, ready_file)
        if node.failure:
            raise node.failure
        if not ready and node.is_synced:
            ready = True
            tell_ready(ready_file)


def tell_ready(ready_file: Path | None) -> None:
    """Writes the ready file and tells systemd."""
    if ready_file:
        write_atomically(ready_file, f"{os.getpid()}\n")
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", "\0", 1))


def write_report(node: Node, ready_file: Path | None) -> None:
    """Writes all counters beside the ready file."""
    if ready_file:
        write_atomically(Path(f"{ready_file}.stats.json"), json.dumps(node.report()))


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the whole new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


@cli.command()
@click.option("--id", "key_id", default=1, show_default=True, type=click.IntRange(1, 65535))
def keygen(key_id: int) -> None:
    """Prints one new key line for a key file."""
    click.echo(generate_key_line(os.urandom, key_id))


cli.add_command(demo_command, "demo")


def main() -> None:
    """Entry point; flags that click refuses give one line and status 2."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        sys.exit(DONE)
    except click.ClickException as error:
        fail(error.format_message())
    except GossipError as error:
        fail(str(error))
