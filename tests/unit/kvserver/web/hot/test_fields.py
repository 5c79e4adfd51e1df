"""The header fields that the hot path takes."""

from __future__ import annotations

import pytest

from kvserver.web.hot.fields import read_fields, split_off_key


def test_fields_of_the_subset() -> None:
    read = read_fields(b"Host: h\r\nAccept: a/b, c\r\ncontent-length: 12\r\nUser-Agent:\r\n")
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
    assert read_fields(block) is None


def test_who_asks_is_left_to_pages() -> None:
    read = read_fields(b"Origin: http://a\r\nHost: h\r\nSec-Fetch-Site: none\r\nCookie: a=b\r\n")
    assert read is not None
    assert read.origin == b"http://a" and not read.has_body
    assert read.origin_fields == [(b"host", b"h"), (b"origin", b"http://a"), (b"sec-fetch-site", b"none")]


def test_the_type_of_a_form_is_stored_as_none() -> None:
    read = read_fields(b"Host: h\r\nContent-Type: application/x-www-form-urlencoded\r\n")
    assert read is not None and read.content_type == ""


@pytest.mark.parametrize(
    ("block", "key", "rest"),
    [
        (b"Host: h\r\nIdempotency-Key: a.b~_-9\r\n", b"a.b~_-9", b"Host: h\r\n"),
        (b"Host: h\r\nidempotency-key:a\r\nAccept: b\r\n", b"a", b"Host: h\r\nAccept: b\r\n"),
        (b"Host: h\r\nIdempotency-Key: %b\r\n" % (b"a" * 64), b"a" * 64, b"Host: h\r\n"),
    ],
)
def test_a_key_is_split_off(block: bytes, key: bytes, rest: bytes) -> None:
    assert split_off_key(block) == (key, rest)
    assert read_fields(block) is None and read_fields(rest) is not None


@pytest.mark.parametrize(
    "block",
    [
        b"Host: h\r\n",
        b"Idempotency-Key: a\r\nHost: h\r\n",
        b"Host: h\r\nIdempotency-Key: %b\r\n" % (b"a" * 65),
        b"Host: h\r\nIdempotency-Key:  a\r\n",
        b"Host: h\r\nIdempotency-Key: a b\r\n",
        b"Host: h\r\nIdempotency-Key: \r\n",
        b"Host: h\r\nX-Idempotency-Key: a\r\n",
        b"Host: h\r\nAccept: Idempotency-Key: a\r\n",
        b"Host: h\nIdempotency-Key: a\r\n",
    ],
)
def test_what_is_no_plain_key_is_left(block: bytes) -> None:
    assert split_off_key(block) == (b"", block)


def test_a_second_key_is_left() -> None:
    key, rest = split_off_key(b"Host: h\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n")
    assert key == b"a" and read_fields(rest) is None
