# SPDX-License-Identifier: BSD-2-Clause
"""The demo command: a progress bar while the comparison runs, then a table, then the verdict."""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pyxdp_gossip.errors import GossipError
from pyxdp_gossip.popbox.comparison import (
    DemoOptions,
    DemoResult,
    PhaseResult,
    run_demo,
)
from pyxdp_gossip.popbox.failures import BoxError
from pyxdp_gossip.popbox.proxy import ProxyKind

STATUS_BAD = 1
STATUS_NOT_STARTED = 2

MEASURES = (
    "connections",
    "broken",
    "broken, their owner was killed",
    "connections with wrong bytes",
    "strays forwarded",
    "flooded",
    "misdelivered",
    "resets seen",
)


def _on_terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like an interrupt, so that the box is taken down."""
    raise KeyboardInterrupt


def _column(phase: PhaseResult) -> list[str]:
    """The cells of one phase, in the order of MEASURES; a dash: this phase has no agents."""
    clients, observed = phase.clients, phase.observed
    by_agents = [clients.broken_owner_died, phase.strays_forwarded, phase.flooded]
    killed, strays, flooded = (f"{n:,}" if phase.mode else "-" for n in by_agents)
    return [
        f"{clients.connections:,}",
        f"{clients.broken:,}",
        killed,
        f"{clients.wrong_bytes:,}",
        strays,
        flooded,
        f"{observed.misdelivered:,}",
        f"{observed.resets:,}",
    ]


def result_table(result: DemoResult) -> Table:
    """The comparison as a table, one column a phase; it fits a terminal of 80 columns."""
    options = result.options
    title = f"{options.hosts} hosts with {options.proxy}, {options.changes} ECMP changes"
    table = Table(title=f"{title}, seed {options.seed}")
    table.add_column("")
    table.add_column("without", justify="right")
    table.add_column(f"with pyxdp-gossip ({result.gossip.mode})", justify="right")
    without, with_gossip = _column(result.baseline), _column(result.gossip)
    for measure, *cells in zip(MEASURES, without, with_gossip, strict=True):
        table.add_row(measure, *cells)
    return table


def verdict(result: DemoResult) -> str:
    """One sentence on what the second phase showed."""
    gossip = result.gossip
    if result.good:
        return (
            f"No connection broke with pyxdp-gossip, apart from {gossip.clients.broken_owner_died} "
            f"that host {gossip.victim} owned when it was killed; {result.baseline.clients.broken} "
            "broke without."
        )
    return (
        f"FAILED: with pyxdp-gossip {gossip.clients.broken} connections broke "
        f"{gossip.clients.reasons}, {gossip.observed.misdelivered} packets were misdelivered, "
        f"{gossip.clients.wrong_bytes} connections got wrong bytes."
    )


def _run_with_bar(options: DemoOptions) -> DemoResult:
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal  # a log wants the result alone
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("setting up")

        def show(text: str, done: int, total: int) -> None:
            bar.update(task, description=text, completed=done, total=total)

        return run_demo(options, show)


@click.command("demo")
@click.option("--hosts", default=4, show_default=True, help="Hosts behind the router.")
@click.option("--connections", default=400, show_default=True, help="Live client connections.")
@click.option("--changes", default=8, show_default=True, help="ECMP changes in each phase.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same changes.")
@click.option(
    "--proxy", type=click.Choice(["nginx", "haproxy"]), default="nginx", show_default=True
)
@click.option("--ipv6", is_flag=True, help="The clients speak IPv6.")
@click.option(
    "--plane",
    type=click.Choice(["xsk", "xdp"]),
    default="xsk",
    show_default=True,
    help="What forwards strays: AF_XDP sockets, or the XDP program.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the result to a file.",
)
def demo_command(
    hosts: int,
    connections: int,
    changes: int,
    seed: int,
    proxy: str,
    ipv6: bool,
    plane: str,
    json_file: Path | None,
) -> None:
    """A POP in network namespaces: ECMP changes without and with pyxdp-gossip. Needs root.

    Exit status: 0 nothing broke with pyxdp-gossip (or interrupted); 1 something did; 2 could not
    run.
    """
    options = DemoOptions(hosts, connections, changes, seed, cast(ProxyKind, proxy), ipv6, plane)
    before = signal.signal(signal.SIGTERM, _on_terminate)
    try:
        if json_file is not None and not json_file.absolute().parent.is_dir():
            raise BoxError(f"--json {json_file}: no such folder; make it first")
        result = _run_with_bar(options)
        if json_file is not None:
            json_file.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    except (GossipError, OSError) as error:
        click.echo(f"pyxdp-gossip demo: {error}", err=True)
        sys.exit(STATUS_NOT_STARTED)
    except KeyboardInterrupt:
        click.echo("pyxdp-gossip demo: interrupted; the box is taken down", err=True)
        sys.exit(0)
    finally:
        signal.signal(signal.SIGTERM, before)
    console = Console()
    console.print(result_table(result))
    console.print(verdict(result), highlight=False)
    sys.exit(0 if result.good else STATUS_BAD)
