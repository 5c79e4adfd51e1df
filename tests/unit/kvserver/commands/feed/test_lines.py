"""Changes as lines for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.changes import Activity, Change, Delete, Put, Reset, Synced, Touch
from kvserver.commands.feed.lines import change_line, note_line
from shards.host.logs import escape_controls

NOW = datetime(2026, 11, 30, 11, 40, 0, 130_000, timezone(timedelta(hours=1)))
THEN = datetime(2026, 11, 30, 10, 40, 0, 123_000, UTC)


def put(value: bytes | None = b'{"on":true}', key: str = "flags/beta", **more: object) -> Put:
    members = {"size": 11, "revision": 5, "time": THEN, "content_type": "application/json", "expires": None}
    return Put(key=key, value=value, **{**members, "origin": "live", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            put(),
            '11:40:00.123  PUT     flags/beta          {"on":true}                      json            +7 ms',
        ),
        (put(None), "11:40:00.123  PUT     flags/beta          11 B"),
        (put(origin="snapshot"), '11:40:00.123  STATE   flags/beta          {"on":true}'),
        (
            Touch("users/ann", 6, THEN, THEN + timedelta(seconds=30)),
            "11:40:00.123  TOUCH   users/ann           expires in 29 s",
        ),
        (Touch("users/ann", 6, THEN, None), "11:40:00.123  TOUCH   users/ann           never expires"),
        (Delete("users/ann", 7, THEN, "request"), "11:40:00.123  DELETE  users/ann"),
        (Delete("users/ann", 7, THEN, "prefix"), "11:40:00.123  DELETE  users/ann           with its prefix"),
        (Delete("users/ann", 7, THEN, "expire"), "11:40:00.123  EXPIRE  users/ann"),
        (Delete("users/ann", 7, THEN, "evict"), "11:40:00.123  EVICT   users/ann"),
        (Activity("read", "flags/beta", THEN), "11:40:00.123  READ    flags/beta"),
        (Activity("list_prefix", "flags/", THEN), "11:40:00.123  LIST PREFIX flags/"),
        (Reset("start", True), "11:40:00.130  — the state, key by key —"),
        (Synced("c"), "11:40:00.130  — this was the state; changes follow —"),
        (
            Reset("trimmed", True),
            "11:40:00.130  — GAP trimmed: changes are missing that the server does not keep any more; "
            "the state follows —",
        ),
        (
            Reset("epoch", False),
            "11:40:00.130  — GAP epoch: changes are missing that the server does not keep any more; "
            "the feed continues with the changes that are kept —",
        ),
    ],
)
def test_a_line_for_every_change(change: Change, line: str) -> None:
    assert change_line(change, NOW, 97)[0].startswith(line)


def test_how_late_a_change_comes_is_said_of_what_just_happened() -> None:
    assert change_line(put(), NOW, 100)[0].endswith("+7 ms")
    assert change_line(put(), THEN - timedelta(seconds=5), 100)[0].endswith("+0 ms")  # by two clocks
    late = change_line(put(), NOW + timedelta(days=3), 100)[0]
    assert late.startswith("2026-11-30 11:40:00.123  PUT") and "+" not in late


def test_a_value_is_cut_to_the_width_of_the_terminal() -> None:
    line = change_line(put(b"x" * 1000), NOW, 100)[0]
    assert len(line) == 99 and "x…" in line and line.endswith("+7 ms")
    assert len(change_line(put(b"x" * 1000), NOW, 5)[0]) < 100


@given(st.text(max_size=20), st.binary(max_size=50), st.text(max_size=20), st.integers(1, 200))
def test_a_terminal_obeys_nothing_of_it(key: str, value: bytes, words: str, width: int) -> None:
    for line in (
        change_line(put(value, key, content_type=words), NOW, width)[0],
        change_line(Delete(key, 5, THEN, words), NOW, width)[0],
        change_line(Activity(words, key, THEN), NOW, width)[0],
        change_line(Reset(words, False), NOW, width)[0],
        note_line(words, NOW),
    ):
        assert escape_controls(line) == line
