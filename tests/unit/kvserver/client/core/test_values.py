"""What users hand over, as requests have it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.times import parse_expires, parse_ttl
from kvserver.client.core.answers import http_date_of, moment_of
from kvserver.client.core.values import JSON, OCTETS, TEXT, body_of, expires_text, moment_text, ttl_text, whole
from kvserver.client.errors import BadRequest, ForeignAnswer
from kvserver.client.model import UNSET


@pytest.mark.parametrize(
    ("value", "document", "content_type", "found"),
    [
        (b"\0", UNSET, None, (b"\0", OCTETS)),
        (bytearray(b"x"), UNSET, None, (b"x", OCTETS)),
        (memoryview(b"x"), UNSET, None, (b"x", OCTETS)),
        ("ü", UNSET, None, ("ü".encode(), TEXT)),
        ("", UNSET, "text/css", (b"", "text/css")),
        (UNSET, {"a": "ü"}, None, ('{"a":"ü"}'.encode(), JSON)),
        (UNSET, None, None, (b"null", JSON)),
    ],
)
def test_bodies(value: Any, document: Any, content_type: str | None, found: tuple[bytes, str]) -> None:
    assert body_of(value, document, content_type) == found


@pytest.mark.parametrize(
    ("value", "document", "error"),
    [
        (UNSET, UNSET, TypeError),
        (b"", {}, TypeError),
        (1, UNSET, TypeError),
        (None, UNSET, TypeError),
        (UNSET, float("nan"), ValueError),
        (UNSET, {1, 2}, TypeError),
    ],
)
def test_what_is_no_body(value: Any, document: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        body_of(value, document, None)


@pytest.mark.parametrize("content_type", ["", "a/b\r\nx: y", "ü/x", "a/\0"])
def test_what_no_header_can_have(content_type: str) -> None:
    with pytest.raises(BadRequest):
        body_of(b"", UNSET, content_type)


@given(st.floats(0.001, 3e8) | st.integers(1, 10**8) | st.timedeltas(timedelta(milliseconds=1), timedelta(days=3000)))
def test_the_server_reads_a_ttl_as_it_was_meant(ttl: float | timedelta) -> None:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    text = ttl_text(ttl)
    assert text is not None
    assert abs(parse_ttl(text) - seconds * 1000) <= 0.51


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), timedelta(0)])
def test_what_is_no_ttl(ttl: Any) -> None:
    with pytest.raises(BadRequest):
        ttl_text(ttl)


@pytest.mark.parametrize("ttl", [True, "60"])
def test_what_is_no_number_of_seconds(ttl: Any) -> None:
    with pytest.raises(TypeError):
        ttl_text(ttl)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.timezones()))
def test_the_server_reads_a_time_as_it_was_meant(moment: datetime) -> None:
    text = expires_text(moment)
    assert text == moment_text(moment)
    exact = moment.astimezone(UTC)
    whole = exact.replace(microsecond=exact.microsecond // 1000 * 1000)
    assert moment_of(text) == whole
    assert parse_expires(str(text)) == (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def test_a_time_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        expires_text(datetime(2030, 1, 1))
    with pytest.raises(TypeError):
        expires_text(5)  # type: ignore[arg-type]
    assert expires_text("tomorrow") == "tomorrow"  # the server knows what it takes


@pytest.mark.parametrize("text", ["", "2026-11-22", "2026-13-01T00:00:00Z", "2026-11-22T11:40:00+01:00"])
def test_what_is_no_time_of_the_server(text: str) -> None:
    with pytest.raises(ForeignAnswer):
        moment_of(text)


def test_http_dates() -> None:
    assert http_date_of("Sun, 22 Nov 2026 11:40:01 GMT") == datetime(2026, 11, 22, 11, 40, 1, tzinfo=UTC)
    for text in (None, "", "Sun, 22 Nov 2026", "Sun, 32 Nov 2026 11:40:01 GMT", "Sun, 22 Now 2026 11:40:01 GMT"):
        assert http_date_of(text) is None


def test_whole_numbers() -> None:
    assert whole(0, "it") == "0"
    for wrong in (True, 1.0, "1"):
        with pytest.raises(TypeError):
            whole(wrong, "it")  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        whole(-1, "it")
