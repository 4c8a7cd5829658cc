# SPDX-License-Identifier: BSD-2-Clause
"""The command `pyxdp-gossip sim`: one seed or many, and the one command that replays a failure."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click

from pyxdp_gossip.errors import HostError
from pyxdp_gossip.sim.run import Result, simulate

BAD_RESULT = 1
SHOWN = 5  # violations of one seed


def simulate_many(
    hosts: int,
    seeds: range,
    *,
    seconds: float,
    calm: bool,
    jobs: int,
    unicast: bool = False,
    met: bool = False,
) -> Iterator[Result]:
    """Run seeds in `jobs` processes; results in the order of the seeds."""
    work = partial(_run, hosts, seconds=seconds, calm=calm, unicast=unicast, met=met)
    if jobs == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, seeds, chunksize=4)


def _run(hosts: int, seed: int, **options: Any) -> Result:
    """One seed. A POP's cycles are looked for once, at its end: a tenth of the time less."""
    gc.disable()
    try:
        return simulate(hosts, seed, **options)
    finally:
        gc.enable()
        gc.collect()


def replay_command(result: Result, calm: bool, unicast: bool = False, met: bool = False) -> str:
    """The one command that shows a result again."""
    flags = " --calm" * calm + " --unicast" * unicast + " --met" * met
    return (
        f"pyxdp-gossip sim --hosts {result.hosts} --seed {result.seed} "
        f"--seconds {result.virtual_s:g}{flags}"
    )


@click.command()
@click.option("--hosts", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="So many.")
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(4.0, 3600.0))
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option("--calm", is_flag=True, help="No faults.")
@click.option("--unicast", is_flag=True, help="The network carries no multicast.")
@click.option("--met", is_flag=True, help="The hosts know each other from the start.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="The results.")
def sim_command(
    hosts: int,
    seed: int,
    seeds: int,
    seconds: float,
    jobs: int,
    calm: bool,
    unicast: bool,
    met: bool,
    json_path: Path | None,
) -> None:
    """A POP of gossip cores in virtual time, with faults, and what must hold all the while."""
    results: list[Result] = []
    bad = 0
    chosen = range(seed, seed + seeds)
    many = simulate_many(
        hosts, chosen, seconds=seconds, calm=calm, jobs=jobs, unicast=unicast, met=met
    )
    for result in many:
        if json_path or seeds == 1:
            results.append(result)
        if result.violations:
            bad += 1
            click.echo(f"seed {result.seed}: {', '.join(result.faults)}")
            for line in result.violations[:SHOWN]:
                click.echo(f"  {line}")
            click.echo(f"  replay: {replay_command(result, calm, unicast, met)}")
    if json_path:
        rows = [result.as_dict() for result in results]
        try:
            json_path.write_text(json.dumps(rows[0] if seeds == 1 else rows))
        except OSError as error:
            raise HostError(f"--json {json_path}: {error.strerror}; name another") from None
    if seeds == 1 and not bad:
        click.echo(json.dumps(results[0].as_dict()))
    click.echo(f"{seeds} seeds of {hosts} hosts, {seconds:g} virtual seconds each: {bad} bad")
    sys.exit(BAD_RESULT if bad else 0)
