"""Content codings of answers: the choice, and the coded bytes. Pure, but slow for large bodies: see `LARGE`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import brotli  # type: ignore[import-untyped]
import zstandard

LONGEST_HEADER: Final = 1 << 10
"""Bytes of the longest Accept-Encoding that is parsed, and remembered."""
SMALLEST: Final = 1 << 10
LARGEST: Final = 1 << 20
"""Bodies of other sizes are sent uncoded."""
LARGE: Final = 16 << 10
"""Bodies from this size on are coded in a thread, since it takes long; all codecs here release the GIL."""


def _gzip(body: bytes) -> bytes:
    coder = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return coder.compress(body) + coder.flush()


def _brotli(body: bytes) -> bytes:
    coded: bytes = brotli.compress(body, quality=4)
    return coded


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(body)  # one each: a compressor is not for several threads


CODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "zstd": _zstd,
    "br": _brotli,
    "gzip": _gzip,
    "deflate": zlib.compress,  # RFC 9110 means the zlib format by this name
}
"""In order of preference."""

_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def choose_coding(accept_encoding: str) -> str | None:
    """Choose the coding of the client's highest quality, among equals the first of `CODERS`; None: send uncoded.

    Only codings that the header names count, not `*`. Headers longer than `LONGEST_HEADER` are ignored.
    """
    return _choose_coding(accept_encoding) if len(accept_encoding) <= LONGEST_HEADER else None


@lru_cache(maxsize=256)
def _choose_coding(accept_encoding: str) -> str | None:
    wanted: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        qualities = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
        wanted["gzip" if name == "x-gzip" else name] = float(qualities[0]) if qualities else 1.0
    best, best_quality = None, wanted.get("identity", 0.0)
    for name in CODERS:
        quality = wanted.get(name, 0.0)
        if quality > 0 and (quality > best_quality or (best is None and quality == best_quality)):
            best, best_quality = name, quality
    return best


def choose_for(accept_encoding: str | None, content_type: str, size: int) -> str | None:
    """Choose the coding in which a body of `content_type` is sent, unless it is longer in it; None: send it uncoded."""
    if not accept_encoding or not SMALLEST <= size <= LARGEST:
        return None
    name = choose_coding(accept_encoding)
    return name if name is not None and is_codable(content_type) else None


def encode(coding: str, body: bytes) -> tuple[str, bytes]:
    """Return `coding` and `body` in it; if that is not shorter, no coding and `body` itself."""
    coded = CODERS[coding](body)
    return (coding, coded) if len(coded) < len(body) else ("", body)


def is_codable(content_type: str) -> bool:
    """Whether values of this type are coded: images other than SVG are compressed already, and events must not wait."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "image/svg+xml" or not (kind.startswith("image/") or kind == "text/event-stream")
