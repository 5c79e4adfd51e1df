"""Content codings of answers: which one a client wants, and the bytes. Pure, but not for free: see `LARGE`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import brotli  # type: ignore[import-untyped]
import zstandard

LONGEST_HEADER: Final = 1 << 10
"""Length of an Accept-Encoding that is looked at, and may be kept."""
SMALLEST: Final = 1 << 10
LARGEST: Final = 1 << 20
"""Bodies of other sizes are sent as they are."""
LARGE: Final = 16 << 10
"""From this size on coding takes so long that it belongs into a thread; all codecs here release the GIL."""


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
"""In the order of liking."""

_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def choose_coding(accept_encoding: str) -> str | None:
    """The coding to use, None for none: the client's highest quality, among equals the first of `CODERS`.

    Only codings that are named count; `*` asks for nothing in particular. Nobody means a header beyond
    `LONGEST_HEADER`.
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


def is_codable(content_type: str) -> bool:
    """Whether a value of this type may be coded: images but SVG are compressed already, events must not wait."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "image/svg+xml" or not (kind.startswith("image/") or kind == "text/event-stream")
