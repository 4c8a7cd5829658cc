# SPDX-License-Identifier: BSD-2-Clause
"""The command line: run, keygen, doctor, dump, explain, replay, demo, sim."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import GossipError, HostError
from pyxdp_gossip.key_file import generate_key_line
from pyxdp_gossip.lean_imports import apart, hidden
from pyxdp_gossip.node import Node

DONE, BAD_RESULT, NOT_STARTED = 0, 1, 2
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ELSEWHERE = {
    "demo": "popbox.demo",
    "doctor": "doctor_command",
    "dump": "packet_commands",
    "explain": "packet_commands",
    "replay": "packet_commands",
    "sim": "sim.command",
}
SYNC_POLL_S = 0.2  # how long a signal may wait while the host joins


def fail(message: str, status: int = NOT_STARTED) -> NoReturn:
    """One line on standard error, and the exit status."""
    click.echo(f"pyxdp-gossip: {' '.join(message.split())}", err=True)
    sys.exit(status)


def set_up_log() -> Any:
    """Lines of key=value on standard error."""
    with apart("asyncio"), hidden("rich"):  # 10 MB, for what of structlog is not used here
        import structlog
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


class Commands(click.Group):
    """The commands here and in other modules.

    Those are loaded when they are asked for: a running agent needs neither the simulator nor
    captures, and would hold them for ever.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"pyxdp_gossip.{ELSEWHERE[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False
)
@click.version_option(package_name="pyxdp-gossip")
def cli() -> None:
    """Hosts behind an ECMP router keep each other's connections alive."""


@cli.command()
@click.option("--config", "path", required=True, type=click.Path(readable=False, path_type=Path))
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="There from synced to the stop."
)
def run(path: Path, ready_file: Path | None) -> None:
    """The agent, in the foreground.

    SIGTERM and SIGINT leave the POP and take everything off; SIGHUP ends for an upgrade, with
    the programs left at work for the next start; SIGUSR1 writes the counters; SIGUSR2 reads the
    configuration again and takes its keys and further services.
    """
    log = set_up_log()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # before any thread: all inherit it
    config = Config.load(path)
    for warning in config.warnings:
        log.warning(warning)
    if ready_file and not ready_file.absolute().parent.is_dir():
        raise HostError(f"--ready-file {ready_file}: no such folder; make it first")
    withdraw(ready_file)  # a killed agent's lies there still, and this one is not ready
    with Node(config, log=log.bind(host=config.host.id)) as node:
        try:
            serve(node, path, ready_file, log)
        finally:
            withdraw(ready_file)  # before anything is taken off: whoever announces, stops first
            tell_systemd(b"STOPPING=1", log)
    if node.failure:
        raise node.failure


def serve(node: Node, path: Path, ready_file: Path | None, log: Any) -> None:
    """Runs until a signal or the node's own end, which it raises."""
    ready = False
    while True:
        received = signal.sigtimedwait(SIGNALS, SYNC_POLL_S)
        if node.failure:
            raise node.failure
        # After SIGCONT, CPython may return a siginfo that it never filled in.
        if received and received.si_signo == signal.SIGUSR2:
            reload(node, path, log)
        elif received and received.si_signo in SIGNALS:
            write_report(node, ready_file, log)
            if received.si_signo == signal.SIGHUP:
                node.stop(stay_attached=True)
            if received.si_signo != signal.SIGUSR1:
                return
        if not ready and node.is_synced:
            ready = True
            if ready_file:
                announce(ready_file)
            tell_systemd(b"READY=1", log)


def reload(node: Node, path: Path, log: Any) -> None:
    """Takes keys and further services of the configuration as it is now; what cannot be changed
    stays as it was, and is said in a line. A wrong file changes nothing."""
    try:
        config = Config.load(path)
        if not config.gossip.insecure:
            node.change_keys(config.gossip.keys)
        stay = node.change_services(config.services)
    except (GossipError, RuntimeError) as error:
        log.error("not reloaded", reason=str(error))
        return
    waits = [*node.config.waits_for_restart(config), *map(str, stay)]
    if waits:
        log.warning("changed at the next start only", what=waits)


def announce(ready_file: Path) -> None:
    """Writes the ready file; whoever waits for it would wait for ever if that failed."""
    try:
        write_atomically(ready_file, f"{os.getpid()}\n")
    except OSError as error:
        raise HostError(f"--ready-file {ready_file}: {error.strerror}; name another") from None


def withdraw(ready_file: Path | None) -> None:
    """Removes the ready file, if it is there."""
    try:
        if ready_file:
            ready_file.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"--ready-file {ready_file}: {error.strerror}; name another") from None


def tell_systemd(state: bytes, log: Any) -> None:
    """Tells the service manager, if one asked for it.

    Source: sd_notify(3): `@` stands for the abstract namespace.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state, "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        log.warning("NOTIFY_SOCKET takes nothing", socket=address, reason=error.strerror)


def write_report(node: Node, ready_file: Path | None, log: Any) -> None:
    """Writes all counters beside the ready file; nothing ends because that failed."""
    if not ready_file:
        return
    path = Path(f"{ready_file}.stats.json")
    try:
        write_atomically(path, json.dumps(node.report()))
    except OSError as error:
        log.warning("counters not written", file=str(path), reason=error.strerror or "no answer")
    except (GossipError, RuntimeError) as error:  # the agent ended this very moment
        log.warning("counters not written", file=str(path), reason=str(error))


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


def main() -> None:
    """Entry point; flags that click refuses give one line and status 2."""
    try:
        cli.main(prog_name="pyxdp-gossip", standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        sys.exit(DONE)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "pyxdp-gossip"
        fail(f"{error.format_message()} See `{command} --help`.")
    except click.ClickException as error:
        fail(error.format_message())
    except GossipError as error:
        fail(str(error))
    except Exception as error:
        fail(our_mistake(error))


def our_mistake(error: Exception) -> str:
    """What an exception that nobody expected says in a line: enough for a report of the bug."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"a bug, please report it: {type(error).__name__}: {error}{where}"
