"""Changes as lines for people. Pure.

A line has the server's time, what happened, the key, and what fits of the value.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from kvserver.client.changes import Activity, Change, Delete, Put, Reset, Synced, Touch
from kvserver.commands.parts.texts import DAY, bytes_text, short_value, span_text, type_text, until_text
from shards.host.logs import escape_controls

KEY_WIDTH: Final = 18
_WORD_WIDTH: Final = 7
_TIME_WIDTH: Final = 12
_TYPE_WIDTH: Final = 12
_LATENCY_WIDTH: Final = 8
_LEAST_VALUE: Final = 12
_WORDS: Final = {"request": "DELETE", "prefix": "DELETE", "expire": "EXPIRE", "evict": "EVICT"}
_LATE_S: Final = 3600.0
"""Changes that are older when they come were caught up with: how late they are says nothing."""

GREEN: Final = "32"
RED: Final = "31"
YELLOW: Final = "33"
DIM: Final = "2"


def change_line(change: Change, now: datetime, width: int) -> tuple[str, str]:
    """Return the line of a change, escaped, and its color. `now` has the time zone that times are shown in."""
    if isinstance(change, Put):
        return _put_line(change, now, width), GREEN if change.origin == "live" else ""
    if isinstance(change, Touch):
        when = "never expires" if change.expires is None else f"expires {until_text(change.expires, now)}"
        return _line(change.time, now, "TOUCH", change.key, when, width, tail=_latency(change.time, now)), YELLOW
    if isinstance(change, Delete):
        word = _WORDS.get(change.cause, "DELETE")
        why = "with its prefix" if change.cause == "prefix" else ""
        return _line(change.time, now, word, change.key, why, width, tail=_latency(change.time, now)), RED
    if isinstance(change, Activity):
        return _line(change.time, now, change.op.upper().replace("_", " "), change.subject, "", width), DIM
    return note_line(_words_of(change), now), DIM


def note_line(words: str, now: datetime) -> str:
    """Return a line about the watch itself, escaped."""
    return f"{_time_text(now, now)}  — {escape_controls(words)} —"


def _words_of(change: Reset | Synced) -> str:
    if isinstance(change, Synced):
        return "this was the state; changes follow"
    if change.reason == "start":
        return "the state, key by key"
    missing = f"GAP {change.reason}: changes are missing that the server does not keep any more"
    return (
        f"{missing}; the state follows"
        if change.snapshot
        else f"{missing}; the feed continues with the changes that are kept"
    )


def _put_line(put: Put, now: datetime, width: int) -> str:
    word = "PUT" if put.origin == "live" else "STATE"
    room = max(_LEAST_VALUE, width - _TIME_WIDTH - _WORD_WIDTH - KEY_WIDTH - _TYPE_WIDTH - _LATENCY_WIDTH - 9)
    value = bytes_text(put.size) if put.value is None else short_value(put.value, room)
    tail = _latency(put.time, now) if put.origin == "live" else ""
    return _line(put.time, now, word, put.key, value, width, type_text(put.content_type), tail)


def _line(
    time: datetime, now: datetime, word: str, key: str, value: str, width: int, kind: str = "", tail: str = ""
) -> str:
    what, name = escape_controls(word), escape_controls(key)
    head = f"{_time_text(time, now):<{_TIME_WIDTH}}  {what:<{_WORD_WIDTH}} {name:<{KEY_WIDTH}}  {value}"
    if not (kind or tail):
        return head.rstrip()
    end = f"{escape_controls(kind):<{_TYPE_WIDTH}} {tail:>{_LATENCY_WIDTH}}"
    return f"{head:<{max(0, width - len(end) - 3)}}  {end}".rstrip()


def _time_text(time: datetime, now: datetime) -> str:
    """Return a time of the day in the zone of `now`, in milliseconds; with the date if it is another day."""
    local = time.astimezone(now.tzinfo)
    clock = f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"
    return (
        clock
        if abs((now - local).total_seconds()) < DAY and local.date() == now.date()
        else f"{local:%Y-%m-%d} {clock}"
    )


def _latency(time: datetime, now: datetime) -> str:
    """Return how long after `time` it is now: how late a change comes, by two clocks that may differ."""
    seconds = (now - time).total_seconds()
    if seconds > _LATE_S:
        return ""
    return f"+{span_text(max(0.0, seconds))}"
