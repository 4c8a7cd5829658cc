# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench NAME --json FILE [--seed N] [--pin CPUS]`: runs one benchmark; `compare` and
`report` read what it wrote."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench import (
    compare,
    formats,
    forward,
    gossip,
    gossip_figures,
    instructions,
    lookup,
    machine,
    overhead,
    result_file,
    scaling,
    sharing,
    sweep,
    xdp,
)
from bench.result_file import DETAILS, PROSE, Result, ResultError

BENCHMARKS: Final[dict[str, Callable[..., list[dict[str, Any]]]]] = {
    "formats": formats.run,
    "forward": forward.run,
    "gossip": lambda seed, **more: run_gossip(seed, **more),
    "instructions": instructions.run,
    "lookup": lookup.run,
    "overhead": overhead.run,
    "scaling": scaling.run_command,
    "sharing": sharing.run,
    "sweep": sweep.run,
    "xdp": xdp.run,
}
HELP: Final = {
    "formats": "Frames a second by each tunnel format, beside IP-in-IP.",
    "forward": "Frames a second on a veth, beside testpmd, a plain AF_XDP loop and XDP alone.",
    "gossip": "Records, datagrams, delays, losses, deaths, joins and rest.",
    "instructions": "Instructions and cache lines of one stray, by callgrind.",
    "lookup": "One look-up in the session table, over its size and share of hits.",
    "overhead": "What we cost the host's own traffic, through nginx.",
    "scaling": "What a host pays in a POP of any size, on paper and in the simulator.",
    "sharing": "A look-up beside a writer, beside another reader, and in a BPF map.",
    "sweep": "Frames a second of the AF_XDP loop by burst, busy polling and wake-ups.",
    "xdp": "One packet in the XDP program; strays beside a look-up in an LRU_HASH map.",
}
WIDTH = 120  # for output that goes to a file or a pipe
FILE = click.Path(path_type=Path, dir_okay=False)


def wide_console() -> Console:
    """A console as wide as tables need."""
    return Console(width=max(Console().width, WIDTH))


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """The rows as a table, and what bounds them."""
    table = Table(title=name)
    hidden = {*PROSE, *DETAILS}
    if len({row.get("queues") for row in rows}) > 1:
        hidden.discard("queues")  # else rows would look alike
    keys = [key for row in rows for key in row if key not in hidden]
    keys = list(dict.fromkeys(keys))
    if name in ("gossip", "scaling"):  # each of their parts has keys of its own
        keys = [key for key in gossip_figures.SHOWN if key in keys]
    for key in keys:
        table.add_column(key, justify="right")
    for row in rows:
        values = (row.get(key) for key in keys)
        table.add_row(*("" if value is None else str(value) for value in values))
    console = wide_console()
    console.print(table)
    for text in dict.fromkeys(row[key] for key in PROSE for row in rows if key in row):
        console.print(text)


@click.group()
def main() -> None:
    """Runs a benchmark, compares two runs, or writes docs/benchmarks.md."""


def command_of(name: str, options: dict[str, Any]) -> str:
    """What to type to measure the same again."""
    words = [f"python -m bench {name}"]
    for key, value in options.items():
        if value is True:
            words.append(f"--{key}")
        elif value:
            words.append(f"--{key} {value}")
    return " ".join(words)


def run_on(pin: str) -> None:
    """From now on this process runs on these CPUs alone."""
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in pin.split(",")})
    except (OSError, ValueError, OverflowError):
        raise click.BadParameter(
            f"{pin!r} names no CPUs of this machine", param_hint="--pin"
        ) from None


def benchmark(name: str) -> click.Command:
    """The command that runs one benchmark."""

    def run(path: Path | None, seed: int, pin: str | None, **more: Any) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: all is taken down
        if pin:
            run_on(pin)
        described = machine.describe()  # before it is made busy
        rows = BENCHMARKS[name](seed, **more)
        show(name, rows)
        if path:
            command = command_of(name, {"seed": seed, "pin": pin, **more})
            result_file.write(path, Result(name, described, command, seed, rows))

    return click.Command(name, callback=run, params=parameters(name), help=HELP[name])


def parameters(name: str) -> list[click.Parameter]:
    """The options of a benchmark."""
    common: list[click.Parameter] = [
        click.Option(["--json", "path"], type=FILE, help="Where the result goes."),
        click.Option(["--seed"], default=1, show_default=True),
        click.Option(["--pin"], help="CPUs to run on: 0 or 0,1."),
    ]
    if name == "scaling":
        return [*common, *scaling.OPTIONS]
    if name != "gossip":
        return common
    return [
        *common,
        click.Option(["--only"], help="These parts alone, as apply,latency."),
        click.Option(["--quick"], is_flag=True, help="The smallest size; figures mean little."),
        click.Option(["--minutes"], type=float, help="How long to look for false deaths."),
    ]


def run_gossip(
    seed: int, only: str | None, quick: bool, minutes: float | None
) -> list[dict[str, Any]]:
    """The gossip's rows, by its own options."""
    options = gossip.Options(only.split(",") if only else (), minutes)
    return gossip.run(seed, gossip_figures.QUICK if quick else None, options)


for one in BENCHMARKS:
    main.add_command(benchmark(one))


def or_one_line(work: Callable[[], bool]) -> None:
    """Status 1 if it found something; a file that cannot be read is one line, and status 2."""
    try:
        found = work()
    except ResultError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
    raise SystemExit(1 if found else 0)


@main.command("compare")
@click.argument("old", metavar="A.json", type=FILE)
@click.argument("new", metavar="B.json", type=FILE)
@click.option(
    "--least",
    default=compare.LEAST_PERCENT,
    show_default=True,
    help="Percent below which a difference is none.",
)
def compare_command(old: Path, new: Path, least: float) -> None:
    """Tells whether B is slower than A, or whether it is noise; status 1 if it is slower."""

    def work() -> bool:
        return compare.run(wide_console(), result_file.read(old), result_file.read(new), least)

    or_one_line(work)


@main.command("report")
def report_command() -> None:
    """Writes docs/benchmarks.md and its plots from bench/results/*.json."""
    from bench import report  # matplotlib takes a second, and only this needs it

    def work() -> bool:
        click.echo(f"{report.write(report.RESULTS, report.DOCS)} is written")
        return False

    or_one_line(work)


if __name__ == "__main__":
    main()
