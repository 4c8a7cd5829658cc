# SPDX-License-Identifier: BSD-2-Clause
"""The report's plots: from the rows of one result to an SVG that is the same at each run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.result_file import Row, is_number, label, telling

STYLE: Final[Any] = {
    "svg.hashsalt": "pyxdp-gossip",  # else its ids are random
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",  # comes with matplotlib: places are those of every machine
    "font.size": 9,
    "text.parse_math": False,  # what a row says is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
METADATA: Final = {"Date": None, "Creator": None}
WIDTH_IN, HEIGHT_IN = 7.5, 4.2
BAR_IN, MARGIN_IN = 0.32, 1.2
OURS, THEIRS = "#1f5fa8", "#b0b0b0"
MARKS: Final = (("p50", "o"), ("p99", "s"), ("p999", "^"), ("max", "x"), ("once", "D"))
LEGEND_COLUMNS: Final = 3
FIRST_CASE: Final = {"latency": "one busy host"}
MS: Final = {"ms": 1.0, "s": 1000.0}

Draw = Callable[[Axes, list[Row]], None]


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of a benchmark.

    Attributes:
        name: of the file, without `.svg`.
        shows: a sentence below it.
        bound_by: what bounds its figures; the benchmark's own, if empty.
        chosen: which of the benchmark's rows are in it; none of them: there is no plot.
    """

    name: str
    shows: str
    chosen: Callable[[Row], bool]
    draw: Draw
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A figure and between what its repeats lay."""

    at: float
    value: float
    low: float
    high: float


def save(plot: Plot, rows: list[Row], path: Path) -> None:
    """Draws and writes one plot."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        plot.draw(figure.add_subplot(), rows)
        figure.savefig(path, format="svg", metadata=METADATA)


def _logarithmic(axes: Axes) -> None:
    """The x axis, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    """Below the plot, where no line is."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8)


def _range(row: Row, value: float, low: str, high: str) -> tuple[float, float]:
    """The repeats' ends, or the figure itself where they are unknown."""
    ends = row.get(low), row.get(high)
    if is_number(ends[0]) and is_number(ends[1]) and ends[0] <= value <= ends[1]:
        return ends[0], ends[1]
    return value, value


# ---- a figure over the size of the table ----


def curves(rows: Sequence[Row], key: str) -> dict[str, list[Point]]:
    """Points by the name of their line: ours, the peer's and the floor's, each once."""
    keys = [name for name in telling(rows) if name != "entries"]
    lines: dict[str, dict[float, Point]] = {}
    for row in rows:
        name, at = label(row, keys), row["entries"]
        ends = {key: ("min", "max"), "theirs": ("theirs_min", "theirs_max"), "floor": ("", "")}
        peer = str(row.get("peer", "peer"))
        titles = {
            key: name or "ours",
            "theirs": f"{peer}: {name}" if name else peer,
            "floor": "floor",
        }
        for figure, (low, high) in ends.items():
            value = row.get(figure)
            if is_number(value):
                point = Point(at, value, *_range(row, value, low, high))
                lines.setdefault(titles[figure], {}).setdefault(at, point)
    return {name: [points[at] for at in sorted(points)] for name, points in lines.items()}


def over_entries(key: str, title: str) -> Draw:
    """Lines over the number of sessions."""

    def draw(axes: Axes, rows: list[Row]) -> None:
        for name, points in curves(rows, key).items():
            below = [point.value - point.low for point in points]
            above = [point.high - point.value for point in points]
            axes.errorbar(
                [point.at for point in points],
                [point.value for point in points],
                yerr=[below, above],
                label=name,
                marker="o",
                markersize=3,
                capsize=2,
                linestyle=":" if name == "floor" else "-",
            )
        _logarithmic(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("sessions in the table")
        axes.set_ylabel(title)
        _legend(axes)

    return draw


# ---- bars ----


def bars(axes: Axes, named: Sequence[tuple[str, str, Point]], title: str) -> None:
    """Horizontal bars, the first on top: (name, colour, figure)."""
    places = list(range(len(named)))
    points = [point for _, _, point in named]
    axes.barh(
        places,
        [point.value for point in points],
        color=[colour for _, colour, _ in named],
        xerr=[
            [point.value - point.low for point in points],
            [point.high - point.value for point in points],
        ],
        capsize=2,
        height=0.7,
    )
    axes.set_yticks(places, [name for name, _, _ in named])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(title)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(WIDTH_IN, MARGIN_IN + BAR_IN * len(named))


def pairs(axes: Axes, rows: list[Row]) -> None:
    """Ours and the peer's, each forwarder once."""
    found: dict[str, tuple[str, str, Point]] = {}
    for row in rows:
        for name, key, low, high, colour in (
            (row["forwarder"], "ours", "min", "max", OURS),
            (row["peer"], "theirs", "theirs_min", "theirs_max", THEIRS),
        ):
            value = row.get(key)
            if is_number(value):
                point = Point(0, value, *_range(row, value, low, high))
                found.setdefault(name, (name, colour, point))
    bars(axes, list(found.values()), str(rows[0].get("unit", "")))


def single(axes: Axes, rows: list[Row]) -> None:
    """The value of each row; floors are grey."""
    keys = telling(rows)
    named = []
    for row in rows:
        point = Point(0, row["value"], *_range(row, row["value"], "min", "max"))
        name = label(row, keys) or str(row.get("what", ""))
        named.append((name, THEIRS if "floor" in name else OURS, point))
    bars(axes, named, str(rows[0].get("unit", "")))


def beside(axes: Axes, rows: list[Row]) -> None:
    """The value of each row; what is not ours, and the peer of all, is grey."""
    named = []
    for row in rows:
        point = Point(0, row["value"], *_range(row, row["value"], "min", "max"))
        named.append((row["what"], OURS if "target" in row else THEIRS, point))
    row = rows[0]
    point = Point(0, row["theirs"], *_range(row, row["theirs"], "theirs_min", "theirs_max"))
    bars(axes, [*named, (row["peer"], THEIRS, point)], str(row.get("unit", "")))


def ratios(axes: Axes, rows: list[Row]) -> None:
    """The ratio of each comparison; 1 is the peer."""
    named = []
    for row in rows:
        point = Point(0, row["ratio"], *_range(row, row["ratio"], "ratio_min", "ratio_max"))
        name = f"{row['what']}: {row['variant']} / {row['peer']}"
        named.append((name, OURS, point))
    bars(axes, named, "ratio of the rates")
    axes.axvline(1, color="black", linewidth=0.8)


# ---- delays ----


def in_ms(row: Row) -> dict[str, float]:
    """A row's percentiles, which are in ms; of one that has none, its value, measured once."""
    if not is_number(row.get("p50")):
        return {"once": row["value"] * MS[row["unit"]]}
    return {key: row[key] for key, _ in MARKS if is_number(row.get(key))}


def delays(axes: Axes, rows: list[Row]) -> None:
    """Percentiles, a line for each row, on a logarithmic scale."""
    names = [_delay_name(row) for row in rows]
    figures = [in_ms(row) for row in rows]
    for key, marker in MARKS:
        found = [(one[key], place) for place, one in enumerate(figures) if one.get(key, 0) > 0]
        if found:
            times, places = zip(*found, strict=True)
            axes.scatter(times, places, marker=marker, label=key, color=OURS)
    _logarithmic(axes)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("ms")
    _legend(axes)


def _delay_name(row: Row) -> str:
    what = str(row["what"])
    words = [what, str(row.get("case", FIRST_CASE.get(what, "")))]
    for key, unit in (("percent", "% lost"), ("hosts", "hosts")):
        if is_number(row.get(key)):
            words.append(f"{row[key]} {unit}")
    return ", ".join(word for word in words if word)


# ---- which benchmark has which ----


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: all(is_number(row.get(key)) for key in keys)


def _each(unit: str) -> Callable[[Row], bool]:
    return lambda row: is_number(row.get("value")) and row.get("unit") == f"ns per {unit}"


def _cost_of(family: int) -> Callable[[Row], bool]:
    def chosen(row: Row) -> bool:
        is_time = str(row.get("unit", "")).startswith("ns")
        has = is_number(row.get("value")) or is_number(row.get("ours"))
        return row.get("family") == family and is_number(row.get("entries")) and is_time and has

    return chosen


def _cost(axes: Axes, rows: list[Row]) -> None:
    key = "value" if any("value" in row for row in rows) else "ours"
    over_entries(key, str(rows[0]["unit"]))(axes, rows)


def _sizes(axes: Axes, rows: list[Row]) -> None:
    """The size depends on family and number alone: a point for each."""
    seen: dict[tuple[Any, Any], Row] = {}
    for row in rows:
        kept = ("family", "entries", "memory", "bytes_per_session")
        size = {key: row[key] for key in kept if key in row}
        seen.setdefault((label(row, ("family", "memory")), row["entries"]), size)
    over_entries("bytes_per_session", "bytes a session")(axes, list(seen.values()))


def _is(*whats: str) -> Callable[[Row], bool]:
    """Rows of these parts of the gossip whose value is a time."""
    return lambda row: (
        row.get("what") in whats
        and is_number(row.get("value"))
        and (is_number(row.get("p50")) or (isinstance(row.get("unit"), str) and row["unit"] in MS))
    )


def _compared(row: Row) -> bool:
    named = isinstance(row.get("forwarder"), str) and isinstance(row.get("peer"), str)
    return named and is_number(row.get("ours"))


def _ratio(row: Row) -> bool:
    return is_number(row.get("ratio")) and all(key in row for key in ("what", "variant", "peer"))


def _passes(row: Row) -> bool:
    return is_number(row.get("value")) and "order" not in row


def _in_random_order(row: Row) -> bool:
    return row.get("order") == "random" and is_number(row.get("theirs"))


RANGE: Final = "Whiskers go from the smallest to the largest repeat."
PLOTS: Final[dict[str, tuple[Plot, ...]]] = {
    "lookup": (
        *(
            Plot(
                f"lookup_v{family}",
                f"Cost of one look-up of an IPv{family} session over the table's size. {RANGE}",
                _cost_of(family),
                _cost,
            )
            for family in (4, 6)
        ),
        Plot(
            "lookup_bytes",
            "Memory of a table over the sessions in it, made for so many.",
            _has("bytes_per_session", "entries"),
            _sizes,
            "the layout of a bucket, and how full a table may become before it refuses.",
        ),
    ),
    "xdp": (
        Plot("xdp", f"One packet that passes, in the XDP program. {RANGE}", _passes, single),
        Plot(
            "xdp_stray",
            "Strays of many sessions in random order, beside one look-up in a hash map of the "
            f"kernel's; without the repeats' own cost. {RANGE}",
            _in_random_order,
            beside,
            "cache lines at random places, one of our table and two or more of a hash map.",
        ),
    ),
    "forward": (Plot("forward", f"Frames given back, by forwarder. {RANGE}", _compared, pairs),),
    "formats": (
        Plot(
            "formats", f"Frames given back, by plane and tunnel format. {RANGE}", _compared, pairs
        ),
    ),
    "sweep": (
        Plot(
            "sweep",
            f"The AF_XDP loop by its settings, beside the defaults. {RANGE}",
            _ratio,
            ratios,
        ),
    ),
    "overhead": (
        Plot("overhead", f"The host's traffic beside what is lighter. {RANGE}", _ratio, ratios),
    ),
    "gossip": (
        Plot(
            "gossip_latency",
            "From accept() on one host until the last other host's table has the session.",
            _is("latency"),
            delays,
            "how soon the agents get a processor, which all of them share here.",
        ),
        Plot(
            "gossip_convergence",
            "Until all hosts agree: on a session while gossip is lost, on a death, on a join.",
            _is("loss", "death", "join"),
            delays,
            "the gossip's own clocks: how long a gap may stand before it is asked for, how long "
            "a host may be silent; and the processors, which all agents share here.",
        ),
    ),
    "micro": tuple(
        Plot(f"micro_{unit}", f"Calls from Python, for each {unit}. {RANGE}", _each(unit), single)
        for unit in ("key", "frame", "datagram")
    ),
}


def rows_of(plot: Plot, rows: Iterable[Row]) -> list[Row]:
    """Those that are in a plot."""
    return [row for row in rows if plot.chosen(row)]
