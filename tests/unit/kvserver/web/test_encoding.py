"""Bodies in the coding that their client accepts."""

from __future__ import annotations

import asyncio
import gzip
import random

import pytest

from kvserver.http.compression import LARGE, LARGEST, SMALLEST
from kvserver.web.encoding import encode_body


@pytest.mark.parametrize("size", [SMALLEST, LARGE - 1, LARGE, LARGEST])
def test_a_body_is_coded_whatever_its_size(size: int) -> None:
    name, coded = asyncio.run(encode_body("gzip", b"x" * size, "text/plain"))
    assert name == "gzip" and gzip.decompress(coded) == b"x" * size


@pytest.mark.parametrize(
    ("accepted", "size", "content_type"),
    [(None, LARGE, ""), ("identity", LARGE, ""), ("gzip", SMALLEST - 1, ""), ("gzip", LARGE, "image/png")],
)
def test_what_is_not_worth_it_is_left(accepted: str | None, size: int, content_type: str) -> None:
    assert asyncio.run(encode_body(accepted, b"x" * size, content_type)) == ("", b"x" * size)


def test_a_body_that_would_be_longer_is_left() -> None:
    body = random.Random(1).randbytes(LARGE)
    assert asyncio.run(encode_body("gzip", body, "")) == ("", body)
