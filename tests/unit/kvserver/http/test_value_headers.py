"""Headers of stored values."""

from __future__ import annotations

import pytest

from kvserver.http.value_headers import CACHE_CONTROL, choose_stored_type, item_headers, revision_headers
from shards.maps.owner import Item


def test_a_revision_is_an_etag() -> None:
    assert revision_headers(7) == [("etag", '"7"'), ("kv-revision", "7")]
    assert dict(revision_headers(7, "gzip"))["etag"] != '"7"', "another coding has another ETag"
    assert "kv-expires" in dict(revision_headers(7, expires_ms=1))


def test_a_value_that_is_read_has_its_times_and_takes_ranges() -> None:
    headers = dict(item_headers(Item(7, 1, 0, 0, 1_000, "", b"x", 1)))
    assert headers["etag"] == '"7"' and headers["cache-control"] == CACHE_CONTROL
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
