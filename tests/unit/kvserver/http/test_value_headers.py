"""Headers of stored values."""

from __future__ import annotations

import pytest

from kvserver.http.value_headers import (
    CACHING,
    body_headers,
    choose_stored_type,
    item_headers,
    media_type,
    read_content_type,
    read_stored_type,
    revision_headers,
)
from shards.maps.owner import Item
from shards.wire.errors import BadRequest


def test_a_revision_is_an_etag() -> None:
    assert revision_headers(7) == [("etag", '"7"'), ("kv-revision", "7")]
    assert dict(revision_headers(7, "gzip"))["etag"] != '"7"', "another coding has another ETag"
    assert "kv-expires" in dict(revision_headers(7, expires_ms=1))


def test_a_value_that_is_read_has_its_times_and_takes_ranges() -> None:
    headers = dict(item_headers(Item(7, 1, 0, 0, 1_000, "", b"x", 1)))
    assert headers["etag"] == '"7"' and CACHING in headers.items()
    assert headers["accept-ranges"] == "bytes" and headers["last-modified"].endswith("GMT")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("text/plain", "text/plain"),
        ("", ""),
        ("application/x-www-form-urlencoded", ""),
        ("Application/X-WWW-form-urlencoded ; charset=utf-8", ""),
        ("application/x-www-form-urlencoded2", "application/x-www-form-urlencoded2"),
    ],
)
def test_the_type_that_curl_gives_by_itself_is_not_stored(given: str, stored: str) -> None:
    assert choose_stored_type(given) == stored


def test_a_value_without_a_type_is_octets() -> None:
    assert dict(body_headers("")) == {"content-type": "application/octet-stream", CACHING[0]: CACHING[1]}
    assert dict(body_headers("a/b"))["content-type"] == "a/b"


def test_a_type_is_given_once() -> None:
    assert read_content_type([]) == "" and read_content_type(["\ta/b "]) == "a/b"
    with pytest.raises(BadRequest, match="twice"):
        read_content_type(["a/b", "a/b"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [("Text/HTML; charset=utf-8", "text/html"), (" a/b ", "a/b"), ("", ""), ("a/b;", "a/b"), ("ä/b", "ä/b")],
)
def test_the_media_type_is_without_parameters(given: str, expected: str) -> None:
    assert media_type(given) == expected


def test_only_media_types_are_stored() -> None:
    assert read_stored_type("") == "" and read_stored_type("a/b;c=d") == "a/b;c=d"
    assert read_stored_type("application/x-www-form-urlencoded") == ""
    for given in ("a", "a/b c", "ä/b", "a/" + "b" * 300):
        with pytest.raises(BadRequest, match="media type"):
            read_stored_type(given)
