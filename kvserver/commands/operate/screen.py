"""Figures of a server as a screen for a terminal. No I/O; rich makes lines of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kvserver.commands.operate.cluster_figures import cluster_words
from kvserver.commands.operate.figures import CLASSES, Rates, ShardRates, branch, member
from kvserver.commands.operate.status import problems_of
from kvserver.commands.parts.texts import bytes_text, latency_text, meter, span_text, sparkline
from shards.host.logs import escape_controls

HISTORY: Final = 24
"""Rates that a sparkline shows."""
_BESIDE_BARS: Final = 84
"""Characters of the longest line without its sparkline."""
SORTS: Final[Mapping[str, str]] = {"1": "shard", "2": "keys", "3": "ops/s"}
"""Keys that choose the order of shards."""
HELP_LINES: Final = (
    "q  quit",
    "p  pause: freeze the figures",
    "1  shards by number",
    "2  shards by keys",
    "3  shards by operations a second",
    "?  this help",
)


def draw_screen(
    state: Mapping[str, Any],
    rates: Rates,
    history: Mapping[str, Sequence[float]],
    *,
    url: str,
    sort: str,
    paused: bool,
    trouble: str,
    show_help: bool,
    width: int,
    height: int,
) -> Group:
    """Return the screen.

    `history`: requests and changes a second, the latest last. `trouble`: why there is no newer state, or an empty text.
    `width`, `height`: of the terminal, in characters.
    """
    bars = max(6, min(HISTORY, width - _BESIDE_BARS))
    requests, changes = (sparkline(list(history[name])[-bars:]).rjust(bars) for name in ("requests", "changes"))
    parts: list[Any] = [_title(state, url), _traffic_line(rates, requests), _changes_line(state, rates, changes)]
    if show_help:
        parts += [Text(), *(Text(line) for line in HELP_LINES)]
    else:
        rows = max(1, height - 10)
        parts += [Text(), _shards_table(state, rates, sort, rows)]
    parts += [Text(), _memory_line(state), _feed_line(state, rates)]
    parts += [Text(escape_controls(words), style="bold red") for words in problems_of(state)]
    if trouble:
        parts.append(Text(escape_controls(trouble), style="bold red"))
    words = "q quit   p pause   1/2/3 sort   ? help"
    parts.append(Text(f"{'PAUSED   ' if paused else ''}{words}", style="bold" if paused else "dim"))
    return Group(*parts)


def _title(state: Mapping[str, Any], url: str) -> Text:
    words = f"kvserver {state.get('version', '?')} · {url} · up {span_text(member(state, 'uptime_s'))}"
    words += f" · sync {state.get('sync', '?')}"
    if cluster := cluster_words(state):
        words += f" · {cluster}"
    return Text(escape_controls(words), style="bold", no_wrap=True)


def _traffic_line(rates: Rates, bars: str) -> Text:
    line = Text(f"requests {rates.requests:>8,.0f}/s ", no_wrap=True)
    line.append(bars, style="green")
    for name in CLASSES:
        if rates.shares[name] or name == "2xx":
            line.append(f"  {name} {rates.shares[name] * 100:.1f} %", style="red" if name == "5xx" else "")
    line.append(f"  503 {rates.unavailable:,.0f}  504 {rates.unknown:,.0f}")
    if rates.median_s is not None and rates.p99_s is not None:
        line.append(f"  p50 {latency_text(rates.median_s)}  p99 {latency_text(rates.p99_s)}")
    return line


def _changes_line(state: Mapping[str, Any], rates: Rates, bars: str) -> Text:
    line = Text(f"changes  {rates.changes:>8,.0f}/s ", no_wrap=True)
    line.append(bars, style="yellow")
    line.append("".join(f"  {kind} {rate:,.0f}" for kind, rate in rates.by_kind.items() if rate or kind == "put"))
    line.append(f"  revision {state.get('revision')}", style="dim")
    return line


def _shards_table(state: Mapping[str, Any], rates: Rates, sort: str, rows: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("shard", "state", "keys", "bytes", "ops/s", "group", "flush", "queue"):
        mark = "▾" if title == SORTS[sort] else ""
        table.add_column(f"{title}{mark}", justify="left" if title in ("shard", "state") else "right")
    shown = sorted_shards(rates.shards, sort)
    for shard in shown[:rows]:
        table.add_row(
            str(shard.index),
            Text(escape_controls(shard.state), style="" if shard.state == "up" else "bold red"),
            f"{shard.keys:,}",
            bytes_text(shard.size),
            f"{shard.operations:,.0f}",
            f"{shard.group:,.0f}" if shard.group else "-",
            latency_text(shard.flush_s) if shard.group else "-",
            f"{shard.queue:,}",
        )
    if len(shown) > rows:
        table.add_row("…", f"{len(shown) - rows} more")
    return table


def sorted_shards(shards: Sequence[ShardRates], sort: str) -> list[ShardRates]:
    """Return the shards in the order that a key of `SORTS` chooses."""
    if sort == "2":
        return sorted(shards, key=lambda shard: (-shard.keys, shard.index))
    if sort == "3":
        return sorted(shards, key=lambda shard: (-shard.operations, shard.index))
    return sorted(shards, key=lambda shard: shard.index)


def _memory_line(state: Mapping[str, Any]) -> Text:
    memory, used = branch(state, "memory"), member(state, "memory", "used")
    limit = memory.get("limit")
    line = Text("memory ", no_wrap=True)
    if isinstance(limit, int) and limit > 0:
        line.append(meter(used / limit), style="red" if used > 0.9 * limit else "green")
        line.append(f" {bytes_text(used)} of {bytes_text(limit)} ({escape_controls(str(memory.get('on_full')))})")
    else:
        line.append(f"{bytes_text(used)}")
    line.append(f"   log {bytes_text(member(state, 'snapshot', 'bytes_since'))} since snapshot")
    line.append(f"   restarts {int(member(state, 'log', 'restarts')):,}")
    return line


def _feed_line(state: Mapping[str, Any], rates: Rates) -> Text:
    clients = int(sum(member(gateway, "clients") for gateway in state.get("gateways", [])))
    words = f"feed   {clients:,} clients   lag {int(member(state, 'feed', 'lag')):,}"
    words += f"   gaps {int(member(state, 'feed', 'gaps')):,}   {rates.deliveries:,.0f} deliveries/s"
    return Text(words, no_wrap=True)
