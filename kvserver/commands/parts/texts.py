"""Values as words for people: sizes, ages, tables, escapes. Pure.

Whatever comes from a server passes `escape_controls` before it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from shards.host.logs import escape_controls

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400


def size_text(size: float) -> str:
    """Format a size as `12.3 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1 << 10:
            return f"{size:.4g} {unit}"
        size /= 1 << 10
    return f"{size:.1f} GiB"


def span_text(seconds: float) -> str:
    """Return a span of time in its one or two largest units: `4 s`, `2 min`, `3 h`, `3 d 4 h`."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    whole = int(seconds)
    if whole < 2 * MINUTE:
        return f"{whole} s"
    if whole < 2 * HOUR:
        return f"{whole // MINUTE} min"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def age_text(moment: datetime | None, now: datetime) -> str:
    """Return how long ago `moment` was: `4 s ago`; `-` for None."""
    if moment is None:
        return "-"
    seconds = (now - moment).total_seconds()
    return "now" if seconds < 1 else f"{span_text(seconds)} ago"


def until_text(moment: datetime | None, now: datetime) -> str:
    """Return how long it is until `moment`: `in 29 min`; `-` for None, which never comes."""
    if moment is None:
        return "-"
    seconds = (moment - now).total_seconds()
    return "now" if seconds <= 0 else f"in {span_text(seconds)}"


def bytes_text(size: float) -> str:
    """Return a size as `11 B`, `12.3 KiB`, `1.0 GiB`."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} GiB"


def latency_text(seconds: float) -> str:
    """Return a latency with three digits: `0.42 ms`, `3.1 ms`, `1.2 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    ms = seconds * 1000
    return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: `1 key`, `1,500 keys`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def type_text(content_type: str) -> str:
    """Return the short form of a content type: without parameters and the names of the common groups."""
    short = content_type.partition(";")[0].strip()
    return short.removeprefix("application/") or "-"


def moment_text(moment: datetime | None) -> str:
    """Return a point in time as the API writes it, `-` for None."""
    if moment is None:
        return "-"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def shown_value(value: bytes) -> str:
    """Return a value as text for a terminal: lines and tabs stay, all else that a terminal obeys is escaped."""
    lines = value.decode("utf-8", "backslashreplace").split("\n")
    return "\n".join("\t".join(map(escape_controls, line.removesuffix("\r").split("\t"))) for line in lines)


def short_value(value: bytes, width: int) -> str:
    """Return the beginning of a value as one line of at most `width` characters, escaped."""
    head = escape_controls(value[: 4 * width + 4].decode("utf-8", "backslashreplace"))
    if len(head) <= width and len(value) <= 4 * width + 4:
        return head
    return head[: max(width - 1, 0)] + "…"


def aligned(rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows as lines with aligned columns; the columns in `right` are aligned to the right."""
    table = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def sparkline(values: Sequence[float]) -> str:
    """Return values as a line of small bars, the largest as the highest."""
    top = max(values, default=0.0)
    if top <= 0:
        return "▁" * len(values)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(value / top * 7.999))] for value in values)


def meter(share: float, width: int = 10) -> str:
    """Return a share from 0 to 1 as a bar of `width` characters."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)
