"""Lifetimes, RFC 3339 and HTTP dates: what is read, what is refused, and that what is written can be read."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvserver.api.times import (
    http_date,
    parse_expires,
    parse_http_date,
    parse_rfc3339,
    parse_ttl,
    rfc3339,
)
from shards.wire.errors import BadRequest
from shards.wire.keys import MAX_TTL_MS

moments = st.integers(0, 253_402_300_799_999)


@pytest.mark.parametrize(
    ("text", "ttl_ms"),
    [("1", 1000), ("0.001", 1), ("0.5", 500), ("60.25", 60_250), ("007", 7000), (str(MAX_TTL_MS // 1000), MAX_TTL_MS)],
)
def test_lifetimes(text: str, ttl_ms: int) -> None:
    assert parse_ttl(text) == ttl_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.000",
        "-1",
        "+1",
        "1.",
        ".5",
        "1.0000",
        "1e3",
        " 1",
        "1 ",
        "1\n",
        "inf",
        "nan",
        "\u0661",
        "\u00b2",
        "9" * 5000,
        f"{MAX_TTL_MS // 1000}.001",
    ],
)
def test_what_is_no_lifetime(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_ttl(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1500),
        ("1970-01-01T00:00:00.123999Z", 123),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:00:00 01:00", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("1998-12-31T23:59:60Z", 915_148_800_000),
        ("1990-12-31T15:59:60.5-08:00", 662_688_000_500),
        ("1972-07-01T05:59:60+06:00", 78_796_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_times_of_rfc_3339(text: str, expected: int) -> None:
    assert parse_rfc3339(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "1700000000",
        "2026-11-22",
        "2026-11-22T11:40:00",
        "2026-11-22T11:40Z",
        "2026-13-22T11:40:00Z",
        "2026-02-29T11:40:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T11:40:61Z",
        "2026-11-30T11:59:60Z",
        "2026-11-29T23:59:60Z",
        "2026-11-30T23:59:60+01:00",
        "9999-12-31T23:59:60Z",
        "2026-11-22T11:40:00+25:00",
        "2026-11-22T11:40:00+0100",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "0000-01-01T00:00:00Z",
        "2026-11-22T11:40:00.Z",
        "2026-11-22T11:40:00Z\n",
        "\u0662026-11-22T11:40:00Z",
    ],
)
def test_what_is_no_such_time(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_rfc3339(text)


def test_no_expiry_means_never() -> None:
    assert parse_expires("1970-01-01T00:00:00Z") == 1
    assert parse_expires("1970-01-01T00:00:00.002Z") == 2


@given(moments)
@example(253_402_300_799_999)
def test_times_are_read_as_they_were_written(unix_ms: int) -> None:
    assert parse_rfc3339(rfc3339(unix_ms)) == unix_ms
    assert parse_http_date(http_date(unix_ms)) == unix_ms // 1000


@given(st.integers(0, 4_102_444_800))
def test_http_dates_are_those_of_everybody(unix_s: int) -> None:
    assert http_date(unix_s * 1000 + 999) == formatdate(unix_s, usegmt=True)
    moment = datetime.fromtimestamp(unix_s, UTC)
    assert parse_http_date(moment.strftime("%a %b ") + f"{moment.day:2}" + moment.strftime(" %H:%M:%S %Y")) == unix_s
    if moment.year < 2070:
        assert parse_http_date(moment.strftime("%A, %d-%b-%y %H:%M:%S GMT")) == unix_s


def test_a_time_beyond_all_years_can_still_be_told() -> None:
    assert rfc3339(1 << 53) == "9999-12-31T23:59:59.999Z"
    assert http_date(1 << 53) == "Fri, 31 Dec 9999 23:59:59 GMT"


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} (Feb|Xxx) [0-9]{4} [0-9:]{8} GMT", fullmatch=True))
@example("Sun, 06 Nov 1994 08:49:37")
@example("Sun, 31 Feb 1994 08:49:37 GMT")
@example("Sun, 06 Nov 0000 08:49:37 GMT")
@example("Sun, 06 Nov 1994 ::::::37 GMT")
@example("Sun, 06 Nov 1994 08:49:99 GMT")
def test_no_text_is_a_fault(text: str) -> None:
    found = parse_http_date(text)
    assert found is None or isinstance(found, int)
    for parse in (parse_rfc3339, parse_ttl):
        try:
            assert parse(text) >= 0
        except BadRequest as error:
            assert error.detail
