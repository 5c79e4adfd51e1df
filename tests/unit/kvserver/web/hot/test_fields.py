"""The header fields that the hot path takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.web.hot.fields import NOTHING_VARIES, VaryingFields, read_fields, split_varying


def test_fields_of_the_subset() -> None:
    read = read_fields(b"\r\nHost: h\r\nAccept: a/b, c\r\ncontent-length: 12\r\nUser-Agent:\r\n")
    assert read is not None
    assert (read.accept, read.length, read.has_body) == (b",a/b, c", 12, True)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nX-Other: b\r\n",
        b"Host: a b\r\n",
        b"Host: a\r\n\r\n",
        b"Host: a\n",
        b"Host: a\r\nContent-Length: +1\r\n",
        b"Host: a\r\nConnection: close\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_everything_else_takes_the_ordinary_road(block: bytes) -> None:
    assert read_fields(b"\r\n" + block) is None


def test_who_asks_is_left_to_pages() -> None:
    read = read_fields(b"\r\nOrigin: http://a\r\nHost: h\r\nSec-Fetch-Site: none\r\nCookie: a=b\r\n")
    assert read is not None
    assert read.origin == b"http://a" and not read.has_body
    assert read.origin_fields == [(b"host", b"h"), (b"origin", b"http://a"), (b"sec-fetch-site", b"none")]


def test_the_type_of_a_form_is_stored_as_none() -> None:
    read = read_fields(b"\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n")
    assert read is not None and read.stored_type == ""


@pytest.mark.parametrize(
    ("block", "varying", "rest"),
    [
        (b"\r\nHost: h\r\nIdempotency-Key: a.b~_-9\r\n", {"Idempotency-Key": "a.b~_-9"}, b"\r\nHost: h\r\n"),
        (b"\r\nidempotency-key:a\r\nHost: h\r\n", {"Idempotency-Key": "a"}, b"\r\nHost: h\r\n"),
        (b'\r\nHost: h\r\nIF-none-MATCH: "5", "6"\r\n', {"If-None-Match": '"5", "6"'}, b"\r\nHost: h\r\n"),
        (
            b"\r\nRange: bytes=0-1\r\nIf-Range: x\r\nHost: h\r\nif-match: *\r\nAccept: b\r\nIf-Modified-Since: d\r\n",
            {"Range": "bytes=0-1", "If-Range": "x", "If-Match": "*", "If-Modified-Since": "d"},
            b"\r\nHost: h\r\nAccept: b\r\n",
        ),
        (b"\r\nHost: h\r\nIf-Unmodified-Since: a  b\r\n", {"If-Unmodified-Since": "a  b"}, b"\r\nHost: h\r\n"),
    ],
)
def test_what_varies_is_split_off(block: bytes, varying: dict[str, str], rest: bytes) -> None:
    split = split_varying(block)
    assert split == (rest, VaryingFields(varying)) and list(split[1].asked) == list(varying), "in their order"
    assert read_fields(block) is None and read_fields(rest) is not None


@pytest.mark.parametrize(
    "block",
    [
        b"\r\nHost: h\r\n",
        b"\r\nHost: h\r\nIf-Match:  a\r\n",
        b"\r\nHost: h\r\nIf-Match: a \r\n",
        b"\r\nHost: h\r\nIf-Match: a\x80\r\n",
        b"\r\nHost: h\r\nIf-Match: a\x00\r\n",
        b"\r\nHost: h\r\nIf-Match: a\rb\r\n",
        b"\r\nHost: h\r\nIf-Match : a\r\n",
        b"\r\nHost: h\r\nIf-Match: \r\n",
        b"\r\nHost: h\r\n If-Match: a\r\n",
        b"\r\nHost: h\r\nX-If-Match: a\r\n",
        b"\r\nHost: h\r\nAccept: If-Match: a\r\n",
        b"\r\nHost: h\nIf-Match: a\r\n",
        b"\r\nHost: h\r\nRanges: a\r\n",
    ],
)
def test_what_is_not_of_the_plain_form_is_left(block: bytes) -> None:
    assert split_varying(block) == (block, NOTHING_VARIES)
    assert block in (b"\r\nHost: h\r\n", b"\r\nHost: h\r\nAccept: If-Match: a\r\n") or read_fields(block) is None


def test_a_line_that_continues_one_is_left() -> None:
    split = split_varying(b"\r\nHost: h\r\nIf-Match: a\r\n b\r\n")
    assert split is not None and read_fields(split[0]) is None


@pytest.mark.parametrize("second", [b"If-Match: a", b"if-match: b", b"IF-MATCH:a"])
def test_what_comes_twice_is_not_taken(second: bytes) -> None:
    assert split_varying(b"\r\nHost: h\r\nIf-Match: a\r\nAccept: b\r\n%b\r\n" % second) is None


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"X-Request-Id"])
def test_nor_what_a_proxy_says_twice(name: bytes) -> None:
    assert split_varying(b"\r\nHost: h\r\n%b: a\r\n%b: a\r\n" % (name, name.lower())) is None


@pytest.mark.parametrize(
    ("block", "forwarded", "request_id"),
    [
        (b"\r\nX-Forwarded-For: 10.0.0.1, ::1\r\nHost: h\r\n", b"10.0.0.1, ::1", b""),
        (b"\r\nHost: h\r\nX-REQUEST-ID:a.b-_9\r\nx-forwarded-for: no address\r\n", b"no address", b"a.b-_9"),
        (b"\r\nHost: h\r\nX-Request-Id: no good\r\n", b"", b""),
        (b"\r\nHost: h\r\nX-Request-Id: %b\r\n" % (b"i" * 64), b"", b"i" * 64),
        (b"\r\nHost: h\r\nX-Request-Id: %b\r\n" % (b"i" * 65), b"", b""),
        (b"\r\nTraceParent: 00-1\r\nHost: h\r\nX-B3-ParentSpanId: 5\r\ntracestate: a\r\ntracestate: b\r\n", b"", b""),
    ],
)
def test_what_proxies_and_tracers_say_is_split_off(block: bytes, forwarded: bytes, request_id: bytes) -> None:
    id_line = b"x-request-id: %b\r\n" % request_id if request_id else b""
    assert split_varying(block) == (b"\r\nHost: h\r\n", VaryingFields({}, forwarded, request_id, id_line))


TRACING = [
    *("X-Real-IP", "X-Request-Start", "traceparent", "tracestate", "baggage", "sentry-trace", "uber-trace-id"),
    *("X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context"),
    *("X-Correlation-Id", "CF-Ray", "CF-Connecting-IP"),
]


@pytest.mark.parametrize("name", TRACING)
def test_what_changes_nothing_is_dropped_however_it_is_written(name: str) -> None:
    for written in (name, name.lower(), name.upper()):
        split = split_varying(f"\r\nHost: h\r\n{written}: a\r\n".encode())
        assert split == (b"\r\nHost: h\r\n", NOTHING_VARIES)


@given(
    st.lists(
        st.tuples(st.sampled_from(["If-Match", "range", "Host", "Accept", "X-A"]), st.text("ab: ,\r\n\t", max_size=6)),
        max_size=6,
    )
)
def test_nothing_is_lost(lines: list[tuple[str, str]]) -> None:
    """What is split off and what is left are the lines of the block."""
    block = b"\r\n" + b"".join([f"{name}: {value}\r\n".encode() for name, value in lines])
    split = split_varying(block)
    if split is not None:
        rest, varying = split
        taken = [f"{name}:{value}".lower() for name, value in varying.asked.items()]
        left = rest.decode().split("\r\n")
        given_lines = [line.replace(": ", ":", 1).lower() for line in block.decode().split("\r\n")]
        assert sorted([*taken, *[line.replace(": ", ":", 1).lower() for line in left]]) == sorted(given_lines)
