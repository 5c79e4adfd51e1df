"""Plots of what runs found out, as SVG for light and for dark pages. Pure.

The same results give the same bytes: a plot holds no time and no chance, so a changed picture is a changed result.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.report import number

Report = Mapping[str, Any]
"""What `report.as_json` made: `facts`, and the `parts` with their figures."""

RATE: Final = "ops/s"
DELIVERIES: Final = "deliveries/s"
OURS: Final = "kvserver"
REDIS: Final = "Webdis + Redis"
_ENGINE: Final = "nats-server"
_WIDTH: Final = 7.2
"""Inches; a page shows 96 pixels for each."""
_BAR: Final = 0.29
"""Inches that a bar takes of the height, the gap to the next included."""


class Theme(NamedTuple):
    """Colours of a page that plots lie on; their own background is transparent."""

    text: str
    soft: str
    line: str
    ours: str
    peer: str


THEMES: Final = {
    "light": Theme("#1b1f24", "#57606a", "#d8dee4", "#0a58b8", "#aeb6bf"),
    "dark": Theme("#e3e6ea", "#9aa4af", "#343a42", "#7db4ff", "#5c6670"),
}


@dataclass(frozen=True)
class Results:
    """The figures of several runs, of which each measured parts of its own."""

    reports: Sequence[Report]

    def median(self, part: str, case: str, contender: str, metric: str = RATE) -> float | None:
        """Return a figure's median, None if no run has it."""
        figure = self._find(part, case, contender, metric)
        return None if figure is None else float(figure["median"])

    def ratio(self, part: str, case: str, contender: str, metric: str = RATE) -> float | None:
        """Return how many times as much this server did in the same rounds, None if no run says so."""
        figure = self._find(part, case, contender, metric)
        return None if figure is None or figure["ratio"] is None else float(figure["ratio"])

    def _find(self, part: str, case: str, contender: str, metric: str) -> Mapping[str, Any] | None:
        for report in self.reports:
            for figure in report["parts"].get(part, {"figures": ()})["figures"]:
                if (figure["case"], figure["contender"], figure["metric"]) == (case, contender, metric):
                    found: Mapping[str, Any] = figure
                    return found
        return None

    def setting(self, part: str, *programs: str) -> str:
        """Say on what and how a part was measured. `programs`: the peers; none: all that make no load."""
        facts = next(report["facts"] for report in self.reports if part in report["parts"])
        versions = dict(each.rsplit(" ", 1) for each in facts["programs"].split(", "))
        shown = programs or [name for name in versions if name not in ("wrk", _ENGINE)]
        peers = ", ".join(f"{name} {versions[name].partition('+')[0]}" for name in shown if name in versions)
        python = facts["Python"].partition(",")[0]
        rounds = facts["settings"].partition(",")[0]
        machine = facts["machine"].rpartition(",")[0]
        return f"{machine}, shared with the load generator; medians of {rounds}.\nPython {python}; {peers}."


class Bar(NamedTuple):
    """A bar: who it is of, how long it is, what stands behind it."""

    name: str
    value: float
    words: str
    is_ours: bool = False


class Panel(NamedTuple):
    """Bars of one thing that was measured."""

    title: str
    bars: Sequence[Bar]


_RACES: Final = (
    ("GET", "get", "GET hit", RATE),
    ("PUT, flushed to disk", "put", "PUT, flushed", RATE),
    ("Events to 100 WebSockets", "feed", "100 readers, as fast as it goes", DELIVERIES),
)
_NAMES: Final = {
    "webdis+redis none": f"{REDIS}, no log",
    "webdis+redis always": f"{REDIS}, flushed",
    "webdis+redis none, PUBLISH": f"{REDIS}, PUBLISH",
    "etcd": "etcd",
    "nginx constant": "nginx, one constant",
}
"""Peers by the names that plots show, in order."""
_ONLY_READS: Final = frozenset(("nginx constant",))
"""Who is no peer of what writes: it stores nothing."""


def draw(results: Results) -> dict[str, bytes]:
    """Return the plots that the results suffice for, by the names of their files: `peers.light.svg`."""
    drawers: dict[str, Callable[[Results, Theme], Figure | None]] = {
        "peers": _draw_peers,
        "connections": _draw_connections,
        "everyday": _draw_everyday,
        "cluster": _draw_cluster,
    }
    drawn = {}
    for name, drawer in drawers.items():
        for theme, colours in THEMES.items():
            with matplotlib.rc_context(_style(colours)):
                figure = drawer(results, colours)
                if figure is not None:
                    drawn[f"{name}.{theme}.svg"] = _render(figure, f"{name}.{theme}")
    return drawn


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",  # text stays text: small, and found by a search
        "svg.hashsalt": "kvserver",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": theme.text,
        "axes.labelcolor": theme.soft,
        "xtick.color": theme.soft,
        "ytick.color": theme.text,
        "axes.edgecolor": theme.line,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.line,
    }


def _render(figure: Figure, name: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": name})
    return b"".join(line.rstrip() + b"\n" for line in file.getvalue().splitlines())


def _draw_peers(results: Results, theme: Theme) -> Figure | None:
    races = [(part, Panel(title, _bars(results, part, case, metric))) for title, part, case, metric in _RACES]
    races = [(part, panel) for part, panel in races if panel.bars]
    if not races:
        return None
    title = "Requests a second, relative to kvserver (= 1)"
    setting = f"{results.setting(races[0][0])} Values of 100 bytes."
    return _draw_panels(title, setting, [panel for _, panel in races], theme)


def _draw_panels(title: str, setting: str, panels: Sequence[Panel], theme: Theme) -> Figure:
    """Draw bars of several things, one below the other."""
    rows = sum(len(panel.bars) + 1.9 for panel in panels)
    figure, top = _start(title, setting, rows * _BAR, theme)
    grid = figure.add_gridspec(
        len(panels),
        1,
        height_ratios=[len(panel.bars) + 0.4 for panel in panels],
        hspace=1.5 * len(panels) / (rows - 1.5 * len(panels)),
        left=0.29,
        right=0.9,
        top=top - 0.29 / figure.get_figheight(),
        bottom=0.02,
    )
    for at, panel in enumerate(panels):
        _bar_panel(figure.add_subplot(grid[at]), panel, theme)
    return figure


def _bars(results: Results, part: str, case: str, metric: str) -> list[Bar]:
    """Return a bar for this server, of length 1, and those of its peers, none without peers.

    A peer's is of the ratios of neighbouring rounds: they say more than rates do, which vary with what else runs.
    """
    ours = results.median(part, case, "kvserver", metric)
    peers = [
        Bar(shown, 1 / ratio, f"{1 / ratio:.2g}")
        for contender, shown in _NAMES.items()
        if (contender not in _ONLY_READS or part == "get")
        and (ratio := results.ratio(part, case, contender, metric)) is not None
    ]
    return [Bar(OURS, 1, f"1 ({_round_off(ours)}/s)", True), *peers] if peers and ours is not None else []


def _start(title: str, setting: str, height: float, theme: Theme) -> tuple[Figure, float]:
    """Begin a figure whose plots are `height` inches high. Returns it and where the plots may begin, of 0 to 1."""
    whole = height + 0.85
    figure = Figure(figsize=(_WIDTH, whole))
    figure.text(0.01, 1 - 0.22 / whole, title, size=13, weight="bold", va="center")
    figure.text(0.01, 1 - 0.42 / whole, setting, size=8.5, color=theme.soft, va="top", linespacing=1.35)
    return figure, 1 - 0.85 / whole


def _bar_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    places = range(len(panel.bars))[::-1]
    colours = [theme.ours if bar.is_ours else theme.peer for bar in panel.bars]
    axes.barh(places, [bar.value for bar in panel.bars], height=0.72, color=colours)
    axes.set_title(panel.title, x=0, pad=5)
    axes.set_yticks(places, [bar.name for bar in panel.bars])
    _say_values(axes, places, panel.bars, theme)
    _strip(axes, max(bar.value for bar in panel.bars))


def _say_values(axes: Axes, places: Sequence[float], bars: Sequence[Bar], theme: Theme) -> None:
    longest = max(bar.value for bar in bars)
    for place, bar in zip(places, bars, strict=True):
        weight = "bold" if bar.is_ours else "normal"
        axes.text(bar.value + longest * 0.01, place, bar.words, va="center", size=9, weight=weight, color=theme.text)


def _strip(axes: Axes, longest: float) -> None:
    """Leave of the axes what bars with their values beside them need."""
    axes.set_xlim(0, longest)
    axes.set_xticks([])
    axes.tick_params(left=False)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)


def _round_off(value: float) -> str:
    """With three digits that count, and a word for millions."""
    if value >= 1e6:
        return f"{number(value / 1e6)} million"
    digits = max(len(str(int(value))) - 3, 0)
    return number(round(value, -digits))


_COUNTS: Final = (1, 16, 64, 256)
_LINES: Final = (
    ("GET", "GET, {} connections", "webdis+redis always", "-", 1),
    ("PUT, flushed", "PUT, flushed, {} connections", "webdis+redis always", "--", 1),
    ("PUT, in memory", "PUT, in memory, {} connections", "webdis+redis none", ":", -1),
)
"""Name, case, whom it is compared with, how the line is drawn, and on which side of it its figures stand."""


def _draw_connections(results: Results, theme: Theme) -> Figure | None:
    lines = {
        (name, dashes, side): [results.ratio("connections", case.format(count), peer) for count in _COUNTS]
        for name, case, peer, dashes, side in _LINES
    }
    known = {key: ratios for key, values in lines.items() if len(ratios := [each for each in values if each]) == 4}
    if not known:
        return None
    title = f"How many times as many requests a second as {REDIS}"
    figure, top = _start(title, results.setting("connections"), 3.4, theme)
    axes = figure.add_axes((0.06, 0.13, 0.76, top - 0.15))
    places = range(len(_COUNTS))
    axes.axhline(1, color=theme.soft, linewidth=1)
    for (name, dashes, side), ratios in known.items():
        colour = theme.ours if name == "GET" else theme.text
        axes.plot(places, ratios, dashes, marker="o", markersize=4, color=colour, linewidth=2)
        near: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
        axes.annotate(name, (places[-1], ratios[-1]), xytext=(14, 6 * side), size=9, **near)
        for place, ratio in zip(places, ratios, strict=True):
            axes.annotate(f"{ratio:.1f}", (place, ratio), xytext=(0, 9 * side), ha="center", size=8, **near)
    axes.set_xticks(places, [str(count) for count in _COUNTS])
    axes.set_xlabel("connections", size=9, labelpad=2)
    axes.set_ylim(0, max(max(ratios) for ratios in known.values()) * 1.15)
    axes.tick_params(labelsize=9, length=0)
    axes.yaxis.grid(True)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    return figure


_EVERYDAY: Final = (
    ("GET (GET)", "GET"),
    ("GET, 304 (GET, 304)", "GET, not modified"),
    ("HEAD (STRLEN)", "HEAD (STRLEN)"),
    ("GET of a range (GETRANGE)", "GET of a range (GETRANGE)"),
    ("GET, 404 (GET, 404)", "GET, no such key"),
    ("list of 10 (SCAN)", "list of 10 (SCAN, unsorted)"),
    ("batch of one get (GET)", "batch of one GET (GET)"),
    ("batch of 10 gets (MGET)", "batch of ten GETs (MGET)"),
    ("PUT, flushed (SET)", "PUT (SET)"),
    ("PUT, ttl, flushed (SETEX)", "PUT with a TTL (SETEX)"),
    ("increment, flushed (INCRBY)", "increment (INCRBY)"),
    ("touch, flushed (EXPIRE)", "touch (EXPIRE)"),
    ("PUT, condition held, flushed (SET XX)", "PUT, condition held (SET XX)"),
    ("PUT, condition refused, flushed (SETNX refused)", "PUT, condition refused (SETNX)"),
    ("merge patch, flushed (HSET)", "merge patch (HSET)"),
    ("batch of one put, flushed (SET)", "batch of one PUT (SET)"),
    ("batch of 10 puts, flushed (MSET)", "batch of ten PUTs (MSET)"),
)
"""Cases of the part of that name, and what a plot calls them."""
_PAIR: Final = 0.4


def _draw_everyday(results: Results, theme: Theme) -> Figure | None:
    rows = [
        (shown, ours, theirs)
        for case, shown in _EVERYDAY
        if (ours := results.median("everyday", case, "kvserver")) is not None
        and (theirs := results.median("everyday", case, "webdis+redis always")) is not None
    ]
    if not rows:
        return None
    title = "Everyday requests a second: 64 connections, writes flushed"
    figure, top = _start(title, results.setting("everyday"), len(rows) * 0.37 + 0.4, theme)
    axes = figure.add_axes((0.335, 0.01, 0.575, top - 0.01 - 0.4 / figure.get_figheight()))
    places = range(len(rows))[::-1]
    sides = ((OURS, _PAIR / 2, theme.ours, 1), (f"{REDIS} (its command)", -_PAIR / 2, theme.peer, 2))
    for label, aside, colour, column in sides:
        bars = [Bar(label, row[column], _round_off(row[column]), label == OURS) for row in rows]
        at = [place + aside for place in places]
        axes.barh(at, [bar.value for bar in bars], height=_PAIR * 0.92, color=colour, label=label)
        _say_values(axes, at, bars, theme)
    axes.set_yticks(places, [row[0] for row in rows])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    _strip(axes, max(max(row[1:]) for row in rows))
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 0.985), fontsize=9)
    return figure


_CLUSTER: Final = {
    "cluster": f"{OURS}, three machines",
    "engines alone": "NATS JetStream alone",
    "etcd of three": "etcd, three members",
}
"""Contenders of the part of that name, the first of which is this server."""
_CLUSTER_CASES: Final = ("PUT, 1 client", "PUT, 96 clients", "PUT, 384 clients")


def _draw_cluster(results: Results, theme: Theme) -> Figure | None:
    panels = [
        Panel(case, [Bar(_CLUSTER[name], rate, f"{_round_off(rate)}/s", name == "cluster") for name, rate in known])
        for case in _CLUSTER_CASES
        if len(known := _cluster_rates(results, case)) == len(_CLUSTER)
    ]
    if not panels:
        return None
    setting = f"{results.setting('cluster', _ENGINE, 'etcd')} Values of 100 bytes; the three share one machine."
    return _draw_panels("PUTs a second of three machines, flushed by most", setting, panels, theme)


def _cluster_rates(results: Results, case: str) -> list[tuple[str, float]]:
    """Return the rates of those who were measured."""
    rates = [(name, results.median("cluster", case, name)) for name in _CLUSTER]
    return [(name, rate) for name, rate in rates if rate is not None]
