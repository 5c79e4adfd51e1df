"""Accept-Encoding, and codings that decode to what was coded."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http import compression

DECODERS = {
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
    "br": brotli.decompress,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("*", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZip", "gzip"),
        ("deflate", "deflate"),
        ("compress, lzma", None),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.0, br;q=0", None),
        ("gzip;q=0.5, deflate;q=0.6", "deflate"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("gzip ; q=0.001", "gzip"),
        ("gzip;q=1.000", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("gzip;q=2", "gzip"),
        (",,gzip,", "gzip"),
        (";;q=1", None),
        ("gzip".ljust(compression.LONGEST_HEADER), "gzip"),
        ("gzip".ljust(compression.LONGEST_HEADER + 1), None),
    ],
)
def test_choice(accepted: str, chosen: str | None) -> None:
    assert compression.choose_coding(accepted) == chosen


@given(st.text(max_size=80))
def test_any_header_is_taken(accepted: str) -> None:
    assert compression.choose_coding(accepted) in (None, *compression.CODERS)


@pytest.mark.parametrize("name", compression.CODERS)
@given(body=st.binary(max_size=5000))
def test_what_is_coded_decodes(name: str, body: bytes) -> None:
    assert DECODERS[name](compression.CODERS[name](body)) == body


@pytest.mark.parametrize(
    ("content_type", "codable"),
    [
        ("", True),
        ("text/html; charset=utf-8", True),
        ("image/png", False),
        (" Image/JPEG ; a=b", False),
        ("image/svg+xml", True),
        ("IMAGE/SVG+XML;charset=utf-8", True),
        ("application/image", True),
    ],
)
def test_images_are_compressed_already(content_type: str, codable: bool) -> None:
    assert compression.is_codable(content_type) is codable


def test_what_is_worth_it_is_coded() -> None:
    assert compression.choose_for("gzip", "text/plain", compression.SMALLEST) == "gzip"
    assert compression.choose_for("gzip", "", compression.LARGEST) == "gzip"
    for accepted, content_type, size in (
        (None, "text/plain", 5000),
        ("", "text/plain", 5000),
        ("identity", "text/plain", 5000),
        ("gzip", "image/png", 5000),
        ("gzip", "text/plain", compression.SMALLEST - 1),
        ("gzip", "text/plain", compression.LARGEST + 1),
    ):
        assert compression.choose_for(accepted, content_type, size) is None


@pytest.mark.parametrize("coding", compression.CODERS)
def test_a_body_that_is_longer_in_a_coding_stays_as_it_is(coding: str) -> None:
    name, coded = compression.encode(coding, b"a" * 5000)
    assert name == coding and DECODERS[coding](coded) == b"a" * 5000
    assert compression.encode(coding, b"a") == ("", b"a")
