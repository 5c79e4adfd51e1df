"""Values as words for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.commands.parts.texts import (
    age_text,
    aligned,
    bytes_text,
    counted,
    latency_text,
    meter,
    moment_text,
    short_value,
    shown_value,
    size_text,
    span_text,
    sparkline,
    type_text,
    until_text,
)
from shards.host.logs import escape_controls

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (4.9, "4 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h 0 min"),
        (86_399, "23 h 59 min"),
        (86_400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_ages_and_what_is_to_come() -> None:
    assert age_text(NOW - timedelta(seconds=4), NOW) == "4 s ago"
    assert age_text(NOW + timedelta(seconds=4), NOW) == "now"  # by the server's clock, which may be ahead
    assert until_text(NOW + timedelta(minutes=29), NOW) == "in 29 min"
    assert until_text(NOW - timedelta(minutes=29), NOW) == "now"
    assert age_text(None, NOW) == until_text(None, NOW) == moment_text(None) == "-"
    assert moment_text(NOW.replace(microsecond=7999)) == "2026-11-30T12:00:00.007Z"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5_000_000, "4.8 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 41, "2048.0 GiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00042, "0.42 ms"), (0.0031, "3.1 ms"), (0.25, "250 ms"), (1.234, "1.23 s")]
)
def test_latencies(seconds: float, text: str) -> None:
    assert latency_text(seconds) == text


def test_counts_and_types() -> None:
    assert (counted(1, "key"), counted(1500, "key"), counted(0, "key")) == ("1 key", "1,500 keys", "0 keys")
    assert type_text("application/json") == "json"
    assert type_text("text/plain; charset=utf-8") == "text/plain"
    assert type_text("") == "-"


def test_a_value_on_a_terminal_keeps_its_lines_and_obeys_nothing() -> None:
    assert shown_value(b"one\r\n\ttwo\x1b[2J\n") == "one\n\ttwo\\x1b[2J\n"
    assert shown_value(b"\xff\x00") == "\\xff\\x00"


@given(st.binary(max_size=300), st.integers(1, 80))
def test_a_short_value_fits_and_obeys_nothing(value: bytes, width: int) -> None:
    text = short_value(value, width)
    assert len(text) <= width and escape_controls(text) == text


@given(st.binary(max_size=300))
def test_a_shown_value_obeys_nothing_but_lines_and_tabs(value: bytes) -> None:
    text = shown_value(value).replace("\n", "").replace("\t", "")
    assert escape_controls(text) == text


def test_a_short_value_that_was_cut_says_so() -> None:
    assert short_value(b"x" * 10, 10) == "x" * 10
    assert short_value(b"x" * 11, 10) == "x" * 9 + "…"
    assert short_value(b"\0" * 5, 10) == "\\x00\\x00" + "\\" + "…"


def test_columns_are_aligned_and_escaped() -> None:
    assert aligned([("KEY", "SIZE"), ("a\n", "7"), ("long", "1234")], right=frozenset((1,))) == [
        "KEY   SIZE",
        "a\\n      7",
        "long  1234",
    ]
    assert aligned([]) == []


def test_bars() -> None:
    assert sparkline([0, 1, 2, 8]) == "▁▁▂█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
    assert (meter(0.0), meter(0.8), meter(7)) == ("░" * 10, "█" * 8 + "░" * 2, "█" * 10)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536 << 10, "1.5 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_shown_in_the_largest_unit(size: int, text: str) -> None:
    assert size_text(size) == text
