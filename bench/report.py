# SPDX-License-Identifier: BSD-2-Clause
"""`python -m bench report`: docs/benchmarks.md and its plots, of what bench/results/ holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import plots, result_file, scaling_page
from bench.result_file import DETAILS, PROSE, Result, Row

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench" / "results"
DOCS: Final = ROOT / "docs"
PAGE: Final = "benchmarks.md"
PICTURES: Final = "benchmarks"


@dataclass(frozen=True, slots=True)
class Section:
    """What is said of one benchmark.

    Attributes:
        command: what measures it.
        bound_by: what bounds its figures; the rows' own words come on top.
    """

    title: str
    command: str
    bound_by: str


BOUND_BY_VETH: Final = (
    "the veth and its kernel: the XDP plane shares a core with the sender and the sink, the AF_XDP "
    "plane makes an skb for each frame (copy mode)."
)
SECTIONS: Final[dict[str, Section]] = {
    "lookup": Section(
        "Look-ups in the session table",
        "python -m bench lookup",
        "memory. A look-up reads a cache line at a random place, and once the table is larger "
        "than the caches each is a miss. The smallest tables fit a cache and show the code alone.",
    ),
    "sharing": Section(
        "What readers of a table pay for others",
        "python -m bench sharing",
        "memory, which a writer, a second reader or small pages make dearer.",
    ),
    "instructions": Section(
        "Instructions and cache lines of one stray",
        "python -m bench instructions",
        "nothing: a simulated processor counts them, the same on each machine and with each load.",
    ),
    "xdp": Section(
        "One packet in the XDP program",
        "python -m bench xdp",
        "instructions, where one session is asked for again and again, so that all of it is in the "
        "cache; cache lines, where many are.",
    ),
    "forward": Section("Forwarding over a veth", "python -m bench forward", BOUND_BY_VETH),
    "sweep": Section("Settings of the AF_XDP loop", "python -m bench sweep", BOUND_BY_VETH),
    "formats": Section("Tunnel formats", "python -m bench formats", BOUND_BY_VETH),
    "overhead": Section(
        "What the host's own traffic pays",
        "python -m bench overhead",
        "one processor, which client, nginx, agent and veth share.",
    ),
    "gossip": Section(
        "Gossip",
        "python -m bench gossip",
        "the machine's processors, which all agents of the POP share with those who watch.",
    ),
    "micro": Section(
        "Single calls",
        "pytest bench/micro --benchmark-json=bench/results/micro.json",
        "the interpreter. A call from Python costs more than most of what is called. A floor "
        "copies the same bytes by a call from Python, so that the difference is the work.",
    ),
}
INTRODUCTION: Final = """\
# Benchmarks

`make report` writes this page and its plots from `bench/results/*.json`, the files that
`python -m bench NAME --json bench/results/NAME.json` leaves (`make bench` runs all). Every figure
here stands in one of these files, which hold more: each repeat, and the whole of every row.

A figure is the median of its repeats; `min` and `max` are the extremes, `spread_percent` is the
distance of the quartiles over the median, and a figure that is not steady after the most repeats
that are allowed says `is_steady` no. `ratio` is ours over theirs, of rounds that took turns in one
run. `python -m bench compare A.json B.json` tells a change from noise.
"""
MACHINE_WORDS: Final = {
    "cpu": "processor",
    "cpu_flags": "processor's flags",
    "cores": "processors",
    "cpus": "processors used",
    "cache_l1": "L1 cache for data",
    "cache_l2": "L2 cache",
    "cache_l3": "L3 cache",
    "memory_gib": "memory, GiB",
    "huge_pages": "transparent huge pages",
    "kernel": "Linux",
    "python": "Python",
    "compiler": "extension built by",
}
OF_A_RUN: Final = ("source", "load_at_start")  # keys of a machine that are no property of it


def word(value: Any) -> str:
    """A value as it stands in a table or a list."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {word(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(word, value))
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


# ---- machines ----


def machine_of(result: Result) -> dict[str, Any]:
    """What of a result's machine does not change from run to run."""
    return {key: value for key, value in result.machine.items() if key not in OF_A_RUN}


def machines(results: Sequence[Result]) -> list[dict[str, Any]]:
    """All machines of these results, each once."""
    found: list[dict[str, Any]] = []
    for result in results:
        if machine_of(result) not in found:
            found.append(machine_of(result))
    return found


def machine_lines(known: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The list of machines."""
    if not known:
        return
    yield "## Machines\n"
    for number, machine in enumerate(known, 1):
        yield f"Machine {number}:\n"
        yield from machine_words(machine)
        yield ""


def machine_words(machine: dict[str, Any]) -> Iterator[str]:
    """A machine, line by line."""
    for key, value in machine.items():
        yield f"* {MACHINE_WORDS.get(key, key)}: {word(value)}"


# ---- tables ----


def groups(result: Result) -> list[tuple[str, list[Row]]]:
    """Rows that have a table of their own, by its title; the gossip's parts have keys of their
    own, so that one table of all would be mostly empty."""
    if result.name != "gossip":
        return [("", result.rows)]
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        found.setdefault(word(row.get("what")), []).append(row)
    return list(found.items())


def table(rows: Sequence[Row]) -> list[str]:
    """A Markdown table: a column for each key that some row has, but for prose, and for details
    in which the rows do not differ."""
    hidden = DETAILS.difference(result_file.telling(rows)).union(PROSE)
    used = (key for row in rows for key in row if key not in hidden and row[key] is not None)
    keys = list(dict.fromkeys(used))
    if not keys:
        return ["It has no rows."]
    lines = ["| " + " | ".join(map(word, keys)) + " |"]
    lines.append("|" + "|".join("--:" for _ in keys) + "|")
    for row in rows:
        lines.append("| " + " | ".join(word(row.get(key)) for key in keys) + " |")
    return lines


def prose(rows: Iterable[Row]) -> list[str]:
    """The rows' sentences, each once."""
    rows = list(rows)
    found = (word(row[key]) for key in PROSE for row in rows if row.get(key))
    return list(dict.fromkeys(found))


# ---- sections ----


def made_by(result: Result, known: Sequence[dict[str, Any]]) -> str:
    """By which command, on which machine."""
    command = result.command or f"python -m bench {result.name}"
    return f"Made by `{command}` on machine {known.index(machine_of(result)) + 1}"


def of_the_run(result: Result) -> str:
    """What differs from run to run."""
    words = [f"seed {word(result.seed)}"]
    if "source" in result.machine:
        words.append(f"source {word(result.machine['source'])}")
    if "load_at_start" in result.machine:
        words.append(f"load at the start {word(result.machine['load_at_start'])}")
    return ", ".join(words)


def plot_lines(result: Result, known: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each plot, with what it shows, what bounds it and what made it."""
    for plot in plots.PLOTS.get(result.name, ()):
        if plots.rows_of(plot, result.rows):
            bound_by = plot.bound_by or SECTIONS[result.name].bound_by
            yield f"![{plot.name}]({PICTURES}/{plot.name}.svg)\n"
            yield f"{plot.shows} Bound by: {bound_by} {made_by(result, known)}.\n"


def section_lines(result: Result, known: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is said of one result."""
    told = SECTIONS.get(result.name)
    yield f"## {told.title if told else word(result.name)}\n"
    yield f"{made_by(result, known)}; {of_the_run(result)}.\n"
    pictures = list(plot_lines(result, known))
    if told and not pictures:
        yield f"Bound by: {told.bound_by}\n"
    for sentence in prose(result.rows):
        yield f"{sentence}\n"
    yield from pictures
    for title, rows in groups(result):
        if title:
            yield f"### {title}\n"
        yield from table(rows)
        yield ""


def missing_lines(name: str) -> Iterator[str]:
    """What is said of a benchmark that has no result."""
    yield f"## {SECTIONS[name].title}\n"
    yield f"Not measured: there is no result of `{SECTIONS[name].command}`.\n"


def page(results: dict[str, Result]) -> str:
    """The whole page."""
    known = machines(list(results.values()))
    lines = [INTRODUCTION, *machine_lines(known)]
    for name in dict.fromkeys((*SECTIONS, *results)):
        if name in results:
            lines += section_lines(results[name], known)
        else:
            lines += missing_lines(name)
    return "\n".join(lines).rstrip("\n") + "\n"


# ---- files ----


def read_all(folder: Path) -> dict[str, Result]:
    """The results of a folder by their benchmark's name.

    Raises:
        ResultError: a file holds none, or two are of one benchmark.
    """
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        result = result_file.read(path)
        if result.name in found:
            raise result_file.ResultError(f"{path}: another file has the benchmark {result.name}")
        found[result.name] = result
    return found


def write(results: Path, docs: Path) -> Path:
    """Writes the page and its plots, those of an earlier run go; and the page of the scaling.

    Returns:
        The page.

    Raises:
        ResultError: as `read_all`.
    """
    found = read_all(results)
    scaling = found.pop(scaling_page.NAME, None)
    pictures = docs / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for result in found.values():
        for plot in plots.PLOTS.get(result.name, ()):
            rows = plots.rows_of(plot, result.rows)
            if rows:
                plots.save(plot, rows, pictures / f"{plot.name}.svg")
    target = docs / PAGE
    target.write_text(page(found))
    if scaling is not None:
        (docs / scaling_page.PAGE).write_text(scaling_page.page(scaling, machine_words))
    return target
