"""Words of a command line as values."""

from __future__ import annotations

import contextlib

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.commands.parts.words import Duration, Revision, content_type_of, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("30s", 30),
        ("0", 0),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        (" 5S ", 5),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-5", "+5", "5 s", "1h30", "5x", "1,5s", "1e3", "nan", "inf", "٣s", "5ss", "9" * 50]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_a_unit_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_duration("5s5s")


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", "w"]))
def test_a_number_with_a_unit_is_always_a_duration(number: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * factor)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) >= 0


def test_a_duration_that_must_be_above_zero_is() -> None:
    assert Duration().convert("0s", None, None) == 0
    with pytest.raises(click.BadParameter, match="above 0"):
        Duration(above_zero=True).convert("0s", None, None)


@pytest.mark.parametrize("text", ["-1", "", "57x", '"57"', "1" * 20])
def test_what_is_no_revision_is_refused_with_where_to_find_one(text: str) -> None:
    with pytest.raises(click.BadParameter, match="--revision-only"):
        Revision().convert(text, None, None)


def test_a_revision_is_a_number() -> None:
    assert Revision().convert("1839063582711811", None, None) == 1839063582711811


def test_short_names_of_types() -> None:
    assert content_type_of("json") == "application/json"
    assert content_type_of("image/png") == "image/png"
