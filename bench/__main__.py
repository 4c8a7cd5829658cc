# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench NAME --json FILE [--seed N] [--pin CPUS]`: runs one benchmark."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import formats, forward, gossip, gossip_figures, lookup, machine, overhead, xdp

BENCHMARKS = {
    "formats": formats.run,
    "forward": forward.run,
    "gossip": gossip.run,
    "lookup": lookup.run,
    "overhead": overhead.run,
    "xdp": xdp.run,
}
DETAILS = {  # for the file: a terminal is not that wide
    *("queues", "frame_len", "theirs_min", "theirs_max", "ratio_min", "ratio_max", "offered"),
    *("paced_mpps", "paced_offered", "paced_entered", "paced_returned", "theirs_lost_inside"),
    *("plane", "own_percent", "cpu_us", "theirs_cpu_us", "cpu_ns", "theirs_cpu_ns"),
}
WIDTH = 120  # for output that goes to a file or a pipe
PROSE = ("note", "bound_by", "how")  # sentences: below the table, once


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """The rows as a table, and what bounds them."""
    table = Table(title=name)
    keys = [key for row in rows for key in row if key not in PROSE and key not in DETAILS]
    keys = list(dict.fromkeys(keys))
    if name == "gossip":  # each of its parts has keys of its own
        keys = [key for key in gossip_figures.SHOWN if key in keys]
    for key in keys:
        table.add_column(key, justify="right")
    for row in rows:
        values = (row.get(key) for key in keys)
        table.add_row(*("" if value is None else str(value) for value in values))
    console = Console(width=max(Console().width, WIDTH))
    console.print(table)
    for text in dict.fromkeys(row[key] for key in PROSE for row in rows if key in row):
        console.print(text)


@click.command()
@click.argument("name", type=click.Choice(sorted(BENCHMARKS)))
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where the result goes.")
@click.option("--seed", default=1, show_default=True)
@click.option("--pin", help="CPUs to run on: 0 or 0,1.")
@click.option("--only", help="gossip: these parts alone, as apply,latency.")
@click.option("--quick", is_flag=True, help="gossip: the smallest size; figures mean little.")
@click.option("--minutes", type=float, help="gossip: how long to look for false deaths.")
def main(
    name: str,
    path: Path | None,
    seed: int,
    pin: str | None,
    only: str | None,
    quick: bool,
    minutes: float | None,
) -> None:
    """Runs one benchmark and prints its rows."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: all is taken down
    if pin:
        os.sched_setaffinity(0, {int(cpu) for cpu in pin.split(",")})
    if name == "gossip":
        options = gossip.Options(only.split(",") if only else (), minutes)
        rows = gossip.run(seed, gossip_figures.QUICK if quick else None, options)
    elif only or quick or minutes is not None:
        raise click.UsageError("--only, --quick and --minutes are for the benchmark gossip")
    else:
        rows = BENCHMARKS[name](seed)
    show(name, rows)
    if path:
        result = {"bench": name, "machine": machine.describe(), "seed": seed, "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
