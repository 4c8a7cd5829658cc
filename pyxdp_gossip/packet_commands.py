# SPDX-License-Identifier: BSD-2-Clause
"""The commands `explain`, `dump` and `replay`: packets, and what becomes of them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table

from pyxdp_gossip import netlink
from pyxdp_gossip.capture import Capture, Captured, CaptureWriter
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import ConfigError, HostError
from pyxdp_gossip.explanation import Explanation
from pyxdp_gossip.forwarder import Forwarder
from pyxdp_gossip.live_dump import state_of
from pyxdp_gossip.live_snapshot import is_live, live_snapshot
from pyxdp_gossip.pop_state import (
    SESSIONS_MAX,
    PopState,
    load_state,
    read_sessions,
    state_of_config,
)
from pyxdp_gossip.replay import BURST, Outcome, Replay, replay

FRAME_MAX: Final = 65535 + 22  # the longest IP packet, Ethernet and two VLAN tags
TEXT_MAX: Final = 1 << 20  # of standard input
TCPDUMP_OFFSET: Final = re.compile(r"^\s*0x[0-9a-fA-F]{4}:", re.M)
SEPARATORS: Final = re.compile(r"[\s:.-]+")
FILE: Final = click.Path(path_type=Path)

by_config = click.option(
    "--config", type=FILE, help="The host's configuration; other hosts by its [[peer]] tables."
)
by_state = click.option("--state", type=FILE, help="A state file, TOML or JSON: docs/explain.md.")
with_sessions = click.option("--sessions", type=FILE, help="Who owns what: JSON, or CSV.")
without_sockets = click.option(
    "--no-sockets", is_flag=True, help="This host's kernel knows not even the sessions it owns."
)


def read_pop(
    config: Path | None, state: Path | None, sessions: Path | None, no_sockets: bool
) -> tuple[PopState, Forwarder]:
    """The POP of exactly one of the two files, and a forwarder over its sessions."""
    if (config is None) == (state is None):
        raise click.UsageError("Give one of --config and --state.")
    if state is not None:
        pop, rows = load_state(state)
    else:
        assert config is not None  # one of them is there
        loaded = Config.load(config)
        address = loaded.host.address
        if address is None:
            try:
                address = netlink.first_address(loaded.host.interface)
            except HostError as error:
                raise ConfigError(f"{config}: [host] address is missing, and {error}") from None
        pop, rows = state_of_config(loaded, address), []
    if sessions is not None:
        rows += read_sessions(sessions)
    return pop, pop.forwarder(rows, sockets=not no_sockets)


# ---- explain ----


@click.command()
@click.argument("frame", required=False, metavar="[HEX | -]")
@by_config
@by_state
@with_sessions
@without_sockets
@click.option("--pcap", type=FILE, help="Take the frame from a capture.")
@click.option("--number", type=click.IntRange(1), help="Of the frame there, from 1 on.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def explain_command(
    frame: str | None,
    config: Path | None,
    state: Path | None,
    sessions: Path | None,
    no_sockets: bool,
    pcap: Path | None,
    number: int | None,
    as_json: bool,
) -> None:
    """One packet's way: each question, its answer and the reason.

    The packet is given from its Ethernet header on: as hexadecimal digits, on standard input (`-`;
    lines of `tcpdump -xx` are understood), or as a frame of a capture. With --config of a running
    agent, as root, the live tables and the kernel's sockets answer; else files do, without
    privileges. Nothing is counted or sent.
    """
    if (frame is None) == (pcap is None) or (pcap is None) != (number is None):
        raise click.UsageError("Give HEX, `-`, or --pcap with --number.")
    if pcap is not None and number is not None:
        captured = frame_of_capture(pcap, number)
    else:
        data = parse_hex(read_standard_input() if frame == "-" else frame or "")
        captured = Captured(data, len(data), (0, 0))
    with explainer(config, state, sessions, no_sockets) as (by, explain_frame):
        found = explain_frame(captured.frame)
    if as_json:
        click.echo(json.dumps(explanation_dict(found) | {"by": by, "cut": captured.is_cut}))
        return
    click.echo(f"By {by}.")
    if captured.is_cut:
        click.echo(f"The capture has {len(captured.frame)} of its {captured.wire_len} bytes.")
    click.echo(str(found))


def read_standard_input() -> str:
    try:
        return sys.stdin.read(TEXT_MAX)
    except UnicodeDecodeError:
        raise ConfigError("standard input is no text: expected hexadecimal digits") from None


def parse_hex(text: str) -> bytes:
    """A frame of hexadecimal digits; blanks, colons and tcpdump's offsets are left out.

    Raises:
        ConfigError: it is none, or too long.
    """
    digits = SEPARATORS.sub("", TCPDUMP_OFFSET.sub("", text)).removeprefix("0x")
    try:
        frame = bytes.fromhex(digits)
    except ValueError:
        bad = re.search(r"[^0-9a-fA-F]", digits)
        what = f"{bad[0]!r} is no digit" if bad else f"{len(digits)} digits are half a byte"
        raise ConfigError(f"the frame is no hexadecimal text: {what}") from None
    if not 0 < len(frame) <= FRAME_MAX:
        raise ConfigError(f"the frame has {len(frame)} bytes, expected 1..{FRAME_MAX}")
    return frame


def frame_of_capture(path: Path, number: int) -> Captured:
    """The frame of this number, from 1 on.

    Raises:
        ConfigError: the capture cannot be read so far, or has fewer.
    """
    with Capture(path) as capture:
        before = 0
        while burst := capture.read(BURST):
            if number <= before + len(burst):
                return burst[number - before - 1]
            before += len(burst)
        ends = f", where it is damaged ({capture.damage})" if capture.damage else ""
    raise ConfigError(f"{path}: has {before} frames{ends}; --number is {number}")


@contextmanager
def explainer(
    config: Path | None, state: Path | None, sessions: Path | None, no_sockets: bool
) -> Iterator[tuple[str, Callable[[bytes], Explanation]]]:
    """By what is explained, and what explains."""
    if config is not None and state is None and sessions is None and not no_sockets:
        pins = Config.load(config).dataplane.pins
        if is_live(pins):
            with live_snapshot(pins) as live:
                yield f"the live tables of host {live.host}", live.explain
            return
    _, forwarder = read_pop(config, state, sessions, no_sockets)
    yield f"{state or config}, without a kernel", forwarder.explain


def explanation_dict(found: Explanation) -> dict[str, Any]:
    """For JSON."""
    return {
        "ending": found.ending,
        "action": found.action,
        "sentence": found.sentence,
        "session": None if found.session is None else str(found.session),
        "tcp_flags": found.tcp_flags,
        "owner": found.owner,
        "sender": None if found.sender is None else str(found.sender),
        "steps": [
            {
                "name": step.name,
                "question": step.question,
                "answer": step.answer,
                "reason": step.reason,
            }
            for step in found.steps
        ],
        "output": found.output.hex(),
    }


# ---- dump ----


@click.command()
@click.option("--config", type=FILE, required=True, help="Of an agent that is at work here.")
@click.option(
    "--sessions",
    "most",
    default=10_000,
    show_default=True,
    type=click.IntRange(0, SESSIONS_MAX),
    help="So many at most.",
)
def dump_command(config: Path, most: int) -> None:
    """What a running agent knows of its POP, as a state file (JSON) on standard output; as root."""
    pins = Config.load(config).dataplane.pins
    if not is_live(pins):
        raise HostError(f"{pins}: no agent's maps are there to be read: run as root, beside one")
    with live_snapshot(pins) as live:
        click.echo(json.dumps(state_of(live, most), indent=1))


# ---- replay ----


@click.command()
@click.argument("capture", type=FILE, metavar="IN")
@click.argument("out", type=FILE, metavar="[OUT]", required=False)
@by_config
@by_state
@with_sessions
@without_sockets
@click.option("--sent", type=FILE, help="A capture of the sent frames only.")
@click.option("--each", is_flag=True, help="A line for each frame, in front of the table.")
@click.option("--json", "json_path", type=FILE, help="The table, for machines.")
def replay_command(
    capture: Path,
    out: Path | None,
    config: Path | None,
    state: Path | None,
    sessions: Path | None,
    no_sockets: bool,
    sent: Path | None,
    each: bool,
    json_path: Path | None,
) -> None:
    """A capture through the data path, without privileges.

    IN is a pcap or pcapng file, or `-`. Each frame is taken as one that arrives here, from the
    router or through the tunnel, and this host's kernel as knowing the sessions that the host
    owns, and no other. OUT gets what is passed, as it came or stripped of its outer headers, and
    what is sent, with its outer headers, in order; dropped frames are absent.
    """
    refuse_same_file(capture, out, sent, json_path)
    pop, forwarder = read_pop(config, state, sessions, no_sockets)
    with ExitStack() as stack:
        source = stack.enter_context(Capture(capture))
        all_out = stack.enter_context(CaptureWriter(out)) if out else None
        sent_out = stack.enter_context(CaptureWriter(sent)) if sent else None
        names = {peer.address: f"host {peer.id}" for peer in pop.peers}
        if pop.flood_group is not None:
            names[pop.flood_group] = "the flood group"

        def see(outcome: Outcome) -> None:
            if all_out and outcome.action != "drop":
                all_out.write(outcome.output, outcome.captured.at)
            if sent_out and outcome.action == "tx":
                sent_out.write(outcome.output, outcome.captured.at)
            if each:
                to = "" if outcome.to is None else f" to {names.get(outcome.to, outcome.to)}"
                click.echo(f"{outcome.number} {outcome.ending}{to}")

        total = replay(source, forwarder, pop, see)
    said = total.as_dict()
    said["sent_to"] = {
        names.get(address, str(address)): count for address, count in sorted(total.sent_to.items())
    }
    if json_path:
        write_json(json_path, said)
    show(total, said["sent_to"], capture)


def refuse_same_file(capture: Path, *outputs: Path | None) -> None:
    """What is written must not be what is read, or written twice."""
    taken = [capture]
    for path in filter(None, outputs):
        for other in taken:
            if os.path.realpath(path) == os.path.realpath(other):
                raise ConfigError(f"{path}: is given twice; name another file to write to")
        taken.append(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise HostError(f"--json {path}: {error.strerror}; name another") from None


def show(total: Replay, sent_to: dict[str, int], capture: Path) -> None:
    """The table, and what else must be known of it."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("frames", justify="right")
    table.add_column("")
    table.add_column("ending", no_wrap=True)
    table.add_column("")
    for row in total.as_dict()["endings"]:
        table.add_row(f"{row['frames']}", row["action"], row["name"], row["sentence"])
    table.add_section()
    table.add_row(f"{total.frames}", "", "all frames", "")
    Console().print(table)
    for name, count in sent_to.items():
        click.echo(f"{count} sent to {name}")
    if total.cut:
        click.echo(f"{total.cut} were cut by the capture's snap length: capture with `-s 0`.")
    if total.damage:
        click.echo(f"{capture}: read up to frame {total.frames}: {total.damage}", err=True)
