"""Values in answers over real connections: compression."""

from __future__ import annotations

import gzip
import random

from kvserver.http.compression import LARGE, LARGEST, SMALLEST
from tests.api.web import Web, request, scenario


@scenario
async def test_values_are_coded_if_that_is_wanted_and_of_use(web: Web) -> None:
    text = b"to be or not to be. " * (LARGEST // 20)
    for size in (SMALLEST - 1, SMALLEST, LARGE + 1, LARGEST - 20):
        web.shards.values[b"k"] = (text[:size], "text/plain")
        plain = await web.ask(request("GET", "/k"))
        assert plain.body == text[:size]
        assert "content-encoding" not in plain.headers
        coded = await web.ask(request("GET", "/k", "Accept-Encoding: gzip, zstd;q=0.5"))
        assert coded.headers.get("content-encoding") == ("gzip" if size >= SMALLEST else None)
        assert (gzip.decompress(coded.body) if size >= SMALLEST else coded.body) == text[:size]
        assert "accept-encoding" in coded.headers["vary"] and "accept-encoding" in plain.headers["vary"]
    for content_type, is_coded in (("image/png", False), ("image/svg+xml", True)):
        web.shards.values[b"k"] = (text[:2000], content_type)
        assert ("content-encoding" in (await web.ask(request("GET", "/k", "Accept-Encoding: br"))).headers) is is_coded
    web.shards.values[b"k"] = (random.Random(1).randbytes(5000), "")  # coding makes this longer
    assert "content-encoding" not in (await web.ask(request("GET", "/k", "Accept-Encoding: gzip"))).headers
