# SPDX-License-Identifier: BSD-2-Clause
"""docs/scaling.md, of what `python -m bench scaling --json bench/results/scaling.json` left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from bench.result_file import Result, Row

NAME: Final = "scaling"
PAGE: Final = "scaling.md"
Columns = Mapping[str, str]

INTRODUCTION: Final = """\
# How far it scales

What one host pays in a POP of 10 to 1,000 hosts with 1,000 opens a second and 100,000 sessions for
each host (so 1 M opens a second and 100 M sessions at 1,000 hosts), on paper: formulas, unit costs
that were measured, and a simulation beside them. `make scaling` measures and writes this page; no
figure in it is typed by hand. As many sessions end as open: there are two records for each open.

The formulas are `bench/scaling_formulas.py`, pure functions with the units in their names.
`tests/unit/test_scaling.py` compares them with what real cores count in the simulator. CPU is that
of the agent, one thread: more than 100 % of a core cannot be. What the kernel does to bring a
datagram to the socket comes on top, on other cores.
"""
COMMAND: Final = "The command of every figure below: `{command}`."
BUSY: Final = (
    "The unit costs are CPU time of a process, not the time that passed; but neighbours on the "
    "same processor share its caches and its clock. The machine's load at the start was {load}."
)
BY_SIZE: Final[Columns] = {
    "hosts": "hosts", "by": "mode", "flush": "flush",
}  # fmt: skip
TRAFFIC: Final[Columns] = {
    "records in": "records_in_a_s", "datagrams in": "value", "Mbit/s in": "in_mbit",
    "datagrams out": "sent_a_s", "Mbit/s out": "out_mbit",
}  # fmt: skip
CPU: Final[Columns] = {
    "% of a core": "value", "sockets in": "sockets in", "seals opened": "seals opened",
    "batches": "batches", "records": "records", "heartbeats": "heartbeats", "own": "own records",
    "seals written": "seals written", "sockets out": "sockets out", "turns": "turns",
}  # fmt: skip
WINDOW: Final[Columns] = {
    "most, ms": "value", "mean, ms": "mean_ms", "a lost one later by, ms": "repaired_ms",
    "may stand still, ms": "stall_ms",
}  # fmt: skip
REPAIR: Final[Columns] = {
    "% more datagrams in": "value", "NACKs": "nacks_a_s", "again to one": "again_to_one_a_s",
    "again to all": "again_to_all_a_s", "% of a core": "cpu_percent",
}  # fmt: skip
MEMORY: Final[Columns] = {
    "sessions": "sessions", "GB": "value", "table, MB": "table MB", "members, MB": "members MB",
    "kept batches, MB": "kept batches MB",
}  # fmt: skip
JOIN: Final[Columns] = {
    "sessions": "sessions", "s": "value", "senders' pace, s": "senders' pace s",
    "25 Gbit/s link, s": "link s", "receiver's core, s": "receiver's core s",
    "lists of members": "lists", "lists if all start at once": "lists_if_all_start",
}  # fmt: skip
LIMITS: Final[Columns] = {
    "what": "case", "flush": "flush", "up to": "value", "of": "unit",
}  # fmt: skip
SIMULATED: Final[Columns] = {
    "hosts": "hosts", "busy": "busy", "datagrams in": "value", "by the formulas": "computed",
    "bytes in": "bytes_in", "formulas ": "computed_bytes", "datagrams out": "sent_a_s",
    "formulas": "computed_sent", "largest deviation, %": "deviation_percent",
    "window at most, ms": "window_most_ms",
}  # fmt: skip
COSTS: Final[Columns] = {
    "what": "case",
    "median": "value",
    "unit": "unit",
    "min": "min",
    "max": "max",
}
DIRECTORY: Final[Columns] = {
    "hosts": "hosts", "directory, % of a core": "value",
    "log datagrams each way": "log_datagrams_a_s",
    "table, MB": "table_mb", "replication, %": "replication",
    "replication, flush 50 ms, %": "replication_patient", "its table, MB": "replication_table_mb",
}  # fmt: skip
CROSSING: Final[Columns] = {"from so many hosts": "value", "flush": "flush", "what": "case"}

SECTIONS: Final[tuple[tuple[str, str, str, Columns], ...]] = (
    ("traffic", "Datagrams and bytes a second",
     "Of one host. `flush` is the longest that a record waits for others to share its datagram "
     "(`flush_interval_ms`, 1 ms in this release; an operator cannot change it). At 1 ms two "
     "records of a host hardly ever meet, so that each batch is a datagram of its own for each "
     "host: datagrams, not bytes, are what grows. Without multicast (unicast) a host sends as "
     "many as it gets.", {**BY_SIZE, **TRAFFIC}),
    ("cpu", "CPU",
     "Percent of one core, by part. A part is what the formulas multiply by one unit cost: "
     "`batches` is the reading of a batch by Python, without its seal and its records.",
     {**BY_SIZE, **CPU}),
    ("window", "From an open until all others know it",
     "Most: for the slowest of all hosts. Empty where the hosts cannot keep up: it then grows "
     "until sockets overflow. A packet that comes inside the window to a host that does not "
     "know its session is flooded, not lost. The last column is how long an agent may stand "
     "still before its socket (16 MiB) drops datagrams; then repair sets in.",
     {**BY_SIZE, **WINDOW}),
    ("repair", "What loss adds",
     "One datagram of a hundred is lost on its way to each host. Three hosts that miss the same "
     "batch make a multicast cheaper than a copy each; but among a thousand hosts some three "
     "miss nearly every batch, so nearly every batch is sent to all twice.", {**BY_SIZE, **REPAIR}),
    ("memory", "Memory", "Of one host: each has all sessions.",
     {"hosts": "hosts", **MEMORY}),
    ("join", "One more host joins",
     "The largest of three bounds. The newcomer's core has what the running gossip leaves; empty: "
     "nothing. A join that takes more than 10 s ends *partial*: the host works, by floods, and "
     "goes on asking. Each host sends the newcomer its list of members; if all start at once "
     "there are the datagrams of the last column in the POP, which is the first thing to change "
     "for hundreds of hosts.", {**BY_SIZE, **JOIN}),
    ("limit", "What limits first",
     "The largest number for which one host's means are enough, all else as asked. The core "
     "that reads datagrams limits first, by far; then the join; memory and the link have room.",
     LIMITS),
    ("simulated", "The simulator beside the formulas",
     "Real cores, tables and codec in virtual time, hosts that know each other from the start, a "
     "heartbeat each 250 ms; a few busy hosts with 50 opens and ends a second, the others at rest. "
     "One virtual second, of one host, in the mean of all. Formulas get the number of records that "
     "there were. What is left is chance (bursts), and heartbeats that fall together.", SIMULATED),
    ("directory", "A directory of home nodes, on paper",
     "What [ADR 15](adr/0015-no-home-nodes-yet.md) is about: each session's owner tells two "
     "home nodes instead of all hosts. The same load a host; 100,000 strays a second at each, "
     "half a microsecond for the hop that each costs (taken, not measured: the formulas' "
     "`Directory`).", DIRECTORY),
    ("crossing", "Where it is cheaper", "", CROSSING),
    ("unit cost", "Unit costs",
     "What all of the above is made of; the fields of `Costs` in `bench/scaling_formulas.py` "
     "say what each is. `_byte` and `record` come on top of their datagram, for each.", COSTS),
)  # fmt: skip


def word(value: Any) -> str:
    """A figure as it stands in the page."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:g}"
    return f"{round(value):,}"


def table(rows: Sequence[Row], columns: Columns) -> Iterator[str]:
    """A Markdown table of these keys; rows that look the same stand once."""
    yield "| " + " | ".join(name.strip() for name in columns) + " |"
    yield "|" + "|".join("--:" for _ in columns) + "|"
    lines = (
        "| " + " | ".join(word(row.get(key)) for key in columns.values()) + " |" for row in rows
    )
    yield from dict.fromkeys(lines)


def page(result: Result, machine_words: Callable[[dict[str, Any]], Iterator[str]]) -> str:
    """The whole page.

    Args:
        machine_words: lists a machine.
    """
    lines = [INTRODUCTION, COMMAND.format(command=result.command), ""]
    lines += [row["note"] for row in result.rows if row.get("what") == "measured"]
    lines += [BUSY.format(load=result.machine.get("load_at_start", "unknown")), ""]
    for what, title, text, columns in SECTIONS:
        rows = [row for row in result.rows if row.get("what") == what]
        if not rows:
            continue
        lines += [f"## {title}", "", *([text, ""] if text else []), *table(rows, columns), ""]
    lines += ["## Machine", "", *machine_words(result.machine)]
    return "\n".join(lines).rstrip("\n") + "\n"
