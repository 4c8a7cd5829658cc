# SPDX-License-Identifier: BSD-2-Clause
"""The command `doctor`: what is wrong with this host, and what to do."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from pyxdp_gossip.doctor import admit, examine
from pyxdp_gossip.errors import HostError

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=FILE, help="Of the agent that is to run here, or runs.")
@click.option("--interface", help="In the place of the configured one.")
@click.option("--json", "json_path", type=FILE, help="The findings, for machines.")
def doctor_command(config: Path | None, interface: str | None, json_path: Path | None) -> None:
    """Examines this host: a line for each check, ok, warning or problem, and what to do.

    Nothing is changed or attached. Status 1: a problem was found.
    """
    patient = admit(config, interface)
    findings = examine(patient)
    counted = Counter(one.state for one in findings)
    worst = next(name for name in ("problem", "warning", "ok") if counted[name])
    for one in findings:
        click.echo(str(one))
    click.echo(f"{counted['problem']} problems, {counted['warning']} warnings")
    if json_path:
        said = {
            "status": worst,
            "findings": [asdict(one) for one in findings],
            **patient.features.as_dict(),
        }
        try:
            json_path.write_text(json.dumps(said, indent=1) + "\n")
        except OSError as error:
            raise HostError(f"--json {json_path}: {error.strerror}; name another") from None
    if worst == "problem":
        sys.exit(1)
